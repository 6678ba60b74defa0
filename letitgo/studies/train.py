"""One run: some layers frozen at their initialization, or from an epoch on, or a ticket, the rest trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Evaluation, Initial, Kept, Masked, Run, State, Stored, open_ticket
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
        ticket: A ticket file: what it prunes is zero, what it keeps starts where the file says.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_at: int = 0
    statistics: Literal["follow", "frozen"] = "follow"
    ticket: str | None = None

    def check(self) -> None:
        """Make sure that every recipe can be trained.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or nothing would be left to train.
        """
        if self.freeze_at and not self.freeze:
            raise BadRequest(f"freeze-at names epoch {self.freeze_at}, but nothing is frozen: name it with --freeze")
        if self.ticket is not None and self.freeze:
            raise BadRequest("a ticket says itself what stays: give it, or what is frozen, but not both")
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
        trainable = weights.trainable_names(module)
        base = Run(Initial(recipe.network, recipe.seed), trainable, recipe)
        if self.ticket is not None:
            return self._of_ticket(self.ticket, base)
        if not self.freeze:
            return base
        frozen = weights.select(module, *self.freeze)
        trains = tuple(name for name in trainable if name not in frozen)
        begin = self.freeze_at * recipe.steps_per_epoch
        return Run(base.at(begin), trains, recipe, begin, resume=begin > 0, statistics=self.statistics)

    def _of_ticket(self, path: str, base: Run) -> Run:
        """What the ticket keeps, from where it says: initial weights, or a step of the run that it is from."""
        recipe = base.recipe
        mask, about = open_ticket(path, recipe.network)
        seed, step = about.get("seed", recipe.seed), about.get("step", 0)
        if type(seed) is not int or type(step) is not int or step < 0:
            raise BadRequest(f"{path} tells no start that can be read: seed and step are whole numbers")
        if step and about.get("recipe_key") != recipe.key:
            there, own = about.get("recipe"), recipe.fields()
            differs = [item for item in there.items() if item[1] != own.get(item[0])] if isinstance(there, dict) else []
            other = [f"{name} {'by default' if value is None else value}" for name, value in differs]
            raise BadRequest(
                f"{path} starts from step {step} of another recipe ({', '.join(other) or 'it does not say which'}): "
                "give that one, or a ticket that was found with rewind 0"
            )
        if step >= recipe.steps:
            raise BadRequest(f"{path} starts from step {step}, but training ends with step {recipe.steps}")
        start = base.at(step) if step else Initial(recipe.network, seed)
        besides = tuple(name for name in base.moves if name not in mask.names)
        return Run(Masked(start, mask), Kept(mask, besides), recipe, step, statistics=self.statistics)

    def _trained(self, recipe: Recipe, store: Store) -> int:
        run = self.run(recipe)
        sizes = {name: parameter.numel() for name, parameter in self._modules[recipe].named_parameters()}
        if isinstance(run.trains, Kept):
            sizes |= {name: int(mask.sum()) for name, mask in run.trains.mask.load(store).items()}
        return sum(sizes[name] for name in run.moves)

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
            rows.append(
                {
                    **{name: getattr(recipe, name) for name in self.swept},
                    **({"ticket": self.ticket} if self.ticket else {}),
                    "frozen": " ".join(self.freeze),
                    "epoch": self.freeze_at,
                    "parameters": sum(parameter.numel() for parameter in self._modules[recipe].parameters()),
                    "trained": self._trained(recipe, store),
                    "accuracy": test["accuracy"],
                    "loss": test["loss"],
                    "train_accuracy": train["accuracy"],
                    "train_loss": train["loss"],
                    "gap": train["accuracy"] - test["accuracy"],
                    "seed": recipe.seed,
                }
            )
        return rows
