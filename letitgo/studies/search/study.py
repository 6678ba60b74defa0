"""Which layers may stay frozen, all together? The values to compute, and the rows they give.

Stage by stage: the baseline, and each unit of it put back to early weights; set after set, each looked at early and
trained to the end where it may still pass; the sets that are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from math import inf, sqrt
from statistics import fmean
from typing import Any, ClassVar

from letitgo.errors import BadRequest
from letitgo.plan import At, Graft, Measure, State
from letitgo.plan.cost import step_memory
from letitgo.recipes import Recipe
from letitgo.recipes.own import ASSUMED
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Looks, Results, Row
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.search.options import SearchOptions
from letitgo.studies.search.strategy import Units, following, least, ranked
from letitgo.studies.statistics import ALPHA
from letitgo.studies.subject import Subject, Unit

JUDGED = 4
"""The most sets that are judged on the test set."""
ERROR = 0.05
"""The probability of calling any set robust that is not, over all looks at all sets judged."""

EARLY = 3
"""A set is looked at after one part in so many of its training."""
ALLOWED, ALLOWED_EARLY = 1.0, 3.0
"""Standard errors of the held-out examples that a drop may be beyond the tolerance: to pass, and to be trained on."""

Plan = Mapping[str, int]
"""Unit → the epoch that it is frozen from."""


@dataclass(frozen=True)
class Trial:
    """A set that is tried.

    Attributes:
        plan: The set.
        until: The epoch that it is trained up to; None for the end.
    """

    plan: Plan
    until: int | None = None


class Search(SearchOptions, CellStudy):
    """Which layers may stay frozen, all together? See :class:`SearchOptions` for the options."""

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = ("accuracy", "drop", "rise")
    chosen: ClassVar[str] = "validation_"

    @property
    def sequential(self) -> bool:
        """True also of a fixed number of seeds: sets are tried under fewer of them than they are judged under."""
        return True

    @cached_property
    def subjects(self) -> list[Subject]:
        return [self._subject(recipe) for recipe in self.trained]

    def _subject(self, recipe: Recipe) -> Subject:
        plain = Subject(recipe, 2 * self.most, self.statistics)
        if (tuning := self._tuning) is None:
            return plain
        return replace(plain, start=cache(lambda recipe: tuning.start(plain, recipe)))

    @cached_property
    def _tuning(self) -> Finetune | None:
        """Fine-tuning of the same, which knows where the pretrained weights are."""
        if self.pretrained is None:
            return None
        return Finetune(self.recipes, self.pretrained, layers=self.layers, blocks=self.blocks, by=self.by, keep="none")

    def check_subject(self, of: Subject) -> None:
        if of.recipe.own is not None and not of.recipe.own.validates:
            raise BadRequest(
                f"search tries sets on held-out examples, which only the task {of.recipe.task!r} knows: give it a "
                "method validate(model)"
            )
        if of.recipe.own is not None and self.save == "memory":
            raise BadRequest(
                f"save memory counts letitgo's own training step: what that of the task {of.recipe.task!r} holds is "
                "not known"
            )
        if self._tuning is not None:
            self._tuning.check_subject(of)
        if not of.units(self.layers, self.blocks, self.by):
            raise BadRequest(f"none of the layers asked for trains in {of.recipe.model!r}")
        if self.budget is not None:
            network = Searched(self, of)
            saved = network.saved(dict.fromkeys(network.units, self.freeze_at[0]))
            if saved < self.budget:
                raise BadRequest(
                    f"budget is {self.budget:g}: all that may be frozen in {of.recipe.model!r} saves {saved:.3g}"
                )

    @property
    def promise(self) -> str:
        """What the search may cost, said beforehand."""
        under = f"each of {self.tries} seeds" if self.tries > 1 else "one seed"
        judged = f"up to {JUDGED} sets are then judged under as many seeds as that takes, {self.most} at most"
        if self.budget is not None:
            judged = f"the set that is found is then measured under {self.most} seeds"
        return f"the search spends at most {self.spend:g} trainings under {under}; {judged}"

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        network = Searched(self, of)
        base = network.baseline()
        put_back = [network.put_back(unit, epoch, base) for epoch in sorted(self.freeze_at) for unit in network.units]
        early: dict[int | None, Cell] = {epoch: network.baseline(epoch) for epoch in network.early}
        yield [base, *put_back, *early.values()]
        tried, judged = list[Cell](), list[Cell]()
        while len(judged) < JUDGED:
            refused = [cell.labels["frozen"] for cell in judged]
            ahead = network.following if self.budget is None else network.smaller
            while (trial := ahead(put_back, tried, refused, store)) is not None:
                tried.append(network.tried(trial, early.get(trial.until, base), tried))
                yield [tried[-1]]
                if network.excess(tried[-1], store) is None:
                    return
            plan = network.best(tried, refused, store)
            if plan is None:
                return
            judged.append(network.judged(plan, base, [*tried, *judged]))
            yield [judged[-1]]
            there = len(self.found(judged[-1], of, store))
            if self.tolerance is None or there < (judged[-1].count or 0):
                return
            if judged[-1].drops[""].verdict(self.tolerance / 100) == "robust":
                return

    def looks(self, of: Subject, store: Store, cells: Sequence[Cell]) -> Looks:
        return Certificate(self, of, store, cells)

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        if cell.labels["row"] != "unit":
            return {"rise": None}
        before, after = results["base"]["validation"], results["validation"]
        if "loss" not in before:  # a task of the user's own may give its metric alone
            return {"rise": self.recipes[0].dataset.task.metric.drop(before, after)}
        before, after = before["loss"], after["loss"]
        return {"rise": None if before is None or after is None else after - before}

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row; whether its set is chosen; of those judged, the trainings of all up to there under all seeds; of
        those tried, whether they were within the tolerance."""
        row = super().row(cell, of, store)
        row["chosen"] = row["row"] == "judged" and (
            row["verdict"] == "robust" if self.budget is None else self._learned(cell, of, store)
        )
        network = Searched(self, of)
        row["trainings"] = network.trainings(cell) if row["row"] == "judged" else None
        excess = network.excess(cell, store) if isinstance(cell.context, Trial) else None
        row["within"] = None if excess is None or self.budget is not None else excess <= 0
        return row

    def answer(self, rows: Sequence[Row]) -> Row | None:
        """The set that is chosen, as a program reads it; None if there is none."""
        row = next((row for row in rows if row["chosen"]), None)
        if row is None:
            return None
        tried = [other for other in sets_tried(rows) if _same_recipe(self, row, other)]
        return {
            "frozen": [unit for unit, epoch in row["frozen"].items() if not epoch],
            "from_epoch": {unit: epoch for unit, epoch in row["frozen"].items() if epoch},
            **{name: row[name] for name in ("saved", "drop_mean", "drop_ci95", "n")},
            "error": ERROR if self.budget is None else None,
            "spent": tried[-1]["spent"],
            "trainings": row["trainings"],
        }


def sets_tried(rows: Sequence[Row]) -> list[Row]:
    """The last row of each set tried: at the end, or early where it was not trained on."""
    last = {row["step"]: row for row in rows if row["row"] == "tried" or (row["row"] == "early" and row["frozen"])}
    return list(last.values())


def _same_recipe(study: Search, row: Row, other: Row) -> bool:
    return all(row[name] == other[name] for name in study.swept)


@dataclass(frozen=True)
class Searched:
    """A network under search.

    Attributes:
        study: The options.
        of: The network.
    """

    study: Search
    of: Subject

    @cached_property
    def units(self) -> dict[str, Unit]:
        """What is frozen as one, by name, in the network's order."""
        return {unit.name: unit for unit in self.of.units(self.study.layers, self.study.blocks, self.study.by)}

    # The rows

    def baseline(self, until: int | None = None) -> Cell:
        """Everything trained, to the end or up to an epoch."""

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            if until is None:
                return self.of.evaluations(recipe, self.of.baseline(recipe).final, "test", "validation")
            return self.of.evaluations(recipe, self.of.baseline(recipe).at_epoch(until), "validation")

        return Cell(self._labels("baseline" if until is None else "early", {}, until), measures, judged=False)

    def put_back(self, name: str, epoch: int, base: Cell) -> Cell:
        """A unit of the trained network put back to its weights at an epoch, and at the next."""

        def measured(at: int) -> Callable[[Recipe], Mapping[str, Measure]]:
            def measures(recipe: Recipe) -> Mapping[str, Measure]:
                run = self.of.baseline(recipe)
                state = Graft(run.final, self.units[name].parameters, run.at_epoch(at))
                return self.of.evaluations(recipe, state, "validation")

            return measures

        first, *others = (measured(at) for at in (epoch, epoch + 1) if at < self.of.recipe.epochs)
        labels = self._labels("unit", {name: epoch})
        return Cell(labels, first, {"base": base}, judged=False, paired=True, draws=others, context={name: epoch})

    def tried(self, trial: Trial, base: Cell, before: Sequence[Cell]) -> Cell:
        """A set under the seeds of the search, on held-out examples alone."""

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            return self.of.evaluations(recipe, self.state(trial.plan, recipe, trial.until), "validation")

        trials = [*(cell.context for cell in before), trial]
        step = len({tuple(other.plan.items()) for other in trials})
        labels = self._labels("tried" if trial.until is None else "early", trial.plan, trial.until, step)
        labels["spent"] = self.spent(trials)
        return Cell(labels, measures, {"base": base}, judged=False, paired=True, context=trial)

    def judged(self, plan: Plan, base: Cell, before: Sequence[Cell]) -> Cell:
        """A set under as many seeds as its verdict on the test set needs."""

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            return self.of.evaluations(recipe, self.state(plan, recipe), "test", "validation")

        number = 1 + sum(cell.judged for cell in before)
        labels = self._labels("judged", plan, step=number)
        paired = min(plan.values()) > 0 or self.of.start is not None
        return Cell(labels, measures, {"base": base}, paired=paired, context=before)

    def _labels(self, kind: str, plan: Plan, until: int | None = None, step: int | None = None) -> Row:
        parameters = self.of.size(name for unit in plan for name in self.units[unit].parameters)
        return {
            "row": kind,
            "step": step,
            "until": until,
            "set": named(plan, list(self.units)),
            "frozen": dict(plan),
            "parameters": parameters,
            "saved": None if kind == "unit" else self.saved(plan),
            "spent": None,
        }

    # What is tried

    @cached_property
    def early(self) -> list[int]:
        """The epochs at which sets are looked at early."""
        return list(dict.fromkeys(at for epoch in self.study.freeze_at if (at := self._early(epoch)) is not None))

    def _early(self, epoch: int) -> int | None:
        """Where a set that is frozen from an epoch on is looked at early.

        None where training is too short for that, or is code of the user's own that cannot go on from there.
        """
        if self.of.recipe.own is not None and not self.of.recipe.own.resumes:
            return None
        at = epoch + round((self.of.recipe.epochs - epoch) / EARLY)
        return at if at > epoch else None

    def trials(self, plan: Plan) -> list[Trial]:
        """How a set is tried: looked at early, and trained to the end; all at once where nothing is left to train."""
        at = self._early(max(plan.values()))
        trains = self.of.but(name for unit in plan for name in self.units[unit].parameters)
        return [*([Trial(plan, at)] if at and trains else []), Trial(plan)]

    def following(
        self, put_back: Sequence[Cell], tried: Sequence[Cell], refused: Sequence[Plan], store: Store
    ) -> Trial | None:
        """What to try next, epoch by epoch, the earliest first; None once all is settled or spent.

        Args:
            put_back: The units put back, whose rise in loss ranks them.
            tried: What was tried so far.
            refused: Those that the test set did not find robust; they are split as if they had failed before.
            store: Where the results are.
        """
        epochs = sorted(self.study.freeze_at)
        for i, epoch in enumerate(epochs):
            harm = self._harm([cell for cell in put_back if epoch in cell.context.values()], store)
            if harm is None:
                return None
            before = [cell for cell in tried if max(cell.context.plan.values()) < epoch]
            spent = self.spent([cell.context for cell in before])
            limit = spent + (self.study.spend - spent) / (len(epochs) - i)
            plan = self.best(before, refused, store) or {}
            frozen, excess = Units(plan), dict[Units, float]()
            order = ranked(harm, self._estimated, frozen)
            while (units := following(order, excess, frozen)) is not None:
                asked = self._ordered({**dict.fromkeys(units, epoch), **plan})
                found = self._outcome(asked, tried, limit, store)
                if isinstance(found, Trial):
                    return found
                if found is None:
                    break
                excess[units] = inf if asked in refused else found
        return None

    def smaller(
        self, put_back: Sequence[Cell], tried: Sequence[Cell], refused: Sequence[Plan], store: Store
    ) -> Trial | None:
        """What to try next of the sets that save the budget; None once all is settled or spent.

        First the set that the ranking names, then the same without one of its units, the most harmful first, which
        others make up for. What costs less than the best so far, early and at the end, takes its place.
        """
        [epoch] = self.study.freeze_at
        harm = self._harm(put_back, store)
        if harm is None:
            return None
        best, left_out = None, Units()
        for unit in [None, *sorted(harm, key=lambda unit: -harm[unit])]:
            without = left_out if unit is None else left_out | {unit}
            order = [unit for unit in ranked(harm, self._estimated) if unit not in without]
            units = least(order, harm, lambda units: self._reaches(self._plan(units, epoch)))
            if units is None or (best is not None and units == Units(best)):
                continue
            plan = self._plan(units, epoch)
            found = self._compared(plan, best, tried, store)
            if isinstance(found, Trial):
                fits = self.spent([*(cell.context for cell in tried), found]) <= self.study.spend
                return found if fits else None
            if found:
                best, left_out = plan, without
        return None

    def _compared(self, plan: Plan, best: Plan | None, tried: Sequence[Cell], store: Store) -> Trial | bool:
        """Whether a set costs less than the best so far; what is yet to be trained to tell."""
        known = {(tuple(cell.context.plan.items()), cell.context.until): cell for cell in tried}
        for trial in self.trials(plan):
            own = known.get((tuple(plan.items()), trial.until))
            if own is None:
                return trial
            rival = known.get((tuple((best or {}).items()), trial.until))
            drop, limit = self.drop(own, store), inf if rival is None else self.drop(rival, store)
            if drop is None or limit is None or drop >= limit:
                return False
        return True

    def _reaches(self, plan: Plan) -> bool:
        return self.study.budget is None or self.saved(plan) >= self.study.budget

    def _outcome(self, plan: Plan, tried: Sequence[Cell], limit: float, store: Store) -> Trial | float | None:
        """How far beyond what it is allowed a set is; what is yet to be trained to tell; None where nothing may be.

        A set that was looked at early, and that too little is left for to train to the end, passes or fails by that.
        """
        last = None
        for trial in self.trials(plan):
            known = next((cell for cell in tried if cell.context == trial), None)
            if known is None:
                if self.spent([*(cell.context for cell in tried), trial]) <= limit:
                    return trial
                break
            last, found = known, self.excess(known, store)
            if found is None or found > 0:
                return inf if found is None else found
        return last and self.excess(last, store, ALLOWED)

    def best(self, tried: Sequence[Cell], refused: Sequence[Plan], store: Store) -> Plan | None:
        """The set that saves most of those that passed on held-out examples and were not refused."""
        last = {tuple(cell.context.plan.items()): cell for cell in tried}.values()
        passed = [cell for cell in last if cell.context.plan not in refused]
        if self.study.budget is not None:
            ended = [cell for cell in passed if cell.context.until is None]
            drops = [inf if (drop := self.drop(cell, store)) is None else drop for cell in ended]
            return ended[drops.index(min(drops))].context.plan if drops and min(drops) < inf else None
        passed = [cell for cell in passed if (excess := self.excess(cell, store, ALLOWED)) is not None and excess <= 0]
        best = max(passed, key=lambda cell: cell.labels["saved"], default=None)
        return None if best is None else best.context.plan

    def _harm(self, put_back: Sequence[Cell], store: Store) -> dict[str, float] | None:
        """How much the loss rises where a unit is put back; None where that is not measured yet."""
        harm = dict[str, float]()
        for cell in put_back:
            found = list(self.study.found(cell, self.of, store).values())
            if not found:
                return None
            rises = [inf if one["rise"] is None else one["rise"] for one in found]
            harm[next(iter(cell.context))] = sum(rises) / len(rises)
        return harm

    def excess(self, cell: Cell, store: Store, allowed: float | None = None) -> float | None:
        """How far the mean drop on held-out examples is beyond what a set is allowed, a fraction.

        That is the tolerance and some standard errors of a difference of two shares of the held-out examples: by
        default those to be trained on where the set is looked at early, else those to pass. None where a set is not
        measured under every seed of the search.
        """
        found = self.study.found(cell, self.of, store)
        drop = self.drop(cell, store)
        if drop is None or drop == inf or self.study.tolerance is None:
            return drop
        metric, error = self.of.metric, 0.0
        if metric.share:
            base = self.study.found(cell.against["base"], self.of, store)
            name = f"validation_{metric.name}"
            shares = [fmean(one[name] for one in side) for side in (found.values(), map(base.__getitem__, found))]
            error = sqrt(sum(share * (1 - share) for share in shares) / self._held_out(cell, store))
        if allowed is None:
            allowed = ALLOWED if cell.context.until is None else ALLOWED_EARLY
        return drop - self.study.tolerance / 100 - allowed * error

    def _held_out(self, cell: Cell, store: Store) -> int:
        """How many answers there are on held-out examples."""
        if self.of.recipe.own is None:
            return self.of.recipe.dataset.split("validation").labels.numel()
        [first, *_] = cell.results(self.of.recipe, store)
        return int(first["validation"].get("n") or ASSUMED)

    def drop(self, cell: Cell, store: Store) -> float | None:
        """The mean drop on held-out examples; None where it is not measured under every seed of the search."""
        drops = [one["validation_drop"] for one in self.study.found(cell, self.of, store).values()]
        if len(drops) < self.study.tries:
            return None
        return inf if None in drops else fmean(drops)

    def _ordered(self, plan: Plan) -> Plan:
        return {unit: plan[unit] for unit in self.units if unit in plan}

    def _plan(self, units: Units, epoch: int) -> Plan:
        return self._ordered(dict.fromkeys(units, epoch))

    # What it saves and costs

    def state(self, plan: Plan, recipe: Recipe, until: int | None = None) -> State:
        """The network trained with each unit frozen from its epoch on, to the end or up to an epoch."""
        frozen: dict[int, list[str]] = {}
        for unit, epoch in plan.items():
            frozen.setdefault(epoch, []).extend(self.units[unit].parameters)
        final = self.of.scheduled(frozen, recipe)
        return final if until is None or not isinstance(final, At) else final.run.at_epoch(until)

    def saved(self, plan: Plan) -> float:
        """Share that is saved of the training arithmetic or the trained parameters, over all of training, or of the
        most that a training step holds in memory."""
        if self.study.save == "arithmetic":
            return 1 - self.of.trainings(self.state(plan, self.of.recipe))
        if self.study.save == "memory":
            trains = self.of.but(name for unit in plan for name in self.units[unit].parameters)
            return 1 - self._held(trains) / self._held(self.of.trainable) if trains else 1.0
        epochs = self.of.recipe.epochs
        frozen = sum((1 - epoch / epochs) * self.of.size(self.units[unit].parameters) for unit, epoch in plan.items())
        return frozen / self.of.size(self.of.trainable)

    def _held(self, trains: tuple[str, ...]) -> int:
        return step_memory(self.of.recipe, trains, "frozen" if self.study.statistics == "frozen" else "follow")

    def spent(self, trials: Sequence[Trial]) -> float:
        """Arithmetic of the baseline and of trying some sets under one seed, in trainings of the whole network."""
        recipe = self.of.recipe
        states = (self.state(trial.plan, recipe, trial.until) for trial in trials)
        return self.of.trainings(self.of.baseline(recipe).final, *states)

    def trainings(self, judged: Cell) -> float:
        """Arithmetic of the baseline, of all sets tried, and of those judged up to one of them, under all seeds."""
        cells = [judged.against["base"], *judged.context, judged]
        recipe, total = self.of.recipe, 0.0
        for seed in range(len(self.of.seeds)):
            states = [
                self.state(cell.labels["frozen"], recipe, cell.labels["until"])
                for cell in cells
                if seed < (cell.count or self.study.tries)
            ]
            total += self.of.trainings(*states)
        return total

    def _estimated(self, units: Units) -> float:
        """What a set saves from the start: its longest prefix counted as one, the others one by one."""
        prefix = 0
        names = list(self.units)
        while prefix < len(names) and names[prefix] in units:
            prefix += 1
        return self._prefixes[prefix] + sum(self._alone[name] for name in names[prefix:] if name in units)

    @cached_property
    def _prefixes(self) -> list[float]:
        names = list(self.units)
        return [self.saved(dict.fromkeys(names[:i], 0)) if i else 0.0 for i in range(len(names) + 1)]

    @cached_property
    def _alone(self) -> dict[str, float]:
        return {name: self.saved({name: 0}) for name in self.units}


@dataclass(frozen=True)
class Certificate(Looks):
    """Looks at a set that is judged, such that all looks at all sets together err in 5 %.

    The first set judged has half of the error, the second a quarter, and so on. A set that more seeds will not decide
    is given up. Sets that are only tried are measured under the seeds of the search.
    """

    def numbers(self) -> Iterator[int]:
        study: Any = self.study
        if not self.cells[0].judged:
            return iter([study.tries])
        return super().numbers() if study.seeds == "auto" and study.budget is None else iter([study.most])

    def alpha(self, judged: Sequence[Cell]) -> float:
        study: Any = self.study
        level = ALPHA if study.seeds == "auto" and study.budget is None else ERROR
        if study.budget is not None:
            return level
        return level / 2 ** judged[0].labels["step"] if judged else level

    def is_open(self, cell: Cell) -> bool:
        """Whether more seeds may decide: at the most seeds an interval of half its width now would have to."""
        drop, study = cell.drops[""], self.study
        if study.tolerance is None:  # type: ignore[attr-defined]
            return False
        if not super().is_open(cell) or drop.half is None or cell.count is None:
            return False
        room = study.tolerance / 100 - drop.mean  # type: ignore[attr-defined]
        return room > drop.half * (cell.count / study.most) ** 0.5 / 2  # type: ignore[attr-defined]


def named(plan: Plan, every: Sequence[str]) -> str:
    """A set in a few words: ``fc1 to fc4, fc6; fc7 from epoch 4``.

    Args:
        plan: The set.
        every: All units, in the network's order.
    """
    parts = [
        ", ".join(names) + (f" from epoch {epoch}" if epoch else "") for epoch, names in spans(plan, every).items()
    ]
    return "; ".join(parts)


def spans(plan: Plan, every: Sequence[str]) -> dict[int, list[str]]:
    """Epoch → what is frozen from it, three units or more in a row as ``fc1 to fc4``."""
    found: dict[int, list[str]] = {}
    for epoch, group in groupby(every, lambda unit: plan.get(unit, -1)):
        row = list(group)
        if epoch >= 0:
            found.setdefault(epoch, []).extend([f"{row[0]} to {row[-1]}"] if len(row) > 2 else row)
    return dict(sorted(found.items()))
