"""The fast transform is the matrix product it stands for, at any length, in any precision, both ways."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard
from torch import Tensor

from letitgo import walsh_hadamard
from letitgo.errors import BadRequest
from letitgo.weights import hadamard as implementation

TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def dense(x: Tensor) -> Tensor:
    n = 1 << (x.shape[-1] - 1).bit_length()
    matrix = torch.from_numpy(hadamard(n)).double()[:, : x.shape[-1]] / n**0.5
    return x.double() @ matrix.T


@given(length=st.integers(1, 1100), rows=st.integers(0, 3), dtype=st.sampled_from(list(TOLERANCE)))
def test_it_is_the_product_with_the_matrix_at_any_length(length, rows, dtype):
    x = drawn(rows, 2, length, dtype=dtype) if rows else drawn(length, dtype=dtype)
    found = walsh_hadamard(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), dense(x), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("bits", range(13))
def test_every_power_of_two(bits):
    torch.testing.assert_close(walsh_hadamard(drawn(2, 2**bits)), dense(drawn(2, 2**bits)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("piece", [2**k for k in (6, 10)])
@pytest.mark.parametrize("shape", [(4096,), (8192,), (3, 1024), (37, 16), (5, 1), (1,), (0, 64)])
def test_pieces_change_nothing(piece, shape, monkeypatch):
    x = drawn(*shape)
    monkeypatch.setattr(implementation, "PIECE", piece)
    monkeypatch.setattr(implementation, "PART", piece)
    torch.testing.assert_close(walsh_hadamard(x), dense(x), atol=1e-12, rtol=0)


def test_longer_than_a_piece():
    x = drawn(2, 2**19)
    found = walsh_hadamard(x)
    torch.testing.assert_close(walsh_hadamard(found), x, atol=1e-12, rtol=0)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for row in (1, 2**18 + 5, 2**19 - 1):  # entry (i, j) is the parity of the bits that i and j share
        wanted = x[0].clone()
        for bit in range(19):
            wanted = wanted.view(-1, 2) @ (signs if row >> bit & 1 else signs.abs())
        torch.testing.assert_close(found[0, row], wanted.squeeze() / 2**9.5, atol=1e-11, rtol=0)


@given(length=st.integers(1, 40))
def test_it_keeps_lengths_and_is_its_own_inverse(length):
    x = drawn(length)
    found = walsh_hadamard(x)
    torch.testing.assert_close(found.norm(), x.norm())
    torch.testing.assert_close(walsh_hadamard(found)[:length], x)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 8), (3, 20)])
def test_gradients(shape):
    x = drawn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(walsh_hadamard, x)
    assert torch.autograd.gradgradcheck(walsh_hadamard, x)


def test_autocast_and_fast_products_cost_no_digits():
    x = drawn(4, 4096, dtype=torch.float32)
    wanted = walsh_hadamard(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(walsh_hadamard(x), wanted)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(walsh_hadamard(x), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_input_is_left_alone():
    x = drawn(7, 256)
    before = copy.deepcopy(x)
    walsh_hadamard(x)
    walsh_hadamard(x.T)
    assert torch.equal(x, before)


@pytest.mark.parametrize("x", [torch.ones(4, dtype=torch.int64), torch.tensor(1.0), torch.ones(3, 0)])
def test_bad_requests(x):
    with pytest.raises(BadRequest, match="give floating-point numbers along a dimension"):
        walsh_hadamard(x)
