"""Counting the operations of a network's steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from letitgo import weights
from letitgo.recipes.data import Data
from letitgo.recipes.networks import Network


@lru_cache(maxsize=256)
def step_cost(network: Network, trains: tuple[str, ...], statistics: Any, plain: Data) -> weights.StepCost:
    """Operations for one example through one step of a run, counted once for each choice of what trains."""
    module = weights.seeded(network, 0)
    names = weights.parameter_names(module)
    weights.train_only(module, weights.Selection(trains, names), statistics)
    return weights.step_cost(module, plain.split("train").batch(slice(0, 2)))
