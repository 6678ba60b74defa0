"""Which layers need training? The values to compute, and the rows they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from typing import ClassVar

from letitgo.errors import BadRequest
from letitgo.plan import Absent, Distance, Graft, Initial, Measure, State, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Results, Row, evaluated
from letitgo.studies.map.options import MapOptions
from letitgo.studies.subject import Subject, Unit
from letitgo.value import derive

CHECKPOINTS = (0, 1, 2, 3, 8)
"""Epochs whose weights layers are put back to by default: the columns of ZBS19's figures."""


class Map(MapOptions, CellStudy):
    """Which layers of a network need training? See :class:`MapOptions` for the options."""

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "train_accuracy",
        "gap",
        "drop",
        "distance_l2",
        "distance_linf",
    )

    @property
    def searches(self) -> bool:
        """Whether results decide what else is computed: here, which layers are robust together."""
        return self.together or super().searches

    def check_subject(self, of: Subject) -> None:
        if not of.units(self.layers, self.blocks, self.by):
            raise BadRequest(f"none of the layers asked for trains in {of.recipe.model!r}")

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        base = self._baseline(of)
        units = of.units(self.layers, self.blocks, self.by)
        singles = [cell for unit in units for cell in self._acts(of, unit, base)]
        yield [base, *singles]
        if self.together:
            sets = [
                cell
                for unit in _sets(of, units)
                for cell in self._acts(of, unit, base)
                if cell.labels["epoch"] is not None
            ]
            yield sets + self._robust(
                of, units, base, [cell for cell in singles if self._robust_alone(cell, of, store)]
            )

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        yield from super().stages(store)
        yield [measure for of in self.subjects if of.recipe.own for measure in self._repeated(of).values()]

    def rows(self, store: Store) -> list[Row]:
        """One row for each cell; where the training code is the user's own, the baseline's says if runs repeat."""
        rows = super().rows(store)
        for of in (of for of in self.subjects if of.recipe.own):
            base = next(row for row in rows if row["intervention"] == "baseline" and _is_of(row, of, self.swept))
            with suppress(Absent):
                found = {name: measure.result(store) for name, measure in self._repeated(of).items()}
                base["repeat_drop"] = of.metric.drop(found["first"], found["again"])
                base["repeat_l2"] = sqrt(sum(part["squares"] for part in found["distance"].values()))
        return rows

    def _repeated(self, of: Subject) -> dict[str, Measure]:
        """The baseline of the first seed, trained twice."""
        run = of.baseline(of.recipe)
        again = replace(run, again=1)
        return {
            "first": of.evaluation(of.recipe, run.final, "test"),
            "again": of.evaluation(of.recipe, again.final, "test"),
            "distance": Distance(run.final, again.final),
        }

    def _baseline(self, of: Subject) -> Cell:
        def final(recipe: Recipe) -> State:
            return of.baseline(recipe).final

        def start(recipe: Recipe) -> State:
            return of.baseline(recipe).at(0)

        labels = self._labels(of, of.everything, "baseline", None) | {"saved": 0.0}
        measures = self._measures(of, final, start, chosen=True)
        return Cell(labels, measures, judged=False, context=of.layers_of(of.everything))

    def _acts(self, of: Subject, unit: Unit, base: Cell) -> list[Cell]:
        """A unit frozen from each epoch, put back to each epoch, and drawn afresh."""
        asked = CHECKPOINTS if self.reinit_at is None else self.reinit_at
        put_back = [epoch for epoch in sorted(set(asked)) if epoch < of.recipe.epochs]
        cells = [self._frozen(of, unit, epoch, base) for epoch in sorted(set(self.freeze_at))]
        cells += [self._put_back(of, unit, epoch, base) for epoch in put_back]
        return [*cells, self._fresh(of, unit, base)]

    def _frozen(self, of: Subject, unit: Unit, epoch: int, base: Cell) -> Cell:
        def state(recipe: Recipe) -> State:
            return of.frozen(unit.parameters, recipe, epoch)

        def donor(recipe: Recipe) -> State:
            return of.baseline(recipe).at_epoch(epoch)

        labels = self._labels(of, unit, "frozen", epoch) | {"saved": 1 - of.trainings(state(of.recipe))}
        measures = self._measures(of, state, donor, chosen=True)
        layers = of.layers_of(unit)
        return Cell(labels, measures, {"base": base}, paired=epoch > 0, acts_on=unit.parameters, context=layers)

    def _put_back(self, of: Subject, unit: Unit, epoch: int, base: Cell) -> Cell:
        def donor(recipe: Recipe) -> State:
            return of.baseline(recipe).at_epoch(epoch)

        return self._grafted(of, unit, "reinitialised", epoch, [donor], base)

    def _fresh(self, of: Subject, unit: Unit, base: Cell) -> Cell:
        def donor(draw: int) -> Callable[[Recipe], State]:
            of_draw = (draw,) if draw else ()  # the first is as it was when there was one
            return lambda recipe: Initial(recipe.network, derive(recipe.seed, "rerandomised", *of_draw))

        return self._grafted(of, unit, "rerandomised", None, [donor(draw) for draw in range(self.draws)], base)

    def _grafted(
        self,
        of: Subject,
        unit: Unit,
        what: str,
        epoch: int | None,
        donors: Sequence[Callable[[Recipe], State]],
        base: Cell,
    ) -> Cell:
        """A unit of the trained network as each of some donors has it."""
        chosen = self.together and what == "reinitialised" and not epoch  # for the set found robust

        def measures(donor: Callable[[Recipe], State]) -> Callable[[Recipe], Mapping[str, Measure]]:
            def state(recipe: Recipe) -> State:
                return Graft(of.baseline(recipe).final, unit.parameters, donor(recipe))

            return self._measures(of, state, donor, chosen, self.training_accuracy)

        first, *others = map(measures, donors)
        return Cell(
            self._labels(of, unit, what, epoch) | {"saved": None},
            first,
            {"base": base},
            paired=True,
            decides=not epoch,  # put back to one epoch after another, a layer passes the tolerance somewhere
            acts_on=unit.parameters if what == "reinitialised" else (),
            context=of.layers_of(unit),
            draws=others,
        )

    def _robust_alone(self, cell: Cell, of: Subject, store: Store) -> bool:
        return cell.labels["epoch"] == 0 and self.passes(self.row(cell, of, store))

    def _robust(self, of: Subject, units: list[Unit], base: Cell, robust: list[Cell]) -> list[Cell]:
        """All units found robust alone: frozen together, and put back together."""
        cells = []
        for what, act in (("frozen", self._frozen), ("reinitialised", self._put_back)):
            names = [cell.labels["layer"] for cell in robust if cell.labels["intervention"] == what]
            if len(names) > 1:
                joined = _joined(of, "robust", "+".join(names), [unit for unit in units if unit.name in names])
                cells.append(act(of, joined, 0, base))
        return cells

    def _labels(self, of: Subject, unit: Unit, what: str, epoch: int | None) -> Row:
        return {
            "layer": unit.name,
            "scope": unit.scope,
            "intervention": what,
            "epoch": epoch,
            "parameters": of.size(unit.parameters),
            "trained": of.size(of.but(unit.parameters) if what == "frozen" else of.trainable),
        }

    def _measures(
        self,
        of: Subject,
        state: Callable[[Recipe], State],
        donor: Callable[[Recipe], State],
        chosen: bool = False,
        on_training: bool = True,
    ) -> Callable[[Recipe], Mapping[str, Measure]]:
        """What is measured of a state; on held-out examples only where a choice is read from it."""
        splits = (*evaluated(of.recipe)[: 2 if on_training else 1], *(self.held_out if chosen else ()))

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            found = of.evaluations(recipe, state(recipe), *splits)
            return {**found, "distance": Distance(of.baseline(recipe).final, donor(recipe))}

        return measures

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        moved = [results["distance"][layer] for layer in cell.context]
        count = sum(part["count"] for part in moved)
        return {
            "distance_l2": sqrt(sum(part["squares"] for part in moved) / count),
            "distance_linf": max(part["largest"] for part in moved),
        }


def _is_of(row: Row, of: Subject, swept: Sequence[str]) -> bool:
    return all(row[name] == getattr(of.recipe, name) for name in swept)


def _sets(of: Subject, units: list[Unit]) -> list[Unit]:
    """All but one unit, every prefix and every suffix, of more than one unit."""
    groups = [("all but", unit.name, [other for other in units if other is not unit]) for unit in units]
    groups += [("prefix", f"{units[0].name}…{units[i].name}", units[: i + 1]) for i in range(1, len(units) - 1)]
    groups += [("suffix", f"{units[i].name}…{units[-1].name}", units[i:]) for i in range(1, len(units) - 1)]
    return [_joined(of, *group) for group in groups if len(group[2]) > 1]


def _joined(of: Subject, scope: str, name: str, units: Sequence[Unit]) -> Unit:
    return Unit(f"{scope} {name}", scope, of.ordered(name for unit in units for name in unit.parameters))
