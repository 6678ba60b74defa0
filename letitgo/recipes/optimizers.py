"""Optimisers and learning-rate schedules by name or import path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import cos, pi
from typing import Any

import torch
from torch import nn

from letitgo.errors import BadRequest, nearest, typed
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


def make_optimizer(
    name: str, args: dict[str, Any], parameters: Iterable[nn.Parameter], decay: str = "all"
) -> torch.optim.Optimizer:
    """An optimiser over these parameters and no others.

    Args:
        name: As in :func:`find_optimizer`.
        args: Its arguments.
        parameters: What it moves.
        decay: ``weights``: those of fewer than two dimensions, such as norms and biases, are a group without decay.

    Raises:
        BadRequest: The optimiser refuses its arguments or the parameters, or has no weight decay to leave out.
    """
    given: Any = parameters
    if decay == "weights":
        optimizer_args(name, {"weight_decay": 0.0})
        parameters = list(parameters)
        decayed, spared = ([p for p in parameters if (p.ndim > 1) == several] for several in (True, False))
        given = [group for group in ({"params": decayed}, {"params": spared, "weight_decay": 0.0}) if group["params"]]
    args = {key: tuple(arg) if isinstance(arg, list) else arg for key, arg in args.items()}
    try:
        optimizer = find_optimizer(name)(given, **args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"the optimiser {name!r} cannot be used: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadRequest(f"the optimiser {name!r} gives {typed(optimizer)}, no Optimizer")
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


_MILESTONES = re.compile(r"(0?\.\d+)@(\d+(?:it|ep)(?:\+\d+(?:it|ep))*)")


def find_schedule(name: str, steps: int = 1, epoch: int = 1) -> Callable[[float], float]:
    """A function from the share of training that is done, in [0, 1), to the factor on the learning rate.

    Args:
        name: Of ours, an import path, or milestones as in ``0.1@80ep+120ep``: a factor, and when it applies.
        steps: Of the whole training; milestones need it.
        epoch: Steps of an epoch; likewise.

    Raises:
        BadRequest: There is none of that name.
    """
    if ":" in name:
        return import_object(name, "schedule")
    if milestones := _MILESTONES.fullmatch(name):
        decay, places = float(milestones[1]), [_steps(part, epoch) / steps for part in milestones[2].split("+")]
        return lambda progress: decay ** sum(progress >= place for place in places)
    if "@" in name:
        raise BadRequest(f"schedule is {name!r}: write milestones as in 0.1@80ep+120ep, or in steps as in 0.1@500it")
    if name not in _SCHEDULES:
        raise BadRequest(f"unknown schedule {name!r}: {nearest(name, tuple(_SCHEDULES))}")
    return _SCHEDULES[name]


def make_rate(schedule: str, warmup: str | None, steps: int, epoch: int) -> Callable[[int], float]:
    """A function from a step to the factor on the learning rate.

    Args:
        schedule: As in :func:`find_schedule`.
        warmup: Over its n steps, as in ``500it`` or ``5ep``, the schedule's factor is multiplied by 1/n, 2/n, …, 1.
        steps: Of the whole training.
        epoch: Steps of an epoch.

    Raises:
        BadRequest: There is no such schedule, or the warm-up is longer than the training.
    """
    factor, rise = find_schedule(schedule, steps, epoch), _steps(warmup, epoch) if warmup else 1
    if rise > steps:
        raise BadRequest(f"warmup is {warmup}, {rise:,} steps: training has {steps:,}")
    return lambda step: factor(step / steps) * min(1, (step + 1) / rise) if warmup else factor(step / steps)


def _steps(length: str, epoch: int) -> int:
    """Steps that ``500it`` or ``5ep`` stands for."""
    return int(length[:-2]) * (epoch if length.endswith("ep") else 1)
