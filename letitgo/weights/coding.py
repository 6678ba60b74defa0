"""What turns one tensor into another, bit for bit, in few bytes.

A code says what is kept of the new tensor: all of it (``whole``); the rows along the first dimension or single values
that changed; or, where most changed a little, the bits that differ (``xor``). An index names rows or values, by packed
bits (``rows.mask``, ``values.mask``) or the numbers of unchanged ones before each (``rows.gaps``, ``values.gaps``).

``xor`` is the exclusive or with the old tensor, its bytes sorted by their place in an element, compressed as one zstd
frame. After a small change signs and exponents agree, so those bytes are mostly zero.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from letitgo.weights.sharded import whole

Code = Literal["whole", "rows.mask", "rows.gaps", "values.mask", "values.gaps", "xor"]
_INDEX = 100  # bytes that an index takes in the header of a file, whatever its length
_LEVEL = 3  # of zstd: higher ones take several times as long for a few per cent


class Coded(NamedTuple):
    """A tensor as it changed.

    Attributes:
        code: A :data:`Code`.
        values: All of the new tensor, its changed rows (k, ...), its changed values (k,), or compressed bytes (k,).
        where: Which rows or values they are, a vector of unsigned integers; None elsewhere.
    """

    code: str
    values: Tensor
    where: Tensor | None = None


def raw(tensor: Tensor) -> np.ndarray:
    """A tensor's bytes in the order of its elements, gathered if spread; a view where they lie so in memory."""
    return whole(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def differing(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape and dtype differ in any bit, in the order of their elements."""
    words = [raw(tensor).reshape(tensor.numel(), tensor.element_size()) for tensor in (a, b)]
    return torch.from_numpy((words[0] != words[1]).any(1))


def encode(new: Tensor, old: Tensor) -> Coded | None:
    """What changed from ``old`` to ``new``, in the fewest bytes; None where nothing did.

    Args:
        new: On any device.
        old: Of the same shape and dtype.

    Returns:
        Tensors of its own, on the CPU.
    """
    words = _words(new)
    difference = words ^ _words(old)
    values = difference != 0
    count = int(np.count_nonzero(values))
    if not count:
        return None
    options = [("whole", words, np.empty(0, np.uint8))]
    if new.ndim:
        rows = values.reshape(len(new), -1).any(1)
        if not rows.all():
            options.append(_taken("rows", rows, words))
    # Whatever their index, values take a bit for each there is or a byte for each that changed.
    if count * words.itemsize + min(len(values) // 8, count) < min(map(_size, options)):
        options.append(_taken("values", values, words))
    if 2 * count > len(values):
        options.append(("xor", _compressed(difference), np.empty(0, np.uint8)))
    code, taken, index = min(options, key=_size)
    if code == "xor":
        return Coded(code, torch.from_numpy(taken))
    if code == "whole":
        return Coded(code, _tensor(taken.copy(), new).reshape(new.shape))
    shape = (-1, *new.shape[1:]) if code.startswith("rows") else (-1,)
    return Coded(code, _tensor(taken, new).reshape(shape), torch.from_numpy(index))


def fits(coded: Coded, target: Tensor) -> bool:
    """Whether the shapes of what is coded can be those of a change to ``target``."""
    code, values, where = coded
    if code == "xor":
        return values.dtype == torch.uint8 and values.ndim == 1
    if values.dtype != target.dtype:
        return False
    if code == "whole":
        return values.shape == target.shape
    if where is None or where.ndim != 1 or where.dtype not in (torch.uint8, torch.uint16):
        return False
    if code.startswith("rows"):
        return values.ndim == target.ndim > 0 and values.shape[1:] == target.shape[1:] and len(values) <= len(target)
    return values.ndim == 1 and len(values) <= target.numel()


def decode(coded: Coded, old: Tensor) -> Tensor:
    """The new tensor, on the CPU; ``old`` is not changed.

    Args:
        coded: One that fits ``old`` and has its dtype. Nothing more is taken for granted.
        old: What it was encoded against.

    Raises:
        ValueError: The index does not name as many rows or values as there are, or compressed bytes are damaged.
    """
    code, values, where = coded
    if code == "xor":
        return _tensor(_words(old) ^ _decompressed(values, old), old).reshape(old.shape)
    if where is None:
        return values
    units = len(old) if code.startswith("rows") else old.numel()
    positions = unpack(where.numpy(), code, units, len(values))
    words = _words(old).copy()
    words.reshape(units, old.numel() // max(units, 1))[positions] = _words(values).reshape(len(values), -1)
    return _tensor(words, old).reshape(old.shape)


def pack(chosen: np.ndarray, positions: np.ndarray) -> tuple[str, np.ndarray]:
    """Which of some units are chosen, in the fewest bytes: as packed bits, or as gaps of a byte or two.

    Args:
        chosen: A boolean for each unit, at least one of them true.
        positions: Where they are true, in order.
    """
    mask = np.packbits(chosen)
    if len(positions) >= len(mask):
        return "mask", mask
    gaps = _gaps(positions, np.uint8)
    if len(gaps) > 2 * len(positions):
        gaps = min(gaps, _gaps(positions, np.uint16), key=lambda index: index.nbytes)
    return ("gaps", gaps) if gaps.nbytes < mask.nbytes else ("mask", mask)


def unpack(index: np.ndarray, code: str, units: int, count: int) -> np.ndarray:
    """The positions that :func:`pack` packed, in order.

    Raises:
        ValueError: They are not ``count`` out of ``units``.
    """
    wrong = ValueError(f"it should name {count} of {units}")
    if code.endswith("mask"):
        if index.dtype != np.uint8 or len(index) != -(-units // 8):
            raise wrong
        positions = np.flatnonzero(np.unpackbits(index, count=units))
    else:
        most = np.iinfo(index.dtype).max
        if len(index) > count + units // most:  # seen before anything larger than the index is made of it
            raise wrong
        ends = index != most
        positions = (np.cumsum(index.astype(np.int64) + ends) - 1)[ends]
    if len(positions) != count or (count and positions[-1] >= units):
        raise wrong
    return positions


def _gaps(positions: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """Numbers of units skipped before each position; the largest number skips as many and goes on to the next."""
    most = np.iinfo(dtype).max
    skips = np.diff(positions, prepend=-1) - 1
    if skips.max() < most:
        return skips.astype(dtype)
    full, rest = np.divmod(skips, most)
    gaps = np.full(len(skips) + int(full.sum()), most, dtype)
    gaps[np.cumsum(full + 1) - 1] = rest
    return gaps


def _codec() -> Any:
    import pyarrow as pa  # starts a thread

    return pa.Codec("zstd", compression_level=_LEVEL)


def _compressed(words: np.ndarray) -> np.ndarray:
    planes = np.ascontiguousarray(words.view(np.uint8).reshape(len(words), -1).T)
    return np.frombuffer(_codec().compress(planes), np.uint8).copy()


def _decompressed(values: Tensor, like: Tensor) -> np.ndarray:
    """No more memory is taken than ``like`` has, whatever the bytes say."""
    try:
        planes = _codec().decompress(values.numpy(), decompressed_size=like.numel() * like.element_size())
    except OSError as error:
        raise ValueError(f"its bytes cannot be decompressed ({error})") from error
    found = np.frombuffer(planes, np.uint8).reshape(like.element_size(), -1)
    return np.ascontiguousarray(found.T).view(f"u{like.element_size()}").reshape(-1)


def _taken(unit: str, chosen: np.ndarray, words: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    positions = np.flatnonzero(chosen)
    kind, index = pack(chosen, positions)
    return f"{unit}.{kind}", words.reshape(len(chosen), -1)[positions], index


def _size(option: tuple[str, np.ndarray, np.ndarray]) -> int:
    _, taken, index = option
    return taken.nbytes + (index.nbytes + _INDEX if len(index) else 0)


def _words(tensor: Tensor) -> np.ndarray:
    """A tensor's bits, flat, an unsigned integer for each element."""
    return raw(tensor).view(f"u{tensor.element_size()}")


def _tensor(words: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(words.reshape(-1).view(np.uint8)).view(like.dtype)
