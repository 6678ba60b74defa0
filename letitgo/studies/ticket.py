"""Lottery tickets: which weights could have been trained alone? (FC18, arXiv:1803.03635; FDRC19, arXiv:1903.01611)

A network is trained, its smallest weights are pruned, and what is left is put back to where it was at the beginning,
or at an early step, and trained again; and so on, level by level. Beside each ticket stand its controls: the same mask
with fresh weights, a random mask with as many weights in each layer, and both; and what this project asks besides: the
pruned weights frozen at their initial values instead of zero, and the pruned weights trained instead of the ticket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed, check_names
from letitgo.execute import Executor
from letitgo.plan import (
    Absent,
    Apart,
    Complement,
    Curve,
    Density,
    Evaluation,
    Initial,
    Kept,
    Masked,
    Measure,
    Pruned,
    Run,
    Scrambled,
    State,
    Stored,
)
from letitgo.plan.states import At
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.statistics import ci95, mean
from letitgo.studies.sweep import with_seed, with_seeds
from letitgo.value import derive

Variant = Literal["fresh weights", "random mask", "random mask and fresh weights", "frozen", "complement"]
Row = dict[str, Any]

DENSE = "everything"
CONTROLS: tuple[Variant, ...] = ("fresh weights", "random mask", "random mask and fresh weights")
STABLE = ("ticket", "random mask")
"""What stability is told of."""


@dataclass(frozen=True)
class Lottery:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: One recipe, or those of a sweep. With ``validation`` examples held out, the early-stop step is told.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's.
        levels: How often is pruned.
        rate: Share of the weights still there that is pruned each time, in (0, 1).
        output_rate: The same of the last layer; half the rate by default, as FC18, and none where the scope is global.
            0: it is not pruned.
        rates: Pattern of layers → their own rate, 0 where they are not pruned; later ones go over earlier ones.
        scope: Whether the smallest of each ``layer`` are pruned, or of all layers together (``global``).
        rewind: Where the weights are put back to: ``0``, or as in ``500it`` or ``1ep``.
        one_shot: Prune the trained network once to each level's density, instead of level by level.
        variants: What is trained under each mask, besides the ticket.
        at: The levels at which those are trained, and stability is told; all if not given.
        stability: Also train under another order of the data, to tell the stability of FDRC19.

    Raises:
        BadRequest: A rate is outside (0, 1), or something is none of what there is.
    """

    recipes: tuple[Recipe, ...]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    levels: int = 5
    rate: float = 0.2
    output_rate: float | None = None
    rates: tuple[tuple[str, float], ...] = ()
    scope: weights.Scope = "layer"
    rewind: str = "0"
    one_shot: bool = False
    variants: tuple[Variant, ...] = CONTROLS
    at: tuple[int, ...] | None = None
    stability: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in Lottery((Recipe(),))")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        if self.levels < 1:
            raise BadRequest(f"levels is {self.levels}: at least 1 is needed")
        if not 0 < self.rate < 1:
            raise BadRequest(f"rate is {self.rate:g}: give a share above 0 and below 1")
        for pattern, rate in self.rates:
            if not 0 <= rate < 1:
                raise BadRequest(f"the rate of {pattern} is {rate:g}: give a share below 1, or 0 not to prune it")
        self._check_scope()
        if not re.fullmatch(r"0|\d+(it|ep)", self.rewind):
            raise BadRequest(f"rewind is {self.rewind!r}: give 0, or steps as in 500it, or epochs as in 1ep")
        check_names("variants", self.variants, get_args(Variant))
        for level in self.at or ():
            if not 1 <= level <= self.levels:
                raise BadRequest(f"at names level {level}: give levels of 1 to {self.levels}")

    def _check_scope(self) -> None:
        if self.output_rate is not None and not 0 <= self.output_rate < 1:
            raise BadRequest(f"output-rate is {self.output_rate:g}: give a share below 1, or 0 not to prune it")
        if self.scope not in get_args(weights.Scope):
            raise BadRequest(f"scope is {self.scope!r}: it can be layer or global")
        if self.scope == "global" and (self.rates or self.output_rate not in (None, 0, self.rate)):
            raise BadRequest("one scope for all weights has one rate: leave rates out, and output-rate 0 or the rate")

    def check(self) -> None:
        """Make sure that every recipe can be trained and pruned.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or the rewinding goes past the end of training.
        """
        for part in self.parts:
            check_recipe(part.recipe)
            part.check()

    @cached_property
    def parts(self) -> list[Drawn]:
        """One part of the study per recipe."""
        return [Drawn(self, recipe) for recipe in self.recipes]

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [value for part in self.parts for value in part.values()]

    def rows(self, store: Store) -> list[Row]:
        """One row for each level and variant, from what the store holds."""
        return [
            {**{name: getattr(part.recipe, name) for name in self.swept}, **part.row(level, variant, store)}
            for part in self.parts
            for level, variant in part.cells
        ]


def export_ticket(study: Lottery, level: int, path: str, store: Store, workers: int = 0) -> weights.Ticket:
    """Find a ticket, if the store does not hold it, and write it to a file.

    Its start tells the ``seed`` and the ``step`` of the run that its values are taken from, the ``recipe`` of that run
    and its ``recipe_key``, and the ``level``.

    Args:
        study: Of one recipe; of its first seed.
        level: Which level's.
        path: The file, replaced as a whole.
        store: Where runs are kept.
        workers: As in :func:`letitgo.compute`.

    Raises:
        BadRequest: There is no such level, or the study or the file cannot be.
        WorkFailed: Finding it does not come through.
    """
    if not 1 <= level <= study.levels:
        raise BadRequest(f"level is {level}: give one of 1 to {study.levels}, or more levels")
    study.check()
    part = study.parts[0]
    mask, recipe = part.mask(level, part.recipe), part.recipe
    failures = Executor(store, workers).compute([mask])
    if failures:
        raise WorkFailed(f"the ticket was not found: {failures[0].what}: {failures[0].why}")
    start = {
        "seed": recipe.seed,
        "step": part.begin,
        "level": level,
        "recipe": recipe.fields(),
        "recipe_key": recipe.key,
    }
    ticket = weights.Ticket(mask.load(store), start)
    weights.save_ticket(path, ticket.masks, start)
    return ticket


@dataclass(frozen=True)
class Drawn:
    """The study of one recipe."""

    study: Lottery
    recipe: Recipe

    @cached_property
    def seeds(self) -> list[Recipe]:
        """The recipe under each seed."""
        return with_seeds(self.recipe, self.study.seeds)

    @cached_property
    def _module(self) -> nn.Module:
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def _all(self) -> tuple[str, ...]:
        return weights.trainable_names(self._module)

    @cached_property
    def rates(self) -> dict[str, float]:
        """Parameter name → share pruned at each level; of those that are pruned."""
        study = self.study
        names = tuple(name for name in weights.prunable(self._module) if name in self._all)
        rates = dict.fromkeys(names, study.rate)
        if names:
            default = 0.0 if study.scope == "global" else study.rate / 2
            rates[names[-1]] = default if study.output_rate is None else study.output_rate
        for pattern, rate in study.rates:
            chosen = weights.select(self._module, pattern)
            if not any(name in chosen for name in names):
                raise BadRequest(f"rates names {pattern!r}, and nothing there is pruned: it can be {', '.join(names)}")
            rates |= {name: rate for name in names if name in chosen}
        return {name: rate for name, rate in rates.items() if rate}

    @cached_property
    def begin(self) -> int:
        """The step that the weights are put back to."""
        number, unit = re.fullmatch(r"(\d+)(it|ep)?", self.study.rewind).groups()  # type: ignore[union-attr]
        return int(number) * (self.recipe.steps_per_epoch if unit == "ep" else 1)

    def check(self) -> None:
        """Make sure that there is something to prune, and training left after rewinding.

        Raises:
            BadRequest: There is not, or a pattern matches nothing.
        """
        if not self.rates:
            raise BadRequest(f"nothing of {self.recipe.model!r} would be pruned: set output-rate, or rates above 0")
        if self.begin >= self.recipe.steps:
            raise BadRequest(
                f"rewind is {self.study.rewind}: training ends at step {self.recipe.steps}, so go back to one before"
            )

    @property
    def _at(self) -> Sequence[int]:
        return range(1, self.study.levels + 1) if self.study.at is None else self.study.at

    @cached_property
    def cells(self) -> list[tuple[int, str]]:
        """Level and variant of each row."""
        study = self.study
        return [(0, DENSE)] + [
            (level, variant)
            for level in range(1, study.levels + 1)
            for variant in ("ticket", *(study.variants if level in self._at else ()))
        ]

    def dense(self, recipe: Recipe) -> Run:
        """Everything trained."""
        return Run(Initial(recipe.network, recipe.seed), self._all, recipe)

    @cached_property
    def _masks(self) -> dict[Recipe, list[Pruned]]:
        return {recipe: [] for recipe in self.seeds}

    def mask(self, level: int, recipe: Recipe) -> Pruned:
        """The mask of a level."""
        study, known = self.study, self._masks[recipe]  # each is made once: it holds all those before
        while len(known) < level:
            if study.one_shot:
                rates = {name: 1 - (1 - rate) ** (len(known) + 1) for name, rate in self.rates.items()}
                known.append(Pruned(self.dense(recipe).final, rates, study.scope))
            else:
                run = self.run(len(known), "ticket", recipe)
                known.append(Pruned(run.final, self.rates, study.scope, known[-1] if known else None))
            known[-1].key  # noqa: B018  (level by level, so that a key rests on no deep recursion)
        return known[level - 1]

    def run(self, level: int, variant: str, recipe: Recipe, order: int | None = None) -> Run:
        """The run of a cell; ``order``: the seed of another order of the data."""
        if level == 0:
            return self.dense(recipe)
        start: State = self.dense(recipe).at(self.begin)
        mask, begin = self.mask(level, recipe), self.begin
        if variant.startswith("random mask"):
            mask = Scrambled(mask, derive(recipe.seed, "random mask", level))
        if variant.endswith("fresh weights"):
            start, begin = Initial(recipe.network, derive(recipe.seed, "fresh weights", level)), 0
        if variant == "complement":
            mask = Complement(mask)
        if variant not in ("frozen", "complement"):
            start = Masked(start, mask)
        besides = tuple(name for name in self._all if name not in self.rates)
        return Run(start, Kept(mask, besides), recipe if order is None else with_seed(recipe, order), begin)

    def measures(self, level: int, variant: str, recipe: Recipe) -> dict[str, Measure]:
        """What the row of a cell is read from, of one seed."""
        run = self.run(level, variant, recipe)
        final = run.final
        assert isinstance(final, At)
        found: dict[str, Measure] = {
            split: Evaluation.under(recipe, final, split)  # type: ignore[arg-type]
            for split in ("test", "train")
        }
        if recipe.validation:
            found["curve"] = Curve(final)
        if isinstance(run.trains, Kept):
            mask = run.trains.mask
            found["density"] = Density(mask)
            if self.study.stability and variant in STABLE and level in self._at:
                again = self.run(level, variant, recipe, derive(recipe.seed, "another order")).final
                found["pruning"] = Apart(self.dense(recipe).final, final, mask)
                found["order"] = Apart(again, final, mask)
        return found

    def values(self) -> list[Stored]:
        """The measures of all cells."""
        return [
            measure
            for recipe in self.seeds
            for level, variant in self.cells
            for measure in self.measures(level, variant, recipe).values()
        ]

    def _ticket(self, level: int) -> tuple[int, str]:
        return (level, "ticket") if level else (0, DENSE)

    def row(self, level: int, variant: str, store: Store) -> Row:
        """One tidy row; over the seeds that the store holds. Accuracies and drops are fractions."""
        found: list[dict[str, Any]] = []
        for recipe in self.seeds:
            try:
                one = {name: m.result(store) for name, m in self.measures(level, variant, recipe).items()}
                base = {name: m.result(store) for name, m in self.measures(0, DENSE, recipe).items()}
                ticket = {name: m.result(store) for name, m in self.measures(*self._ticket(level), recipe).items()}
            except Absent:
                continue
            found.append({**one, "base": base, "ticket": ticket})
        accuracies = [one["test"]["accuracy"] for one in found]
        drops = [one["base"]["test"]["accuracy"] - one["test"]["accuracy"] for one in found]
        beside = variant not in (DENSE, "ticket")  # a ticket, so that it can be held against that
        below = [one["ticket"]["test"]["accuracy"] - one["test"]["accuracy"] for one in found if beside]
        curves = [(one["curve"], one["base"]["curve"], one["ticket"]["curve"]) for one in found if "curve" in one]
        return {
            "level": level,
            "variant": variant,
            **left(self._module, found[0].get("density", {}) if found else None),
            "accuracy_mean": mean(accuracies),
            "accuracy_ci95": ci95(accuracies),
            "accuracy_min": min(accuracies, default=None),
            "accuracy_max": max(accuracies, default=None),
            "train_accuracy_mean": mean([one["train"]["accuracy"] for one in found]),
            "drop_mean": mean(drops),
            "drop_ci95": ci95(drops),
            "below_ticket_mean": mean(below),
            "below_ticket_ci95": ci95(below),
            **_early(curves, beside),
            **{
                f"{kind}_{measure}_{of}": value
                for kind in ("pruning", "order")
                for measure in ("l2", "angle")
                for of, value in _spread([one[kind][measure] for one in found if kind in one]).items()
            },
            "n": len(found),
        }


def left(module: nn.Module, density: dict[str, Any] | None) -> Row:
    """How many weights are left of all that pruning could be about, together and layer by layer.

    Args:
        module: The network.
        density: What :class:`~letitgo.plan.Density` tells of those that are pruned; None where nothing is known.
    """
    if density is None:
        return {"weights_left": None, "density": None, "layers": "", "empty": ""}
    sizes = {name: module.get_parameter(name).numel() for name in weights.prunable(module)}
    kept = {name: density[name]["kept"] if name in density else size for name, size in sizes.items()}
    return {
        "weights_left": sum(kept.values()),
        "density": sum(kept.values()) / sum(sizes.values()),
        "layers": ", ".join(f"{name} {n / sizes[name]:.4g}" for name, n in kept.items()),
        "empty": ", ".join(name for name, n in kept.items() if n == 0),
    }


def _early(curves: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]], beside: bool) -> Row:
    """When the loss on the held-out examples was least and the accuracy then: against everything, and the ticket.

    Args:
        curves: Of each seed: its own, that of everything trained, and the ticket's.
        beside: Whether it is another than the ticket's.
    """
    stops = [float(own["stop"]) for own, _, _ in curves]
    accuracies = [own["test_accuracy"] for own, _, _ in curves]
    told = {
        "stop_ratio": [own["stop"] / base["stop"] for own, base, _ in curves],
        "stop_ratio_ticket": [own["stop"] / ticket["stop"] for own, _, ticket in curves if beside],
        "stop_accuracy": accuracies,
        "stop_drop": [base["test_accuracy"] - own["test_accuracy"] for own, base, _ in curves],
        "stop_below_ticket": [ticket["test_accuracy"] - own["test_accuracy"] for own, _, ticket in curves if beside],
    }
    return {
        **{f"stop_{of}": value for of, value in _spread(stops).items()},
        **{f"stop_accuracy_{of}": value for of, value in _spread(accuracies).items() if of != "mean"},
        **{f"{name}_{of.__name__}": of(values) for name, values in told.items() for of in (mean, ci95)},
    }


def _spread(values: list[float]) -> Row:
    return {"mean": mean(values), "min": min(values, default=None), "max": max(values, default=None)}
