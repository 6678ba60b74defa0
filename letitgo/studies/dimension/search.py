"""The search for the least sufficient dimension, of a network or of one of its layers.

d is tried in steps of ten until the answer lies between two of them; then that interval is halved. What is tried next
depends on what was found and on nothing else that the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, sqrt
from typing import TYPE_CHECKING

import torch
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Evaluation, Initial, Run, Stored, Subspace
from letitgo.recipes import Recipe
from letitgo.recipes.splits import SplitName
from letitgo.store import Store
from letitgo.studies.subject import Subject, Unit

if TYPE_CHECKING:
    from letitgo.studies.dimension.options import DimensionOptions

Looks = dict[int, list[float]]
"""Epoch → accuracy of each seed."""

GLOBAL = {"mnist": 1.0, "cifar10": 0.5}
"""The paper's baselines that are the same for all networks, as accuracies."""
START, STEP = 100, 10
"""The first d that is tried, and the factor to the next until the answer is between two of them."""
MEMORY = 2**32
"""Bytes that a projection may take: dense and sparse ones are not tried beyond."""
MARGIN = 2
"""How many times the recent pace is still hoped for, before a training is given up."""


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
class Search:
    """The search for one network, or for one of its layers.

    Attributes:
        study: The options.
        of: The network under the recipe and its seeds.
        unit: The layer; everything for the whole network.
    """

    study: DimensionOptions
    of: Subject
    unit: Unit

    @property
    def layer(self) -> str:
        """Name of the layer; empty for the whole network."""
        return "" if self.unit.scope == "all" else self.unit.name

    @cached_property
    def within(self) -> tuple[str, ...]:
        """The parameters that are projected."""
        if not self.study.exclude:
            return self.unit.parameters
        excluded = weights.select(self.of.module, *self.study.exclude)
        return tuple(name for name in self.unit.parameters if name not in excluded)

    @cached_property
    def besides(self) -> tuple[str, ...]:
        """The parameters that train outside the subspace."""
        free = self.of.trainable if self.study.others == "trained" else self.unit.parameters
        return tuple(name for name in free if name not in self.within)

    @cached_property
    def size(self) -> int:
        """D: how many weights are projected."""
        return self.of.size(self.within)

    @cached_property
    def least(self) -> int:
        """The smallest d that is possible."""
        return 1 + self.study.said * len(self.of.layers_of(replace(self.unit, parameters=self.within)))

    @cached_property
    def limit(self) -> int:
        """The largest d that is tried."""
        held = {"dense": 4 * self.size, "sparse": 12 * round(self.size**0.5), "fastfood": 0}[self.study.kind]
        return min(self.size, self.study.max_d or self.size, MEMORY // held if held else self.size)

    def check(self) -> None:
        """Make sure that there is something to project, and that every d asked for is in range.

        Raises:
            BadRequest: It is not.
        """
        if not self.within:
            raise BadRequest("nothing is left to project: exclude fewer parameters")
        of = f" of {self.layer}" if self.layer else ""
        for name, asked in (*(("grid", d) for d in self.study.grid), ("max-d", self.study.max_d)):
            if asked is not None and not self.least <= asked <= self.size:
                raise BadRequest(
                    f"{name} is {asked}: give whole numbers from {self.least} to {self.size:,}, "
                    f"the weights{of} that are projected"
                )
        try:
            free = map(self.of.module.get_parameter, self.besides)
            self.of.recipe.make_optimizer([nn.Parameter(torch.zeros(2)), *free])
        except BadRequest as error:
            raise BadRequest(f"in a subspace, which is one vector to the optimiser: {error}") from error

    # What is computed

    def run(self, d: int, recipe: Recipe) -> Run:
        """The run in d dimensions."""
        start = Initial(recipe.network, recipe.seed)
        if not d:
            return self.of.run(start, self.besides, recipe)
        choice = Subspace(d, self.study.kind, recipe.seed, self.within, self.besides, self.study.said)
        return self.of.run(start, choice, recipe)

    @property
    def shown(self) -> SplitName:
        """The split on which baselines and answers are judged."""
        return "test" if self.study.searched_on == "validation" else self.study.searched_on

    def baseline(self, recipe: Recipe, split: SplitName | None = None) -> Evaluation:
        """The accuracy of the network trained in full, on the split that is searched on or another."""
        return self.of.evaluation(recipe, self.of.baseline(recipe).final, split or self.study.searched_on)

    def frozen(self, recipe: Recipe) -> Evaluation:
        """The accuracy with the layer frozen at its initialization and all others trained."""
        return self.of.evaluation(recipe, self.of.frozen(self.unit.parameters, recipe), self.shown)

    def at(self, d: int, epoch: int, split: SplitName | None = None) -> list[Evaluation]:
        """The accuracy in d dimensions after so many epochs under each seed; at first where nothing trains."""
        found = []
        for recipe in self.of.seeds:
            run = self.run(d, recipe)
            state = run.at_epoch(epoch) if d or self.besides else run.start
            found.append(self.of.evaluation(recipe, state, split or self.study.searched_on))
        return found

    def baselines(self) -> list[Stored]:
        """What is measured in any case: the network trained in full, and without the subspace."""
        measured = [self.baseline(recipe) for recipe in self.of.seeds] + self.at(0, self.of.recipe.epochs)
        return [*measured, *(self.frozen(recipe) for recipe in self.of.seeds if self.layer)]

    def judged(self, store: Store) -> list[Stored]:
        """What is measured once the search is over: the baseline and each answer, on the test set."""
        if self.shown == self.study.searched_on:
            return []
        found, _ = self.replay(store)
        answers = [answered(target.accuracy, found)[2] for target in self.targets(store) if found]
        measured = [self.baseline(recipe, self.shown) for recipe in self.of.seeds]
        return [*measured, *(value for d in answers for value in self.at(d, best(found[d])[0], self.shown))]

    def known(self, store: Store) -> list[Stored]:
        """What the search found already, so that a dry run counts it."""
        found, _ = self.replay(store)
        return [value for d, looks in found.items() for epoch in looks for value in self.at(d, epoch)]

    def looks(self, d: int, store: Store) -> Iterator[list[Stored]]:
        """The values of one d, look after look, until every target is exceeded or out of reach."""
        looks: Looks = {}
        for epoch in self._epochs:
            yield [*self.at(d, epoch)]
            looks[epoch] = results(self.at(d, epoch), store)
            if self._settled(looks, store):
                return

    @property
    def _epochs(self) -> list[int]:
        last, every = self.of.recipe.epochs, self.study.stop_every
        return [*range(every, last, every), last] if every else [last]

    # What was found

    def targets(self, store: Store) -> list[Target]:
        """What is to be exceeded; the network's own baseline once it is known."""
        own = results(map(self.baseline, self.of.seeds), store)
        given = self.study.global_baseline
        fixed = GLOBAL.get(self.of.recipe.data) if given is None else given
        found = []
        for threshold in self.study.thresholds:
            if len(own) == len(self.of.seeds):
                found.append(Target(threshold, "own", threshold * average(own)))
            if fixed and threshold * fixed < 1:  # no mean exceeds 1
                found.append(Target(threshold, "global", threshold * fixed))
        return found

    def _looked(self, d: int, store: Store) -> Looks | None:
        """Look after look up to where training in d dimensions ends; None while one is missing."""
        looks: Looks = {}
        for epoch in self._epochs if d else [self.of.recipe.epochs]:
            looks[epoch] = results(self.at(d, epoch), store)
            if len(looks[epoch]) < len(self.of.seeds):
                return None
            if self._settled(looks, store):
                break  # the store may hold more, for other questions
        return looks

    def _settled(self, looks: Looks, store: Store) -> bool:
        """Whether every target is exceeded or out of reach at the last of these looks.

        A target is out of reach where the best mean so far is more than half the way from the initial weights' to the
        target and would not get there by the last epoch at ``MARGIN`` times the pace of the latter half of training.
        """
        targets, start = self.targets(store), results(self.at(0, self.of.recipe.epochs), store)
        if not targets or any(len(accuracies) < len(self.of.seeds) for accuracies in (start, *looks.values())):
            return False
        now, means = max(looks), {epoch: average(accuracies) for epoch, accuracies in looks.items()}
        top, hope = max(means.values()), inf
        if earlier := [epoch for epoch in means if epoch <= now / 2]:
            pace = (top - max(means[epoch] for epoch in earlier)) / (now - max(earlier))
            hope = MARGIN * pace * (self.of.recipe.epochs - now)

        def settled(target: float) -> bool:
            midway = (average(start) + target) / 2
            return top > target or midway < top < target - hope

        return all(settled(target.accuracy) for target in targets)

    def replay(self, store: Store) -> tuple[dict[int, Looks], set[int]]:
        """What the search found, by d, and which d it asks for next; none where the answers are narrow enough.

        It is repeated from its beginning, round by round, so that it depends on its own results alone.
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
            reached = means(known)
            asked = {d for target in self.targets(store) if (d := self.next(target.accuracy, reached)) is not None}
            if not asked:
                return known, set()

    @property
    def _first(self) -> int:
        return max(self.least, min(START, self.limit))

    def next(self, accuracy: float, reached: dict[int, float]) -> int | None:
        """The next d to try for an accuracy to exceed; None where the interval is narrow enough.

        Args:
            accuracy: A fraction.
            reached: d → mean accuracy, of those tried.
        """
        low, high = interval(accuracy, reached)
        if high is None:
            return None if low >= self.limit else min(self.limit, max(self._first, STEP * low))
        if low < self.least:  # nothing below is known but the network without the subspace
            return None if high <= self.least else max(self.least, high // STEP)
        if high - low <= 1 or high <= (1 + self.study.resolution) * low:
            return None
        return min(max(round(sqrt(low * high)), low + 1), high - 1)


def results(evaluations: Iterable[Evaluation], store: Store) -> list[float]:
    """The accuracies that the store holds."""
    found = []
    for evaluation in evaluations:
        try:
            found.append(evaluation.result(store)["accuracy"])
        except Absent:
            continue
    return found


def average(accuracies: Sequence[float]) -> float:
    """The mean that is held against targets."""
    return sum(accuracies) / len(accuracies)


def best(looks: Looks) -> tuple[int, list[float]]:
    """The epoch where the mean is highest, and the accuracies there."""
    return max(looks.items(), key=lambda item: average(item[1]))


def means(found: dict[int, Looks]) -> dict[int, float]:
    """The highest mean accuracy of each d."""
    return {d: average(best(looks)[1]) for d, looks in found.items()}


def answered(accuracy: float, found: dict[int, Looks]) -> tuple[int, int | None, int]:
    """The interval in which the answer lies, and the d that is shown for it: its upper end, else the best tried."""
    reached = means(found)
    low, high = interval(accuracy, reached)
    return low, high, high if high is not None else max(reached, key=reached.__getitem__)


def interval(accuracy: float, reached: dict[int, float]) -> tuple[int, int | None]:
    """The d before the first whose mean exceeds an accuracy, and that first; None where none does.

    Args:
        accuracy: A fraction.
        reached: d → mean accuracy.
    """
    high = min((d for d, own in reached.items() if own > accuracy), default=None)
    return max((d for d in reached if high is None or d < high), default=0), high
