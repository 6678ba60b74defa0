"""Do lottery tickets carry over to other data and other optimisers? (MYPT19, arXiv:1906.02773)

A ticket is found under one recipe: its mask, and the weights it is rewound to. It is trained under another, which lays
down the data, the order, the learning rate and all of the steps; where the number of classes differs, its output layer
is drawn anew. Beside it stand the ticket of the target's own and two controls that are never one: the same mask with
fresh weights, and a random ticket, of which mask and weights are both random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from letitgo import weights
from letitgo.errors import BadRequest, check_names
from letitgo.plan import (
    Absent,
    Density,
    Evaluation,
    Initial,
    Kept,
    Mask,
    Masked,
    Run,
    Scrambled,
    State,
    Stored,
    fitted,
)
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.statistics import ci95, mean
from letitgo.studies.ticket import DENSE, Drawn, Lottery, left
from letitgo.value import derive

Control = Literal["fresh weights", "random mask and fresh weights"]
Row = dict[str, Any]

OWN, TICKET = "own ticket", "ticket"
FRESH, RANDOM = get_args(Control)


class Cell(NamedTuple):
    """What a row is about: which recipe the ticket is from, which it is trained under, and what is trained."""

    source: int
    target: int
    level: int
    variant: str


@dataclass(frozen=True)
class Transfer:
    """The study, as a value: nothing is computed before its values are.

    The output layer is never pruned, so that a ticket of another class count prunes what the target's own does.

    Args:
        recipes: One for each data set under each optimiser.
        sources: Data sets or optimisers whose tickets are carried elsewhere, as :func:`place` names them; ``mnist``
            means its halves and shifts where it is not there itself, and ``sgd`` any rate. All if not given.
        targets: Likewise those that they are trained under.
        seeds: Number of seeds, counted up from the recipe's.
        levels: How often is pruned.
        rate: Share of the weights still there that is pruned each time, in (0, 1).
        scope: Whether the smallest of all layers together are pruned (``global``, as the paper) or of each ``layer``.
        rewind: The source's step whose weights a ticket starts from: ``0``, or as in ``500it`` or ``1ep``.
        controls: What is trained besides, for each ticket and target, with as many weights in each layer.
        at: The levels whose tickets are trained; all if not given.

    Raises:
        BadRequest: Something is out of range, or two recipes have the same data and optimiser.
    """

    recipes: tuple[Recipe, ...]
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: int = 3
    levels: int = 5
    rate: float = 0.2
    scope: weights.Scope = "global"
    rewind: str = "1ep"
    controls: tuple[Control, ...] = (FRESH, RANDOM)
    at: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_names("controls", self.controls, get_args(Control))
        if len(self.lottery.recipes) < 2:
            raise BadRequest("one recipe has nowhere to carry a ticket: give several data sets or optimisers")

    @cached_property
    def lottery(self) -> Lottery:
        """How the tickets are found."""
        return Lottery(
            self.recipes,
            seeds=self.seeds,
            levels=self.levels,
            rate=self.rate,
            output_rate=0.0,
            scope=self.scope,
            rewind=self.rewind,
            variants=(),
            at=self.at,
        )

    @cached_property
    def parts(self) -> list[Drawn]:
        """The lottery of each recipe."""
        return self.lottery.parts

    def check(self) -> None:
        """Make sure that every recipe can be trained and pruned, and every ticket trained under every target.

        Raises:
            BadRequest: One cannot.
        """
        places = [place(recipe) for recipe in self.recipes]
        for one in places:
            if places.count(one) > 1:
                raise BadRequest(
                    f"two recipes have the data {one[0]} and the optimiser {one[1]}: let them differ in data, half, "
                    "shift or examples, or in the optimiser or its lr"
                )
        self.lottery.check()
        assert self._starts

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Source and target of each ticket that is trained; a target's own first."""
        sources, targets = self._named("sources"), self._named("targets")
        return [(source, target) for target in targets for source in dict.fromkeys([target, *sources])]

    def _named(self, what: Literal["sources", "targets"]) -> list[int]:
        wanted: tuple[str, ...] = getattr(self, what)
        exact = [{*place(recipe)} for recipe in self.recipes]
        loose = [{recipe.data, recipe.optimizer} for recipe in self.recipes]  # mnist is mnist:a and mnist:b too
        found: set[int] = set()
        for name in wanted:
            own = {i for i, names in enumerate(exact) if name in names}
            own = own or {i for i, names in enumerate(loose) if name in names}
            if not own:
                known = sorted(set().union(*exact, *loose))
                raise BadRequest(f"{what} names {name!r}, which is none of the data and optimisers: {', '.join(known)}")
            found |= own
        return sorted(found) if wanted else list(range(len(self.recipes)))

    @cached_property
    def _starts(self) -> dict[tuple[int, int, int], State]:
        """By source, target and seed, the weights that a ticket starts from, before its mask."""
        return {
            (source, target, i): self._start(self.parts[source], self.parts[target], i)
            for source, target in self.pairs
            for i in range(self.seeds)
        }

    def _start(self, source: Drawn, target: Drawn, i: int) -> State:
        recipe = target.seeds[i]
        donor = source.dense(source.seeds[i]).at(source.begin)
        try:
            return fitted(donor, recipe.network, recipe.seed)
        except BadRequest as error:
            one, other = source.recipe, target.recipe
            if one.dataset.shape == other.dataset.shape:
                raise
            shapes = ["x".join(map(str, each.dataset.shape)) for each in (one, other)]
            raise BadRequest(
                f"the images of {one.data} are {shapes[0]} and those of {other.data} {shapes[1]}: bring them to one "
                f"shape, as with fit {shapes[0]}"
            ) from error

    @cached_property
    def cells(self) -> list[Cell]:
        """One for each row."""
        at = range(1, self.levels + 1) if self.at is None else sorted(set(self.at))
        found = []
        for target in dict.fromkeys(target for _, target in self.pairs):
            found.append(Cell(target, target, 0, DENSE))
            found += [
                Cell(source, target, level, variant)
                for level in at
                for source, other in self.pairs
                if other == target
                for variant in (OWN if source == target else TICKET, *self.controls)
            ]
        return found

    def mask(self, cell: Cell, i: int) -> Mask:
        """The mask of a cell under a seed."""
        source = self.parts[cell.source]
        mask = source.mask(cell.level, source.seeds[i])
        if cell.variant != RANDOM:
            return mask
        return Scrambled(mask, derive(self.parts[cell.target].seeds[i].seed, "random mask", cell.level))

    def run(self, cell: Cell, i: int) -> Run:
        """The run of a cell under a seed: all of the target's steps, whatever it starts from."""
        source, target = self.parts[cell.source], self.parts[cell.target]
        recipe = target.seeds[i]
        dense = target.dense(recipe)
        if cell.variant == DENSE:
            return dense
        mask = self.mask(cell, i)
        start = self._starts[cell.source, cell.target, i]
        if cell.variant in (FRESH, RANDOM):
            start = Initial(recipe.network, derive(recipe.seed, "fresh weights", cell.level))
        besides = tuple(name for name in dense.moves if name not in source.rates)
        return Run(Masked(start, mask), Kept(mask, besides), recipe)

    @cached_property
    def _measures(self) -> dict[Cell, list[tuple[Evaluation, Density | None]]]:
        """Of each cell, for each seed: the accuracy, and how many weights are kept."""
        return {
            cell: [
                (
                    Evaluation.under(self.parts[cell.target].seeds[i], self.run(cell, i).final, "test"),
                    Density(self.mask(cell, i)) if cell.level else None,
                )
                for i in range(self.seeds)
            ]
            for cell in self.cells
        }

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [value for of_seeds in self._measures.values() for pair in of_seeds for value in pair if value]

    def rows(self, store: Store) -> list[Row]:
        """One row for each cell, over the seeds that the store holds. Accuracies and differences are fractions."""
        accuracies = {cell: self._accuracies(cell, store) for cell in self.cells}
        return [self._row(cell, accuracies, store) for cell in self.cells]

    def _accuracies(self, cell: Cell, store: Store) -> list[float | None]:
        found: list[float | None] = []
        for evaluation, density in self._measures[cell]:
            try:
                if density:
                    density.result(store)
                found.append(evaluation.result(store)["accuracy"])
            except Absent:
                found.append(None)
        return found

    def _row(self, cell: Cell, accuracies: dict[Cell, list[float | None]], store: Store) -> Row:
        own = accuracies[cell]
        there = [accuracy for accuracy in own if accuracy is not None]
        source, target = (place(self.recipes[i]) for i in (cell.source, cell.target))
        against = {
            "own": Cell(cell.target, cell.target, cell.level, OWN),
            "random": cell._replace(variant=RANDOM),
            "everything": Cell(cell.target, cell.target, 0, DENSE),
        }
        above: Row = {}
        for name, other in against.items():
            pairs = zip(own, accuracies.get(other, []), strict=False)
            found = [a - b for a, b in pairs if a is not None and b is not None] if other != cell else []
            above |= {f"above_{name}_mean": mean(found), f"above_{name}_ci95": ci95(found)}
        return {
            "source_data": source[0] if cell.level else None,
            "source_optimizer": source[1] if cell.level else None,
            "target_data": target[0],
            "target_optimizer": target[1],
            "variant": cell.variant,
            "level": cell.level,
            **self._left(cell, own, store),
            "accuracy_mean": mean(there),
            "accuracy_ci95": ci95(there),
            "accuracy_min": min(there, default=None),
            "accuracy_max": max(there, default=None),
            **above,
            "n": len(there),
        }

    def _left(self, cell: Cell, own: list[float | None], store: Store) -> Row:
        """How many weights the first seed that is there has left, biases and norms aside."""
        first = next((i for i, accuracy in enumerate(own) if accuracy is not None), None)
        density = None
        if first is not None:
            measure = self._measures[cell][first][1]
            density = measure.result(store) if measure else {}
        return left(weights.seeded(self.recipes[cell.target].network, 0), density)


def place(recipe: Recipe) -> tuple[str, str]:
    """What a ticket is carried from and to: the data and the optimiser, in a few characters each."""
    data = recipe.data + ("" if recipe.half == "none" else f":{recipe.half}")
    data += "" if recipe.shift == "none" else f" {recipe.shift}"
    data += "" if recipe.examples is None else f" {recipe.examples}"
    lr = recipe.all_optimizer_args.get("lr")
    return data, recipe.optimizer if lr is None else f"{recipe.optimizer}:{lr:g}"
