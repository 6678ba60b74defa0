"""Masks, and the states and choices that they make: lottery tickets (FC18, arXiv:1803.03635)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from letitgo import weights
from letitgo.errors import WorkFailed
from letitgo.plan.choices import Choice
from letitgo.plan.measures import Evaluation, Measure
from letitgo.plan.states import At, State
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.training.place import CPU, Place
from letitgo.value import Value, canonical, sha256


class Mask(Value):
    """Which weights of a network are kept, by description."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that it is about; the others are kept whole."""
        raise NotImplementedError

    def load(self, store: Store) -> weights.Masks:
        """The masks.

        Raises:
            Absent: They rest on a result that is not in the store.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Pruned(Measure, Mask):
    """What magnitude pruning keeps of a trained network.

    Attributes:
        state: The weights whose magnitudes count.
        rates: Parameter name → share pruned of what is still there, as in :func:`letitgo.magnitude_masks`.
        scope: Likewise.
        within: What was kept before; everything if not given.
    """

    state: State
    rates: dict[str, float]
    scope: weights.Scope = "layer"
    within: Mask | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.rates)

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """The packed masks."""
        within = None if self.within is None else self.within.load(store)
        return weights.pack_masks(weights.magnitude_masks(self.state.module(store), self.rates, self.scope, within))

    def load(self, store: Store) -> weights.Masks:
        return weights.unpack_masks(self.result(store))


@dataclass(frozen=True, eq=False)
class Filed(Mask):
    """The masks of a ticket file: what it keeps is in its key, where it lies is not.

    Attributes:
        path: Where the file lies.
        digest: SHA-256 over the masks.
        about: Names of the parameters that it is about.
    """

    path: str
    digest: str
    about: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        return {"digest": self.digest}

    @property
    def names(self) -> tuple[str, ...]:
        return self.about

    def load(self, store: Store) -> weights.Masks:
        masks = weights.read_ticket(self.path).masks
        if _digest(masks) != self.digest:
            raise WorkFailed(f"the ticket {self.path} is not the one that the study was started with")
        return masks


def open_ticket(path: str, network: Network) -> tuple[Filed, Mapping[str, Any]]:
    """The masks of a ticket file, and what it tells of the start.

    Raises:
        BadRequest: There is no such file, it is no ticket, or one of another network.
    """
    ticket = weights.read_ticket(path, weights.seeded(network, 0))
    return Filed(str(Path(path).resolve()), _digest(ticket.masks), tuple(ticket.masks)), ticket.start


def _digest(masks: weights.Masks) -> str:
    return sha256(canonical(weights.pack_masks(masks)))


@dataclass(frozen=True, eq=False)
class Scrambled(Mask):
    """As many weights of each parameter as another mask keeps, anywhere in it.

    Attributes:
        of: The other mask.
        seed: Of the draw.
    """

    of: Mask
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.of.names

    def load(self, store: Store) -> weights.Masks:
        return weights.random_masks(self.of.load(store), self.seed)


@dataclass(frozen=True, eq=False)
class Complement(Mask):
    """The weights that another mask prunes."""

    of: Mask

    @property
    def names(self) -> tuple[str, ...]:
        return self.of.names

    def load(self, store: Store) -> weights.Masks:
        return {name: ~mask for name, mask in self.of.load(store).items()}


@dataclass(frozen=True, eq=False)
class Masked(State):
    """A state with the weights that a mask prunes set to zero."""

    base: State
    mask: Mask

    @property
    def network(self) -> Network:
        return self.base.network

    @property
    def untried(self) -> bool:
        return self.base.untried

    def load(self, store: Store) -> weights.State:
        state, masks = self.base.load(store), self.mask.load(store)
        return {name: x.masked_fill(~masks[name], 0) if name in masks else x for name, x in state.items()}


@dataclass(frozen=True, eq=False)
class Kept(Choice):
    """The weights that a mask keeps, and whole parameters besides.

    Attributes:
        mask: Of single weights.
        besides: Names of parameters that move as a whole: biases, norms, layers that are not pruned.
    """

    mask: Mask
    besides: tuple[str, ...]

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part:
        assert store is not None, "a mask rests on results"
        names = weights.parameter_names(module)
        return weights.entries(module, self.mask.load(store)) | weights.Selection(self.besides, names)

    def parameters(self, network: Network) -> tuple[str, ...]:
        moves = {*self.mask.names, *self.besides}
        return tuple(name for names in network.layers.values() for name in names if name in moves)


@dataclass(frozen=True, eq=False)
class Density(Measure):
    """How many weights a mask keeps."""

    mask: Mask

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Parameter name → ``kept`` and ``all``."""
        return {name: {"kept": int(m.sum()), "all": m.numel()} for name, m in self.mask.load(store).items()}


@dataclass(frozen=True, eq=False)
class Curve(Measure):
    """How the loss on the held-out examples went in a run, and when it was least.

    Attributes:
        state: The run's last state.
    """

    state: At

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``steps``, ``loss`` and ``accuracy`` on the held-out examples; of the step of least loss, ``stop``, the
        accuracy on the test split, ``test_accuracy``."""
        points = self.state.record(store)["curve"]
        best = min(points, key=lambda point: point["loss"] if point["loss"] is not None else math.inf)
        columns = {name: [point[name] for point in points] for name in ("step", "loss", "accuracy")}
        test = best["test_accuracy"]
        if test is None:  # the state is the one of least loss
            recipe = self.state.run.recipe
            share = recipe.dataset.task.share
            found = Evaluation.under(recipe, self.state, "test").compute(store, place)
            test = found[share.name] if share else None
        return {**columns, "stop": best["step"], "test_accuracy": test}


@dataclass(frozen=True, eq=False)
class Apart(Measure):
    """How far apart two trained networks are on the weights that a mask keeps (FDRC19, arXiv:1903.01611).

    Attributes:
        a: A state.
        b: Another of the same network.
        mask: Which weights count; the others are as if zero in both.
    """

    a: State
    b: State
    mask: Mask

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``l2``: Euclidean distance; ``angle``: in degrees, None where one of the two is zero."""
        a, b = self.a.load(store), self.b.load(store)
        squares = product = of_a = of_b = 0.0
        for name, mask in self.mask.load(store).items():
            x, y = (weights.wide(state[name][mask]) for state in (a, b))
            squares += float((x - y).abs().square().sum())
            product += float((x.conj() * y).real.sum())
            of_a += float(x.abs().square().sum())
            of_b += float(y.abs().square().sum())
        norm = math.sqrt(of_a * of_b)
        angle = math.degrees(math.acos(max(-1.0, min(1.0, product / norm)))) if norm else None
        return {"l2": math.sqrt(squares), "angle": angle}
