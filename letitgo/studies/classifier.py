"""Does the classifier need training? (HHS18, arXiv:1801.04540)

For each seed the network is trained as it is, and again with its last layer a fixed matrix with one learned scale. The
other layers begin with the same weights, so that every difference is paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from letitgo import weights
from letitgo.errors import BadRequest, nearest
from letitgo.plan import Absent, Evaluation, Initial, Run, Stored, Track
from letitgo.recipes import Recipe
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import with_seeds
from letitgo.training import take_step

Kind = Literal["learned", "frozen", "hadamard", "orthogonal"]
Row = dict[str, Any]
FIXED = ("hadamard", "orthogonal")


@dataclass(frozen=True)
class Classifier:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's.
        kinds: What stands in the place of the learned classifier: ``hadamard``, ``orthogonal``, or ``frozen``, the
            layer itself as it is drawn, with no scale and no normalised features.
        layer: Name of the classifier; the last ``nn.Linear`` if not given.
        tolerance: Largest drop in test accuracy that does no harm, a fraction.

    Raises:
        BadRequest: A number is out of range, or a kind is unknown or there twice.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 5
    kinds: tuple[Kind, ...] = FIXED
    layer: str | None = None
    tolerance: float = 0.003

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in Classifier((Recipe(),))")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        if not 0 <= self.tolerance < 1:
            raise BadRequest(f"tolerance is {100 * self.tolerance:g} points: give at least 0 and less than 100")
        known = tuple(kind for kind in get_args(Kind) if kind != "learned")
        for kind in self.kinds:
            if kind not in known:
                raise BadRequest(f"kinds has {kind!r}: {nearest(kind, known)}")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise BadRequest(f"kinds is to name some of {', '.join(known)}, each once")

    def check(self) -> None:
        """Make sure that every recipe can be trained, with each of the classifiers.

        Raises:
            BadRequest: One cannot.
        """
        for recipe in self.recipes:
            if recipe.model == "fixed-classifier":
                raise BadRequest("the model is 'fixed-classifier' already: name the network within it")
            check_recipe(recipe)
            weights.fix_classifier(weights.seeded(recipe.network, 0), self.name(recipe))
            for kind in self.kinds:
                check_recipe(self.with_kind(recipe, kind))
                if not self.run(recipe, kind).moves:
                    raise BadRequest(f"the network {recipe.model!r} is its classifier alone: frozen, nothing trains")

    def name(self, recipe: Recipe) -> str:
        """Name of the classifier of a recipe's network."""
        return weights.last_linear(_built(recipe.network)) if self.layer is None else self.layer

    def run(self, recipe: Recipe, kind: Kind) -> Run:
        """The run that trains all but what is fixed."""
        frozen = recipe.network.layers[self.name(recipe)] if kind == "frozen" else ()
        recipe = self.with_kind(recipe, kind)
        parameters = _built(recipe.network).named_parameters()
        trains = tuple(name for name, weight in parameters if weight.requires_grad and name not in frozen)
        return Run(Initial(recipe.network, recipe.seed), trains, recipe)

    def with_kind(self, recipe: Recipe, kind: Kind) -> Recipe:
        """The recipe, its network with a classifier of that kind."""
        if kind not in FIXED:
            return recipe
        args = {**recipe.model_args, "network": recipe.model, "layer": self.name(recipe), "kind": kind}
        return dataclasses.replace(recipe, model="fixed-classifier", model_args=args)

    def evaluation(self, recipe: Recipe, kind: Kind, split: Literal["train", "test"]) -> Evaluation:
        """The accuracy it ends with, on one of the splits; the training split with the labels it was trained on."""
        return Evaluation.under(recipe, self.run(recipe, kind).final, split)

    def scale(self, recipe: Recipe, kind: Kind) -> Track:
        """The learned scale at the beginning and after each epoch."""
        run = self.run(recipe, kind)
        states = tuple(run.at_epoch(epoch) for epoch in range(recipe.epochs + 1))
        return Track(states, f"{self.name(recipe)}.scale")

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [
            measure
            for recipe in self.recipes
            for seeded in self._seeds(recipe)
            for kind in ("learned", *self.kinds)
            for measure in (
                self.evaluation(seeded, kind, "test"),
                self.evaluation(seeded, kind, "train"),
                *([self.scale(seeded, kind)] if kind in FIXED else []),
            )
        ]

    def rows(self, store: Store) -> list[Row]:
        """One row per recipe and classifier; over the seeds that the store holds. Accuracies are fractions."""
        return [
            {**{name: getattr(recipe, name) for name in self.swept}, **self._row(recipe, kind, store)}
            for recipe in self.recipes
            for kind in ("learned", *self.kinds)
        ]

    def _seeds(self, recipe: Recipe) -> list[Recipe]:
        return with_seeds(recipe, self.seeds)

    def _row(self, recipe: Recipe, kind: Kind, store: Store) -> Row:
        tests, trains, drops, train_drops, scales = [], [], [], [], []
        for seeded in self._seeds(recipe):
            try:
                test, train, base, train_base = (
                    self.evaluation(seeded, one, split).result(store)["accuracy"]
                    for one in (kind, "learned")
                    for split in ("test", "train")
                )
                scales += [self.scale(seeded, kind).result(store)["values"]] if kind in FIXED else []
            except Absent:
                continue
            tests.append(test)
            trains.append(train)
            drops.append(base - test)
            train_drops.append(train_base - train)
        learned, run = self.run(recipe, "learned"), self.run(recipe, kind)
        sizes = {name: weight.numel() for name, weight in _built(recipe.network).named_parameters()}
        fixed = sum(sizes[name] for name in learned.moves if name not in run.moves)
        return {
            "classifier": kind,
            "layer": self.name(recipe),
            "parameters": sum(sizes.values()),
            "fixed": fixed,
            "fixed_share": fixed / sum(sizes.values()),
            "accuracy_mean": mean(tests),
            "accuracy_ci95": ci95(tests),
            "train_accuracy_mean": mean(trains),
            "train_accuracy_ci95": ci95(trains),
            "drop_mean": mean(drops),
            "drop_ci95": ci95(drops),
            "train_drop_mean": mean(train_drops),
            "train_drop_ci95": ci95(train_drops),
            "saved": 1 - run.cost() / learned.cost(),
            "memory_saved": 1 - _memory(run) / _memory(learned),
            "scale": [mean(at) for at in zip(*scales, strict=True)] if scales else None,
            "n": len(tests),
            "verdict": None if kind == "learned" else verdict(drops, self.tolerance),
        }


@lru_cache(maxsize=64)
def _built(network: Network) -> nn.Module:
    return weights.seeded(network, 0)


@lru_cache(maxsize=64)
def _memory(run: Run) -> int:
    """Bytes of the gradients and of the optimiser's state after a step."""
    module = weights.seeded(run.recipe.network, 0)
    weights.train_only(module, weights.Selection(run.moves, weights.parameter_names(module)))
    optimizer = run.recipe.make_optimizer(weights.trainable(module))
    split = run.recipe.dataset.split("train")
    with torch.random.fork_rng(devices=[]):
        take_step(module, optimizer, run.recipe.task, split.batch(slice(0, 2)), split.labels[:2])
    kept = [weight.grad for weight in module.parameters()]
    kept += [item for state in optimizer.state.values() for item in state.values()]
    return sum(item.nbytes for item in tree_leaves(kept) if isinstance(item, Tensor))
