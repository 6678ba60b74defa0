"""Putting layers of one network into another, and telling how far apart they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from letitgo.errors import BadRequest
from letitgo.weights.state import State


def graft(base: State, donor: State, parameters: Iterable[str]) -> State:
    """``base`` with the named parameters taken from ``donor``, under each of their names; neither is changed.

    Buffers stay the base's: running statistics describe data and are no learned weights.
    """
    taken = {id(base[name]): donor[name] for name in parameters}
    return {name: taken.get(id(tensor), tensor) for name, tensor in base.items()}


def distance(a: State, b: State, parameters: Iterable[str]) -> dict[str, float]:
    """How far apart two states are over the named parameters.

    Returns:
        ``squares``: the sum of squared differences; ``largest``: the largest absolute difference; ``count``: how many
        weights. From these follow, for one layer or several together, the Euclidean distance normalised by the square
        root of the number of weights and the maximum distance, the two that ZBS19 (arXiv:1902.01996) draws.

    Raises:
        BadRequest: A parameter has another shape in the other state.
    """
    squares, largest, count = 0.0, 0.0, 0
    for name in parameters:
        if a[name].shape != b[name].shape:
            raise BadRequest(
                f"{name!r} has shape {tuple(a[name].shape)} in one state and {tuple(b[name].shape)} in the other: "
                "give two states of one network"
            )
        difference = (wide(a[name]) - wide(b[name])).abs()
        squares += float(torch.sum(difference * difference))
        largest = max(largest, float(difference.max()) if difference.numel() else 0.0)
        count += difference.numel()
    return {"squares": squares, "largest": largest, "count": count}


def wide(tensor: Tensor) -> Tensor:
    """A tensor in double precision, real or complex as it is."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
