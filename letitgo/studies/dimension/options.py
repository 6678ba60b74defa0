"""Options of ``letitgo dimension``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.studies.options import By, StudyOptions, check_distinct, holding_out


@checked
@dataclass(frozen=True, config=STRICT)
class DimensionOptions(StudyOptions):
    """Find how few dimensions a network needs: its intrinsic dimension (Li et al., arXiv:1804.08838).

    Trains in random subspaces of d dimensions. Finds the least d whose mean accuracy over the seeds exceeds a share of
    the accuracy of the network trained in full, and reports the interval in which it lies.
    """

    QUESTION: ClassVar[str] = "How few dimensions are enough?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo dimension --optimizer adam", "a small network on the bundled digits"),
        ("letitgo dimension --data mnist --optimizer adam --layers 'fc*' --others trained", "each layer by itself"),
        (
            "letitgo dimension --optimizer adam --label-noise 1 --split train --thresholds 0.9,1",
            "dimensions to learn random labels by heart",
        ),
    )

    seeds: Annotated[int, Field(ge=1, description="number of seeds of weights, data order and projection")] = 3
    thresholds: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(min_length=1, description="shares of the baseline to exceed: 0.9 asks for d_int90"),
    ] = (0.9,)
    global_baseline: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="accuracy to hold thresholds against besides the network's own baseline, or 0 for none "
            "[default: the paper's: 1 for mnist, 0.5 for cifar10]",
        ),
    ] = None
    kind: Annotated[
        Literal["dense", "sparse", "fastfood"], Field(description="random projection: dense, sparse or fastfood")
    ] = "fastfood"
    resolution: Annotated[
        float, Field(gt=0, le=1, description="the search ends where the interval is this share of its lower end wide")
    ] = 0.1
    grid: Annotated[tuple[int, ...], Field(description="dimensions to try instead of a search, as in 100,200,400")] = ()
    max_d: Annotated[int | None, Field(description="largest dimension of the search [default: all weights]")] = None
    exclude: Annotated[
        tuple[str, ...], Field(description="patterns of parameters that train outside the subspace")
    ] = ()
    said: Annotated[bool, Field(description="also learn a scale for each layer (SAID, arXiv:2012.13255)")] = False
    layers: Annotated[
        tuple[str, ...],
        Field(description="patterns of layers to search one at a time [default: the whole network at once]"),
    ] = ()
    by: By = "layer"
    others: Annotated[
        Literal["frozen", "trained"],
        Field(description="what the other layers do: frozen at their initialization, or trained in full"),
    ] = "frozen"
    split: Annotated[
        Literal["validation", "test", "train"],
        Field(
            description="split on which d is searched: validation (the recipe's held-out examples, or a fifth of the "
            "training examples, at most 5,000; what is found is judged on the test set once), test or train"
        ),
    ] = "validation"
    stop_every: Annotated[
        int,
        Field(
            ge=0,
            description="evaluate every so many epochs, and stop once the thresholds are exceeded or out of reach; "
            "0: evaluate after the last epoch only",
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_distinct("thresholds", self.thresholds)
        check_distinct("grid", self.grid)
        if self.grid and self.max_d is not None:
            raise BadRequest("max-d ends a search, and a grid is not searched: leave out one of the two")
        if self.others == "trained" and not self.layers:
            raise BadRequest("others is about layers searched one at a time: give layers too")
        epochs = min(recipe.epochs for recipe in self.recipes)
        if self.stop_every > epochs:
            raise BadRequest(f"stop-every is {self.stop_every}: give at most {epochs}, the number of epochs")

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        return tuple(map(holding_out, self.recipes)) if self.searched_on == "validation" else self.recipes

    @property
    def searched_on(self) -> Literal["validation", "test", "train"]:
        """The split as asked; the test set where a task with training code of its own has no ``validate``."""
        own = [recipe.own for recipe in self.recipes if recipe.own is not None]
        return "test" if self.split == "validation" and not all(of.validates for of in own) else self.split
