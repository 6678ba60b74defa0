"""One run: some layers frozen at their initialization, or from an epoch on, the rest trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Evaluation, Initial, Run, State, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe


@dataclass(frozen=True)
class Train:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        freeze: Patterns of what stays frozen; nothing by default.
        freeze_at: The epoch from which it is frozen.
        statistics: Whether running statistics of frozen normalization layers follow the data.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_at: int = 0
    statistics: Literal["follow", "frozen"] = "follow"

    def check(self) -> None:
        """Make sure that every recipe can be trained.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or nothing would be left to train.
        """
        if self.freeze_at and not self.freeze:
            raise BadRequest(f"freeze-at names epoch {self.freeze_at}, but nothing is frozen: name it with --freeze")
        for recipe in self.recipes:
            if not 0 <= self.freeze_at < recipe.epochs:
                raise BadRequest(f"freeze-at names epoch {self.freeze_at}: give one of 0 to {recipe.epochs - 1}")
            check_recipe(recipe)
            if not self.run(recipe).moves:
                raise BadRequest(f"{' '.join(self.freeze)} freezes everything: nothing is left to train")

    @cached_property
    def _modules(self) -> dict[Recipe, Any]:
        return {recipe: weights.seeded(recipe.network, recipe.seed) for recipe in self.recipes}

    def run(self, recipe: Recipe) -> Run:
        """The run that a recipe asks for."""
        module = self._modules[recipe]
        trainable = tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)
        base = Run(Initial(recipe.network, recipe.seed), trainable, recipe)
        if not self.freeze:
            return base
        frozen = weights.select(module, *self.freeze)
        trains = tuple(name for name in trainable if name not in frozen)
        begin = self.freeze_at * recipe.steps_per_epoch
        return Run(base.at(begin), trains, recipe, begin, resume=begin > 0, statistics=self.statistics)

    def final(self, recipe: Recipe) -> State:
        """The trained network."""
        return self.run(recipe).final

    def evaluation(self, recipe: Recipe, split: Literal["train", "test"]) -> Evaluation:
        """The accuracy it ends with, on one of the splits; the training split with the labels it was trained on."""
        return Evaluation.under(recipe, self.final(recipe), split)

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [self.evaluation(recipe, split) for recipe in self.recipes for split in ("test", "train")]

    def rows(self, store: Store) -> list[dict[str, Any]]:
        """One row per recipe that the store holds the results of. Accuracies are fractions."""
        rows = []
        for recipe in self.recipes:
            try:
                test = self.evaluation(recipe, "test").result(store)
                train = self.evaluation(recipe, "train").result(store)
            except Absent:
                continue
            run, module = self.run(recipe), self._modules[recipe]
            sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
            rows.append(
                {
                    **{name: getattr(recipe, name) for name in self.swept},
                    "frozen": " ".join(self.freeze),
                    "epoch": self.freeze_at,
                    "parameters": sum(sizes.values()),
                    "trained": sum(sizes[name] for name in run.moves),
                    "accuracy": test["accuracy"],
                    "loss": test["loss"],
                    "train_accuracy": train["accuracy"],
                    "train_loss": train["loss"],
                    "gap": train["accuracy"] - test["accuracy"],
                    "seed": recipe.seed,
                }
            )
        return rows
