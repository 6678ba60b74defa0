"""Counting the operations and the memory of a network's steps."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from letitgo import weights
from letitgo.recipes.data import Data
from letitgo.recipes.networks import Network
from letitgo.recipes.own import Own
from letitgo.recipes.recipe import Recipe
from letitgo.weights.cost import spared_by_each


@lru_cache(maxsize=256)
def step_cost(network: Network, trains: tuple[str, ...], statistics: Any, plain: Data | Own) -> weights.StepCost:
    """Operations for one example through one step of a run, counted once for each choice of what trains."""
    names, trainable, whole, spared = _counted(network, plain)
    chosen = set(trains)
    left_out = {name for name in trainable if name not in chosen}
    within = [names for names in spared if left_out.issuperset(names)]
    if left_out and chosen <= set(trainable) and sum(map(len, within)) == len(left_out):
        # The first of them still has something before it that trains, so each takes off what it does alone.
        return replace(whole, backward=whole.backward - sum(spared[names] for names in within))
    module = weights.seeded(network, 0)
    weights.train_only(module, weights.Selection(trains, names), statistics)
    return weights.step_cost(module, plain.sample)


@lru_cache(maxsize=1024)
def step_memory(recipe: Recipe, trains: tuple[str, ...], statistics: Any) -> int:
    """The most bytes that a step of the recipe holds at once, counted once for each choice of what trains.

    Args:
        recipe: Without training code of one's own. Its seed changes nothing.
        trains: Names of the parameters that train.
        statistics: Of frozen norms, as in :func:`letitgo.freeze`.
    """
    module = weights.seeded(recipe.network, 0)
    weights.train_only(module, weights.Selection(trains, weights.parameter_names(module)), statistics)
    data, split = recipe.dataset, recipe.dataset.split("train")
    inputs, labels = (
        torch.empty((recipe.batch_size, *of.shape[1:]), dtype=of.dtype, device="meta")
        for of in (data.plain.sample, split.labels[:1])
    )

    def loss(outputs: Any) -> Tensor:
        return data.task.loss(outputs, torch.empty_like(labels, device="cpu"))

    precision = "bf16-mixed" if recipe.precision == "bf16" else None
    return weights.memory(module, inputs, optimizer=recipe.make_optimizer, loss=loss, precision=precision).peak


@lru_cache(maxsize=16)
def _counted(
    network: Network, plain: Data
) -> tuple[tuple[str, ...], tuple[str, ...], weights.StepCost, dict[tuple[str, ...], int]]:
    """Names of all parameters and of those that train, what a step costs, and what leaving out one layer spares.

    So the layers of a network, frozen one by one or several at once, take one count and not one each.
    """
    module = weights.seeded(network, 0)
    trainable = weights.trainable_names(module)
    sample, wanted = plain.sample, set(trainable)
    there = spared_by_each(module, sample) if isinstance(sample, Tensor) else {}
    layers = {layer: tuple(name for name in names if name in wanted) for layer, names in network.layers.items()}
    spared = {layers[name]: operations for name, operations in there.items() if layers.get(name)}
    return weights.parameter_names(module), trainable, weights.step_cost(module, sample), spared
