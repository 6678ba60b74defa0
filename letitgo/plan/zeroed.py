"""A start with zeros in it."""

from __future__ import annotations

from dataclasses import dataclass

from letitgo import weights
from letitgo.plan.choices import Fraction, PerUnit, Scattered
from letitgo.plan.states import State
from letitgo.recipes.networks import Network
from letitgo.store import Store


@dataclass(frozen=True, eq=False)
class Zeroed(State):
    """A state with what a choice leaves out set to zero.

    Zeros are set in the parameters that the choice takes some entries of; the others stay as they are, so that norms
    which do not move go on passing on what they are given.

    Attributes:
        base: The state.
        choice: What keeps its values.
    """

    base: State
    choice: Fraction | Scattered | PerUnit

    @property
    def network(self) -> Network:
        return self.base.network

    @property
    def untried(self) -> bool:
        return self.base.untried

    def load(self, store: Store) -> weights.State:
        module = self.base.module(store)
        rest = ~self.choice.part(module, store)
        weights.zero_out(module, weights.Part(weights.Selection((), rest.whole.of), rest.entries))
        return weights.once(weights.copied(module))
