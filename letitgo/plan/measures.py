"""Measures: what is read off states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from letitgo import weights
from letitgo.plan.cost import step_cost
from letitgo.plan.shared import ahead
from letitgo.plan.states import State
from letitgo.plan.stored import Stored
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Batches
from letitgo.recipes.data import Data
from letitgo.recipes.own import Own
from letitgo.recipes.recipe import MemoryFormat, Precision
from letitgo.recipes.splits import SplitName, noisy
from letitgo.recipes.tasks import Task
from letitgo.store import Store
from letitgo.training.place import CPU, Place
from letitgo.weights.state import drawing_from

SPECTRA = ("layers", "ratio", "floor", "spectral", "frobenius", "adjacent")
"""What is kept of an alignment of dense layers."""


class Measure(Stored):
    """A value whose result is JSON."""

    trains: ClassVar[bool] = False
    """Whether it trains a network of its own, which a dry run then counts as a training run."""

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """The result, from states that are in the store.

        Args:
            store: The store.
            place: Where to run a network, if the measure runs one: see :meth:`Place.bring`.
        """
        raise NotImplementedError

    def cost(self) -> int:
        """Floating-point operations, counted; next to nothing where no network is run."""
        return 1

    def seconds(self) -> float | None:
        """Seconds on one thread, measured; None where they follow from the operations."""
        return None

    def result(self, store: Store) -> dict[str, Any]:
        """The result, read from the store.

        Raises:
            Absent: It is not there.
        """
        return self.record(store)["result"]


@dataclass(frozen=True, eq=False)
class Evaluation(Measure):
    """Accuracy and loss of a state on a data set.

    Attributes:
        state: What is evaluated, without further training.
        dataset: On what.
        split: ``"test"``, ``"train"``, or ``"validation"`` for the examples that the data hold out.
        label_noise: Share of the labels replaced by random ones; of the training split only.
        noise_seed: Seed of that noise.
        precision: As in a recipe.
        memory_format: Likewise.
    """

    state: State
    dataset: Data | Own
    split: SplitName
    label_noise: float = 0.0
    noise_seed: int = 0
    precision: Precision = "fp32"
    memory_format: MemoryFormat = "contiguous"

    def identity(self) -> dict[str, Any]:
        usual = {"precision": "fp32", "memory_format": "contiguous"}
        fields = {name: value for name, value in self.fields().items() if usual.get(name) != value}
        return fields | {"statistics": "as is"}  # a field there was: keys stay

    @classmethod
    def under(cls, recipe: Recipe, state: State, split: SplitName) -> Evaluation:
        """Of a state, on a recipe's data in its precision; the training split with the labels that it trains on."""
        noise, seed = (recipe.label_noise, recipe.seed) if split == "train" and recipe.label_noise else (0.0, 0)
        return cls(state, recipe.dataset, split, noise, seed, **recipe.arithmetic)

    def summary(self) -> dict[str, Any]:
        return {"split": self.split}

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """What the task gives: ``accuracy`` (fraction), ``loss`` (nats), ``n`` (answers), ….

        Which examples were answered right (``correct``) is kept of the test split alone. Records of earlier versions
        lack it.

        Of a task of the user's own, what its ``evaluate`` gives.
        """
        module = place.bring(self.state.module(store), self.memory_format)
        if isinstance(self.dataset, Own):
            with drawing_from("evaluation"):
                return self.dataset.evaluate(module.eval(), self.split)
        split = self.dataset.split(self.split)
        labels = noisy(split.labels, self.dataset.classes, self.label_noise, self.noise_seed)
        task, split = self.dataset.task, place.bring(replace(split, labels=labels))
        with place.autocast(self.precision):
            if type(task).evaluate is Task.evaluate and self.memory_format == "contiguous":  # else strides are lost
                of = self.dataset, self.split, self.precision, place.device
                module, split = ahead(self.state, module, split, of)
            found = task.evaluate(module, split)
        return {name: value for name, value in found.items() if name != "correct" or self.split == "test"}

    def cost(self) -> int:
        """Floating-point operations, counted."""
        if isinstance(self.dataset, Own):
            return 1
        forward = step_cost(self.state.network, (), "follow", self.dataset.plain).forward
        return forward * len(self.dataset.split(self.split))


@dataclass(frozen=True, eq=False)
class Spectra(Measure):
    """Ratios of norms and alignment of a state's dense layers (JT18, arXiv:1810.02032)."""

    state: State

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``layers``; of each ``ratio``, ``floor``, ``spectral``, ``frobenius``; of each but the last ``adjacent``."""
        found = weights.alignment(self.state.module(store))
        return {name: list(getattr(found, name)) for name in SPECTRA}

    def cost(self) -> int:
        """Of a singular value decomposition of each dense layer, about 14·outputs·inputs·min(outputs, inputs)."""
        shapes = [part.weight.shape for part in self.state.network().modules() if isinstance(part, nn.Linear)]
        return sum(14 * a * b * min(a, b) for a, b in shapes)


@dataclass(frozen=True, eq=False)
class Distance(Measure):
    """How far apart two states of one network are, layer by layer."""

    a: State
    b: State

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Layer name → what :func:`letitgo.weights.distance` gives."""
        a, b = self.a.load(store), self.b.load(store)
        return {layer: weights.distance(a, b, names) for layer, names in self.a.network.layers.items()}


@dataclass(frozen=True, eq=False)
class Track(Measure):
    """A small tensor of a network over training.

    Attributes:
        states: Where it is read.
        tensor: Its name.
    """

    states: tuple[State, ...]
    tensor: str

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``values``, one for each state."""
        return {"values": [state.load(store)[self.tensor].tolist() for state in self.states]}


@dataclass(frozen=True, eq=False)
class Gradients(Measure):
    """Gradients and weights of a state on the first batches that a recipe would train it on.

    What the relative gradient norm ‖g‖ / ‖θ‖ of a layer is made of (Auto-RGN, arXiv:2210.11466).

    Attributes:
        state: What the gradients are taken at; it does not move from batch to batch.
        recipe: Says what the batches are.
        batches: How many; fewer where an epoch has fewer.
    """

    state: State
    recipe: Recipe
    batches: int = 5

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Parameter name → ``weights``: sum of squares; ``gradients``: the same of each batch's gradient."""
        recipe, module = self.recipe, place.bring(self.state.module(store).train(), self.recipe.memory_format)
        batches = Batches(recipe, place.device)
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        squares: dict[str, list[float]] = {name: [] for name in named}
        for step in range(self._steps):
            inputs, labels = batches.at(step)
            with drawing_from(recipe.seed, "step", step), place.autocast(recipe.precision):
                loss = recipe.dataset.task.loss(module(inputs), labels)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                squares[name].append(0.0 if gradient is None else _squares(gradient))
        return {name: {"weights": _squares(p), "gradients": squares[name]} for name, p in named.items()}

    def cost(self) -> int:
        """Floating-point operations, counted."""
        names = weights.parameter_names(weights.seeded(self.state.network, 0))
        step = step_cost(self.state.network, names, "follow", self.recipe.dataset.plain).step
        return step * self.recipe.batch_size * self._steps

    @property
    def _steps(self) -> int:
        return min(self.batches, self.recipe.steps_per_epoch)


def _squares(tensor: torch.Tensor) -> float:
    return float(weights.wide(tensor.detach()).abs().square().sum())
