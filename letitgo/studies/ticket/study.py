"""Which weights could have been trained alone? The values to compute, and the rows they give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute import Executor
from letitgo.plan import (
    Apart,
    At,
    Complement,
    Curve,
    Density,
    Initial,
    Kept,
    Masked,
    Measure,
    Pruned,
    Run,
    Scrambled,
    State,
)
from letitgo.recipes import Recipe
from letitgo.report.words import share_of
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Results, Row, evaluated
from letitgo.studies.subject import Subject
from letitgo.studies.sweep import with_seed
from letitgo.studies.ticket.options import TicketOptions
from letitgo.training import CPU, Place
from letitgo.value import derive

DENSE = "everything"
STABLE = ("ticket", "random mask")
"""The variants whose stability is measured."""
EARLY = ("stop", "stop_accuracy", "stop_ratio", "stop_ratio_ticket", "stop_drop", "stop_below_ticket")
STABILITY = ("pruning_l2", "pruning_angle", "order_l2", "order_angle")


class Ticket(TicketOptions, CellStudy):
    """Lottery tickets level by level, with their controls. See :class:`TicketOptions` for the options.

    With ``validation`` examples held out, the step of least validation loss is reported too (FC18), with ``stability``
    the distances of FDRC19 (arXiv:1903.01611).
    """

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "train_accuracy",
        "drop",
        "below_ticket",
        *EARLY,
        *STABILITY,
    )
    summaries: ClassVar[tuple[str, ...]] = ("mean", "ci95", "min", "max")

    @cached_property
    def tickets(self) -> dict[Subject, Tickets]:
        """How tickets are found under each recipe."""
        return {of: Tickets(self, of) for of in self.subjects}

    def check_subject(self, of: Subject) -> None:
        assert of.share
        self.tickets[of].check()

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        base = self._cell(of, 0, DENSE, {})
        found = [base]
        for level in range(1, self.levels + 1):
            ticket = self._cell(of, level, "ticket", {"base": base})
            found.append(ticket)
            if self.at is None or level in self.at:
                beside = {"base": base, "ticket": ticket}
                found += [self._cell(of, level, variant, beside) for variant in self.variants]
        yield found

    def _cell(self, of: Subject, level: int, variant: str, against: Mapping[str, Cell]) -> Cell:
        measures = partial(self._measures, self.tickets[of], level, variant)
        return Cell({"level": level, "variant": variant}, measures, against)

    def _measures(self, tickets: Tickets, level: int, variant: str, recipe: Recipe) -> Mapping[str, Measure]:
        run = tickets.run(level, variant, recipe)
        final = run.final
        assert isinstance(final, At)
        found = tickets.of.evaluations(recipe, final, *evaluated(recipe))
        if recipe.validation:
            found["curve"] = Curve(final)
        if isinstance(run.trains, Kept):
            mask = run.trains.mask
            found["density"] = Density(mask)
            if self.stability and variant in STABLE and (self.at is None or level in self.at):
                again = tickets.run(level, variant, recipe, derive(recipe.seed, "another order")).final
                found["pruning"] = Apart(tickets.of.baseline(recipe).final, final, mask)
                found["order"] = Apart(again, final, mask)
        return found

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        share, base, ticket = share_of(self), results.get("base", results), results.get("ticket")
        found = {
            "drop": share.drop(base["test"], results["test"]),
            "below_ticket": share.drop(ticket["test"], results["test"]) if ticket else None,
        }
        if "curve" in results:
            found |= _early(results["curve"], base["curve"], ticket and ticket["curve"])
        for kind in ("pruning", "order"):
            found |= {f"{kind}_{name}": results[kind][name] for name in ("l2", "angle") if kind in results}
        return found

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row, with the number of weights that the first seed in the store has left."""
        row = super().row(cell, of, store)
        first = next(iter(self.found(cell, of, store)), None)
        density = None if first is None else cell.results(with_seed(of.recipe, first), store)[0].get("density", {})
        return {**cell.labels, **left(of, density), **row}


def _early(own: Row, base: Row, ticket: Row | None) -> dict[str, float | None]:
    """When the loss on the held-out examples was least, and the accuracy then."""
    return {
        "stop": float(own["stop"]),
        "stop_accuracy": own["test_accuracy"],
        "stop_ratio": own["stop"] / base["stop"],
        "stop_ratio_ticket": own["stop"] / ticket["stop"] if ticket else None,
        "stop_drop": base["test_accuracy"] - own["test_accuracy"],
        "stop_below_ticket": ticket["test_accuracy"] - own["test_accuracy"] if ticket else None,
    }


def left(of: Subject, density: Row | None) -> Row:
    """How many weights are left of all that pruning could be about, together and layer by layer.

    Args:
        of: The network.
        density: Result of :class:`~letitgo.plan.Density` for those that are pruned; None where nothing is known.
    """
    if density is None:
        return {"weights_left": None, "density": None, "layers": "", "empty": ""}
    sizes = {name: of.sizes[name] for name in weights.prunable(of.module)}
    kept = {name: density[name]["kept"] if name in density else size for name, size in sizes.items()}
    return {
        "weights_left": sum(kept.values()),
        "density": sum(kept.values()) / sum(sizes.values()),
        "layers": ", ".join(f"{name} {n / sizes[name]:.4g}" for name, n in kept.items()),
        "empty": ", ".join(name for name, n in kept.items() if n == 0),
    }


@dataclass(frozen=True, eq=False)
class Tickets:
    """The masks and runs of one network.

    Attributes:
        study: How tickets are found.
        of: The network.
    """

    study: TicketOptions
    of: Subject

    @cached_property
    def rates(self) -> dict[str, float]:
        """Parameter name → share pruned at each level; of those that are pruned.

        Raises:
            BadRequest: A pattern matches nothing that is pruned.
        """
        study, module = self.study, self.of.module
        names = self.of.ordered(weights.prunable(module))
        rates = dict.fromkeys(names, study.rate)
        default = 0.0 if study.scope == "global" else study.rate / 2
        output = default if study.output_rate is None else study.output_rate
        rates |= {name: output for name in names if name in self.of.head.parameters}
        for pattern, rate in study.rates:
            chosen = weights.select(module, pattern)
            if not any(name in chosen for name in names):
                raise BadRequest(f"rates names {pattern!r}, which nothing pruned matches: give {', '.join(names)}")
            rates |= {name: rate for name in names if name in chosen}
        return {name: rate for name, rate in rates.items() if rate}

    @cached_property
    def begin(self) -> int:
        """The step that the weights are put back to."""
        number, unit = re.fullmatch(r"(\d+)(it|ep)?", self.study.rewind).groups()  # type: ignore[union-attr]
        return int(number) * (self.of.recipe.steps_per_epoch if unit == "ep" else 1)

    def check(self) -> None:
        """Make sure that there is something to prune, and training left after rewinding.

        Raises:
            BadRequest: There is not, or a pattern matches nothing.
        """
        recipe = self.of.recipe
        if not self.rates:
            raise BadRequest(f"nothing of {recipe.model!r} would be pruned: set output-rate, or rates above 0")
        if self.begin and recipe.own is not None:
            raise BadRequest(
                f"rewind is {self.study.rewind}: training code of your own begins at its first epoch; give rewind 0"
            )
        if self.begin >= recipe.steps:
            raise BadRequest(
                f"rewind is {self.study.rewind}: training ends at step {recipe.steps} (epoch {recipe.epochs}), so "
                f"nothing is left to train: give more epochs, or an earlier rewind, as 0 or {recipe.steps // 2}it"
            )

    @cached_property
    def _masks(self) -> dict[Recipe, list[Pruned]]:
        return {recipe: [] for recipe in self.of.seeds}

    def mask(self, level: int, recipe: Recipe) -> Pruned:
        """The mask of a level."""
        study, known = self.study, self._masks[recipe]  # each is made once: it holds all those before
        while len(known) < level:
            if study.one_shot:
                rates = {name: 1 - (1 - rate) ** (len(known) + 1) for name, rate in self.rates.items()}
                known.append(Pruned(self.of.baseline(recipe).final, rates, study.scope))
            else:
                run = self.run(len(known), "ticket", recipe)
                known.append(Pruned(run.final, self.rates, study.scope, known[-1] if known else None))
            known[-1].key  # noqa: B018  (level by level, so that a key rests on no deep recursion)
        return known[level - 1]

    def run(self, level: int, variant: str, recipe: Recipe, order: int | None = None) -> Run:
        """The run of a level and variant; ``order``: the seed of another order of the data."""
        dense = self.of.baseline(recipe)
        if level == 0:
            return dense
        start: State = dense.at(self.begin)
        mask, begin = self.mask(level, recipe), self.begin
        if variant.startswith("random mask"):
            mask = Scrambled(mask, derive(recipe.seed, "random mask", level))
        if variant.endswith("fresh weights"):
            start, begin = Initial(recipe.network, derive(recipe.seed, "fresh weights", level)), 0
        if variant == "complement":
            mask = Complement(mask)
        if variant not in ("frozen", "complement"):
            start = Masked(start, mask)
        trains = Kept(mask, self.of.but(self.rates))
        return self.of.run(start, trains, recipe if order is None else with_seed(recipe, order), begin)


def export_ticket(
    study: Ticket, level: int, path: str, store: Store, workers: int = 0, place: Place = CPU
) -> weights.SavedTicket:
    """Find a ticket, if the store does not hold it, and write it to a file.

    Its start names the ``seed`` and the ``step`` of the run that its values are taken from, the ``recipe`` of that run
    and its ``recipe_key``, and the ``level``.

    Args:
        study: Of one recipe; of its first seed.
        level: Which level's.
        path: The file, replaced as a whole.
        store: Where runs are kept.
        workers: As in :func:`letitgo.compute`.
        place: Likewise.

    Raises:
        BadRequest: There is no such level, or the study or the file cannot be.
        WorkFailed: Finding it fails.
    """
    if not 1 <= level <= study.levels:
        raise BadRequest(f"level is {level}: give one of 1 to {study.levels}, or more levels")
    study.check()
    tickets = study.tickets[study.subjects[0]]
    recipe: Any = tickets.of.recipe
    mask = tickets.mask(level, recipe)
    failures = Executor(store, workers, place=place).compute([mask])
    if failures:
        raise WorkFailed(f"the ticket was not found: {failures[0].what}: {failures[0].why}")
    about = {"step": tickets.begin, "level": level, "recipe": recipe.fields(), "recipe_key": recipe.key}
    ticket = weights.SavedTicket(mask.load(store), {"seed": recipe.seed, **about})
    weights.save_ticket(path, ticket.masks, ticket.start)
    return ticket
