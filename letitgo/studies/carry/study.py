"""Do lottery tickets carry over to other data and other optimisers? The values to compute, and the rows they give.

A ticket is found under one recipe: its mask, and the weights it is rewound to. It is trained under another, which
determines the data, the order, the learning rate and all of the steps; where the number of classes differs, its output
layer is drawn anew. Beside it stand the target's own ticket and controls: the same mask with fresh weights, the same
weights with a random mask, and a random ticket, of which mask and weights are both random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import ClassVar, Literal

from letitgo.errors import BadRequest
from letitgo.plan import Density, Initial, Kept, Mask, Masked, Measure, Run, Scrambled, State, adapted
from letitgo.recipes import Recipe
from letitgo.report.words import share_of
from letitgo.store import Store
from letitgo.studies.carry.options import FRESH, RANDOM, SCRAMBLED, CarryOptions
from letitgo.studies.cell import Cell, CellStudy, Results, Row
from letitgo.studies.check import check_recipe
from letitgo.studies.subject import Subject
from letitgo.studies.ticket.options import TicketOptions
from letitgo.studies.ticket.study import DENSE, Tickets, left
from letitgo.value import derive

OWN, TICKET = "own ticket", "ticket"


class Carry(CarryOptions, CellStudy):
    """Tickets trained under other recipes. See :class:`CarryOptions` for the options.

    The output layer is never pruned, so that a ticket of another class count prunes what the target's own does.
    """

    quantities: ClassVar[tuple[str, ...]] = ("accuracy", "above_own", "above_random", "above_everything")
    summaries: ClassVar[tuple[str, ...]] = ("mean", "ci95", "min", "max")

    @property
    def swept(self) -> tuple[str, ...]:
        """None: sources and targets have columns of their own."""
        return ()

    @cached_property
    def subjects(self) -> list[Subject]:
        """The network of each recipe under each optimiser."""
        return [Subject(recipe, self.seeds, self.statistics) for recipe in self.trained]

    @cached_property
    def tickets(self) -> list[Tickets]:
        """How tickets are found under each recipe."""
        found = TicketOptions(
            self.trained,
            seeds=self.seeds,
            levels=self.levels,
            rate=self.rate,
            output_rate=0.0,
            scope=self.scope,
            rewind=self.rewind,
        )
        return [Tickets(found, of) for of in self.subjects]

    def check(self) -> None:
        """Make sure that every recipe can be trained and pruned, and every ticket trained under every target.

        Raises:
            BadRequest: One cannot, or two recipes have the same data and optimiser.
        """
        places = [place(recipe) for recipe in self.trained]
        for one in places:
            if places.count(one) > 1:
                raise BadRequest(
                    f"two recipes have the data {one[0]} and the optimiser {one[1]}: let them differ in data, half, "
                    "shift or examples, or in the optimiser or its lr"
                )
        for tickets in self.tickets:
            check_recipe(tickets.of.recipe)
            tickets.check()
        if len(shares := sorted({of.share for of in self.subjects})) > 1:
            raise BadRequest(f"tickets are carried between tasks judged alike, and these are by {' and '.join(shares)}")
        for source, target in self.pairs:
            for i in range(self.seeds):
                self._start(source, target, i)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Source and target of each ticket that is trained; a target's own first."""
        sources, targets = self._named("sources"), self._named("targets")
        return [(source, target) for target in targets for source in dict.fromkeys([target, *sources])]

    def _named(self, what: Literal["sources", "targets"]) -> list[int]:
        wanted: tuple[str, ...] = getattr(self, what)
        exact = [{*place(recipe)} for recipe in self.trained]
        loose = [{recipe.data, recipe.optimizer} for recipe in self.trained]  # mnist is mnist:a and mnist:b too
        found: set[int] = set()
        for name in wanted:
            own = {i for i, names in enumerate(exact) if name in names}
            own = own or {i for i, names in enumerate(loose) if name in names}
            if not own:
                known = sorted(set().union(*exact, *loose))
                raise BadRequest(f"{what} names {name!r}, which is none of the data and optimisers: {', '.join(known)}")
            found |= own
        return sorted(found) if wanted else list(range(len(self.trained)))

    @cached_property
    def _starts(self) -> dict[tuple[int, int, int], State]:
        return {}

    def _start(self, source: int, target: int, i: int) -> State:
        """The weights that a ticket starts from under a seed, before its mask."""
        if (source, target, i) not in self._starts:
            self._starts[source, target, i] = self._adapted(self.tickets[source], self.subjects[target].seeds[i], i)
        return self._starts[source, target, i]

    def _adapted(self, source: Tickets, recipe: Recipe, i: int) -> State:
        donor = source.of.baseline(source.of.seeds[i]).at(source.begin)
        try:
            return adapted(donor, recipe.network, recipe.seed)
        except BadRequest as error:
            one = source.of.recipe
            if one.dataset.shape == recipe.dataset.shape:
                raise
            shapes = ["x".join(map(str, each.dataset.shape)) for each in (one, recipe)]
            raise BadRequest(
                f"the images of {one.data} are {shapes[0]} and those of {recipe.data} {shapes[1]}: bring them to one "
                f"shape, as with fit {shapes[0]}"
            ) from error

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        target = self.subjects.index(of)
        sources = [source for source, other in self.pairs if other == target]
        if sources:
            yield self._under(target, sources)

    def _under(self, target: int, sources: Sequence[int]) -> list[Cell]:
        """Everything trained, then level by level the tickets trained under one target, with their controls."""
        base = self._cell(target, target, 0, DENSE, {})
        found = [base]
        for level in range(1, self.levels + 1) if self.at is None else sorted(set(self.at)):
            own = self._cell(target, target, level, OWN, {"everything": base})
            for source in sources:
                beside = {"everything": base, "own": own}
                if RANDOM in self.controls:
                    beside["random"] = self._cell(source, target, level, RANDOM, {})
                variants = (OWN if source == target else TICKET, *self.controls)
                found += [self._cell(source, target, level, variant, beside) for variant in variants]
        return found

    def _cell(self, source: int, target: int, level: int, variant: str, against: Mapping[str, Cell]) -> Cell:
        of, to = place(self.trained[source]), place(self.trained[target])
        labels = {
            "source_data": of[0] if level else None,
            "source_optimizer": of[1] if level else None,
            "target_data": to[0],
            "target_optimizer": to[1],
            "variant": variant,
            "level": level,
        }
        itself = {OWN: "own", RANDOM: "random"}.get(variant)  # what a cell is not compared with
        beside = {name: cell for name, cell in against.items() if name != itself}
        return Cell(labels, partial(self._measures, source, target, level, variant), beside)

    def _measures(self, source: int, target: int, level: int, variant: str, recipe: Recipe) -> Mapping[str, Measure]:
        i = self.subjects[target].seeds.index(recipe)
        final = self.run(source, target, level, variant, i).final
        found = self.subjects[target].evaluations(recipe, final, "test")
        if not level:
            return found
        return {**found, "density": Density(self._mask(source, target, level, variant, i))}

    def _mask(self, source: int, target: int, level: int, variant: str, i: int) -> Mask:
        mask = self.tickets[source].mask(level, self.subjects[source].seeds[i])
        if variant not in (SCRAMBLED, RANDOM):
            return mask
        return Scrambled(mask, derive(self.subjects[target].seeds[i].seed, "random mask", level))

    def run(self, source: int, target: int, level: int, variant: str, i: int) -> Run:
        """The run of a cell under a seed: all of the target's steps, whatever it starts from."""
        of, recipe = self.subjects[target], self.subjects[target].seeds[i]
        if variant == DENSE:
            return of.baseline(recipe)
        start = self._start(source, target, i)
        if variant in (FRESH, RANDOM):
            start = Initial(recipe.network, derive(recipe.seed, "fresh weights", level))
        mask = self._mask(source, target, level, variant, i)
        return of.run(Masked(start, mask), Kept(mask, of.but(self.tickets[source].rates)), recipe)

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        share = share_of(self)
        return {f"above_{name}": share.drop(results["test"], results[name]["test"]) for name in cell.against}

    def row(self, cell: Cell, of: Subject, store: Store) -> Row:
        """One row, with the number of weights that the first seed in the store has left."""
        row, found = super().row(cell, of, store), self.found(cell, of, store)
        first = next((recipe for recipe in of.seeds if recipe.seed in found), None)
        density = None if first is None else cell.results(first, store)[0].get("density", {})
        return {**cell.labels, **left(of, density), **row}


def place(recipe: Recipe) -> tuple[str, str]:
    """What a ticket is carried from and to: the data and the optimiser, in a few characters each."""
    data = recipe.data + ("" if recipe.half == "none" else f":{recipe.half}")
    data += "" if recipe.shift == "none" else f" {recipe.shift}"
    data += "" if recipe.examples is None else f" {recipe.examples}"
    lr = recipe.all_optimizer_args.get("lr")
    return data, recipe.optimizer if lr is None else f"{recipe.optimizer}:{lr:g}"
