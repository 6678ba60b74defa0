"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest, WorkFailed
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Batches
from letitgo.training.place import CPU, Place
from letitgo.training.step import take_step
from letitgo.weights import PREFIX_BYTES, trainable
from letitgo.weights.cut import Cut, find_prefix
from letitgo.weights.state import seed_generators


@dataclass(frozen=True)
class Moment:
    """A point on a trajectory. Its tensors are the live ones: copy or save them before going on.

    Attributes:
        step: Steps on the recipe's clock.
        optimizer: Over what trains in the module.
    """

    step: int
    optimizer: torch.optim.Optimizer


def train(
    module: nn.Module,
    recipe: Recipe,
    stops: Iterable[int],
    begin: int = 0,
    optimizer_state: dict[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
    place: Place = CPU,
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
        place: Where the module is; batches are brought there.

    Yields:
        A moment at each stop.

    Raises:
        WorkFailed: The loss is no longer finite, or what is frozen moved.
    """
    module.train()
    optimizer = recipe.make_optimizer(trainable(module))
    rates = [group.get("lr") for group in optimizer.param_groups]
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    arithmetic = place.autocast(recipe.precision)
    with arithmetic:
        network, batches = _without_prefix(module, Batches(recipe, place.device))
    still = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}

    of_cpu = not recipe.network.source and place.kind == "cpu"  # our networks draw from torch alone
    reseed = torch.default_generator.manual_seed if of_cpu else seed_generators
    task, epoch_steps = recipe.dataset.task, recipe.steps_per_epoch
    total, done = torch.zeros((), device=place.device), begin
    for stop in stops:
        for step in range(done, stop):
            if step % epoch_steps == 0:
                _check(total, recipe, step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    group["lr"] = rate * recipe.rate(step)
            reseed(batches.seed(step))
            inputs, labels = batches.at(step)
            total += take_step(network, optimizer, task, inputs, labels, recipe.clip, arithmetic)
            if on_step is not None:
                on_step(step + 1)
        done = stop
        _check(total, recipe, stop)
        _check_still(module, still, recipe)
        yield Moment(stop, optimizer)


def _check(total: Tensor, recipe: Recipe, step: int) -> None:
    if not torch.isfinite(total):
        raise WorkFailed(
            f"the loss is not finite by step {step} of {recipe.steps} ({recipe.model} on {recipe.data}, "
            f"{recipe.optimizer}, seed {recipe.seed}): a lower learning rate may help"
        )


def _check_still(module: nn.Module, still: dict[str, Tensor], recipe: Recipe) -> None:
    for name, before in still.items():
        if not torch.equal(module.get_parameter(name), before):
            raise WorkFailed(
                f"{name} is frozen and moved all the same ({recipe.model}, {recipe.optimizer}): its forward pass or "
                "the optimiser changes it"
            )


def _without_prefix(module: nn.Module, batches: Batches) -> tuple[Callable[[Any], Any], Batches]:
    """What remains to be run at each step, and its batches: the outputs of a frozen prefix are computed once."""
    if batches.varies or (few := batches.few()) is None:
        return module, batches
    try:
        parts, cut, _ = find_prefix(module, few)
    except BadRequest:  # what is wrong with it is told where it is trained on
        return module, batches
    if cut is not None:
        with cut.installed():
            made = batches.after(cut.capture, PREFIX_BYTES, beside=bool(cut.needed))
            same = made is not None and _same(cut, batches, made)
        return (partial(_rest, cut), made) if made is not None and same else (module, batches)
    made = None if parts is None else batches.after(parts[0], PREFIX_BYTES)
    return (module, batches) if parts is None or made is None else (parts[1], made)


def _same(cut: Cut, batches: Batches, made: Batches) -> bool:
    """Whether the first and the last batch of an epoch, which may be smaller, give the bits that were kept."""
    for step in (0, batches.recipe.steps_per_epoch - 1):
        kept = made.at(step)[0]
        if not torch.equal(cut.capture(batches.at(step)[0]), kept[0] if isinstance(kept, tuple) else kept):
            return False
    return True


def _rest(cut: Cut, inputs: Tensor | tuple[Tensor, Tensor]) -> Any:
    """The network from the cut on: of what was kept, and of the inputs beside it where they are needed."""
    kept, *more = inputs if isinstance(inputs, tuple) else (inputs,)
    with cut.installed():
        return cut.rest(kept, dict(zip(cut.needed, more, strict=True)))
