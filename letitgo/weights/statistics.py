"""Running statistics of normalization layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from letitgo.errors import BadRequest
from letitgo.weights.layers import parameter_names


def running_statistics(module: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that normalization layers keep statistics of the data in."""
    norms = [(name, part) for name, part in module.named_modules() if _keeps(part)]
    return tuple(f"{name}.{own}".lstrip(".") for name, part in norms for own, _ in part.named_buffers(recurse=False))


def _keeps(part: nn.Module) -> TypeGuard[_NormBase]:
    return isinstance(part, _NormBase) and part.track_running_stats


def re_estimate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by averages over ``batches`` under the present weights.

    Args:
        module: Changed in place: its statistics alone. Its mode is restored.
        batches: Inputs as the module takes them.

    Raises:
        BadRequest: There is no batch. Then, and where a batch fails, the statistics are left as they were.
    """
    parameter_names(module)  # refuses what is lazy
    norms = [norm for norm in module.modules() if _keeps(norm)]
    if not norms:
        return
    modes = {part: part.training for part in module.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    batch = None
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.training = True
    try:
        with torch.no_grad():
            for batch in batches:
                module(batch)
        if batch is None:
            raise BadRequest("there are no batches to take statistics from: give at least one, unread")
    except BaseException:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
