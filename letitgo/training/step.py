"""One step of training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.recipes.tasks import Task


def take_step(
    module: Callable[[Any], Any],
    optimizer: torch.optim.Optimizer,
    task: Task,
    inputs: Tensor,
    labels: Tensor,
    clip: float | None = None,
    arithmetic: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  (holds nothing)
) -> Tensor:
    """Forward, loss, backward, step.

    Args:
        module: The network, or what a frozen prefix leaves of it.
        optimizer: Over what trains.
        task: Says what the loss is.
        inputs: Of one batch.
        labels: Of one batch.
        clip: Largest norm of the gradient of all that trains; a larger one is scaled down to it.
        arithmetic: Within which the forward pass and the loss are computed: see :meth:`Place.autocast`.

    Returns:
        The loss before the step, a scalar; for optimisers that call it several times, the first.
    """

    def closure() -> Tensor:
        optimizer.zero_grad()
        with arithmetic:
            loss = task.loss(module(inputs), labels)
        if loss.requires_grad:  # not where nothing that is used trains
            loss.backward()
            if clip is not None:
                parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                nn.utils.clip_grad_norm_(parameters, clip)
        return loss

    return optimizer.step(closure).detach()  # type: ignore[union-attr]  (closures return losses)
