"""Running statistics of normalization layers, taken from the training inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from letitgo import weights
from letitgo.errors import WorkFailed
from letitgo.plan.cost import step_cost
from letitgo.plan.measures import Measure
from letitgo.plan.states import State
from letitgo.recipes.data import Data
from letitgo.recipes.networks import Network
from letitgo.recipes.tasks import at_once
from letitgo.store import Store
from letitgo.training.place import CPU, Place
from letitgo.value import derive

EXAMPLES = 2000
"""Training examples that statistics are taken from, at most."""


@dataclass(frozen=True, eq=False)
class RunningStatistics(Measure):
    """The running statistics that a state's norms have on training inputs, under its weights.

    Attributes:
        state: The weights.
        dataset: Of its training examples, ``EXAMPLES`` chosen at random, the same for all states; not augmented.
    """

    state: State
    dataset: Data

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Name of each buffer → its numbers: plain averages over batches."""
        module = place.bring(self.state.module(store))
        weights.re_estimate(module, self.batches(module, place))
        found = {name: module.get_buffer(name) for name in weights.running_statistics(module)}
        for name, buffer in found.items():
            if not torch.isfinite(buffer).all():
                raise WorkFailed(f"{name} is not finite on the training inputs: the weights before it diverged")
        return {name: buffer.tolist() for name, buffer in found.items()}

    def batches(self, module: nn.Module, place: Place = CPU) -> Iterator[Tensor]:
        """The inputs, in batches of nearly one size."""
        train = self.dataset.split("train")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(derive("running statistics")))
        chosen = place.bring(train.only(order[:EXAMPLES]))
        for rows in torch.arange(len(chosen)).tensor_split(-(-len(chosen) // at_once(module, chosen))):
            yield chosen.batch(rows.to(place.device))

    def cost(self) -> int:
        """Floating-point operations, counted."""
        forward = step_cost(self.state.network, (), "follow", self.dataset.plain).forward
        return forward * min(EXAMPLES, len(self.dataset.split("train")))


@dataclass(frozen=True, eq=False)
class Estimated(State):
    """A state with the running statistics of its norms re-estimated on training inputs."""

    statistics: RunningStatistics

    @property
    def network(self) -> Network:
        return self.statistics.state.network

    def load(self, store: Store) -> weights.State:
        state = self.statistics.state.load(store)
        return state | {name: state[name].new_tensor(x) for name, x in self.statistics.result(store).items()}
