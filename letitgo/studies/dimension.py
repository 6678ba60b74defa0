"""How few dimensions are enough? (LFLY18, arXiv:1804.08838)

Each d is a training run in a random subspace of d dimensions. The answer is the least d whose mean accuracy over the
seeds exceeds a share of a baseline: the network's own, trained in full with the same recipe, and one that is the same
for all networks. It is found by trying d in steps of ten, then halving the interval that is left, and told as that
interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from math import inf, sqrt
from typing import Any, Literal, get_args

import torch
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, nearest
from letitgo.plan import Absent, Evaluation, Initial, Run, State, Stored, Subspace
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import with_seeds
from letitgo.weights.projections import Kind, check_kind

Others = Literal["frozen", "trained"]
Split = Literal["train", "test"]
Row = dict[str, Any]
Looks = dict[int, list[float]]
"""Epoch → accuracy of each seed."""

GLOBAL = {"mnist": 1.0, "cifar10": 0.5}
"""The paper's baselines that are the same for all networks, as accuracies."""
START, STEP = 100, 10
"""The first d that is tried, and the factor to the next until the answer is between two of them."""
MEMORY = 2**32
"""Bytes that a projection may take: dense and sparse ones are not tried beyond."""
MARGIN = 2
"""How many times the pace of late is still hoped for, before a training is given up."""


@dataclass(frozen=True)
class Dimension:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's. Each draws initial weights and a projection of its own.
        thresholds: Shares of a baseline that the mean accuracy is to exceed: 0.9 asks for d_int90.
        global_baseline: An accuracy to hold thresholds against besides the network's own baseline; the paper's for
            the data if not given, or 0 for none.
        kind: Of the projection, as in :func:`letitgo.subspace`.
        resolution: The search ends where the interval's upper end is above its lower by this share, or by 1.
        grid: Dimensions to try in place of a search.
        max_d: The search goes no further than this.
        exclude: Patterns of what trains by itself and not in the subspace.
        said: Whether each layer has a learned scale.
        layers: Patterns of layers that are asked about one at a time; the whole network if not given.
        others: What the other layers do meanwhile: ``frozen`` at their initialization, or ``trained`` in full.
        split: On which the accuracy is measured.
        stop_every: Look at the accuracy every so many epochs and end the training at a d once the mean exceeds all
            that is asked for, or is out of reach of it (see :meth:`Searched.looks`); 0: only the last epoch counts, as
            in the paper.
        tolerance: Largest drop that does no harm, a fraction: of the verdict on a layer frozen at initialization.

    Raises:
        BadRequest: A number is outside its range.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    thresholds: tuple[float, ...] = (0.9,)
    global_baseline: float | None = None
    kind: Kind = "fastfood"
    resolution: float = 0.1
    grid: tuple[int, ...] = ()
    max_d: int | None = None
    exclude: tuple[str, ...] = ()
    said: bool = False
    layers: tuple[str, ...] = ()
    others: Others = "frozen"
    split: Split = "test"
    stop_every: int = 0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in Dimension((Recipe(),))")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        check_kind(self.kind)
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise BadRequest(f"threshold is {threshold:g}: give a share above 0 and at most 1, as in 0.9")
        if not self.thresholds or len(set(self.thresholds)) < len(self.thresholds):
            raise BadRequest("thresholds is to hold at least one share, and none twice")
        if self.global_baseline is not None and not 0 <= self.global_baseline <= 1:
            raise BadRequest(f"global-baseline is {self.global_baseline:g}: give an accuracy up to 1, or 0 for none")
        if not 0 < self.resolution <= 1:
            raise BadRequest(f"resolution is {self.resolution:g}: give a share above 0 and at most 1, as in 0.1")
        if len(set(self.grid)) < len(self.grid):
            raise BadRequest(f"grid has a value twice: {', '.join(map(str, self.grid))}")
        if not 0 <= self.tolerance < 1:
            raise BadRequest(f"tolerance is {100 * self.tolerance:g} points: give at least 0 and less than 100")
        for name, known in (("others", Others), ("split", Split)):
            given = getattr(self, name)
            if given not in get_args(known):
                raise BadRequest(f"{name} is {given!r}: {nearest(given, get_args(known))}")

    @property
    def searches(self) -> bool:
        """Whether results say what is tried next, so that nobody knows beforehand how much that is."""
        return not self.grid

    def check(self) -> None:
        """Make sure that every recipe can be trained in a subspace.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or a dimension is outside its range.
        """
        if self.grid and self.max_d is not None:
            raise BadRequest("max-d ends a search, and a grid is none: leave out one of the two")
        epochs = min(recipe.epochs for recipe in self.recipes)
        if not 0 <= self.stop_every <= epochs:
            raise BadRequest(
                f"stop-every is {self.stop_every}: give a number of epochs up to {epochs}, or 0 for the last one only"
            )
        for recipe in self.recipes:
            check_recipe(recipe)
        for part in self.parts:
            part.check()

    @cached_property
    def parts(self) -> list[Searched]:
        """One search per recipe, or per layer of each."""
        return [
            Searched(self, recipe, layer, names)
            for recipe in self.recipes
            for layer, names in _asked(recipe, self.layers).items()
        ]

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute: baselines, then round after round the dimensions that the searches ask for."""
        yield [value for part in self.parts for value in (*part.baselines(), *part.known(store))]
        tried: set[tuple[int, int]] = set()
        while asked := {(i, d) for i, part in enumerate(self.parts) for d in part.wanted(store)} - tried:
            tried |= asked
            for values in zip_longest(*(self.parts[i].looks(d, store) for i, d in sorted(asked)), fillvalue=()):
                yield [value for some in values for value in some]

    def rows(self, store: Store) -> list[Row]:
        """Of each search the baseline, each d, and the answers, from what the store holds."""
        return [
            {**{name: getattr(part.recipe, name) for name in self.swept}, **row}
            for part in self.parts
            for row in part.rows(store)
        ]


def _asked(recipe: Recipe, patterns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Layer → names of its parameters that train; all of the network under ``""`` without patterns."""
    module = weights.seeded(recipe.network, recipe.seed)
    trains = weights.trainable_names(module)
    if not patterns:
        return {"": trains}
    chosen = weights.select(module, *patterns)
    owned = {
        layer: tuple(name for name in names if name in chosen and name in trains)
        for layer, names in recipe.network.layers.items()
    }
    return {layer: names for layer, names in owned.items() if names}


@dataclass(frozen=True)
class Target:
    """An accuracy to exceed.

    Attributes:
        threshold: Share of the baseline.
        baseline: ``own`` or ``global``.
        accuracy: Threshold times baseline.
    """

    threshold: float
    baseline: str
    accuracy: float


@dataclass(frozen=True)
class Searched:
    """The search for one recipe, or for one layer of its network.

    Attributes:
        study: The study.
        recipe: What is trained on.
        layer: Name of the layer; empty for the whole network.
        names: Parameters of it that train.
    """

    study: Dimension
    recipe: Recipe
    layer: str
    names: tuple[str, ...]

    @cached_property
    def _seeds(self) -> list[Recipe]:
        return with_seeds(self.recipe, self.study.seeds)

    @cached_property
    def _module(self) -> nn.Module:
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def _all(self) -> tuple[str, ...]:
        return weights.trainable_names(self._module)

    @cached_property
    def _within(self) -> tuple[str, ...]:
        """The parameters that are projected."""
        if not self.study.exclude:
            return self.names
        excluded = weights.select(self._module, *self.study.exclude)
        return tuple(name for name in self.names if name not in excluded)

    @cached_property
    def _besides(self) -> tuple[str, ...]:
        """The parameters that train by themselves."""
        free = self._all if self.study.others == "trained" else self.names
        return tuple(name for name in free if name not in self._within)

    @cached_property
    def size(self) -> int:
        """D: how many weights are projected."""
        return self._count(self._within)

    def _count(self, names: Iterable[str]) -> int:
        return sum(self._module.get_parameter(name).numel() for name in names)

    @cached_property
    def least(self) -> int:
        """The least d there is."""
        owned = (set(names) for names in self.recipe.network.layers.values())
        return 1 + self.study.said * sum(not names.isdisjoint(self._within) for names in owned)

    @cached_property
    def limit(self) -> int:
        """The greatest d that is tried."""
        held = {"dense": 4 * self.size, "sparse": 12 * round(self.size**0.5), "fastfood": 0}[self.study.kind]
        return min(self.size, self.study.max_d or self.size, MEMORY // held if held else self.size)

    def check(self) -> None:
        """Make sure that there is something to project, and that all that is asked for is in range.

        Raises:
            BadRequest: It is not.
        """
        if not self._within:
            raise BadRequest("nothing is left to project: exclude fewer parameters")
        of = f" of {self.layer}" if self.layer else ""
        for name, asked in (*(("grid", d) for d in self.study.grid), ("max-d", self.study.max_d)):
            if asked is not None and not self.least <= asked <= self.size:
                raise BadRequest(
                    f"{name} is {asked}: give whole numbers from {self.least} to {self.size:,}, "
                    f"the weights{of} that are projected"
                )
        try:
            self.recipe.make_optimizer([nn.Parameter(torch.zeros(2)), *map(self._module.get_parameter, self._besides)])
        except BadRequest as error:
            raise BadRequest(f"in a subspace, which is one vector to the optimiser: {error}") from error

    def run(self, d: int, recipe: Recipe) -> Run:
        """The run in d dimensions."""
        start = Initial(recipe.network, recipe.seed)
        if not d:
            return Run(start, self._besides, recipe)
        choice = Subspace(d, self.study.kind, recipe.seed, self._within, self._besides, self.study.said)
        return Run(start, choice, recipe)

    def evaluation(self, d: int, recipe: Recipe, epoch: int) -> Evaluation:
        """The accuracy in d dimensions after so many epochs; that of the initial weights where nothing trains."""
        run = self.run(d, recipe)
        return Evaluation.under(recipe, run.at_epoch(epoch) if d or self._besides else run.start, self.study.split)

    def baseline(self, recipe: Recipe) -> Evaluation:
        """The accuracy of the network trained in full."""
        return self._trained(self._all, recipe)

    def frozen(self, recipe: Recipe) -> Evaluation:
        """The accuracy with the layer frozen at its initialization and all others trained."""
        return self._trained(tuple(name for name in self._all if name not in self.names), recipe)

    def _trained(self, names: tuple[str, ...], recipe: Recipe) -> Evaluation:
        start = Initial(recipe.network, recipe.seed)
        state: State = Run(start, names, recipe).final if names else start
        return Evaluation.under(recipe, state, self.study.split)

    def baselines(self) -> list[Stored]:
        """What is measured in any case: the network trained in full, and without the subspace."""
        last = self.recipe.epochs
        kinds = [self.baseline, lambda recipe: self.evaluation(0, recipe, last), *([self.frozen] if self.layer else [])]
        return [kind(recipe) for recipe in self._seeds for kind in kinds]

    def known(self, store: Store) -> list[Stored]:
        """What the search came by already, so that a dry run counts it."""
        found, _ = self._replayed(store)
        looked = [(d, epoch) for d, looks in found.items() for epoch in looks]
        return [self.evaluation(d, recipe, epoch) for d, epoch in looked for recipe in self._seeds]

    def looks(self, d: int, store: Store) -> Iterator[list[Stored]]:
        """The values of one d, look after look, no more of them once every target is exceeded or out of reach.

        It is out of reach where the best mean so far is more than half the way from the initial weights' to the target
        and would not get there by the last epoch at ``MARGIN`` times the pace of the latter half of training so far.
        """
        looks: Looks = {}
        for epoch in self._epochs:
            yield [self.evaluation(d, recipe, epoch) for recipe in self._seeds]
            looks[epoch] = self._at(d, epoch, store)
            if self._settled(looks, store):
                return

    @property
    def _epochs(self) -> list[int]:
        last, every = self.recipe.epochs, self.study.stop_every
        return [*range(every, last, every), last] if every else [last]

    def targets(self, store: Store) -> list[Target]:
        """What is to be exceeded; the network's own baseline once it is known."""
        own = self._results([self.baseline(recipe) for recipe in self._seeds], store)
        given = self.study.global_baseline
        fixed = GLOBAL.get(self.recipe.data) if given is None else given
        found = []
        for threshold in self.study.thresholds:
            if len(own) == len(self._seeds):
                found.append(Target(threshold, "own", threshold * _mean(own)))
            if fixed and threshold * fixed < 1:  # no mean exceeds 1
                found.append(Target(threshold, "global", threshold * fixed))
        return found

    def _looked(self, d: int, store: Store) -> Looks | None:
        """Look after look up to where training in d dimensions ends; None while one is missing."""
        looks: Looks = {}
        for epoch in self._epochs if d else [self.recipe.epochs]:
            looks[epoch] = self._at(d, epoch, store)
            if len(looks[epoch]) < len(self._seeds):
                return None
            if self._settled(looks, store):
                break  # the store may hold more, for other questions
        return looks

    def _at(self, d: int, epoch: int, store: Store) -> list[float]:
        return self._results([self.evaluation(d, recipe, epoch) for recipe in self._seeds], store)

    def _results(self, evaluations: list[Evaluation], store: Store) -> list[float]:
        found = []
        for evaluation in evaluations:
            try:
                found.append(evaluation.result(store)["accuracy"])
            except Absent:
                continue
        return found

    def _settled(self, looks: Looks, store: Store) -> bool:
        """Whether every target is exceeded or out of reach at the last of these looks."""
        targets, start = self.targets(store), self._at(0, self.recipe.epochs, store)
        if not targets or any(len(accuracies) < len(self._seeds) for accuracies in (start, *looks.values())):
            return False
        now, means = max(looks), {epoch: _mean(accuracies) for epoch, accuracies in looks.items()}
        best, hope = max(means.values()), inf
        if earlier := [epoch for epoch in means if epoch <= now / 2]:
            pace = (best - max(means[epoch] for epoch in earlier)) / (now - max(earlier))
            hope = MARGIN * pace * (self.recipe.epochs - now)

        def settled(target: float) -> bool:
            midway = (_mean(start) + target) / 2
            return best > target or midway < best < target - hope

        return all(settled(target.accuracy) for target in targets)

    def wanted(self, store: Store) -> set[int]:
        """The dimensions to try next; none where the answers are narrow enough."""
        return self._replayed(store)[1]

    def _replayed(self, store: Store) -> tuple[dict[int, Looks], set[int]]:
        """What the search came by, by d, and what it asks for next.

        It is gone through again from its beginning, round by round: what it asks for is a function of what it found,
        whatever else the store holds.
        """
        known: dict[int, Looks] = {}
        asked = {0, *self.study.grid}
        while True:
            found = {d: self._looked(d, store) for d in sorted(asked)}
            if missing := {d if d else self._first for d, looks in found.items() if looks is None}:
                return known, missing
            known |= {d: looks for d, looks in found.items() if looks is not None}
            if self.study.grid:
                return known, set()
            means = _means(known)
            asked = {d for target in self.targets(store) if (d := self._next(target.accuracy, means)) is not None}
            if not asked:
                return known, set()

    @property
    def _first(self) -> int:
        return max(self.least, min(START, self.limit))

    def _next(self, accuracy: float, means: dict[int, float]) -> int | None:
        low, high = interval(accuracy, means)
        if high is None:
            return None if low >= self.limit else min(self.limit, max(self._first, STEP * low))
        if low < self.least:  # nothing below is known but the network without the subspace
            return None if high <= self.least else max(self.least, high // STEP)
        if high - low <= 1 or high <= (1 + self.study.resolution) * low:
            return None
        return min(max(round(sqrt(low * high)), low + 1), high - 1)

    def rows(self, store: Store) -> list[Row]:
        """The baseline, each d, and an answer for each accuracy to exceed. Accuracies are fractions."""
        found, _ = self._replayed(store)
        base = self._results([self.baseline(recipe) for recipe in self._seeds], store)
        rows = [self._row("baseline", self.recipe.epochs, base, d=None)]
        rows += [
            {**self._row("d", *_best(found[d]), d=d), "stopped": self._stopped(found[d], store)} for d in sorted(found)
        ]
        if found:
            rows += [self._answer(target, found, store) for target in self.targets(store)]
        return rows

    def _answer(self, target: Target, found: dict[int, Looks], store: Store) -> Row:
        means = _means(found)
        low, high = interval(target.accuracy, means)
        told = high if high is not None else max(means, key=means.__getitem__)
        alone = [
            next((d for d in sorted(found) if _best(found[d])[1][i] > target.accuracy), None)
            for i in range(len(self._seeds))
        ]
        return {
            **self._row("answer", *_best(found[told]), d=high),
            "stopped": None if high == 0 else self._stopped(found[low], store),
            "low": None if high == 0 else low,
            "threshold": target.threshold,
            "baseline": target.baseline,
            "target": target.accuracy,
            "best_d": told,
            "seed_d": alone,
            "bits_per_label": None if high is None else self._bits(high),
            "verdict": self._verdict(store) if self.layer else None,
        }

    def _stopped(self, looks: Looks, store: Store) -> str | None:
        """Why training ended before the last epoch."""
        if self.recipe.epochs in looks:
            return None
        reached = _mean(_best(looks)[1])
        return "exceeded" if all(reached > target.accuracy for target in self.targets(store)) else "given up"

    def _bits(self, d: int) -> float:
        return 32 * (d + self._count(self._besides)) / len(self.recipe.dataset.split("train"))

    def _verdict(self, store: Store) -> str | None:
        """Of freezing the layer at its initialization, all others trained, as ``map`` tells it."""
        base, frozen = (
            self._results([of(recipe) for recipe in self._seeds], store) for of in (self.baseline, self.frozen)
        )
        if not len(base) == len(frozen) == len(self._seeds):
            return None
        return verdict([a - b for a, b in zip(base, frozen, strict=True)], self.study.tolerance)

    def _row(self, kind: str, epoch: int, accuracies: list[float], d: int | None) -> Row:
        return {
            "row": kind,
            "layer": self.layer,
            "others": self.study.others if self.layer else "",
            "kind": self.study.kind,
            "D": self.size,
            "d": d,
            "low": None,
            "threshold": None,
            "baseline": None,
            "target": None,
            "accuracy_mean": mean(accuracies),
            "accuracy_ci95": ci95(accuracies),
            "accuracies": accuracies,
            "epoch": epoch,
            "stopped": None,
            "n": len(accuracies),
            "best_d": None,
            "seed_d": None,
            "bits_per_label": None,
            "verdict": None,
        }


def _mean(accuracies: list[float]) -> float:
    return sum(accuracies) / len(accuracies)


def _best(looks: Looks) -> tuple[int, list[float]]:
    """The epoch where the mean is highest, and the accuracies there."""
    return max(looks.items(), key=lambda item: _mean(item[1]))


def _means(found: dict[int, Looks]) -> dict[int, float]:
    return {d: _mean(_best(looks)[1]) for d, looks in found.items()}


def interval(accuracy: float, means: dict[int, float]) -> tuple[int, int | None]:
    """The d before the first whose mean exceeds an accuracy, and that first; None where none does.

    Args:
        accuracy: A fraction.
        means: d → mean accuracy.
    """
    high = min((d for d, reached in means.items() if reached > accuracy), default=None)
    return max((d for d in means if high is None or d < high), default=0), high
