"""Cells: rows of a study before they are measured.

A study of cells declares each row once. What to compute and what to read both follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar

from letitgo.plan import Absent, Measure, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.options import StudyOptions
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.subject import Subject

if TYPE_CHECKING:
    from letitgo.report import Report

Row = dict[str, Any]
Results = dict[str, Any]
"""What one seed gave: the result of each measure by name, and the results of each cell it is compared with."""

STATISTICS: dict[str, Callable[[Sequence[float]], float | None]] = {
    "mean": mean,
    "ci95": ci95,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
}


@dataclass(frozen=True, eq=False)
class Cell:
    """A row before it is measured.

    Attributes:
        labels: Columns known beforehand.
        measures: What is measured under a seed, by name.
        against: Cells it is compared with, seed by seed.
        judged: Whether the drop gets a verdict.
        context: What ``numbers`` needs besides the results.
    """

    labels: Row
    measures: Callable[[Recipe], Mapping[str, Measure]]
    against: Mapping[str, Cell] = field(default_factory=dict)
    judged: bool = True
    context: Any = None
    _read: dict[Recipe, Results] = field(default_factory=dict, init=False, repr=False)

    def results(self, recipe: Recipe, store: Store) -> Results:
        """What the store holds of it under one seed.

        Raises:
            Absent: Not all of it is there.
        """
        if recipe not in self._read:  # many cells are compared with one
            own = {name: measure.result(store) for name, measure in self.measures(recipe).items()}
            self._read[recipe] = own | {name: other.results(recipe, store) for name, other in self.against.items()}
        return self._read[recipe]


class CellStudy(StudyOptions):
    """Base of studies whose rows are cells; what else they have are the options of their room."""

    quantities: ClassVar[tuple[str, ...]]
    """Names of the numbers that each seed gives; each is summarised in columns such as ``drop_mean``."""
    summaries: ClassVar[tuple[str, ...]] = ("mean", "ci95")
    """How they are summarised over seeds, keys of ``STATISTICS``."""

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        """The rows of one recipe, stage by stage: later stages may read results of earlier ones."""
        raise NotImplementedError

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, Any]:
        """The quantities of a cell under one seed; None where one does not apply."""
        raise NotImplementedError

    def report(self, rows: Sequence[Row]) -> Report:
        """What the rows say."""
        raise NotImplementedError

    @cached_property
    def subjects(self) -> list[Subject]:
        """The network of each recipe."""
        return [Subject(recipe, getattr(self, "seeds", 1)) for recipe in self.recipes]

    def check(self) -> None:
        """Make sure that every recipe can be trained.

        Raises:
            BadRequest: One cannot, or an option does not fit its network.
        """
        for of in self.subjects:
            check_recipe(of.recipe)
            self.check_subject(of)

    def check_subject(self, of: Subject) -> None:
        """Make sure that the options fit a network."""

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute, stage by stage."""
        for stage in zip_longest(*(self.cells(of, store) for of in self.subjects), fillvalue=()):
            yield [
                measure
                for of, cells in zip(self.subjects, stage, strict=True)
                for recipe in of.seeds
                for cell in cells
                for measure in cell.measures(recipe).values()
            ]

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
        for of in self.subjects:
            columns = {name: getattr(of.recipe, name) for name in self.swept}
            for cells in self.cells(of, store):
                for cell in cells:
                    yield columns, of, cell

    def found(self, cell: Cell, of: Subject, store: Store) -> dict[int, Mapping[str, Any]]:
        """The quantities of a cell by seed, of the seeds that the store holds."""
        numbers = {}
        for recipe in of.seeds:
            try:
                numbers[recipe.seed] = self.numbers(cell, cell.results(recipe, store))
            except Absent:
                continue
        return numbers

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row: labels, each quantity over the seeds, their number, and the verdict."""
        found = list(self.found(cell, of, store).values())
        row: Row = dict(cell.labels)
        for name in self.quantities:
            values = [number for one in found if (number := one.get(name)) is not None]
            row |= self.summary(name, values)
        row["n"] = len(found)
        if hasattr(self, "tolerance"):
            drops = [one["drop"] for one in found if one.get("drop") is not None]
            row["verdict"] = verdict(drops, self.tolerance / 100) if cell.judged else None  # type: ignore[arg-type]
        return row

    def summary(self, name: str, values: Sequence[float]) -> Row:
        """The columns of a quantity, from its values over seeds."""
        return {f"{name}_{statistic}": STATISTICS[statistic](values) for statistic in self.summaries}
