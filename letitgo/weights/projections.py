"""Random projections P of d numbers onto D weights, with columns of unit norm (Li et al., arXiv:1804.08838).

All is drawn on the CPU from numpy's Philox, a counter-based generator whose words are the same everywhere, by integer
arithmetic and a table of normal quantiles: the same seed is the same P, to the bit, on every machine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights.hadamard import PIECE, power_of_two, transform

Kind = Literal["dense", "sparse", "fastfood"]

_PIECE_ON_DEVICE = 2**24  # bounds the passing memory on a GPU to some hundred megabytes


class Projection:
    """One matrix P, shape (D, d), by what it does.

    Attributes:
        arrays: What was drawn, by name; tensors of 32-bit numbers and of indices.
    """

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        self.arrays = arrays

    def to(self, device: torch.device) -> None:
        """Take what was drawn to another device."""
        self.arrays = {name: array.to(device) for name, array in self.arrays.items()}

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The arrays as on a CPU, for digests."""
        return {name: array.cpu() for name, array in self.arrays.items()}

    def image(self, z: Tensor) -> Tensor:
        """P z: shape (d,) → (D,)."""
        raise NotImplementedError

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Pᵀ g: shape (D,) → (d,)."""
        raise NotImplementedError


def draw(kind: Kind, size: int, d: int, seed: int) -> Projection:
    """The projection of d numbers onto ``size`` weights that a seed stands for."""
    return {"dense": Dense, "sparse": Sparse, "fastfood": Fastfood}[kind](size, d, seed)


def check_kind(kind: str) -> None:
    """Refuse what is no kind of projection."""
    if kind not in get_args(Kind):
        raise BadRequest(f"the kind is {kind!r}: it can be {', '.join(map(repr, get_args(Kind)))}")


class Dense(Projection):
    """Normal entries, independent; memory and time O(D d)."""

    def __init__(self, size: int, d: int, seed: int) -> None:
        words = _words(seed, "dense")
        matrix = torch.empty(size, d)
        squares = np.zeros(d)
        rows = max(1, 2**22 // d)
        for i in range(0, size, rows):
            part = _normals(words, min(rows, size - i) * d).reshape(-1, d)
            squares += np.square(part, dtype=np.float64).sum(0)  # exact: entries are multiples of 2⁻¹²
            matrix[i : i + rows] = torch.from_numpy(part)
        matrix /= torch.from_numpy(np.sqrt(squares).astype(np.float32))
        super().__init__({"matrix": matrix})

    def image(self, z: Tensor) -> Tensor:
        return self.arrays["matrix"].to(z.dtype) @ z

    def pull_back(self, gradient: Tensor) -> Tensor:
        return gradient @ self.arrays["matrix"].to(gradient.dtype)


class Sparse(Projection):
    """√D entries of either sign in each column, one in each of √D stretches of rows; memory and time O(d √D).

    The density is that of the paper, 1/√D. Counting them exactly makes all columns equally long (the block construction
    of Kane and Nelson, arXiv:1012.1577).
    """

    def __init__(self, size: int, d: int, seed: int) -> None:
        words, count = _words(seed, "sparse"), round(size**0.5)
        edges = np.arange(count + 1, dtype=np.int64) * size // count
        # The high half of a 64-bit product is a number below the length of the stretch; 32 bits of chance are enough.
        chance = (words.random_raw(d * count).reshape(d, count) >> np.uint64(32)).astype(np.int64)
        rows = edges[:-1] + (chance * np.diff(edges) >> 32)
        signs = _signs(words, d * count).reshape(d, count) * np.float32(count**-0.5)
        super().__init__({"rows": torch.from_numpy(rows), "values": torch.from_numpy(signs)})
        self._size = size

    def image(self, z: Tensor) -> Tensor:
        out = z.new_zeros(self._size)
        return out.scatter_add_(0, self.arrays["rows"].view(-1), (self.arrays["values"] * z[:, None]).view(-1))

    def pull_back(self, gradient: Tensor) -> Tensor:
        rows, values = self.arrays["rows"], self.arrays["values"]
        return (gradient.index_select(0, rows.view(-1)).view(rows.shape) * values).sum(1)


class Fastfood(Projection):
    """Blocks S H G Π H B; memory O(D), time O(D log d) (Le, Sarlós and Smola, arXiv:1408.3060).

    L is the least power of two that is neither below d nor below 64. Each block of L rows of P is the first d columns
    of one such product: B random signs, H the orthonormal Hadamard matrix, Π a permutation, G normal, S one number
    that makes all columns and rows equally long. The D mod L rows that are left over are as many rows of Π H B, since
    those too leave all columns equally long, and so every column of P has norm 1 exactly, not only in expectation.
    """

    def __init__(self, size: int, d: int, seed: int) -> None:
        words, length = _words(seed, "fastfood"), power_of_two(max(d, 64))
        full, self._rest = divmod(size, length)
        blocks = full + bool(self._rest)
        signs = _signs(words, blocks * length).reshape(blocks, length)
        order = _permutations(words, blocks, length)
        normals = _normals(words, full * length).reshape(full, length)
        squares = np.square(normals, dtype=np.float64).sum(1, keepdims=True)
        scaled = (normals * (length / np.sqrt(size * squares))).astype(np.float32)
        self._shape, self._d, self._scale = (full, length), d, (length / size) ** 0.5
        arrays = {"signs": signs, "order": order, "normals": scaled}
        super().__init__({name: torch.from_numpy(array) for name, array in arrays.items()})
        self.to(torch.device("cpu"))

    def to(self, device: torch.device) -> None:
        """Take what was drawn to another device; it says how many blocks are worked on at a time."""
        super().to(device)
        self._rows = self._placed(self.arrays["order"])

    def _placed(self, order: Tensor) -> int:
        """Count places among all blocks worked on at a time, so that one flat look-up serves; how many these are."""
        full, length = self._shape
        rows = max(1, (PIECE if order.device.type == "cpu" else _PIECE_ON_DEVICE) // length)
        order %= length
        order[:full] += (torch.arange(full, device=order.device) % rows * length)[:, None]
        return rows

    @property
    def drawn(self) -> dict[str, Tensor]:
        arrays = super().drawn
        if self.arrays["order"].device.type != "cpu":
            self._placed(arrays["order"])
        return arrays

    def image(self, z: Tensor) -> Tensor:
        full, length = self._shape
        signs, order, normals = self.arrays.values()
        out = z.new_empty(full * length + self._rest)
        blocks = out[: full * length].view(full, length)
        z = torch.nn.functional.pad(z, (0, length - len(z)))
        for i in range(0, full, self._rows):
            part = slice(i, min(i + self._rows, full))
            x = transform(z * signs[part])
            x = x.view(-1).index_select(0, order[part].reshape(-1)).view(x.shape)
            transform(x.mul_(normals[part]), out=blocks[part])
        if self._rest:
            x = transform(z * signs[-1])
            out[full * length :] = x.index_select(0, order[-1, : self._rest]) * self._scale
        return out

    def pull_back(self, gradient: Tensor) -> Tensor:
        full, length = self._shape
        signs, order, normals = self.arrays.values()
        out = gradient.new_zeros(length)
        blocks = gradient[: full * length].view(full, length)
        for i in range(0, full, self._rows):
            part = slice(i, min(i + self._rows, full))
            x = transform(blocks[part]).mul_(normals[part])
            x = torch.empty_like(x).view(-1).scatter_(0, order[part].reshape(-1), x.view(-1)).view(x.shape)
            out += transform(x).mul_(signs[part]).sum(0)
        if self._rest:
            x = gradient.new_zeros(length).scatter_(0, order[-1, : self._rest], gradient[full * length :] * self._scale)
            out += transform(x).mul_(signs[-1])
        return out[: self._d]


def _words(seed: int, kind: str) -> np.random.Philox:
    return np.random.Philox(key=derive(seed, "subspace", kind))


def _signs(words: np.random.Philox, count: int) -> np.ndarray:
    """±1 as 32-bit numbers, shape (count,)."""
    bits = np.unpackbits(words.random_raw(-(-count // 64)).astype("<u8").view(np.uint8), count=count)
    return bits.astype(np.float32) * 2 - 1


def _normals(words: np.random.Philox, count: int) -> np.ndarray:
    """Standard normal numbers of 2¹⁶ possible values, as 32-bit numbers, shape (count,)."""
    places = words.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
    return _quantiles()[places]


@lru_cache
def _quantiles() -> np.ndarray:
    """The middles of 2¹⁶ equally likely stretches, rounded so far that no library's last digit shows."""
    from scipy.special import ndtri

    return (np.round(ndtri((np.arange(2**16) + 0.5) / 2**16) * 2**12) / 2**12).astype(np.float32)


def _permutations(words: np.random.Philox, count: int, length: int) -> np.ndarray:
    """Random orders of ``range(length)``, shape (count, length)."""
    mask = np.uint64(length - 1)
    keys = words.random_raw(count * length).reshape(count, length)
    keys = (keys & ~mask) | np.arange(length, dtype=np.uint64)  # no two are equal, so that any sort sorts them alike
    keys.sort(axis=1)
    return (keys & mask).astype(np.int64)
