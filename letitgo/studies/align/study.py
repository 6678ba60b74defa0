"""Do the dense layers align? The values to compute, and the rows they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from torch import nn

from letitgo.errors import BadRequest
from letitgo.plan import Measure, Spectra, State
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.align.options import AlignOptions
from letitgo.studies.cell import Cell, CellStudy, Results, evaluated
from letitgo.studies.subject import Subject

OF_LAYER = ("ratio", "spectral", "frobenius", "adjacent")


class Align(AlignOptions, CellStudy):
    """The dense layers of a network along its training. See :class:`AlignOptions` for the options.

    The theorem of JT18 is about linear networks with one output; it says nothing of these.
    """

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = ("floor", *OF_LAYER, "train_loss", "accuracy")

    def check_subject(self, of: Subject) -> None:
        if not dense_layers(of):
            raise BadRequest(f"the network {of.recipe.model!r} has no dense layer (nn.Linear) to measure")

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        found = []
        for epoch in range(of.recipe.epochs + 1):
            found += self._of_state(of, None, epoch, lambda recipe, epoch=epoch: of.baseline(recipe).at_epoch(epoch))
        for layer in dense_layers(of) if self.freeze else ():
            own = of.ordered(of.recipe.network.layers.get(layer, ()))
            if own and of.but(own):
                found += self._of_state(of, layer, of.recipe.epochs, lambda recipe, own=own: of.frozen(own, recipe))
        yield found

    def _of_state(self, of: Subject, frozen: str | None, epoch: int, state: Callable[[Recipe], State]) -> list[Cell]:
        """A row for each dense layer of a state."""

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            reached = state(recipe)
            return {"spectra": Spectra(reached), **of.evaluations(recipe, reached, *evaluated(recipe))}

        return [
            Cell({"frozen": frozen, "epoch": epoch, "layer": layer}, measures, context=place)
            for place, layer in enumerate(dense_layers(of))
        ]

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        spectra, place = results["spectra"], cell.context
        kept = {name: spectra[name][place] if place < len(spectra[name]) else None for name in ("floor", *OF_LAYER)}
        return kept | {"train_loss": results["train"]["loss"] if "train" in results else None}


def dense_layers(of: Subject) -> list[str]:
    """Names of the dense layers."""
    return [name for name, part in of.module.named_modules() if isinstance(part, nn.Linear)]
