"""States, and the runs they are points of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed
from letitgo.plan.choices import Choice, Subspace
from letitgo.plan.cost import step_cost
from letitgo.plan.stored import Absent, Stored
from letitgo.recipes import Recipe
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.value import Value, canonical, sha256
from letitgo.weights.coding import raw

KEPT_BYTES = 2**28
"""Weights that measures share are kept in memory up to this size: initial ones, and points of runs."""


class _Kept:
    """What was made last, up to a size; two of them in any case, as a graft has."""

    def __init__(self) -> None:
        self._made: dict[Value, tuple[Any, int]] = {}

    def get(self, key: Value, make: Callable[[], Any]) -> Any:
        """What was made for the key, or is made now."""
        found, size = self._made.pop(key, None) or _sized(make())
        self._made[key] = found, size
        while len(self._made) > 2 and sum(size for _, size in list(self._made.values())) > KEPT_BYTES:
            del self._made[next(iter(self._made))]
        return found


def _sized(made: Any) -> tuple[Any, int]:
    return made, sum(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, Tensor))


_initial = _Kept()
_points: ContextVar[_Kept | None] = ContextVar("points", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Inside, a point of a run that several values rest on is read and checked once."""
    token = _points.set(_Kept())
    try:
        yield
    finally:
        _points.reset(token)


class State(Value):
    """All weights and buffers of a network, by description."""

    @property
    def network(self) -> Network:
        raise NotImplementedError

    @property
    def untried(self) -> bool:
        """Whether its running statistics are a constructor's: no data has reached them."""
        return False

    def load(self, store: Store) -> weights.State:
        """The tensors.

        Raises:
            Absent: They rest on a result that is not in the store.
        """
        raise NotImplementedError

    def module(self, store: Store) -> nn.Module:
        """The network in this state."""
        module = weights.seeded(self.network, 0)
        weights.load_state(module, self.load(store))
        return module


@dataclass(frozen=True, eq=False)
class Initial(State):
    """The initial weights of a network under a seed."""

    of: Network
    seed: int

    @property
    def network(self) -> Network:
        return self.of

    @property
    def untried(self) -> bool:
        return True

    def load(self, store: Store) -> weights.State:
        return _initial.get(self, lambda: weights.once(weights.initial_state(self.of, self.seed)))


@dataclass(frozen=True, eq=False)
class Graft(State):
    """A state with some parameters taken from a donor (ZBS19, arXiv:1902.01996).

    With an earlier state of the same run as donor the layer is re-initialised; with the initial weights of another
    seed it is re-randomised.
    """

    base: State
    parameters: tuple[str, ...]
    donor: State

    @property
    def network(self) -> Network:
        return self.base.network

    @property
    def untried(self) -> bool:
        return self.base.untried and self.donor.untried

    def load(self, store: Store) -> weights.State:
        return weights.graft(self.base.load(store), self.donor.load(store), self.parameters)


@dataclass(frozen=True, eq=False)
class Run(Value):
    """A training run: where it starts, what may move, what it is trained on.

    Attributes:
        start: The state it starts from.
        trains: What may move: names of parameters, in the network's order, or a choice down to single weights.
        recipe: What it is trained on.
        begin: The step on the recipe's clock at which it starts: learning rate and order of the data go on from there.
        resume: Take over the optimiser's state of what still moves; the start is then a point of another run.
        statistics: Whether running statistics of frozen normalization layers follow the data.
        again: Number of a repetition: the same run another time, to see whether code of the user's own repeats itself.

    Raises:
        BadRequest: It is to resume from a state that is no point of a run.
    """

    start: State
    trains: tuple[str, ...] | Choice
    recipe: Recipe
    begin: int = 0
    resume: bool = False
    statistics: Literal["follow", "frozen"] = "follow"
    again: int = 0

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in self.fields().items() if name != "again" or value}

    def __post_init__(self) -> None:
        if self.resume and not isinstance(self.start, At):
            raise BadRequest("a run can resume only from a point of another run")

    def at(self, step: int) -> State:
        """The state at a step of the recipe's clock."""
        return self.start if step == self.begin else At(self, step)

    def at_epoch(self, epoch: int) -> State:
        """The state after so many epochs of the recipe's clock, the last of which may be cut short."""
        return self.at(min(epoch * self.recipe.steps_per_epoch, self.recipe.steps))

    @property
    def final(self) -> State:
        """The state at the end of training."""
        return self.at(self.recipe.steps)

    @property
    def folder(self) -> str:
        """Where in the store its states lie."""
        return f"states/{self.key[:2]}/{self.key}"

    @property
    def partial_folder(self) -> str:
        """Where in the store its points lie that are kept only until it gets further."""
        return f"{self.folder}/partial"

    @cached_property
    def moves(self) -> tuple[str, ...]:
        """Names of the parameters that may move at least in part, in the network's order."""
        return self.trains.parameters(self.recipe.network) if isinstance(self.trains, Choice) else self.trains

    def prepare(self, module: nn.Module, store: Store | None = None) -> None:
        """Freeze in the module what this run leaves alone; a subspace begins at the weights the module has."""
        if isinstance(self.trains, Choice):
            weights.hold(module, self.trains.part(module, store), self.statistics)
        else:
            weights.train_only(module, weights.Selection(self.trains, weights.parameter_names(module)), self.statistics)

    def cost(self) -> int:
        """Floating-point operations of the whole run, counted: its steps, and the outputs of a frozen prefix once.

        Where inputs are augmented, or the outputs are too large to be kept, they are computed at each step. Of training
        code of the user's own, those of one example a step for each epoch.
        """
        cost = step_cost(self.recipe.network, self.moves, self.statistics, self.recipe.dataset.plain)
        if self.recipe.own is not None:  # how many examples an epoch has is known to its code alone
            return cost.whole * (self.recipe.epochs - self.begin)
        examples = len(self.recipe.dataset.split("train"))
        epochs, rest = divmod(self.recipe.steps - self.begin, self.recipe.steps_per_epoch)
        seen = epochs * examples + min(rest * self.recipe.batch_size, examples)
        if self.recipe.augment != "none" or cost.prefix_bytes * examples > weights.PREFIX_BYTES:
            return cost.whole * seen
        return cost.step * seen + cost.prefix * examples


@dataclass(frozen=True, eq=False)
class At(Stored, State):
    """A point of a run. What it stores is what the run could move: the rest comes from the run's start.

    Of what moves in a subspace it stores the coordinates there and the projection's digest.
    """

    run: Run
    step: int

    @property
    def network(self) -> Network:
        return self.run.recipe.network

    @property
    def address(self) -> str:
        return f"{self.run.folder}/{self.step:09d}"

    def load(self, store: Store) -> weights.State:
        if not isinstance(self.run.trains, Subspace):
            return self._stored(store)[0]
        module = weights.seeded(self.network, 0)
        self.restore(module, store)
        return weights.once(weights.copied(module))

    def restore(self, module: nn.Module, store: Store) -> None:
        """Bring a network to this point of the run, ready to go on."""
        state, learned = self._stored(store)
        weights.load_state(module, state)
        self.run.prepare(module, store)
        held = weights.held_of(module)
        if not (learned and held and held.projected):
            return
        if _digest(held.projected.projection.drawn) != self.record(store)["projection"]:
            raise WorkFailed(
                f"the projection drawn here is not the one that {self.address} was trained with: "
                "remove it from the store to train it again"
            )
        with torch.no_grad():
            for name, parameter in held.projected.learned.items():
                parameter.copy_(learned[name])
        held()

    def _stored(self, store: Store) -> tuple[weights.State, weights.State]:
        """The weights, those in a subspace as they were at the run's start; and what was learned in the subspace."""
        kept = _points.get()
        return self._checked(store) if kept is None else kept.get(self, lambda: self._checked(store))

    def _checked(self, store: Store) -> tuple[weights.State, weights.State]:
        start = self.run.start.load(store)
        tensors, body = self._read(store)
        frozen = {name: start[name] for name in body["frozen"]}
        if _digest(frozen) != body["frozen_digest"]:
            raise WorkFailed(
                f"the weights that {self.address} left frozen come out differently here than where it was trained: "
                "remove it from the store to train it again"
            )
        state = {name: frozen[name] if name in frozen else tensors[f"weights/{name}"] for name in start}
        return state, _under("subspace/", tensors)

    def optimizer(self, store: Store) -> tuple[weights.State, dict[str, Any]]:
        """The optimiser's state at this point, as tensors and JSON."""
        tensors, body = self._read(store)
        return _under("optimizer/", tensors), body["optimizer"]

    def packed(
        self, module: nn.Module, optimizer: tuple[weights.State, dict[str, Any]], curve: list[dict[str, Any]]
    ) -> tuple[weights.State, dict[str, Any]]:
        """What the store takes of a network at this point of the run: tensors, and JSON beside them.

        Args:
            module: The network in training.
            optimizer: Its optimiser's state, as :meth:`optimizer` returns it.
            curve: Of the run up to here, on the held-out examples.
        """
        state, held = weights.once(weights.copied(module)), weights.held_of(module)
        projected = held.projected if held else None
        origin = projected.origin if projected else {}
        known = [name for name, p in module.named_parameters() if not p.requires_grad or name in origin]
        frozen = {name: origin.get(name, state.pop(name)) for name in known}
        tensors = {f"weights/{name}": tensor for name, tensor in state.items()}
        if projected:
            tensors |= {f"subspace/{name}": p.detach().clone() for name, p in projected.learned.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer[0].items()}
        trains = self.run.trains
        summary = {
            "begin": self.run.begin,
            "frozen": [name for name in frozen if name not in origin],
            "part": type(trains).__name__.lower() if isinstance(trains, Choice) else "",
        }
        body = {
            "summary": summary,
            "recipe": self.run.recipe.fields(),
            "frozen": list(frozen),
            "frozen_digest": _digest(frozen),
            **({"projection": _digest(projected.projection.drawn)} if projected else {}),
            "optimizer": optimizer[1],
            **({"curve": curve} if curve else {}),
        }
        return tensors, body

    def _read(self, store: Store) -> tuple[weights.State, dict[str, Any]]:
        tensors = store.read_tensors(self.address, self.key)
        if tensors is None:
            raise Absent(f"{self.address} is not in the store {store.root}")
        return tensors, self.record(store)


@dataclass(frozen=True, eq=False)
class Partial(At):
    """A point of a run that nobody asked for, kept only until the run gets further."""

    @property
    def address(self) -> str:
        return f"{self.run.partial_folder}/{self.step:09d}"


def _under(prefix: str, tensors: weights.State) -> weights.State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _digest(state: weights.State) -> str:
    return sha256(canonical([[name, sha256(raw(tensor).tobytes())] for name, tensor in state.items()]))
