"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from letitgo.errors import WorkFailed
from letitgo.recipes import Recipe
from letitgo.recipes.data import Split, noisy
from letitgo.recipes.optimizers import find_schedule
from letitgo.value import derive
from letitgo.weights import frozen_prefix, trainable

PREFIX_BYTES = 2**30
"""Outputs of a frozen prefix are kept in memory up to this size. Fixed, so that a trajectory is the same everywhere."""


@dataclass(frozen=True)
class Moment:
    """A point on a trajectory. Its tensors are the live ones: copy or save them before going on.

    Attributes:
        step: Steps on the recipe's clock.
        optimizer: The optimiser's ``state_dict``; what is trainable in the module comes in it in the module's order.
    """

    step: int
    optimizer: dict[str, Any]


def train(
    module: nn.Module,
    recipe: Recipe,
    stops: Iterable[int],
    begin: int = 0,
    optimizer_state: dict[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Moment]:
    """Train what is trainable in the module, pausing at each stop.

    Where it is at a step depends on nothing but the recipe, the weights at ``begin`` and the optimiser's state there:
    the order of the data is a function of (seed, epoch), random layers of (seed, step), the learning rate of the step.

    Args:
        module: Changed in place. Frozen parameters are never handed to the optimiser.
        recipe: What to train on, and how.
        stops: Steps to pause at, ascending, after ``begin``. The last one ends the training.
        begin: The step on the recipe's clock to go on from.
        optimizer_state: The optimiser's state at ``begin``; a fresh one if not given.
        on_step: Called with the step after each step.

    Yields:
        A moment at each stop.

    Raises:
        WorkFailed: The loss is no longer finite.
    """
    split = recipe.dataset.split("train")
    labels = noisy(split.labels, recipe.dataset.classes, recipe.label_noise, recipe.seed)
    module.train()
    optimizer = recipe.make_optimizer(trainable(module))
    rates = [group.get("lr") for group in optimizer.param_groups]
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    schedule = find_schedule(recipe.schedule)
    network, batch = _without_prefix(module, split, recipe.batch_size)

    total_steps, epoch_steps = recipe.steps, recipe.steps_per_epoch
    epoch, order = -1, torch.empty(0)
    total, done = torch.zeros(()), begin
    for stop in stops:
        for step in range(done, stop):
            if step // epoch_steps != epoch:
                _check(total, recipe, step)
                epoch = step // epoch_steps
                order = data_order(recipe, epoch)
            place = step % epoch_steps * recipe.batch_size
            rows = order[place : place + recipe.batch_size]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    group["lr"] = rate * schedule(step / total_steps)
            torch.default_generator.manual_seed(derive(recipe.seed, "step", step))
            inputs, targets = batch(rows), labels.index_select(0, rows)

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(network(inputs), targets)
                if loss.requires_grad:  # not where nothing that is used trains
                    loss.backward()
                return loss

            total += optimizer.step(closure).detach()  # type: ignore[union-attr]  (closures return losses)
            if on_step is not None:
                on_step(step + 1)
        done = stop
        _check(total, recipe, stop)
        yield Moment(stop, optimizer.state_dict())


def _check(total: Tensor, recipe: Recipe, step: int) -> None:
    if not torch.isfinite(total):
        raise WorkFailed(
            f"the loss is not finite by step {step} of {recipe.steps} ({recipe.model} on {recipe.data}, "
            f"{recipe.optimizer}, seed {recipe.seed}): a lower learning rate may help"
        )


def data_order(recipe: Recipe, epoch: int) -> Tensor:
    """The order of the training examples in an epoch, a function of (seed, epoch): row numbers, shape (N,)."""
    generator = torch.Generator().manual_seed(derive(recipe.seed, "order", epoch))
    return torch.randperm(len(recipe.dataset.split("train")), generator=generator)


def _without_prefix(module: nn.Module, split: Split, batch_size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """What is left to run at each step, and where its inputs come from.

    The outputs of a frozen prefix are computed once, in batches of the recipe's size.
    """
    parts = frozen_prefix(module)
    if parts is None:
        return module, split.batch
    prefix, rest = parts
    with torch.no_grad():
        sample = prefix(split.batch(slice(0, 1)))
        if sample.nbytes * len(split) > PREFIX_BYTES:
            return module, split.batch
        outputs = torch.empty((len(split), *sample.shape[1:]), dtype=sample.dtype)
        for begin in range(0, len(split), batch_size):
            rows = slice(begin, begin + batch_size)
            outputs[rows] = prefix(split.batch(rows))
    return rest, lambda rows: outputs.index_select(0, rows)
