"""How much of a network has to be learned? (RT18, arXiv:1802.00844)

A share of the filters, units or single weights of each layer is learned and the rest stays as it was drawn, or is
zero; or only the norms, the biases, the classifier or one layer is learned (Frankle, Schwab and Morcos,
arXiv:2003.00152). Each is held against as many single values chosen at random from the whole network, and against
everything learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, nearest
from letitgo.plan import Absent, Delta, Evaluation, Fraction, Initial, Run, Scattered, State, Stored, Zeroed
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import with_seeds

Of = Literal["filters", "weights"]
Rest = Literal["initial", "zero"]
Norms = Literal["learned", "frozen"]
Classifier = Literal["learned", "frozen", "share"]
Only = Literal["norms", "biases", "classifier", "layers"]
Row = dict[str, Any]

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)


@dataclass(frozen=True)
class Policy:
    """What is learned of a network, and what becomes of the rest.

    Attributes:
        name: ``everything``, ``filters``, ``weights``, ``norms only``, …, ``random values``.
        share: Of the filters or weights of each layer; None where it is not about shares.
        rest: What the rest of a layer is that is learned in part.
        norms: Whether scales and shifts of norms are learned; ``none`` where there are none.
        classifier: Whether the last layer is; ``share``: as much of it as of any other.
        names: The parameters that are learned as a whole.
        within: The parameters of which a share is learned, or in which values are scattered.
        count: How many values are learned that are scattered at random.
    """

    name: str
    share: float | None
    rest: Rest
    norms: str
    classifier: str
    names: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    count: int = 0

    def choice(self, seed: int) -> Fraction | Scattered | None:
        """What moves down to single weights, drawn under a seed; None where whole parameters move alone."""
        if self.count:
            return Scattered(self.count, seed, self.within)
        if self.share is None or not self.within:
            return None
        return Fraction(self.share, self.of, seed, self.within, self.names)

    @property
    def of(self) -> Of:
        """What a share is of."""
        return "weights" if self.name == "weights" else "filters"


@dataclass(frozen=True)
class LearnedFraction:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's. What is chosen at random differs from seed to seed too.
        shares: Shares learned of each layer, in (0, 1].
        of: What they are shares of: ``filters`` (units, rows; the bias of each with it) or single ``weights``, of
            which no biases are.
        rest: What is not learned of those layers stays ``initial`` or is ``zero``.
        norms: Whether norms are learned besides a share.
        classifier: Whether the last layer is learned besides a share: ``learned`` or ``frozen`` as a whole, or
            ``share`` of it as of the others.
        only: What is learned by itself, all else frozen: ``norms``, ``biases``, ``classifier``, each of the
            ``layers``. By default what of these there is.
        layers: Patterns of the layers that are learned one at a time; all but norms by default.
        blocks: Patterns of modules that are learned as one.
        controls: Also learn as many values as each policy does, chosen at random from the whole network.
        statistics: Whether running statistics of frozen normalization layers follow the data.
        tolerance: Largest drop in accuracy that does no harm, a fraction.

    Raises:
        BadRequest: A share is outside (0, 1], or a policy is none.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    shares: tuple[float, ...] = SHARES
    of: tuple[Of, ...] = ("filters",)
    rest: tuple[Rest, ...] = ("initial",)
    norms: tuple[Norms, ...] = ("learned",)
    classifier: tuple[Classifier, ...] = ("learned",)
    only: tuple[Only, ...] | None = None
    layers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    controls: bool = True
    statistics: weights.Statistics = "follow"
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in LearnedFraction((Recipe(),))")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        if not 0 <= self.tolerance < 1:
            raise BadRequest(f"tolerance is {100 * self.tolerance:g} points: give at least 0 and less than 100")
        for share in self.shares:
            if not 0 < share <= 1:
                raise BadRequest(f"shares names {share:g}: each has to be above 0 and at most 1")
        for name, known in (("of", Of), ("rest", Rest), ("norms", Norms), ("classifier", Classifier), ("only", Only)):
            for given in getattr(self, name) or ():
                if given not in get_args(known):
                    raise BadRequest(f"{name} names {given!r}: {nearest(given, get_args(known))}")
        for name in ("shares", "of", "rest", "norms", "classifier", "only"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise BadRequest(f"{name} has a value twice: {', '.join(map(str, values))}")

    def check(self) -> None:
        """Make sure that every recipe can be trained under every policy.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or there is none of what is to be learned alone.
        """
        for part in self.parts:
            check_recipe(part.recipe)
            part.check()

    @cached_property
    def parts(self) -> list[Fractioned]:
        """One part of the study per recipe."""
        return [Fractioned(self, recipe) for recipe in self.recipes]

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [value for part in self.parts for policy in part.policies for value in part.values(policy)]

    def rows(self, store: Store) -> list[Row]:
        """One row per policy, from what the store holds."""
        return [
            {**{name: getattr(part.recipe, name) for name in self.swept}, **part.row(policy, store)}
            for part in self.parts
            for policy in part.policies
        ]


@dataclass(frozen=True)
class Fractioned:
    """The study of one recipe."""

    study: LearnedFraction
    recipe: Recipe

    @cached_property
    def _seeds(self) -> list[Recipe]:
        return with_seeds(self.recipe, self.study.seeds)

    @cached_property
    def _module(self) -> nn.Module:
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {name: parameter.numel() for name, parameter in self._module.named_parameters()}

    @cached_property
    def _all(self) -> tuple[str, ...]:
        return weights.trainable_names(self._module)

    @cached_property
    def _norms(self) -> tuple[str, ...]:
        try:
            found = weights.norms(self._module)
        except BadRequest:
            return ()
        return tuple(name for name in self._all if name in found)

    @cached_property
    def head(self) -> str:
        """Name of the classifier: the last layer that trains and is no norm."""
        owned = {name: layer for layer, names in self.recipe.network.layers.items() for name in names}
        return [owned[name] for name in self._all if name not in self._norms][-1]

    @cached_property
    def _head(self) -> tuple[str, ...]:
        return tuple(name for name in self.recipe.network.layers[self.head] if name in self._all)

    @cached_property
    def _units(self) -> dict[str, tuple[str, ...]]:
        """The layers or blocks that are learned one at a time, with the names of their parameters."""
        wanted = weights.select(self._module, *self.study.layers)
        blocks = weights.blocks(self._module, *self.study.blocks)
        left_out = () if self.study.layers else self._norms
        groups: dict[str, tuple[str, ...]] = {}
        for layer, names in self.recipe.network.layers.items():
            block = next((block for block in blocks if layer == block or layer.startswith(f"{block}.")), None)
            own = [name for name in names if name in wanted and name in self._all]
            own = own if block else [name for name in own if name not in left_out]
            if own:
                groups[block or layer] = groups.get(block or layer, ()) + tuple(own)
        return groups

    @cached_property
    def everything(self) -> Policy:
        """The baseline."""
        return Policy("everything", None, "initial", "learned" if self._norms else "none", "learned", self._all)

    @cached_property
    def policies(self) -> list[Policy]:
        """Everything, the shares, what is learned alone, and the controls; none that only repeats everything."""
        told = [policy for policy in [*self._shares(), *self._alone()] if self.learned(policy) < sum(self._learnable)]
        counts = sorted({self.learned(policy) for policy in told}, reverse=True) if self.study.controls else []
        norms = "random" if self._norms else "none"
        controls = [
            Policy("random values", None, "initial", norms, "random", within=self._all, count=n) for n in counts
        ]
        return [self.everything, *told, *controls]

    @property
    def _learnable(self) -> list[int]:
        return [self._sizes[name] for name in self._all]

    def _shares(self) -> Iterator[Policy]:
        study = self.study
        for of in study.of:
            for rest in study.rest:
                for norms in study.norms if self._norms else ("none",):
                    for classifier in study.classifier:
                        besides = {*(self._norms if norms == "learned" else ())}
                        besides |= {*(self._head if classifier == "learned" else ())}
                        apart = {*self._norms, *(() if classifier == "share" else self._head)}
                        names, within = self._ordered(besides), self._ordered({*self._all} - apart)
                        for share in sorted(study.shares, reverse=True):
                            yield self._share(Policy(of, share, rest, norms, classifier, names, within))

    def _share(self, policy: Policy) -> Policy:
        if not any(self._module.get_parameter(name).ndim > 1 for name in policy.within):
            raise BadRequest(
                f"{self.recipe.model!r} has no filters but those of its classifier {self.head}: "
                "learn a share of that with classifier 'share'"
            )
        if policy.share != 1:
            return policy
        whole = Fraction(1.0, policy.of, 0, policy.within, policy.names).parameters(self.recipe.network)
        return Policy(policy.name, 1.0, policy.rest, policy.norms, policy.classifier, whole)

    def _alone(self) -> Iterator[Policy]:
        asked = get_args(Only) if self.study.only is None else self.study.only
        if "norms" in asked and self._norms:
            yield self._only("norms only", self._norms)
        if "biases" in asked and (names := self._biases):
            yield self._only("biases only", names)
        if "classifier" in asked:
            yield self._only("classifier only", self._head)
        for name, names in self._units.items() if "layers" in asked else ():
            if not ("classifier" in asked and names == self._head):
                yield self._only(f"{name} only", names)

    def _only(self, name: str, names: tuple[str, ...]) -> Policy:
        def of(group: tuple[str, ...]) -> str:
            inside = sum(name in names for name in group)
            return "frozen" if not inside else "learned" if inside == len(group) else "in part"

        return Policy(name, None, "initial", of(self._norms) if self._norms else "none", of(self._head), names)

    @cached_property
    def _biases(self) -> tuple[str, ...]:
        try:
            found = weights.biases(self._module)
        except BadRequest:
            return ()
        return tuple(name for name in self._all if name in found)

    def _ordered(self, names: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self._all if name in names)

    def check(self) -> None:
        """Make sure that the optimiser takes what each policy lets move.

        Raises:
            BadRequest: It does not, or there is none of what is to be learned alone.
        """
        asked, recipe = self.study.only or (), self.recipe
        for what, names in (("norms", self._norms), ("biases", self._biases)):
            if what in asked and not names:
                hint = " (fcn and lenet have them with model-args '{\"norm\": true}')" if what == "norms" else ""
                raise BadRequest(f"only names {what}, but {recipe.model!r} has none{hint}")
        for policy in self.policies:
            module = weights.seeded(recipe.network, recipe.seed)
            self.run(policy, recipe).prepare(module)
            try:
                recipe.make_optimizer(weights.trainable(module))
            except BadRequest as error:
                raise BadRequest(f"{policy.name}, {self.learned(policy):,} values: {error}") from error

    def learned(self, policy: Policy) -> int:
        """How many values may move."""
        choice = policy.choice(self.recipe.seed)
        if choice is None:
            return sum(self._sizes[name] for name in policy.names)
        part = choice.part(self._module)
        return sum(self._sizes[name] for name in part.whole) + sum(int(mask.sum()) for mask in part.entries.values())

    def run(self, policy: Policy, recipe: Recipe) -> Run:
        """The run that a policy asks for."""
        start: State = Initial(recipe.network, recipe.seed)
        choice = policy.choice(recipe.seed)
        if choice is None:
            statistics = "follow" if policy.names == self._all else self.study.statistics
            return Run(start, policy.names, recipe, statistics=statistics)
        if policy.rest == "zero":
            start = Zeroed(start, choice)
        return Run(start, choice, recipe, statistics=self.study.statistics)

    def evaluation(self, policy: Policy, recipe: Recipe, split: Literal["train", "test"]) -> Evaluation:
        """The accuracy a policy ends with, on one of the splits; training labels as they were trained on."""
        return Evaluation.under(recipe, self.run(policy, recipe).final, split)

    def delta(self, policy: Policy, recipe: Recipe) -> Delta:
        """What it takes to keep the trained network beside its start."""
        run = self.run(policy, recipe)
        return Delta(run.final, run.start)

    def values(self, policy: Policy) -> list[Stored]:
        """The measures that the row of a policy is read from."""
        return [
            measure
            for recipe in self._seeds
            for measure in (
                self.evaluation(policy, recipe, "test"),
                self.evaluation(policy, recipe, "train"),
                self.delta(policy, recipe),
            )
        ]

    def row(self, policy: Policy, store: Store) -> Row:
        """One tidy row; over the seeds that the store holds. Accuracies and drops are fractions, sizes bytes."""
        tests, trains, drops, deltas, above = [], [], [], [], []
        control = self._control(policy)
        for recipe in self._seeds:
            try:
                test = self.evaluation(policy, recipe, "test").result(store)["accuracy"]
                train = self.evaluation(policy, recipe, "train").result(store)["accuracy"]
                base = self.evaluation(self.everything, recipe, "test").result(store)["accuracy"]
                delta = self.delta(policy, recipe).result(store)
                chance = control and self.evaluation(control, recipe, "test").result(store)["accuracy"]
            except Absent:
                continue
            tests.append(test)
            trains.append(train)
            drops.append(base - test)
            deltas.append(delta)
            above += [] if chance is None else [test - chance]
        return {
            "policy": policy.name,
            "share": policy.share,
            "rest": policy.rest,
            "norms": policy.norms,
            "classifier": policy.classifier,
            "learned": self.learned(policy),
            "moved": max((delta["moved"] for delta in deltas), default=None),
            "parameters": sum(self._sizes.values()),
            "accuracy_mean": mean(tests),
            "accuracy_ci95": ci95(tests),
            "train_accuracy_mean": mean(trains),
            "gap_mean": mean([train - test for train, test in zip(trains, tests, strict=True)]),
            "drop_mean": mean(drops),
            "drop_ci95": ci95(drops),
            "above_random_mean": mean(above),
            "above_random_ci95": ci95(above),
            "delta_bytes": mean([delta["bytes"] for delta in deltas]),
            "whole_bytes": mean([delta["whole"] for delta in deltas]),
            "n": len(tests),
            "verdict": None if policy is self.everything else verdict(drops, self.study.tolerance),
        }

    def _control(self, policy: Policy) -> Policy | None:
        """As many values chosen at random."""
        if policy.count:
            return None
        count = self.learned(policy)
        return next((other for other in self.policies if other.count == count), None)
