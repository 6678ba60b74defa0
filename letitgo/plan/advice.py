"""Measures that rules read which say, for next to nothing, what of a network may stay frozen."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn.functional import cosine_similarity

from letitgo import weights
from letitgo.plan.cost import step_cost
from letitgo.plan.measures import Measure
from letitgo.plan.states import State
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Batches
from letitgo.store import Store
from letitgo.training.place import CPU, Place

DEVIATION = 1.349
"""The interquartile range of a normal distribution, in its standard deviations."""


@dataclass(frozen=True, eq=False)
class SingularValues(Measure):
    """The singular values of a state's matrices, and how many of them are noise (Spectrum, arXiv:2406.06623).

    A kernel is a matrix of its outputs by all else.
    """

    state: State

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Name of each matrix → ``largest`` and ``least`` singular value, and sums: ``signal``, ``noise``.

        Noise is what does not exceed σ(1 + √β): σ the interquartile range of the singular values over 1.349, β the
        shorter side over the longer.
        """
        module = self.state.module(store)
        return {
            name: _spectrum(parameter.detach().flatten(1).cpu().double())
            for name, parameter in module.named_parameters()
            if parameter.ndim > 1 and not parameter.is_complex()
        }

    def cost(self) -> int:
        """Of a singular value decomposition of each matrix, about 14·rows·columns·min(rows, columns)."""
        module = weights.seeded(self.state.network, 0)
        shapes = [p.flatten(1).shape for p in module.parameters() if p.ndim > 1]
        return sum(14 * a * b * min(a, b) for a, b in shapes)


def _spectrum(matrix: Tensor) -> dict[str, float]:
    values = torch.linalg.svd(matrix, full_matrices=False).S
    quarters = torch.quantile(values, values.new_tensor([0.25, 0.75]))
    edge = (quarters[1] - quarters[0]) / DEVIATION * (1 + sqrt(min(matrix.shape) / max(matrix.shape)))
    signal, total = float(values[values > edge].sum()), float(values.sum())
    return {
        "largest": float(values[0]),
        "least": float(values[-1]),
        "signal": signal,
        "noise": float(values[values <= edge].sum()) if signal < total else 0.0,
    }


@dataclass(frozen=True, eq=False)
class Fisher(Measure):
    """The diagonal of a state's empirical Fisher information: squared gradients of single examples (arXiv:2310.17041).

    Attributes:
        state: What the gradients are taken at, in evaluation mode.
        recipe: Says what the examples are: the first that it would train on.
        examples: How many.
    """

    state: State
    recipe: Recipe
    examples: int = 100

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Parameter name → sum over its entries of the squared gradient, mean over examples."""
        recipe = self.recipe
        module = place.bring(self.state.module(store).eval(), recipe.memory_format)
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        sums = dict.fromkeys(named, 0.0)
        inputs, labels = _first(recipe, self._examples, place)
        for i in range(self._examples):
            with (
                place.autocast(recipe.precision),
                cudnn.flags(enabled=False),
            ):  # its LSTM has no gradients in evaluation
                loss = recipe.dataset.task.loss(module(inputs[i : i + 1]), labels[i : i + 1])
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                sums[name] += 0.0 if gradient is None else float(weights.wide(gradient).abs().square().sum())
        return {name: total / self._examples for name, total in sums.items()}

    def cost(self) -> int:
        """Floating-point operations, counted."""
        names = weights.parameter_names(weights.seeded(self.state.network, 0))
        return step_cost(self.state.network, names, "follow", self.recipe.dataset.plain).step * self._examples

    @property
    def _examples(self) -> int:
        return min(self.examples, len(self.recipe.dataset.split("train")))


@dataclass(frozen=True, eq=False)
class Influence(Measure):
    """How much modules change what goes through them: block influence (ShortGPT, arXiv:2403.03853).

    Attributes:
        state: The network, in evaluation mode.
        recipe: Says what the examples are: the first that it would train on.
        examples: How many.
    """

    state: State
    recipe: Recipe
    examples: int = 100

    @torch.no_grad()
    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Name of a module → one minus the cosine of its input and output, mean over examples.

        Of modules that have parameters and whose first input and output have one shape; an output may be the first of
        several. A module that is called more than once counts as often.
        """
        recipe = self.recipe
        module = place.bring(self.state.module(store).eval(), recipe.memory_format)
        seen: dict[str, list[float]] = {}

        def watch(name: str, part: nn.Module) -> None:
            def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                before, after = (x[0] if isinstance(x, tuple) and x else x for x in (inputs, output))
                if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape:
                    before, after = (weights.wide(x).flatten(1) for x in (before, after))
                    seen.setdefault(name, []).append(float(1 - cosine_similarity(before, after).mean()))

            part.register_forward_hook(look)

        for name, part in module.named_modules():
            if any(True for _ in part.parameters()):
                watch(name, part)
        inputs, _ = _first(recipe, self._examples, place)
        with place.autocast(recipe.precision):
            module(inputs)
        return {name: sum(found) / len(found) for name, found in seen.items()}

    def cost(self) -> int:
        """Floating-point operations, counted."""
        forward = step_cost(self.state.network, (), "follow", self.recipe.dataset.plain).forward
        return forward * self._examples

    @property
    def _examples(self) -> int:
        return min(self.examples, len(self.recipe.dataset.split("train")))


def _first(recipe: Recipe, count: int, place: Place) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the first examples that a recipe trains on."""
    batches = Batches(recipe, place.device)
    steps = [batches.at(step) for step in range(-(-count // recipe.batch_size))]
    inputs, labels = (torch.cat(part)[:count] for part in zip(*steps, strict=True))
    return inputs, labels
