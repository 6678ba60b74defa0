"""Optimisers and learning-rate schedules by name or import path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, pi
from typing import Any

import torch
from torch import nn

from letitgo.errors import BadRequest, nearest
from letitgo.imports import arguments, import_object

_OPTIMIZERS = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
_OURS = {"sgd": {"lr": 0.05, "momentum": 0.9}}


def find_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser's class.

    Raises:
        BadRequest: There is none of that name.
    """
    if ":" in name:
        return import_object(name, "optimiser")
    if name.lower() not in _OPTIMIZERS:
        raise BadRequest(f"unknown optimiser {name!r}: {nearest(name.lower(), tuple(_OPTIMIZERS))}")
    return _OPTIMIZERS[name.lower()]


def optimizer_args(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments an optimiser is called with: the given ones, and ours for SGD.

    Raises:
        BadRequest: The optimiser does not take one of them.
    """
    taken = arguments(find_optimizer(name), f"optimiser {name!r}")
    for argument in given:
        if argument not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            raise BadRequest(f"the optimiser {name!r} takes no {argument!r}: it takes {', '.join(taken)}")
    return {**_OURS.get(name.lower(), {}), **given}


def make_optimizer(name: str, args: dict[str, Any], parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser over these parameters and no others.

    Raises:
        BadRequest: The optimiser refuses its arguments or the parameters.
    """
    args = {key: tuple(arg) if isinstance(arg, list) else arg for key, arg in args.items()}
    try:
        optimizer = find_optimizer(name)(parameters, **args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"the optimiser {name!r} cannot be used: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadRequest(f"the optimiser {name!r} gives a {type(optimizer).__name__}, no Optimizer")
    return optimizer


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1 - progress


def _cosine(progress: float) -> float:
    return (1 + cos(pi * progress)) / 2


def _step(progress: float) -> float:
    return 0.2 ** sum(progress >= milestone for milestone in (0.3, 0.6, 0.9))


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "step": _step,
}


def find_schedule(name: str) -> Callable[[float], float]:
    """A function from the share of training that is done, in [0, 1), to the factor on the learning rate.

    Raises:
        BadRequest: There is none of that name.
    """
    if ":" in name:
        return import_object(name, "schedule")
    if name not in _SCHEDULES:
        raise BadRequest(f"unknown schedule {name!r}: {nearest(name, tuple(_SCHEDULES))}")
    return _SCHEDULES[name]
