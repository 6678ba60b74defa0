"""Do the layers of deep linear networks align? The values to compute, and the rows they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from letitgo.deep_linear.descent import Rule
from letitgo.deep_linear.margin import NotSeparable
from letitgo.deep_linear.options import DeepLinearOptions, Law
from letitgo.deep_linear.values import Descent, MaximumMargin, Synthetic, two_classes
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Stored
from letitgo.recipes import Recipe
from letitgo.recipes.data import open_data
from letitgo.report import Report
from letitgo.store import Store
from letitgo.studies.statistics import ci95, mean

Row = dict[str, Any]

RECORDED = 30
"""Steps at which a descent is measured, spaced evenly on a logarithmic scale."""
OF_NETWORK = ("risk", "norm", "angle", "margin", "angle_left", "first", "drift", "rank_excess", "adjacent_excess")
OF_LAYER = ("ratio", "spectral", "frobenius", "adjacent")


@dataclass(frozen=True)
class Case:
    """One way to train a deep linear network.

    Attributes:
        kind: ``far``: as far as the steps lead. ``theorem``: with the theorem's step, and with half of it for twice as
            many. ``frozen``: a layer stays at its initialization. ``one layer``: logistic regression, for comparison.
        law: Of the initial weights.
        rule: Of the step.
        rate: Factor of the step.
        frozen: The layer that stays, 0 for the first.
    """

    kind: Literal["far", "theorem", "frozen", "one layer"]
    law: Law
    rule: Rule
    rate: float
    frozen: int | None = None


class DeepLinear(DeepLinearOptions):
    """The study of deep linear networks. See :class:`DeepLinearOptions` for the options."""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """None: a deep linear network is trained by gradient descent on all examples at once."""
        return ()

    def report(self, rows: Sequence[Row]) -> Report:
        """What the rows say."""
        from letitgo.deep_linear.report import report

        return report(self, rows)

    def check(self) -> None:
        """Make sure that the data can be separated.

        Raises:
            BadRequest: They cannot, or there are no such data or classes.
        """
        for margin in dict.fromkeys(self.margins):
            try:
                margin.check()
            except NotSeparable:
                first, second, *_ = self.classes
                raise BadRequest(
                    f"classes {first} and {second} of {self.data} cannot be separated by a plane through the origin: "
                    "without a margin the risk does not go to 0, the weights need not grow and no direction is singled "
                    "out, so JT18's theorem says nothing; take other classes or fewer examples"
                ) from None

    @cached_property
    def margins(self) -> list[MaximumMargin]:
        """Of each seed, the maximum margin of its data."""
        if self.data == "synthetic":
            return [MaximumMargin(Synthetic(seed)) for seed in self._seeds]
        return [MaximumMargin(two_classes(open_data(self.data), self.classes, self.examples))] * self.seeds

    @property
    def _seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    @cached_property
    def cases(self) -> list[Case]:
        """All ways of training, the same for each seed."""
        layers = range(1, self.depth + 1) if self.freeze_layers is None and self.depth > 1 else self.freeze_layers or ()
        cases = [Case("far", law, self.rule, self.step_size) for law in self.init]
        cases += [Case("theorem", law, "theorem", rate) for law in self.init for rate in (1.0, 0.5)]
        cases += [Case("frozen", "default", self.rule, self.step_size, layer - 1) for layer in layers]
        if layers and "default" not in self.init:  # what freezing is held against
            cases.append(Case("far", "default", self.rule, self.step_size))
        return [*cases, Case("one layer", "default", self.rule, self.step_size)]

    def descent(self, case: Case, place: int) -> Descent:
        """The training of a case under the seed at a place."""
        marks = {0, *(round(self.steps ** (i / (RECORDED - 1))) for i in range(RECORDED))}
        half = case.kind == "theorem" and case.rate < 1
        return Descent(
            towards=self.margins[place],
            widths=() if case.kind == "one layer" else self.widths,
            law=case.law,
            seed=self._seeds[place],
            rule=case.rule,
            rate=case.rate,
            marks=tuple(step * (2 if half else 1) for step in sorted(marks)),
            frozen=() if case.frozen is None else (case.frozen,),
            scale=self.scale,
        )

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [self.descent(case, place) for place in range(self.seeds) for case in self.cases]

    def rows(self, store: Store) -> list[Row]:
        """For each case and recorded step a row for the network and one for each layer; over the seeds in the store."""
        return [row for case in self.cases for row in self._rows(case, store)]

    def seed_rows(self, store: Store) -> list[Row]:
        """For each case, seed and recorded step a row for the network and one for each layer."""
        rows = []
        for case, (place, seed) in product(self.cases, enumerate(self._seeds)):
            for result in _there([self.descent(case, place)], store):
                for point in result["points"]:
                    where = {**_labels(case), "step": point["step"], "seed": seed}
                    rows.append({**where, "layer": "network", **{name: point[name] for name in OF_NETWORK}})
                    for layer in range(self._depth(case)):
                        own = {name: _at(point[name], layer) for name in OF_LAYER}
                        rows.append({**where, "layer": str(layer + 1), **own})
        return rows

    def _depth(self, case: Case) -> int:
        return 1 if case.kind == "one layer" else self.depth

    def _rows(self, case: Case, store: Store) -> Iterator[Row]:
        descents = [self.descent(case, place) for place in range(self.seeds)]
        results = list(_there(descents, store))
        imbalance = mean([result["imbalance"] for result in results])
        for step in descents[0].marks:
            points = [point for result in results for point in result["points"] if point["step"] == step]
            if results and not points:  # all have ended, their risk below what float64 holds
                return
            where = {**_labels(case), "step": step, "layer": "network", "n": len(points), "imbalance_mean": imbalance}
            nothing = {key: None for name in (*OF_NETWORK, *OF_LAYER) for key in (f"{name}_mean", f"{name}_ci95")}
            whole = _over_seeds({name: [point[name] for point in points] for name in OF_NETWORK})
            worst = {f"{name}_max": _largest(p[name] for p in points) for name in ("rank_excess", "adjacent_excess")}
            yield {**where, **nothing, **whole, **worst}
            for layer in range(self._depth(case)):
                kept = {name: [_at(point[name], layer) for point in points] for name in OF_LAYER}
                yield {
                    **{**where, "layer": str(layer + 1), "imbalance_mean": None},
                    **nothing,
                    **_over_seeds(kept),
                    **dict.fromkeys(worst),
                }


def _labels(case: Case) -> Row:
    return {
        "case": case.kind,
        "start": case.law,
        "frozen": None if case.frozen is None else case.frozen + 1,
        "rule": case.rule,
        "rate": case.rate,
    }


def _there(values: Iterable[Any], store: Store) -> Iterator[Row]:
    for value in values:
        try:
            yield value.result(store)
        except Absent:
            continue


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _over_seeds(measured: dict[str, list[Any]]) -> Row:
    """Mean and interval of each quantity, over the seeds for which it is defined."""
    row: Row = {}
    for name, values in measured.items():
        defined = [value for value in values if value is not None]
        row |= {f"{name}_mean": mean(defined), f"{name}_ci95": ci95(defined)}
    return row
