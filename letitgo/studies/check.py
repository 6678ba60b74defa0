"""Checks that a recipe can be trained, before anything starts."""

from __future__ import annotations

import torch

from letitgo import weights
from letitgo.errors import BadRequest, named, typed
from letitgo.recipes import Recipe
from letitgo.recipes.splits import Split
from letitgo.training import CPU, take_step
from letitgo.weights.state import check_draws


@CPU.entered()
def check_recipe(recipe: Recipe) -> None:
    """Build the network, call it on two examples and take a step.

    Raises:
        BadRequest: One of these does not go through, or the network's outputs do not fit the data's classes.
    """
    module = weights.seeded(recipe.network, recipe.seed)
    if not weights.trainable(module):
        raise BadRequest(f"the network {recipe.model!r} has no parameters to train")
    if recipe.network.code:
        check_draws(recipe.network, f"the network {recipe.model!r}")
    if recipe.own is not None:
        recipe.own.sample  # noqa: B018  (evaluate begins, and calls the network)
        return
    split = recipe.dataset.split("train")
    inputs, labels = split.batch(slice(0, 2)), split.labels[:2]
    try:
        with torch.no_grad():
            outputs = module.eval()(inputs)
    except (Exception, SystemExit) as error:
        fits = {"text": "lstm", "tokens": "transformer", "features": "fcn"}.get(recipe.dataset.kind)
        hint = f"; for {recipe.dataset.kind} give --model {fits}" if fits and recipe.model != fits else ""
        raise BadRequest(
            f"the network {recipe.model!r} does not take inputs of shape {recipe.dataset.shape} from {recipe.data}: "
            f"{named(error)}{hint}"
        ) from error
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    amounts = labels.is_floating_point()
    due = (2, recipe.dataset.outputs) if amounts else (*labels.shape, recipe.dataset.outputs)
    if shape != due:
        raise BadRequest(
            f"the network {recipe.model!r} gives outputs of shape {shape} for two inputs: {recipe.data} has "
            f"{recipe.dataset.classes} {'targets' if amounts else 'classes'}, so it has to be {due}"
        )
    _check_loss(recipe, outputs, labels)
    optimizer = recipe.make_optimizer(weights.trainable(module))
    try:
        take_step(module, optimizer, recipe.dataset.task, inputs, labels, recipe.clip)
    except (Exception, SystemExit) as error:
        raise BadRequest(
            f"the optimiser {recipe.optimizer!r} cannot take a step on {recipe.model!r}: {named(error)}"
        ) from error
    _check_last_batch(recipe, split)
    try:
        factor = recipe.rate(0)
    except BadRequest:
        raise
    except (Exception, SystemExit) as error:
        raise BadRequest(f"the schedule {recipe.schedule!r} raises {type(error).__name__}: {error}") from error
    if not isinstance(factor, (int, float)):
        raise BadRequest(f"the schedule {recipe.schedule!r} gives {typed(factor)}: it has to give a number")


def _check_loss(recipe: Recipe, outputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse a loss that fails or gives no number."""
    task = recipe.dataset.task
    what = f"the loss {recipe.loss or task.default_loss or type(task).__name__!r}"
    try:
        shape = task.loss(outputs, labels).shape
    except BadRequest:
        raise
    except (Exception, SystemExit) as error:
        raise BadRequest(f"{what} cannot be computed for two examples of {recipe.data}: {named(error)}") from error
    if shape.numel() != 1:
        raise BadRequest(f"{what} gives a tensor of shape {tuple(shape)} for a batch: it has to give one number")


def _check_last_batch(recipe: Recipe, split: Split) -> None:
    """Refuse a last batch of one example where a norm needs two."""
    if len(split) % recipe.batch_size != 1 or recipe.batch_size == 1:
        return
    try:
        weights.seeded(recipe.network, recipe.seed).train()(split.batch(slice(0, 1)))
    except ValueError as error:
        raise BadRequest(
            f"the last batch of an epoch has one example, which {recipe.model!r} cannot be trained on ({error}): give "
            f"another --batch-size, or another number of --examples than {len(split):,}"
        ) from error
