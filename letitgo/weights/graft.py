"""Putting layers of one network into another, and telling how far apart they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from letitgo.weights.state import State


def graft(base: State, donor: State, parameters: Iterable[str]) -> State:
    """``base`` with the named parameters taken from ``donor``; neither is changed.

    Buffers stay the base's: running statistics describe data and are no learned weights.
    """
    return {**base, **{name: donor[name] for name in parameters}}


def distance(a: State, b: State, parameters: Iterable[str]) -> dict[str, float]:
    """How far apart two states are over the named parameters.

    Returns:
        ``squares``: the sum of squared differences; ``largest``: the largest absolute difference; ``count``: how many
        weights. From these follow, for one layer or several together, the Euclidean distance normalised by the square
        root of the number of weights and the maximum distance, the two that ZBS19 (arXiv:1902.01996) draws.
    """
    squares, largest, count = 0.0, 0.0, 0
    for name in parameters:
        difference = (a[name].double() - b[name].double()).abs()
        squares += float(torch.sum(difference * difference))
        largest = max(largest, float(difference.max()) if difference.numel() else 0.0)
        count += difference.numel()
    return {"squares": squares, "largest": largest, "count": count}
