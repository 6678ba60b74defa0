"""States, and the runs they are points of."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed
from letitgo.plan.choices import Choice
from letitgo.plan.stored import Absent, Stored, told
from letitgo.recipes import Recipe
from letitgo.recipes.data import open_data
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.training.loop import one_thread, train
from letitgo.training.optimizer_state import pack, unpack
from letitgo.value import Value, canonical, sha256

PAUSE = 100
"""Steps between the moments at which a run may be saved to be resumed."""


class State(Value):
    """All weights and buffers of a network, by description."""

    @property
    def network(self) -> Network:
        raise NotImplementedError

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

    def load(self, store: Store) -> weights.State:
        return _initial(self)


@lru_cache(maxsize=4)
def _initial(state: Initial) -> weights.State:
    return weights.initial_state(state.of, state.seed)


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

    Raises:
        BadRequest: It is to resume from a state that is no point of a run.
    """

    start: State
    trains: tuple[str, ...] | Choice
    recipe: Recipe
    begin: int = 0
    resume: bool = False
    statistics: Literal["follow", "frozen"] = "follow"

    def __post_init__(self) -> None:
        if self.resume and not isinstance(self.start, At):
            raise BadRequest("a run can resume only from a point of another run")

    def at(self, step: int) -> State:
        """The state at a step of the recipe's clock."""
        return self.start if step == self.begin else At(self, step)

    def at_epoch(self, epoch: int) -> State:
        """The state after so many epochs of the recipe's clock."""
        return self.at(epoch * self.recipe.steps_per_epoch)

    @property
    def final(self) -> State:
        """The state at the end of training."""
        return self.at(self.recipe.steps)

    @property
    def folder(self) -> str:
        """Where in the store its states lie."""
        return f"states/{self.key[:2]}/{self.key}"

    @cached_property
    def moves(self) -> tuple[str, ...]:
        """Names of the parameters that may move at least in part, in the network's order."""
        return self.trains.parameters(self.recipe.network) if isinstance(self.trains, Choice) else self.trains

    def prepare(self, module: nn.Module) -> None:
        """Freeze in the module what this run leaves alone."""
        if isinstance(self.trains, Choice):
            weights.hold(module, self.trains.part(module), self.statistics)
        else:
            weights.train_only(module, weights.Selection(self.trains, weights.parameter_names(module)), self.statistics)

    def cost(self) -> int:
        """Floating-point operations of the whole run, counted: its steps, and the outputs of a frozen prefix once."""
        cost = step_cost(self.recipe.network, self.moves, self.statistics, self.recipe.data)
        examples = len(self.recipe.dataset.split("train"))
        epochs, rest = divmod(self.recipe.steps - self.begin, self.recipe.steps_per_epoch)
        seen = epochs * examples + min(rest * self.recipe.batch_size, examples)
        return cost.step * seen + cost.prefix * examples

    def compute(
        self,
        store: Store,
        steps: Iterable[int],
        on_step: Callable[[int], None] | None = None,
        checkpoint_every: float = 30.0,
    ) -> None:
        """Train, on one thread, and write the states at ``steps`` to the store.

        Goes on from the latest state that is in the store already. Meanwhile a state to go on from is written from
        time to time, and removed at the end.

        Args:
            store: Holds what the start rests on, and takes the states.
            steps: After ``begin``, up to the recipe's last.
            on_step: Called with the step after each step.
            checkpoint_every: Seconds between states to go on from.

        Raises:
            WorkFailed: The loss is no longer finite.
        """
        wanted = {step for step in steps if not store.intact(At(self, step).address, At(self, step).key)}
        if wanted:
            with one_thread():
                self._train(store, wanted, on_step, checkpoint_every)
        for address in list(store.under(self._partial)):  # also what a kill left behind
            store.remove(address)

    def _train(
        self, store: Store, wanted: set[int], on_step: Callable[[int], None] | None, checkpoint_every: float
    ) -> None:
        begin, state, optimizer_state = self._latest(store, before=min(wanted))
        module = weights.seeded(self.recipe.network, 0)
        weights.load_state(module, state)
        self.prepare(module)
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        if optimizer_state is not None:
            fresh = self.recipe.make_optimizer(weights.trainable(module)).state_dict()
            optimizer_state = unpack(*optimizer_state, fresh, names)

        stops = sorted(wanted | set(range(begin + PAUSE, max(wanted), PAUSE)))
        started = saved = time.monotonic()
        for moment in train(module, self.recipe, stops, begin, optimizer_state, on_step):
            now = time.monotonic()
            if moment.step not in wanted and now - saved < checkpoint_every:
                continue
            old = list(store.under(self._partial))
            point = At(self, moment.step) if moment.step in wanted else Partial(self, moment.step)
            point.write(store, module, pack(moment.optimizer, names), seconds=now - started)
            for address in old:
                store.remove(address)
            saved = now

    @property
    def _partial(self) -> str:
        return f"{self.folder}/partial"

    def _latest(
        self, store: Store, before: int
    ) -> tuple[int, weights.State, tuple[weights.State, dict[str, Any]] | None]:
        """The latest point to go on from: its step, its weights and the optimiser's state."""
        points = [At(self, _step(address)) for address in store.under(self.folder)]
        points += [Partial(self, _step(address)) for address in store.under(self._partial)]
        for point in sorted(points, key=lambda point: point.step, reverse=True):
            if point.step < before and store.intact(point.address, point.key):
                return point.step, point.load(store), point.optimizer(store)
        optimizer = self.start.optimizer(store) if self.resume and isinstance(self.start, At) else None
        return self.begin, self.start.load(store), optimizer


@dataclass(frozen=True, eq=False)
class At(Stored, State):
    """A point of a run. What it stores is what the run could move: the rest comes from the run's start."""

    run: Run
    step: int

    @property
    def network(self) -> Network:
        return self.run.recipe.network

    @property
    def address(self) -> str:
        return f"{self.run.folder}/{self.step:09d}"

    def load(self, store: Store) -> weights.State:
        start = self.run.start.load(store)
        tensors, body = self._read(store)
        frozen = {name: start[name] for name in body["frozen"]}
        if _digest(frozen) != body["frozen_digest"]:
            raise WorkFailed(
                f"the weights that {self.address} left frozen come out differently here than where it was trained: "
                "remove it from the store to train it again"
            )
        return {name: frozen[name] if name in frozen else tensors[f"weights/{name}"] for name in start}

    def optimizer(self, store: Store) -> tuple[weights.State, dict[str, Any]]:
        """The optimiser's state at this point, as tensors and JSON."""
        tensors, body = self._read(store)
        prefix = "optimizer/"
        of_optimizer = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        return of_optimizer, body["optimizer"]

    def write(
        self, store: Store, module: nn.Module, optimizer: tuple[weights.State, dict[str, Any]], seconds: float
    ) -> None:
        """Write the module's state, and the optimiser's, as this point."""
        state = weights.copied(module)
        frozen = {name: state.pop(name) for name, p in module.named_parameters() if not p.requires_grad}
        tensors = {f"weights/{name}": tensor for name, tensor in state.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer[0].items()}
        body = {
            "value": told(self),
            "recipe": self.run.recipe.fields(),
            "frozen": list(frozen),
            "frozen_digest": _digest(frozen),
            "optimizer": optimizer[1],
            "seconds": round(seconds, 3),
            "host": socket.gethostname(),
            "versions": versions(),
        }
        store.write(self.address, self.key, body, tensors)

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
        return f"{self.run.folder}/partial/{self.step:09d}"


def _step(address: str) -> int:
    return int(address.rpartition("/")[2])


def versions() -> dict[str, str]:
    """What a result was computed with."""
    from letitgo import __version__

    return {"letitgo": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


@lru_cache(maxsize=256)
def step_cost(network: Network, trains: tuple[str, ...], statistics: Any, data: str) -> weights.StepCost:
    """Operations for one example through one step of a run, counted once for each choice of what trains."""
    module = weights.seeded(network, 0)
    names = weights.parameter_names(module)
    weights.train_only(module, weights.Selection(trains, names), statistics)
    return weights.step_cost(module, open_data(data).split("train").batch(slice(0, 2)))


def _digest(state: weights.State) -> str:
    return sha256(canonical([[name, sha256(tensor.numpy().tobytes())] for name, tensor in state.items()]))
