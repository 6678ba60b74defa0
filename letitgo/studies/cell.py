"""Cells: rows of a study before they are measured.

A study of cells declares each row once. What to compute and what to read both follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from letitgo.errors import BadRequest
from letitgo.plan import Absent, At, Evaluation, Measure, Stored
from letitgo.recipes import Recipe
from letitgo.recipes.own import ASSUMED
from letitgo.recipes.tasks import Metric, unpacked
from letitgo.report.words import OTHER
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.options import StudyOptions
from letitgo.studies.statistics import (
    ALPHA,
    Drop,
    ci95,
    disagreement,
    for_new_examples,
    looks,
    mean,
    paired,
    unpaired,
    verdict,
)
from letitgo.studies.subject import Subject

if TYPE_CHECKING:
    from letitgo.report import Report

Row = dict[str, Any]
Results = dict[str, Any]
"""What one seed gave: the result of each measure by name, and the results of each cell it is compared with."""

CHOSEN_BY = ("accuracy", "drop")
"""The quantities that choices are read from, where that is on held-out examples."""
STATISTICS: dict[str, Callable[[Sequence[float]], float | None]] = {
    "mean": mean,
    "ci95": ci95,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
}


@dataclass(eq=False)
class Cell:
    """A row before it is measured.

    Attributes:
        labels: Columns known beforehand.
        measures: What is measured under a seed, by name.
        against: Cells it is compared with, seed by seed; its drop is from that called ``base``.
        judged: Whether the drop gets a verdict.
        paired: Whether its runs go on from a trained state that those of ``base`` share under the same seed.
        decides: Whether seeds are added until its verdict is there; else it is followed as long as others that do.
        acts_on: Parameters that the row is about: where training moves none of them, it has no verdict.
        context: What ``numbers`` needs besides the results.
        draws: What is measured of further draws under a seed; quantities are means over all draws of a seed.
        count: How many seeds it is measured under, where its verdict decides that.
        drops: The drop at the last look, there too, by how its columns begin: on the test set (nothing), and on the
            examples that choices are read from.
    """

    labels: Row
    measures: Callable[[Recipe], Mapping[str, Measure]]
    against: Mapping[str, Cell] = field(default_factory=dict)
    judged: bool = True
    paired: bool = False
    decides: bool = True
    acts_on: tuple[str, ...] = ()
    context: Any = None
    draws: Sequence[Callable[[Recipe], Mapping[str, Measure]]] = ()
    count: int | None = field(default=None, init=False)
    drops: dict[str, Drop] = field(default_factory=dict, init=False)
    _read: dict[Recipe, list[Results]] = field(default_factory=dict, init=False, repr=False)

    def measured(self, recipe: Recipe) -> list[Mapping[str, Measure]]:
        """What is measured under one seed, draw by draw."""
        return [draw(recipe) for draw in (self.measures, *self.draws)]

    def results(self, recipe: Recipe, store: Store) -> list[Results]:
        """What the store holds of it under one seed, draw by draw.

        Raises:
            Absent: Not all of it is there.
        """
        if recipe not in self._read:  # many cells are compared with one
            against = {name: other.results(recipe, store)[0] for name, other in self.against.items()}
            self._read[recipe] = [
                {name: measure.result(store) for name, measure in measures.items()} | against
                for measures in self.measured(recipe)
            ]
        return self._read[recipe]


class CellStudy(StudyOptions):
    """Base of studies whose rows are cells; what else they have are the options of their room."""

    quantities: ClassVar[tuple[str, ...]]
    """Names of the numbers that each seed gives; each is summarised in columns such as ``drop_mean``.

    Those that :func:`judged` finds need not be among :meth:`numbers`.
    """
    summaries: ClassVar[tuple[str, ...]] = ("mean", "ci95")
    """How they are summarised over seeds, keys of ``STATISTICS``."""

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        """The rows of one recipe, stage by stage: later stages may read results of earlier ones."""
        raise NotImplementedError

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, Any]:
        """The other quantities of a cell under one seed; None where one does not apply."""
        return {}

    def report(self, rows: Sequence[Row]) -> Report:
        """What the rows say; ``report`` of the module ``report`` beside the study's own says it."""
        own = next(cls.__module__ for cls in type(self).__mro__ if cls.__module__.endswith(".study"))
        return import_module(own.removesuffix("study") + "report").report(self, rows)

    @cached_property
    def subjects(self) -> list[Subject]:
        """The network of each recipe."""
        seeds = getattr(self, "seeds", 1)
        count = 2 * self.max_seeds if seeds == "auto" else seeds  # type: ignore[attr-defined]
        return [Subject(recipe, count, self.statistics) for recipe in self.trained]

    @property
    def sequential(self) -> bool:
        """Whether verdicts decide how many seeds there are."""
        return getattr(self, "seeds", 1) == "auto"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """How the columns of the splits begin that drops are measured on: test, and what choices are read from."""
        return tuple(dict.fromkeys(("", getattr(self, "chosen", ""))))

    @property
    def searches(self) -> bool:
        """Whether results decide what else is computed."""
        return self.sequential

    def looks(self, of: Subject, store: Store, cells: Sequence[Cell]) -> Looks:
        """The looks at the cells of one stage, where verdicts decide how many seeds there are."""
        return Looks(self, of, store, cells)

    def check(self) -> None:
        """Make sure that every recipe can be trained.

        Raises:
            BadRequest: One cannot, or an option does not fit its network.
        """
        for of in self.subjects:
            check_recipe(of.recipe)
            if self.statistics == "re-estimate" and of.recipe.own is not None:
                raise BadRequest(
                    f"statistics re-estimate needs training inputs, which only the task {of.recipe.task!r} knows: "
                    "give follow or frozen"
                )
            self.check_subject(of)

    def check_subject(self, of: Subject) -> None:
        """Make sure that the options fit a network."""

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute, stage by stage."""
        for stage in zip_longest(*(self._wanted(of, store) for of in self.subjects), fillvalue=()):
            yield [measure for wanted in stage for measure in wanted]

    def _wanted(self, of: Subject, store: Store) -> Iterator[list[Measure]]:
        """What is to be measured of one recipe: of each stage all seeds at once, or look by look."""
        asked: dict[Cell, int] = {}
        for cells in self.cells(of, store):
            every = dict.fromkeys(cells, len(of.seeds))
            for counts in self.looks(of, store, cells) if self.sequential else [every]:
                yield [
                    measure
                    for i, recipe in enumerate(of.seeds)
                    for cell, count in counts.items()
                    if asked.get(cell, 0) <= i < count
                    for measures in cell.measured(recipe)
                    for measure in measures.values()
                ]
                asked |= {cell: max(count, asked.get(cell, 0)) for cell, count in counts.items()}

    def settled(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        """The cells of one recipe, stage by stage, each with its number of seeds as far as the store knows."""
        for cells in self.cells(of, store):
            if self.sequential:
                list(self.looks(of, store, cells))
            yield cells

    def rows(self, store: Store) -> list[Row]:
        """One row for each cell, over the seeds that the store holds. Accuracies and drops are fractions."""
        return [{**columns, **self.row(cell, of, store)} for columns, of, cell in self._cells(store)]

    def seed_rows(self, store: Store) -> list[Row]:
        """One row for each cell and seed that the store holds."""
        return [
            {**columns, **cell.labels, "seed": seed, **numbers}
            for columns, of, cell in self._cells(store)
            for seed, numbers in self.found(cell, of, store).items()
        ]

    def _cells(self, store: Store) -> Iterator[tuple[Row, Subject, Cell]]:
        for i, of in enumerate(self.subjects):
            columns = {name: getattr(self.recipes[i], name) for name in self.swept}
            for cells in list(self.settled(of, store)):  # later stages may add seeds to what they compare with
                for cell in cells:
                    yield columns, of, cell

    def found(self, cell: Cell, of: Subject, store: Store) -> dict[int, Mapping[str, Any]]:
        """The quantities of a cell by seed, of the seeds that the store holds."""
        names = self.names(of)

        def numbers(results: Results) -> Row:
            own = {name: value for name, value in judged(of.metric, results).items() if name in names}
            return {**own, **self.numbers(cell, results), **others(of, results)}

        return {seed: _averaged(list(map(numbers, draws))) for seed, draws in _held(cell, of, store)}

    def correct(self, cell: Cell, of: Subject, store: Store) -> dict[int, np.ndarray]:
        """Which test examples are right by seed, a share of the draws; without seeds whose results do not say it."""
        return {
            seed: np.mean([unpacked(one["test"]["correct"], one["test"]["n"]) for one in draws], axis=0)
            for seed, draws in _held(cell, of, store)
            if all("correct" in one.get("test", {}) for one in draws)
        }

    def names(self, of: Subject) -> list[str]:
        """The quantities, and beside each accuracy what the task is judged by instead."""
        beside = {f"{split}accuracy": f"{split}{of.metric.name}" for split in ("", "train_", "validation_")}
        own = [*self.quantities, *(f"{split}{name}" for split in self.prefixes if split for name in CHOSEN_BY)]
        return list(dict.fromkeys(name for one in own for name in (one, beside.get(one, one))))

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row: labels, each quantity over the seeds, their number, and the verdict."""
        found = list(self.found(cell, of, store).values())
        row: Row = dict(cell.labels)
        for name in dict.fromkeys(
            (*self.names(of), *(name for one in found for name in one if name.startswith(OTHER)))
        ):
            values = [number for one in found if (number := one.get(name)) is not None]
            row |= self.summary(name, values)
        row["n"] = len(found)
        if hasattr(self, "tolerance"):
            tolerance: float | None = self.tolerance  # type: ignore[attr-defined]
            drops = [one["drop"] for one in found if one.get("drop") is not None]
            for split, drop in cell.drops.items():
                if found and (not split or row[f"{split}drop_mean"] is not None):
                    row |= {f"{split}drop_mean": drop.mean, f"{split}drop_ci95": drop.half}
            row["verdict"] = None
            judged = cell.judged and self._learned(cell, of, store) and not self._is_idle(cell, of, store)
            if tolerance is not None and judged:
                limit = tolerance / 100
                row["verdict"] = cell.drops[""].verdict(limit) if cell.drops else verdict(drops, limit)
            row["drop_new_ci95"] = for_new_examples(row["drop_ci95"], self.sides(cell, of, store))
        return row

    def sides(self, cell: Cell, of: Subject, store: Store) -> list[np.ndarray]:
        """Which test examples are right, shape (seeds, examples): of what a cell is compared with, and of itself.

        Where the drop is paired, their difference alone; nothing where the results do not say it.
        """
        if "base" not in cell.against:
            return []
        before, own = (self.correct(one, of, store) for one in (cell.against["base"], cell))
        if self.sequential and not cell.paired:
            sides = [list(before.values()), list(own.values())]
        else:
            sides = [[before[seed] - right for seed, right in own.items() if seed in before]]
        return [np.stack(side) for side in sides] if all(sides) else []

    def _learned(self, cell: Cell, of: Subject, store: Store) -> bool:
        """Whether the baseline of a cell has learned: against one that has not, nothing is judged."""
        base = cell.against.get("base")
        if base is None:
            return True
        values = [value for one in self.found(base, of, store).values() if (value := one[of.metric.name]) is not None]
        return not values or of.recipe.dataset.learned(of.metric, fmean(values), ci95(values))

    def _is_idle(self, cell: Cell, of: Subject, store: Store) -> bool:
        """Whether training moves nothing that a cell acts on."""
        base, acts_on = cell.against.get("base"), set(cell.acts_on)
        if base is None or not acts_on:
            return False
        tests = (base.measures(recipe)["test"] for recipe in of.seeds[: base.count])
        ends = (test.state for test in tests if isinstance(test, Evaluation) and isinstance(test.state, At))
        known = False
        for end in ends:
            if body := store.read(end.address, end.key):
                known = True
                if not acts_on <= set(body.get("unmoved", ())):
                    return False
        return known

    def summary(self, name: str, values: Sequence[float]) -> Row:
        """The columns of a quantity, from its values over seeds."""
        return {f"{name}_{statistic}": STATISTICS[statistic](values) for statistic in self.summaries}


def _held(cell: Cell, of: Subject, store: Store) -> Iterator[tuple[int, list[Results]]]:
    """Seed and results of each draw, of the seeds that the store holds."""
    for recipe in of.seeds[: cell.count]:
        with suppress(Absent):
            yield recipe.seed, cell.results(recipe, store)


def _averaged(draws: Sequence[Row]) -> Row:
    """Means over draws; None where a draw has no number."""
    if len(draws) == 1:
        return draws[0]
    each = {name: [draw[name] for draw in draws] for name in draws[0]}
    return {name: None if None in values else fmean(values) for name, values in each.items()}


def others(of: Subject, results: Results) -> Row:
    """What else a task of the user's own tells of a cell, besides the metric."""
    if of.recipe.own is None:
        return {}
    return {
        f"{OTHER}{name}": value
        for name, value in results.get("test", {}).items()
        if name not in (of.metric.name, "n", "correct")
    }


def evaluated(recipe: Recipe) -> tuple[Literal["test", "train"], ...]:
    """The splits that networks are evaluated on; a task of the user's own has a single way, which counts as a test."""
    return ("test", "train") if recipe.own is None else ("test",)


def judged(metric: Metric, results: Results) -> Row:
    """What evaluations named ``test``, ``train`` and ``validation`` say of a cell, and its drops from ``base``.

    Accuracies and the metric of the task; how much worse it is; the gap between training and test. A cell
    without a ``base`` is its own.
    """
    base, found = results.get("base", results), {}
    for split, prefix in (("test", ""), ("train", "train_"), ("validation", "validation_")):
        if split in results:
            found |= {f"{prefix}{name}": results[split].get(name) for name in ("accuracy", metric.name)}
            found[f"{prefix}drop"] = metric.drop(base[split], results[split]) if split in base else None
    own = metric.name if metric.share else "accuracy"
    if found.get(f"train_{own}") is not None and found.get(own) is not None:
        found["gap"] = found[f"train_{own}"] - found[own]
    return found


@dataclass(frozen=True)
class Looks:
    """Looks at the cells of one stage after a growing number of seeds, until each verdict is there or seeds run out.

    Iterating gives the number of seeds each cell has to be measured under before the next look; what is asked for has
    to be in the store when the iteration goes on. What failed, or is not there in a dry run, is not followed further.
    """

    study: CellStudy
    of: Subject
    store: Store
    cells: Sequence[Cell]

    def __iter__(self) -> Iterator[Mapping[Cell, int]]:
        ahead = judged = [cell for cell in self.cells if cell.judged]
        alpha = self.alpha(judged)
        for seeds in self.numbers():
            counts = self._asked(ahead or self.cells, seeds)
            for cell, count in counts.items():
                if not cell.judged or cell in ahead:
                    cell.count = max(count, cell.count or 0)
            yield counts
            self._look(ahead, alpha)
            ahead = [cell for cell in ahead if self.is_open(cell)]
            if not any(cell.decides for cell in ahead):
                return

    def numbers(self) -> Iterator[int]:
        """The numbers of seeds to look after."""
        return looks(self.study.max_seeds)  # type: ignore[attr-defined]

    def alpha(self, judged: Sequence[Cell]) -> float:
        """The error of each look."""
        return ALPHA / len(judged) if judged and self.study.familywise else ALPHA  # type: ignore[attr-defined]

    def _asked(self, ahead: Sequence[Cell], seeds: int) -> dict[Cell, int]:
        """Seeds of each cell looked at, and of what it is compared with; twice as many of an independent baseline."""
        counts: dict[Cell, int] = {}
        for cell in ahead:
            counts[cell] = max(seeds, counts.get(cell, 0))
            for name, other in cell.against.items():
                times = 2 if name == "base" and not cell.paired else 1
                counts[other] = max(times * seeds, counts.get(other, 0))
        return counts

    def is_open(self, cell: Cell) -> bool:
        """Whether more seeds may decide: nothing failed, and the verdict is not there."""
        undecided = cell.drops[""].verdict(self.study.tolerance / 100) == "undecided"  # type: ignore[attr-defined]
        return undecided and len(self._values(cell)) == cell.count

    def _look(self, followed: Sequence[Cell], alpha: float) -> None:
        """The drops so far; those of cells that stopped are as at their last look, but count for the variance."""
        for split in self.study.prefixes:
            self._look_on(split, followed, alpha)

    def _look_on(self, split: str, followed: Sequence[Cell], alpha: float) -> None:
        for cell in followed:
            if cell.paired:
                drops = [one.get(f"{split}drop") for one in self._numbers(cell)]
                floor = self._floors(cell, split)[0]
                cell.drops[split] = paired([drop for drop in drops if drop is not None], floor, alpha)
        for base in {cell.against["base"]: None for cell in followed if not cell.paired}:
            group = [cell for cell in self.cells if cell.judged and not cell.paired and cell.against["base"] is base]
            before = self._values(base, split)
            worth = [self.of.metric.worth(self._values(cell, split), before) for cell in (base, *group)]
            sides = [self._floors(cell, split) for cell in group]
            floors = [max(floors[0] for floors in sides), *(floors[-1] for floors in sides)]
            drops = unpaired(worth[0], worth[1:], floors, alpha)
            for cell, drop in zip(group, drops, strict=True):
                if cell in followed:
                    cell.drops[split] = drop

    def _floors(self, cell: Cell, split: str = "") -> list[float]:
        """The least standard deviations of the sides of a drop: one example of a split, or the seeds' disagreement."""
        one = 1 / self._answers(split.removesuffix("_") or "test")
        sides = [] if split else self.study.sides(cell, self.of, self.store)
        return [max(one, disagreement(side)) for side in sides] or [one]

    def _values(self, cell: Cell, split: str = "") -> list[float]:
        """The metric under each seed on a split; none where it is not finite or was not measured."""
        name = f"{split}{self.of.metric.name}"
        return [one[name] for one in self._numbers(cell) if one.get(name) is not None]

    def _answers(self, split: str) -> int:
        """How many answers a split has."""
        if self.of.recipe.own is None:
            return self.of.recipe.dataset.split(split).labels.numel()
        [first, *_] = self.cells[0].results(self.of.recipe, self.store)
        return int(first[split].get("n") or ASSUMED)

    def _numbers(self, cell: Cell) -> list[Mapping[str, Any]]:
        return list(self.study.found(cell, self.of, self.store).values())
