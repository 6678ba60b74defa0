"""The fast Walsh-Hadamard transform as products with small Hadamard matrices, on any device.

A Hadamard matrix of order 2ᵏ is the Kronecker product of small ones, so the transform is k / 4 batched products with
the 16 × 16 matrix. On a CPU the work goes in pieces that stay in the cache, and a single row goes without batches: each
product turns the index by four bits, so that all are plain ones, and after the last every number is at its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from letitgo.errors import BadRequest

PIECE = 2**17
"""Numbers a CPU works on at a time, so that they stay in its cache."""
PART = 2**20
"""The same of a single row, in the cache that cores share."""


def walsh_hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of the last dimension, in the order of ``scipy.linalg.hadamard``.

    It is its own inverse. Gradients of any order go through. Numbers of 16 bits are computed in 32.

    Args:
        x: Shape (..., n), real. Where n is no power of two, zeros are added at the end up to the next one.

    Returns:
        Shape (..., next power of two), in the dtype of ``x``.

    Raises:
        BadRequest: ``x`` is empty in its last dimension, has none, or holds no floating-point numbers.
    """
    if not x.is_floating_point() or not x.ndim or not x.shape[-1]:
        raise BadRequest(f"{x.dtype} of shape {tuple(x.shape)}: give floating-point numbers along a dimension")
    work = x if x.dtype == torch.float64 else x.float()
    missing = power_of_two(x.shape[-1]) - x.shape[-1]
    return _WalshHadamard.apply(pad(work, (0, missing)) if missing else work).to(x.dtype)


def power_of_two(n: int) -> int:
    """The least power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()


class _WalshHadamard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with full_precision(x.device):
            return transform(x.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _WalshHadamard.apply(gradients[0])


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products of 32-bit numbers in 32 bits, whatever autocast and ``set_float32_matmul_precision`` say."""
    precision = torch.get_float32_matmul_precision()
    has_autocast = torch.amp.is_autocast_available(device.type)  # type: ignore[attr-defined]
    with torch.autocast(device.type, enabled=False) if has_autocast else nullcontext():
        if precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def transform(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The transform without autograd: ``x`` is contiguous, 32 or 64 bits wide, its last dimension a power of two."""
    n, out = x.shape[-1], torch.empty_like(x) if out is None else out
    on_cpu = x.device.type == "cpu"
    rows, results = x.view(-1, n), out.view(-1, n)
    if on_cpu and (n > PIECE or len(rows) == 1):
        _long(rows, n**-0.5, results)
        return out
    count = max(1, PIECE // n if on_cpu else len(rows))
    scratch = x.new_empty(2, min(count, len(rows)) * n)
    for i in range(0, len(rows), count):
        _short(rows[i : i + count], n**-0.5, scratch, results[i : i + count])
    return out


def _short(x: Tensor, scale: float, scratch: Tensor, out: Tensor) -> None:
    """Transform rows that fit the cache together."""
    stride, orders = 1, _orders(x.shape[1])
    for i, order in enumerate(orders):
        matrix = _matrix(order, scale, x.dtype, x.device)
        into = scratch[i % 2, : x.numel()] if i + 1 < len(orders) else out.view(-1)
        if stride == 1:
            torch.mm(x.view(-1, order), matrix, out=into.view(-1, order))
        else:
            blocks = x.view(-1, order, stride)
            torch.bmm(matrix.expand(len(blocks), order, order), blocks, out=into.view(blocks.shape))
        x, stride, scale = into.view(x.shape), stride * order, 1.0


def _long(x: Tensor, scale: float, out: Tensor) -> None:
    """Transform long rows: first parts of them that the outer cache holds, then across the parts, a strip at a time."""
    n = x.shape[1]
    low = stride = min(n, PART)
    scratch = x.new_empty(low)
    for part, result in zip(x.view(-1, low), out.view(-1, low), strict=True):
        _turned(part, scale, scratch, result)
    while stride < n:
        order = min(16, n // stride)
        width = PIECE // order
        matrix, into = _matrix(order, 1.0, x.dtype, x.device), scratch[:PIECE].view(order, width)
        for block in out.view(-1, order, stride):
            for strip in block.split(width, 1):
                strip.copy_(torch.mm(matrix, strip, out=into))
        stride *= order


def _turned(x: Tensor, scale: float, scratch: Tensor, out: Tensor) -> None:
    """Transform one row by products that each turn the last bits of its index to the front."""
    orders = _orders(len(x))
    for left, order in zip(reversed(range(len(orders))), orders, strict=True):
        into = scratch if left % 2 else out
        torch.mm(_matrix(order, scale, x.dtype, x.device), x.view(-1, order).t(), out=into.view(order, -1))
        x, scale = into, 1.0


@lru_cache
def _orders(n: int) -> tuple[int, ...]:
    """Orders of the small matrices whose Kronecker product has order ``n``, at most 16 each and about equal.

    The first is 16: narrow matrices times a smaller one are slow.
    """
    first = min(n.bit_length() - 1, 4)
    rest = n.bit_length() - 1 - first
    stages = -(-rest // 4)
    return tuple(1 << b for b in (first, *(rest // stages + (i < rest % stages) for i in range(stages))))


@lru_cache(64)
def _matrix(order: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.ones(1, 1, dtype=dtype)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix * scale).to(device)
