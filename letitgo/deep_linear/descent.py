"""Gradient descent on deep linear networks with one output and the logistic loss, after JT18 (arXiv:1810.02032)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from letitgo import weights
from letitgo.deep_linear.options import Law
from letitgo.errors import WorkFailed
from letitgo.value import derive

Rule = Literal["theorem", "risk", "constant"]

SMOOTH = 1 / 4 + 1
"""β + G of the logistic loss: its derivative is 1/4-Lipschitz, and nowhere above 1."""
RAISE = 1.01
"""Factor by which the line search raises the radius."""
LEAST = 1e-250
"""Risk at which descent ends: float64 does not go on much below."""


def start(law: Law, widths: Sequence[int], signed: Tensor, seed: int, scale: float) -> list[Tensor]:
    """Initial matrices, first layer first.

    Args:
        law: ``"default"``: PyTorch's own for ``nn.Linear``. ``"zero first layer"``: the same, the first set to zero,
            which satisfies JT18's assumption 2. ``"balanced"``: rank one, of norm 1, aligned, so that D is 0;
            the product turned towards the data and halved until its risk is not above that of zero (assumption 2).
        widths: Units of the hidden layers.
        signed: Inputs times their labels, shape (n, d).
        seed: A layer's draw is a function of the seed and its name alone.
        scale: Factor of all matrices.
    """
    sizes = [signed.shape[1], *widths, 1]
    if law == "balanced":
        return [scale * matrix for matrix in _balanced(sizes, signed, seed)]

    def network() -> nn.Module:
        return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)))

    matrices = [scale * matrix.double() for matrix in weights.initial_state(network, seed).values()]
    if law == "zero first layer":
        matrices[0].zero_()
    return matrices


def _balanced(sizes: Sequence[int], signed: Tensor, seed: int) -> list[Tensor]:
    units = []
    for k, size in enumerate(sizes[:-1]):
        generator = torch.Generator().manual_seed(derive(seed, "balanced", k))
        vector = torch.randn(size, dtype=torch.float64, generator=generator)
        units.append(vector / vector.norm())
    if float(signed.mean(0) @ units[0]) < 0:
        units[0] = -units[0]
    units.append(torch.ones(1, dtype=torch.float64))
    matrices = [torch.outer(left, right) for right, left in pairwise(units)]
    while risk_of(matrices, signed) > log(2):
        matrices = [matrix / 2 for matrix in matrices]
    return matrices


def product(matrices: Sequence[Tensor]) -> Tensor:
    """The linear predictor of a chain with one output, shape (d,)."""
    whole = matrices[-1][0]
    for matrix in reversed(matrices[:-1]):
        whole = whole @ matrix
    return whole


def risk_of(matrices: Sequence[Tensor], signed: Tensor) -> float:
    """Mean logistic loss, in nats."""
    return float(softplus(-(signed @ product(matrices))).mean())


@dataclass(frozen=True)
class Point:
    """A point of a descent.

    Attributes:
        step: Steps done.
        matrices: First layer first; good until the next point is asked for.
        risk: Mean logistic loss, in nats.
        rate: The rate of the step before; None at the start.
    """

    step: int
    matrices: list[Tensor]
    risk: float
    rate: float | None


def descend(
    matrices: Sequence[Tensor], signed: Tensor, rule: Rule, rate: float, frozen: Sequence[int] = ()
) -> Iterator[Point]:
    """Full-batch gradient descent, point by point, until the risk is below what float64 holds.

    Args:
        matrices: The start, first layer first, float64. It is not changed.
        signed: Inputs times their labels ±1, shape (n, d), of norm at most 1.
        rule: ``"theorem"``: JT18's assumption 5, min(1/β(R), 1) with β(R) = 2L²R^(2L−2)(β + G), all matrices within
            the radius R, which a line search raises when the next point would leave it. ``"risk"``: the same with
            twice the present risk, which bounds both derivatives of the loss at hand, for β + G: the product then
            grows by the step and not by its logarithm. It is not the theorem's. ``"constant"``: ``rate`` itself.
        rate: A factor of the step.
        frozen: Places of the matrices that stay.

    Raises:
        WorkFailed: The risk is no longer finite.
    """
    now = [matrix.clone() for matrix in matrices]
    depth = len(now)
    radius = max(1.0, *(float(matrix.norm()) for matrix in now))
    trained = [k for k in range(depth) if k not in frozen]
    step, last = 0, None
    while True:
        above = [torch.ones(1, dtype=torch.float64)]  # of each layer, what the layers above it make of its outputs
        for matrix in reversed(now):
            above.insert(0, above[0] @ matrix)
        margins = signed @ above[0]
        risk = float(softplus(-margins).mean())
        if not isfinite(risk):
            raise WorkFailed(f"the risk is not finite by step {step}: give a smaller step")
        yield Point(step, now, risk, last)
        if risk < LEAST:
            return
        below = [torch.sigmoid(-margins) @ signed / -len(signed)]  # of each layer, its input when given the gradient
        for matrix in now[:-1]:
            below.append(matrix @ below[-1])
        smooth = 2 * risk if rule == "risk" else SMOOTH
        while True:
            last = rate if rule == "constant" else rate / (2 * depth**2 * radius ** (2 * depth - 2) * smooth)
            if rule == "theorem":
                last = min(last, rate)
            moved = [torch.addr(now[k], above[k + 1], below[k], alpha=-last) for k in trained]
            if rule == "constant" or all(float(matrix.norm()) <= radius for matrix in moved):
                break
            radius *= RAISE
        for k, matrix in zip(trained, moved, strict=True):
            now[k] = matrix
        step += 1
