"""The safetensors format, a tensor at a time: what is written is never held twice, nor what is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class NoTensors(ValueError):
    """A file is not what it should be."""


def written(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file, piece by piece: its head, then each tensor's own memory.

    Args:
        tensors: By name; none are aliases of one another.

    Raises:
        ValueError: The format has no name for a tensor's type.
    """
    # Wide types first, as the format's own library has it: so each lies at a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    head, end = {}, 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"a tensor of type {tensor.dtype} cannot be stored: {name}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        head[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield _memory(tensors[name].detach().cpu().contiguous())


def read(file: BinaryIO, size: int, digest: str) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own.

    Args:
        file: At its beginning.
        size: Bytes it is said to have; no more memory is taken, whatever its head says.
        digest: SHA-256 of it, in hexadecimal.

    Raises:
        NoTensors: It has another size or digest, or is no file of tensors.
    """
    hashed = hashlib.sha256()
    begin = _exactly(file, 8, hashed)
    length = int.from_bytes(begin, "little")
    if length > size - 8:
        raise NoTensors("its head is longer than the file")
    try:
        head = json.loads(_exactly(file, length, hashed))
        head.pop("__metadata__", None)
        about = [(name, *_checked(item)) for name, item in head.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NoTensors("its head cannot be read") from error
    about.sort(key=lambda item: item[3])
    end = 0
    for _, dtype, shape, begins, ends in about:
        if begins != end or ends - begins != math.prod(shape) * dtype.itemsize:
            raise NoTensors("its head does not fit")
        end = ends
    if 8 + length + end != size:
        raise NoTensors("it has another size")
    found = {}
    for name, dtype, shape, _, _ in about:
        tensor = torch.empty(shape, dtype=dtype)
        _fill(file, _memory(tensor), hashed)
        found[name] = tensor
    if file.read(1) or hashed.hexdigest() != digest:
        raise NoTensors("it has another digest")
    return {name: found[name] for name in head}


def _checked(item: dict) -> tuple[torch.dtype, list[int], int, int]:
    shape, (begin, end) = item["shape"], item["data_offsets"]
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end)):
        raise NoTensors("its head does not fit")
    return _TYPES[item["dtype"]], shape, begin, end


def _memory(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def _exactly(file: BinaryIO, size: int, hashed: hashlib._Hash) -> bytes:
    data = bytearray(size)
    _fill(file, memoryview(data), hashed)
    return bytes(data)


def _fill(file: BinaryIO, target: memoryview, hashed: hashlib._Hash) -> None:
    at = 0
    while at < len(target):
        count = file.readinto(target[at : at + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            raise NoTensors("it ends too soon")
        hashed.update(target[at : at + count])
        at += count
