"""Which cheap rule tells best what may stay frozen? The values to compute, and the rows they give."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import sqrt
from statistics import fmean
from typing import Any, ClassVar

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import (
    Distance,
    Estimated,
    Fisher,
    Gradients,
    Graft,
    Influence,
    Initial,
    Measure,
    RunningStatistics,
    SingularValues,
    State,
)
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.advisers.options import AdvisersOptions
from letitgo.studies.cell import Cell, CellStudy, Results, Row
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.statistics import spearman
from letitgo.studies.subject import Subject, Unit
from letitgo.value import derive

Harm = Mapping[str, float]
"""Unit → how harmful a rule says that freezing it is; more is worse. Without units that it says nothing of."""

DRAWS = 100
"""Random orders under each seed."""
FEWEST = 3
"""The fewest units that can be ranked."""


@dataclass(frozen=True)
class Rule:
    """A way to tell beforehand what freezing a unit costs.

    Attributes:
        says: What it is called.
        reads: Names of the measures that it reads of the baseline and of each unit.
        trains: Whether they take the baseline's training.
    """

    says: str
    reads: tuple[str, ...] = ()
    trains: bool = False


RULES = {
    "gradient": Rule("gradient norm", ("gradients",)),
    "relative_gradient": Rule("relative gradient (Auto-RGN)", ("gradients",)),
    "fisher": Rule("Fisher information", ("fisher",)),
    "signal": Rule("signal to noise (Spectrum)", ("singular values",)),
    "condition": Rule("condition number", ("singular values",)),
    "influence": Rule("block influence", ("influence",)),
    "distance": Rule("distance moved", ("distance",), trains=True),
    "rise": Rule("put back: rise in loss", ("validation", "put back 0", "put back 1"), trains=True),
    "fall": Rule("put back: drop", ("validation", "put back 0", "put back 1"), trains=True),
    "first": Rule("first layers first"),
    "last": Rule("last layers first"),
    "parameters": Rule("fewest weights first"),
    "random": Rule("random order"),
    "one_seed": Rule("each frozen, one seed"),
}
"""The rules. The last one is no cheap one: it is what a rule that were never wrong about one seed would reach."""
SCORED = tuple(name for name, rule in RULES.items() if rule.reads)
OF_RULES = ("correlation", "regret", "ranked")
OF_TOLERANCES = ("harmless", "forgone", "excess")


class Advisers(AdvisersOptions, CellStudy):
    """Which cheap rule tells best what may stay frozen? See :class:`AdvisersOptions` for the options."""

    quantities: ClassVar[tuple[str, ...]] = ("accuracy", "drop", *SCORED)

    @cached_property
    def origin(self) -> str:
        """Where training starts."""
        return "initialization" if self.pretrained is None else "pretrained"

    def check_subject(self, of: Subject) -> None:
        if self.pretrained is not None:
            self.finetune.check_subject(of)
        if (count := len(self.units(of))) < FEWEST:
            raise BadRequest(
                f"{count} of the layers or blocks asked for train in {of.recipe.model!r}: to rank takes {FEWEST}"
            )

    @cached_property
    def finetune(self) -> Finetune:
        """The study whose start it shares, where the network is pretrained."""
        assert self.pretrained is not None
        return Finetune(self.recipes, self.pretrained, layers=self.layers, blocks=self.blocks, by=self.by, keep="none")

    def units(self, of: Subject) -> list[Unit]:
        """What is frozen as one, in the network's order."""
        return of.units(self.layers, self.blocks, self.by)

    # What is measured

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        @cache
        def start(recipe: Recipe) -> State:
            return Initial(recipe.network, recipe.seed) if self.pretrained is None else self.finetune.start(of, recipe)

        def whole(recipe: Recipe) -> Mapping[str, Measure]:
            final = of.run(start(recipe), of.trainable, recipe).final
            return of.evaluations(recipe, final, "test", "validation")

        base = Cell(self._labels("baseline") | {"saved": 0.0}, whole, judged=False)
        yield [base, *(self._frozen(of, unit, base, start) for unit in self.units(of))]

    def _frozen(self, of: Subject, unit: Unit, base: Cell, start: Callable[[Recipe], State]) -> Cell:
        """A unit frozen from the start, and what rules read of it."""

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            begin = start(recipe)
            run = of.run(begin, of.but(unit.parameters), recipe)
            state = run.final if run.moves else run.start
            return of.evaluations(recipe, state, "test") | self._read(of, unit, begin, recipe)

        run = of.run(start(of.recipe), of.but(unit.parameters), of.recipe)
        whole = of.run(start(of.recipe), of.trainable, of.recipe).cost()
        labels = self._labels("unit", unit=unit.name) | {
            "parameters": of.size(unit.parameters),
            "saved": 1 - run.cost() / whole if run.moves else 1.0,
        }
        return Cell(labels, measures, {"base": base}, judged=False, paired=True, context=(unit, of.layers_of(unit)))

    def _read(self, of: Subject, unit: Unit, start: State, recipe: Recipe) -> dict[str, Measure]:
        """What rules read, by name."""
        run, settled = of.run(start, of.trainable, recipe), start
        if start.untried and weights.running_statistics(of.module):
            settled = Estimated(RunningStatistics(start, recipe.dataset))
        back = {
            f"put back {epoch}": of.evaluation(
                recipe, Graft(run.final, unit.parameters, run.at_epoch(epoch)), "validation"
            )
            for epoch in range(min(2, recipe.epochs))
        }
        return {
            "gradients": Gradients(start, recipe),
            "fisher": Fisher(settled, recipe),
            "singular values": SingularValues(start),
            "influence": Influence(settled, recipe),
            "distance": Distance(run.final, run.at(0)),
            **back,
        }

    def _labels(self, kind: str, **own: Any) -> Row:
        labels = ("unit", "rule", "tolerance", "parameters", "saved", "trainings")
        return {"row": kind, "start": self.origin, **dict.fromkeys(labels), **own}

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        if cell.context is None:
            return dict.fromkeys(SCORED)
        (unit, layers), metric = cell.context, self.recipes[0].dataset.task.metric
        names = unit.parameters
        squares, base = results["gradients"], results["base"]["validation"]
        batches = zip(*(squares[name]["gradients"] for name in names), strict=True)
        gradient, size = fmean(sqrt(sum(batch)) for batch in batches), sum(squares[name]["weights"] for name in names)
        spectra = [results["singular values"][name] for name in names if name in results["singular values"]]
        moved = [results["distance"][layer] for layer in layers]
        back = [result for name, result in results.items() if name.startswith("put back")]
        return {
            "gradient": gradient,
            "relative_gradient": gradient / sqrt(size) if size else None,
            "fisher": sum(results["fisher"][name] for name in names),
            "signal": _mean([_share(one["signal"], one["noise"] * one["largest"]) for one in spectra]),
            "condition": _mean([_share(one["largest"] - one["least"], one["least"]) for one in spectra]),
            "influence": results["influence"].get(unit.name),
            "distance": sqrt(sum(part["squares"] for part in moved) / sum(part["count"] for part in moved)),
            "rise": _mean([_less(result["loss"], base["loss"]) for result in back]),
            "fall": _mean([metric.drop(base, result) for result in back]),
        }

    # What the rules are worth

    def rows(self, store: Store) -> list[Row]:
        """A row for the baseline and each unit; then one for each rule, and one for each rule and tolerance."""
        found = super().rows(store)
        for labels, by_seed in self._contests(store):
            names = OF_RULES if labels["tolerance"] is None else OF_TOLERANCES
            own = list(by_seed.values())
            values = {name: [one[name] for one in own if one[name] is not None] for name in names}
            summed = {key: value for name in names for key, value in self.summary(name, values[name]).items()}
            found.append(labels | summed | {"n": len(own)})
        columns = dict.fromkeys(name for row in found for name in row)
        return [columns | row for row in found]

    def seed_rows(self, store: Store) -> list[Row]:
        """One row for the baseline, each unit and each rule under each seed that the store holds."""
        contests = self._contests(store)
        return super().seed_rows(store) + [
            {**labels, "seed": seed, **numbers} for labels, found in contests for seed, numbers in found.items()
        ]

    def _contests(self, store: Store) -> Iterator[tuple[Row, dict[int, Row]]]:
        """Labels of each rule, alone and with each tolerance, and what it is worth by seed."""
        for i, of in enumerate(self.subjects):
            columns = {name: getattr(self.recipes[i], name) for name in self.swept}
            [[base, *cells]] = self.settled(of, store)
            field = self._field(of, cells, store)
            for name in RULES:
                cost = self._trainings(name, of, base, cells)
                labels = columns | self._labels("rule", rule=name, trainings=cost)
                judged = {seed: field.judged(name, seed) for seed in field.seeds}
                yield labels, {seed: {one: numbers[one] for one in OF_RULES} for seed, numbers in judged.items()}
                for tolerance in self.tolerances:
                    own = labels | {"row": "tolerance", "tolerance": tolerance}
                    yield own, {seed: numbers[tolerance] for seed, numbers in judged.items()}

    def _field(self, of: Subject, cells: Sequence[Cell], store: Store) -> Field:
        found = {cell.labels["unit"]: self.found(cell, of, store) for cell in cells}
        seeds = [
            recipe.seed
            for recipe in of.seeds
            if all(by_seed.get(recipe.seed, {}).get("drop") is not None for by_seed in found.values())
        ]
        labels = {cell.labels["unit"]: cell.labels for cell in cells}
        return Field(labels, found, seeds if len(seeds) > 1 else [], self.tolerances)

    def _trainings(self, name: str, of: Subject, base: Cell, cells: Sequence[Cell]) -> float:
        """What a rule costs under one seed, in trainings of the whole network; counted, evaluations included."""
        if name == "one_seed":
            return 1 + sum(1 - cell.labels["saved"] for cell in cells)
        read = {
            measure
            for cell in (base, *cells)
            for which, measure in cell.measures(of.recipe).items()
            if which in RULES[name].reads
        }
        return RULES[name].trains + sum(measure.cost() for measure in read) / of.baseline(of.recipe).cost()


@dataclass(frozen=True)
class Field:
    """What a rule is held against.

    Attributes:
        labels: Of each unit, in the network's order.
        found: Of each unit, the drop and the scores under each seed.
        seeds: Those under which the drop of every unit is known; none of fewer than two.
        tolerances: In points.
    """

    labels: Mapping[str, Row]
    found: Mapping[str, Mapping[int, Mapping[str, Any]]]
    seeds: Sequence[int]
    tolerances: Sequence[float]

    def judged(self, rule: str, seed: int) -> dict[Any, Any]:
        """What a rule that is read under one seed is worth against the mean drops under all the others.

        Returns:
            ``correlation``, ``regret`` and ``ranked``; and for each tolerance ``harmless``, ``forgone``, ``excess``.
        """
        others = [other for other in self.seeds if other != seed]
        drops = {unit: fmean(by_seed[other]["drop"] for other in others) for unit, by_seed in self.found.items()}
        draws = [self._held(harm, drops) for harm in self._harms(rule, seed)]
        alone = {name: _mean([draw[name] for draw in draws]) for name in OF_RULES}
        within = {
            t: {name: _mean([draw[t][name] for draw in draws]) for name in OF_TOLERANCES} for t in self.tolerances
        }
        return {**alone, **within}

    def _harms(self, rule: str, seed: int) -> list[Harm]:
        """What a rule says; of random orders several."""
        units = list(self.labels)
        places = {unit: float(place) for place, unit in enumerate(units)}
        if rule == "random":
            shuffled = (random.Random(derive(seed, "adviser", i)).sample(units, len(units)) for i in range(DRAWS))
            return [{unit: float(place) for place, unit in enumerate(order)} for order in shuffled]
        if rule in ("first", "last"):
            return [places if rule == "first" else {unit: -place for unit, place in places.items()}]
        if rule == "parameters":
            return [{unit: float(labels["parameters"]) for unit, labels in self.labels.items()}]
        scores = {unit: by_seed[seed]["drop" if rule == "one_seed" else rule] for unit, by_seed in self.found.items()}
        return [{unit: score for unit, score in scores.items() if score is not None}]

    def _held(self, harm: Harm, drops: Mapping[str, float]) -> dict[Any, Any]:
        """What one order is worth. Of equal harm, what comes first in the network is taken first."""
        order = sorted(harm, key=harm.__getitem__)
        found: dict[Any, Any] = {
            "correlation": spearman([harm[unit] for unit in order], [drops[unit] for unit in order]),
            "regret": drops[order[0]] - min(drops.values()) if order else None,
            "ranked": len(order),
        }
        for tolerance in self.tolerances:
            harmless = [unit for unit, drop in drops.items() if drop <= tolerance / 100]
            taken = order[: len(harmless)]
            there, saved = (
                sum(self.labels[unit]["saved"] for unit in own) for own in (harmless, {*harmless} & {*taken})
            )
            found[tolerance] = {
                "harmless": len(harmless),
                "forgone": 1 - saved / there if there else None,
                "excess": max(0.0, *(drops[unit] - tolerance / 100 for unit in taken)) if taken else None,
            }
        return found


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None of nothing."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _share(part: float, rest: float) -> float | None:
    """A part of a whole; None of nothing."""
    return part / (part + rest) if part + rest else None


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
