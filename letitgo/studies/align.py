"""Do layers align? JT18 (arXiv:1810.02032) asked it of deep linear networks and of the dense layers of others.

:class:`Align` trains deep linear networks with one output on separable data of two classes: from several starts, with
the step of the theorem and with a longer one, and once more with each layer frozen at its initialization, which the
theorem does not cover. :class:`AlignDense` measures the dense layers of any network along its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, nearest
from letitgo.plan import Absent, Evaluation, Initial, Run, State, Stored
from letitgo.plan.linear import Descent, MaximumMargin, Synthetic, two_classes
from letitgo.plan.measures import SPECTRA, Spectra
from letitgo.recipes import Recipe
from letitgo.recipes.data import open_data
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean
from letitgo.studies.sweep import with_seeds
from letitgo.training.linear import Law, Rule
from letitgo.training.margin import NotSeparable

Row = dict[str, Any]
Step = Literal["risk", "constant"]

LAWS: tuple[Law, ...] = get_args(Law)
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


@dataclass(frozen=True)
class Align:
    """The study of deep linear networks, as a value: nothing is computed before its values are.

    Args:
        data: ``synthetic``, points of the plane; or a data set by name, as in a recipe.
        classes: Its two classes, −1 and +1.
        examples: How many of them, the first of the training split.
        widths: Units of the hidden layers.
        laws: Of the initial weights: some of ``LAWS``.
        freeze: Layers that are frozen, one at a time, 1 for the first; all by default. From PyTorch's own law.
        steps: Of each descent.
        rule: Of the longer step: see :func:`letitgo.training.linear.descend`.
        rate: Factor of the longer step.
        scale: Factor of the initial weights.
        seed: The first seed: of the initial weights, and of synthetic points.
        seeds: Number of seeds.

    Raises:
        BadRequest: A number is out of range, or a layer or a law does not exist.
    """

    data: str = "synthetic"
    classes: tuple[int, ...] = (0, 1)
    examples: int = 1000
    widths: tuple[int, ...] = (8, 8, 8)
    laws: tuple[Law, ...] = LAWS
    freeze: tuple[int, ...] | None = None
    steps: int = 10_000
    rule: Step = "risk"
    rate: float = 8.0
    scale: float = 1.0
    seed: int = 0
    seeds: int = 3

    def __post_init__(self) -> None:
        least = {"examples": 2, "steps": 1, "seed": 0, "seeds": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise BadRequest(f"{name} is {getattr(self, name)}: give at least {bound}")
        for name in ("rate", "scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadRequest(f"{name} is {getattr(self, name)}: give a number above 0")
        if any(width < 1 for width in self.widths):
            raise BadRequest(f"widths is {'x'.join(map(str, self.widths))}: every layer needs at least one unit")
        for law in self.laws:
            if law not in LAWS:
                raise BadRequest(f"unknown start {law!r}: {nearest(law, LAWS)}")
        if self.rule not in get_args(Step):
            raise BadRequest(f"unknown rule {self.rule!r}: {nearest(self.rule, get_args(Step))}")
        for layer in self.freeze or ():
            if not 1 <= layer <= self.depth:
                raise BadRequest(f"freeze names layer {layer}: there are layers 1 to {self.depth}")
        if self.freeze and self.depth == 1:
            raise BadRequest("freezing the only layer leaves nothing to train: give the network a hidden layer")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """None: a deep linear network is trained by gradient descent on all examples at once."""
        return ()

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths) + 1

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
        layers = range(1, self.depth + 1) if self.freeze is None and self.depth > 1 else self.freeze or ()
        cases = [Case("far", law, self.rule, self.rate) for law in self.laws]
        cases += [Case("theorem", law, "theorem", rate) for law in self.laws for rate in (1.0, 0.5)]
        cases += [Case("frozen", "default", self.rule, self.rate, layer - 1) for layer in layers]
        if layers and "default" not in self.laws:  # what freezing is held against
            cases.append(Case("far", "default", self.rule, self.rate))
        return [*cases, Case("one layer", "default", self.rule, self.rate)]

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

    def _rows(self, case: Case, store: Store) -> Iterator[Row]:
        descents = [self.descent(case, place) for place in range(self.seeds)]
        results = list(_there(descents, store))
        depth = 1 if case.kind == "one layer" else self.depth
        about = {
            "case": case.kind,
            "start": case.law,
            "frozen": None if case.frozen is None else case.frozen + 1,
            "rule": case.rule,
            "rate": case.rate,
        }
        imbalance = mean([result["imbalance"] for result in results])
        for step in descents[0].marks:
            points = [point for result in results for point in result["points"] if point["step"] == step]
            if results and not points:  # all have ended, their risk below what float64 holds
                return
            where = {**about, "step": step, "layer": "network", "n": len(points), "imbalance_mean": imbalance}
            nothing = {key: None for name in (*OF_NETWORK, *OF_LAYER) for key in (f"{name}_mean", f"{name}_ci95")}
            whole = _over_seeds({name: [point[name] for point in points] for name in OF_NETWORK})
            worst = {f"{name}_max": _largest(p[name] for p in points) for name in ("rank_excess", "adjacent_excess")}
            yield {**where, **nothing, **whole, **worst}
            for layer in range(depth):
                kept = {name: [_at(point[name], layer) for point in points] for name in OF_LAYER}
                yield {
                    **{**where, "layer": str(layer + 1), "imbalance_mean": None},
                    **nothing,
                    **_over_seeds(kept),
                    **dict.fromkeys(worst),
                }


@dataclass(frozen=True)
class AlignDense:
    """The study of a network's dense layers along its training, as a value.

    JT18's theorem is about linear networks with one output; of what is seen here it says nothing.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's.
        freeze: Also with each dense layer frozen at its initialization.

    Raises:
        BadRequest: A number is out of range.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    freeze: bool = True

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")

    def check(self) -> None:
        """Make sure that every recipe can be trained and its network has dense layers.

        Raises:
            BadRequest: One cannot, or has none.
        """
        for recipe in self.recipes:
            check_recipe(recipe)
            if not self.layers(recipe):
                raise BadRequest(f"the network {recipe.model!r} has no dense layer (nn.Linear) to measure")

    def layers(self, recipe: Recipe) -> list[str]:
        """Names of the dense layers."""
        return [name for name, part in self._module(recipe).named_modules() if isinstance(part, nn.Linear)]

    def _module(self, recipe: Recipe) -> nn.Module:
        if recipe not in self._modules:
            self._modules[recipe] = weights.seeded(recipe.network, recipe.seed)
        return self._modules[recipe]

    @cached_property
    def _modules(self) -> dict[Recipe, nn.Module]:
        return {}

    def states(self, recipe: Recipe) -> Iterator[tuple[str | None, int, State]]:
        """What is measured under a recipe: the frozen layer, the epoch and the state."""
        names = weights.parameter_names(self._module(recipe))
        start = Initial(recipe.network, recipe.seed)
        base = Run(start, names, recipe)
        for epoch in range(recipe.epochs + 1):
            yield None, epoch, base.at_epoch(epoch)
        for layer in self.layers(recipe) if self.freeze else ():
            own = recipe.network.layers.get(layer, ())
            trains = tuple(name for name in names if name not in own)
            if own and trains:
                yield layer, recipe.epochs, Run(start, trains, recipe).final

    def values(self, recipe: Recipe, state: State) -> tuple[Spectra, Evaluation, Evaluation]:
        """What is read off a state: spectra, and loss and accuracy on the training data and the test data."""
        return (
            Spectra(state),
            Evaluation.under(recipe, state, "train"),
            Evaluation.under(recipe, state, "test"),
        )

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [
            value
            for recipe in self._seeded
            for _, _, state in self.states(recipe)
            for value in self.values(recipe, state)
        ]

    @property
    def _seeded(self) -> list[Recipe]:
        return [seeded for recipe in self.recipes for seeded in with_seeds(recipe, self.seeds)]

    def rows(self, store: Store) -> list[Row]:
        """A row for each recipe, frozen layer, epoch and dense layer; over the seeds that the store holds."""
        rows = []
        for recipe in self.recipes:
            seeded = with_seeds(recipe, self.seeds)
            for moments in zip(*map(self.states, seeded), strict=True):
                frozen, epoch, _ = moments[0]
                found = [
                    results
                    for own, (_, _, state) in zip(seeded, moments, strict=True)
                    if len(results := list(_there(self.values(own, state), store))) == len(self.values(own, state))
                ]
                for place, layer in enumerate(self.layers(recipe)):
                    kept = {
                        name: [_at(spectra[name], place) for spectra, _, _ in found]
                        for name in SPECTRA
                        if name != "layers"
                    }
                    kept["train_loss"] = [train["loss"] for _, train, _ in found]
                    kept["accuracy"] = [test["accuracy"] for _, _, test in found]
                    about = {name: getattr(recipe, name) for name in self.swept}
                    about |= {"frozen": frozen, "epoch": epoch, "layer": layer, "n": len(found)}
                    floor = mean([value for value in kept.pop("floor") if value is not None])
                    rows.append({**about, "floor": floor, **_over_seeds(kept)})
        return rows


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
