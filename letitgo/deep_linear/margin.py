"""The maximum-margin direction of separable data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from letitgo.errors import WorkFailed


class NotSeparable(ValueError):
    """No plane through the origin has all points on the right side."""


@dataclass(frozen=True)
class Margin:
    """The direction that separates with the largest margin, without a bias.

    Attributes:
        direction: Unit vector, shape (d,).
        margin: The least ⟨direction, z⟩, above 0.
        support: Rows of the support vectors.
        rank: Of the support vectors; JT18's theorem 4 asks for d.
    """

    direction: Tensor
    margin: float
    support: Tensor
    rank: int


def max_margin(signed: Tensor) -> Margin:
    """The hard-margin support vector machine through the origin.

    Args:
        signed: Inputs times their labels ±1, shape (n, d), float64.

    Raises:
        NotSeparable: There is no such plane.
        WorkFailed: The machine has not come to its end.
    """
    from sklearn.svm import SVC

    bound = separating_margin(signed)
    rows = signed.numpy()
    # Points and their mirror images have a plane through the origin. Dual coefficients add up to 1/margin², so a larger
    # penalty than that is a hard margin.
    machine: Any = SVC(kernel="linear", C=2 / bound**2, tol=1e-9)
    machine.fit(np.concatenate([rows, -rows]), np.repeat([1, -1], len(rows)))
    direction = torch.from_numpy(machine.coef_[0].copy())
    direction /= direction.norm()
    support = torch.from_numpy(np.unique(machine.support_ % len(rows)).astype(np.int64))
    least = float((signed @ direction).min())
    if least < bound * (1 - 1e-6):  # the linear program has found a better one
        raise WorkFailed(f"the support vector machine finds a margin of {least:.6g}, and {bound:.6g} can be had")
    return Margin(direction, least, support, int(torch.linalg.matrix_rank(signed[support])))


def separating_margin(signed: Tensor) -> float:
    """A margin that can be had, not always the largest; from a linear program.

    Args:
        signed: Inputs times their labels ±1, shape (n, d), float64.

    Raises:
        NotSeparable: There is none above 0.
    """
    from scipy.optimize import linprog

    n, d = signed.shape
    rows = signed.numpy()
    # The largest t with ⟨w, z⟩ ≥ t for all z and |w_i| ≤ 1.
    found = linprog(
        np.concatenate([np.zeros(d), [-1.0]]),
        A_ub=np.concatenate([-rows, np.ones((n, 1))], axis=1),
        b_ub=np.zeros(n),
        bounds=[*[(-1, 1)] * d, (0, None)],
        method="highs",
    )
    w = found.x[:d] if found.status == 0 else np.zeros(d)
    least = float((rows @ w).min())
    if least <= 1e-9:  # below the program's own tolerance nothing is told apart
        raise NotSeparable
    return least / float(np.linalg.norm(w))
