"""Which layers need training?

The baseline is trained; then once more for each layer with that layer frozen at its initialization, or from an epoch
on (Let It Go). In the trained baseline each layer is put back to an earlier value, or drawn afresh from its
initialization law, and the network evaluated as it is (ZBS19, arXiv:1902.01996).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any, Literal

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Distance, Evaluation, Graft, Initial, Run, State, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import with_seeds
from letitgo.value import derive

Kind = Literal["baseline", "frozen", "reinitialised", "rerandomised"]
Row = dict[str, Any]

CHECKPOINTS = (0, 1, 2, 3, 8)
"""Epochs whose weights layers are put back to unless others are asked for: the columns of ZBS19's figures."""


@dataclass(frozen=True)
class Unit:
    """A layer, a block or a set of layers that is acted on as one.

    Attributes:
        name: What it is called in tables.
        scope: ``layer``, or the kind of set: ``all but``, ``prefix``, ``suffix``, ``robust``.
        parameters: Names of its parameters, in the network's order.
    """

    name: str
    scope: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Intervention:
    """What is done to a unit; ``epoch`` is when it is frozen, or whose weights it is put back to."""

    unit: Unit
    kind: Kind
    epoch: int | None = None


@dataclass(frozen=True)
class Map:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's.
        freeze_at: Epochs from which layers are frozen.
        reinit_at: Epochs to whose weights layers are put back; by default ``CHECKPOINTS`` as far as they are reached.
        together: Also act on sets of layers: all but one, every prefix, every suffix, all found robust.
        tolerance: Largest drop in accuracy that does no harm, a fraction.
        layers: Patterns of the layers to act on; all by default.
        blocks: Patterns of modules that are acted on as one.
        statistics: Whether running statistics of frozen normalization layers follow the data.
        re_estimate: Re-estimate running statistics on the training data before grafted networks are evaluated.

    Raises:
        BadRequest: An epoch is not reached, a number is out of range.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    freeze_at: tuple[int, ...] = (0,)
    reinit_at: tuple[int, ...] | None = None
    together: bool = False
    tolerance: float = 0.01
    layers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    statistics: Literal["follow", "frozen"] = "follow"
    re_estimate: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in Map((Recipe(),))")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        if not 0 <= self.tolerance < 1:
            raise BadRequest(f"tolerance is {100 * self.tolerance:g} points: give at least 0 and less than 100")
        reached = min(recipe.epochs for recipe in self.recipes)
        for what, epochs in (("freeze-at", self.freeze_at), ("reinit-at", self.reinit_at or ())):
            for epoch in epochs:
                if not 0 <= epoch < reached:
                    raise BadRequest(
                        f"{what} names epoch {epoch}: training has {reached} epochs, "
                        f"so epochs 0 to {reached - 1} can be named"
                    )

    def check(self) -> None:
        """Make sure that every recipe can be trained.

        Raises:
            BadRequest: One cannot, or a pattern matches nothing that trains.
        """
        for part in self.mapped:
            check_recipe(part.recipe)
            if not part.units:
                raise BadRequest(f"none of the layers asked for trains in {part.recipe.model!r}")

    @cached_property
    def mapped(self) -> list[Mapped]:
        """One part of the study per recipe."""
        return [Mapped(self, recipe) for recipe in self.recipes]

    @property
    def searches(self) -> bool:
        """Whether verdicts say which sets of layers there are, so that nobody knows all of them beforehand."""
        return self.together

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute, stage by stage: a stage may rest on the results of those before."""
        yield [value for part in self.mapped for value in part.values(part.singles)]
        if self.together:
            yield [value for part in self.mapped for value in part.values(part.sets(store))]

    def rows(self, store: Store) -> list[Row]:
        """One row per unit and intervention, from what the store holds."""
        rows = []
        for part in self.mapped:
            columns = {name: getattr(part.recipe, name) for name in self.swept}
            sets = part.sets(store) if self.together else []
            rows += [{**columns, **part.row(item, store)} for item in [*part.singles, *sets]]
        return rows


@dataclass(frozen=True)
class Mapped:
    """The map of one recipe."""

    study: Map
    recipe: Recipe

    @cached_property
    def _seeds(self) -> list[Recipe]:
        return with_seeds(self.recipe, self.study.seeds)

    @cached_property
    def _all(self) -> Unit:
        return Unit("all", "all", weights.trainable_names(self._module))

    @cached_property
    def _module(self) -> nn.Module:
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def units(self) -> list[Unit]:
        """The layers, those of a block together, that have something to train and were asked for."""
        module = self._module
        wanted = weights.select(module, *self.study.layers) & weights.Selection(
            self._all.parameters, weights.parameter_names(module)
        )
        groups: dict[str, list[str]] = {}
        blocks = weights.blocks(module, *self.study.blocks)
        for layer, names in self.recipe.network.layers.items():
            block = next((block for block in blocks if layer == block or layer.startswith(f"{block}.")), layer)
            groups.setdefault(block, []).extend(name for name in names if name in wanted)
        return [Unit(name, "layer", tuple(names)) for name, names in groups.items() if names]

    @cached_property
    def singles(self) -> list[Intervention]:
        """The baseline, and each layer or block by itself."""
        return [Intervention(self._all, "baseline"), *self._interventions(self.units, rerandomise=True)]

    def sets(self, store: Store) -> list[Intervention]:
        """Sets of layers, frozen in training and re-initialised after it; the robust ones as the store tells them."""
        units = self.units
        groups = [("all but", unit.name, [other for other in units if other is not unit]) for unit in units]
        groups += [("prefix", f"{units[0].name}…{units[i].name}", units[: i + 1]) for i in range(1, len(units) - 1)]
        groups += [("suffix", f"{units[i].name}…{units[-1].name}", units[i:]) for i in range(1, len(units) - 1)]
        joined = [self._join(*group) for group in groups if len(group[2]) > 1]
        items = self._interventions(joined, rerandomise=False)
        for kind in ("frozen", "reinitialised"):
            robust = [
                item.unit
                for item in self.singles
                if item.kind == kind and item.epoch == 0 and self.row(item, store)["verdict"] == "robust"
            ]
            if len(robust) > 1:
                name = "+".join(unit.name for unit in robust)
                items.append(Intervention(self._join("robust", name, robust), kind, 0))
        return items

    def _join(self, scope: str, name: str, units: Sequence[Unit]) -> Unit:
        names = {name for unit in units for name in unit.parameters}
        label = f"{scope} {name}"
        return Unit(label, scope, tuple(name for name in self._all.parameters if name in names))

    def _interventions(self, units: Sequence[Unit], rerandomise: bool) -> list[Intervention]:
        asked = self.study.reinit_at
        epochs = [epoch for epoch in CHECKPOINTS if epoch < self.recipe.epochs] if asked is None else sorted(set(asked))
        items = []
        for unit in units:
            items += [Intervention(unit, "frozen", epoch) for epoch in sorted(set(self.study.freeze_at))]
            items += [Intervention(unit, "reinitialised", epoch) for epoch in epochs]
            items += [Intervention(unit, "rerandomised")] if rerandomise else []
        return items

    def baseline(self, recipe: Recipe) -> Run:
        """The run that trains everything."""
        return Run(Initial(recipe.network, recipe.seed), self._all.parameters, recipe)

    def donor(self, item: Intervention, recipe: Recipe) -> State:
        """The state whose weights the unit has under an intervention."""
        if item.kind == "rerandomised":
            return Initial(recipe.network, derive(recipe.seed, "rerandomised"))
        base = self.baseline(recipe)
        return base.final if item.epoch is None else base.at_epoch(item.epoch)

    def state(self, item: Intervention, recipe: Recipe) -> State:
        """The network that an intervention ends in."""
        base, donor = self.baseline(recipe), self.donor(item, recipe)
        if item.kind == "baseline":
            return base.final
        if item.kind != "frozen":
            return Graft(base.final, item.unit.parameters, donor)
        trains = tuple(name for name in self._all.parameters if name not in item.unit.parameters)
        if not trains:
            return donor
        begin = (item.epoch or 0) * recipe.steps_per_epoch
        return Run(donor, trains, recipe, begin, resume=begin > 0, statistics=self.study.statistics).final

    def evaluation(self, item: Intervention, recipe: Recipe, split: Literal["train", "test"]) -> Evaluation:
        """The accuracy an intervention leaves, on one of the splits."""
        grafted = item.kind in ("reinitialised", "rerandomised")
        statistics = "re-estimated" if grafted and self.study.re_estimate else "as is"
        return Evaluation.under(recipe, self.state(item, recipe), split, statistics=statistics)

    def distance(self, item: Intervention, recipe: Recipe) -> Distance:
        """From the trained weights to those the unit has under an intervention."""
        base = self.baseline(recipe)
        return Distance(base.final, base.at(0) if item.kind == "baseline" else self.donor(item, recipe))

    def values(self, items: Sequence[Intervention]) -> list[Stored]:
        """The measures that the rows of some interventions are read from."""
        return [
            measure
            for recipe in self._seeds
            for item in items
            for measure in (
                self.evaluation(item, recipe, "test"),
                self.evaluation(item, recipe, "train"),
                self.distance(item, recipe),
            )
        ]

    def saved(self, item: Intervention) -> float | None:
        """Share of the baseline's training arithmetic that freezing saves; None where nothing is trained."""
        if item.kind not in ("baseline", "frozen"):
            return None
        recipe, state = self.recipe, self.state(item, self.recipe)
        base = self.baseline(recipe).cost()
        run = getattr(state, "run", None)
        if item.kind == "baseline" or not isinstance(run, Run):
            return 0.0 if item.kind == "baseline" else 1.0
        shared = base * run.begin / recipe.steps
        return 1 - (shared + run.cost()) / base

    def row(self, item: Intervention, store: Store) -> Row:
        """One tidy row; over the seeds that the store holds. Accuracies and drops are fractions."""
        drops, tests, trains, gaps, squares, largest = [], [], [], [], [], []
        for recipe in self._seeds:
            try:
                test = self.evaluation(item, recipe, "test").result(store)["accuracy"]
                train = self.evaluation(item, recipe, "train").result(store)["accuracy"]
                base = self.evaluation(self.singles[0], recipe, "test").result(store)["accuracy"]
                distances = self.distance(item, recipe).result(store)
            except Absent:
                continue
            tests.append(test)
            trains.append(train)
            gaps.append(train - test)
            drops.append(base - test)
            moved = [distances[layer] for layer in self._layers_of(item.unit)]
            count = sum(part["count"] for part in moved)
            squares.append(sqrt(sum(part["squares"] for part in moved) / count))
            largest.append(max(part["largest"] for part in moved))
        return {
            "layer": item.unit.name,
            "scope": item.unit.scope,
            "intervention": item.kind,
            "epoch": item.epoch,
            "parameters": self._sizes(item.unit),
            "trained": self._sizes(self._all) - (self._sizes(item.unit) if item.kind == "frozen" else 0),
            "accuracy_mean": mean(tests),
            "accuracy_ci95": ci95(tests),
            "train_accuracy_mean": mean(trains),
            "gap_mean": mean(gaps),
            "drop_mean": mean(drops),
            "drop_ci95": ci95(drops),
            "distance_l2": mean(squares),
            "distance_linf": mean(largest),
            "n": len(tests),
            "verdict": None if item.kind == "baseline" else verdict(drops, self.study.tolerance),
            "saved": self.saved(item),
        }

    @cached_property
    def _shapes(self) -> dict[str, int]:
        return {name: parameter.numel() for name, parameter in self._module.named_parameters()}

    def _sizes(self, unit: Unit) -> int:
        return sum(self._shapes[name] for name in unit.parameters)

    def _layers_of(self, unit: Unit) -> list[str]:
        chosen = set(unit.parameters)
        return [layer for layer, names in self.recipe.network.layers.items() if chosen.intersection(names)]
