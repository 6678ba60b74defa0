"""Does the classifier need training? The values to compute, and the rows they give.

The other layers begin with the same weights whatever the classifier is, so that every difference is paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor
from torch.utils._pytree import tree_leaves

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Initial, Measure, Run, Track
from letitgo.recipes import Recipe
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Results, Row
from letitgo.studies.check import check_recipe
from letitgo.studies.classifier.options import ClassifierOptions
from letitgo.studies.statistics import mean
from letitgo.studies.subject import Subject
from letitgo.training import take_step
from letitgo.weights.state import drawing_from

SCALED = ("hadamard", "orthogonal", "cosine")
"""Classifiers of features of norm one, with a learned scale."""


class Classifier(ClassifierOptions, CellStudy):
    """Does the classifier need training? See :class:`ClassifierOptions` for the options."""

    quantities: ClassVar[tuple[str, ...]] = ("accuracy", "train_accuracy", "drop", "train_drop", "growth")

    def check_subject(self, of: Subject) -> None:
        if of.recipe.model == "fixed-classifier":
            raise BadRequest("the model is 'fixed-classifier' already: name the network within it")
        if of.recipe.dataset.split("train").labels.is_floating_point():
            raise BadRequest(f"classifier is about classes: {of.recipe.data!r} is a regression, without a classifier")
        weights.fix_classifier(weights.seeded(of.recipe.network, 0), self.name(of))
        for kind in self.kinds:
            check_recipe(self.recipe(of, kind, of.recipe))
            if not self.run(of, kind, of.recipe).moves:
                raise BadRequest(f"the network {of.recipe.model!r} is its classifier alone: frozen, nothing trains")

    def name(self, of: Subject) -> str:
        """Name of the classifier."""
        return weights.last_linear(of.module) if self.layer is None else self.layer

    def recipe(self, of: Subject, kind: str, recipe: Recipe) -> Recipe:
        """The recipe, its network with a classifier of that kind."""
        if kind not in SCALED:
            return recipe
        args = {**recipe.model_args, "network": recipe.model, "layer": self.name(of), "kind": kind}
        return dataclasses.replace(recipe, model="fixed-classifier", model_args=args)

    def run(self, of: Subject, kind: str, recipe: Recipe) -> Run:
        """The run that trains all but what is fixed, under one of the seeds."""
        own, frozen = self.recipe(of, kind, recipe), of.recipe.network.layers[self.name(of)] if kind == "frozen" else ()
        trains = tuple(name for name in _trainable(own.network) if name not in frozen)
        return Run(Initial(own.network, own.seed), trains, own)

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        base = self._cell(of, "learned", {})
        yield [base, *(self._cell(of, kind, {"base": base}) for kind in self.kinds)]

    def _cell(self, of: Subject, kind: str, against: Mapping[str, Cell]) -> Cell:
        learned, run = (self.run(of, one, of.recipe) for one in ("learned", kind))
        parameters = sum(of.sizes.values())
        fixed = of.size(name for name in learned.moves if name not in run.moves)
        labels = {
            "classifier": kind,
            "layer": self.name(of),
            "parameters": parameters,
            "fixed": fixed,
            "fixed_share": fixed / parameters,
            "saved": 1 - run.cost() / learned.cost(),
            "memory_saved": 1 - _memory(run) / _memory(learned),
        }
        return Cell(labels, lambda recipe: self._measures(of, kind, recipe), against, judged=kind != "learned")

    def _measures(self, of: Subject, kind: str, recipe: Recipe) -> Mapping[str, Measure]:
        run = self.run(of, kind, recipe)
        splits = ("test", "train", *self.held_out)
        found = of.evaluations(recipe, run.final, *splits)
        if kind in SCALED:
            states = tuple(run.at_epoch(epoch) for epoch in range(recipe.epochs + 1))
            found["scale"] = Track(states, f"{self.name(of)}.scale")
        return found

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, Any]:
        scale = results["scale"]["values"] if "scale" in results else None
        return {"scale": scale, "growth": scale and scale[-1] / scale[0]}

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row, with the scale at the beginning and after each epoch: means over seeds."""
        scales = [one["scale"] for one in self.found(cell, of, store).values() if one["scale"]]
        scale = [mean(at) for at in zip(*scales, strict=True)] or None
        return super().row(cell, of, store) | {"scale": scale}


@lru_cache(maxsize=64)
def _trainable(network: Network) -> tuple[str, ...]:
    return weights.trainable_names(weights.seeded(network, 0))


@lru_cache(maxsize=64)
def _memory(run: Run) -> int:
    """Bytes of the gradients and of the optimiser's state after a step."""
    module = weights.seeded(run.recipe.network, 0)
    weights.train_only(module, weights.Selection(run.moves, weights.parameter_names(module)))
    optimizer = run.recipe.make_optimizer(weights.trainable(module))
    split = run.recipe.dataset.split("train")
    with drawing_from("memory"):
        take_step(module, optimizer, run.recipe.dataset.task, split.batch(slice(0, 2)), split.labels[:2])
    kept = [weight.grad for weight in module.parameters()]
    kept += [item for state in optimizer.state.values() for item in state.values()]
    return sum(item.nbytes for item in tree_leaves(kept) if isinstance(item, Tensor))
