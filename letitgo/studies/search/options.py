"""Options of ``letitgo search``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.studies.finetune.options import SHAPES, Pretrained
from letitgo.studies.options import (
    Blocks,
    By,
    Layers,
    SeededOptions,
    Tolerance,
    check_distinct,
    check_epochs,
    holding_out,
)

WITHOUT_VERDICT = 5
"""Seeds of the set that is found for a budget: no verdict asks for more."""


@checked
@dataclass(frozen=True, config=STRICT)
class SearchOptions(SeededOptions):
    """Find the largest part of a network that may stay frozen, all together.

    Trains the network, ranks its layers by what putting each back to early weights does to the trained network, and
    trains it again with sets of layers frozen, as many as the arithmetic to spend allows. Sets are chosen on held-out
    training examples. The one that saves most is judged on the test set, under as many seeds as its verdict needs.
    """

    QUESTION: ClassVar[str] = "Which layers may stay frozen, all together?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo search", "a small network on the bundled digits"),
        ("letitgo search --tolerance 0.5 --freeze-at 0,5,10", "some layers from the start, others from an epoch on"),
        ("letitgo search --model resnet20 --data cifar10 --by block --spend 4", "blocks, for four trainings a seed"),
        ("letitgo search --pretrained digits --shift invert --examples 500", "in fine-tuning"),
    )
    SHAPES: ClassVar[dict[str, str]] = SHAPES

    pretrained: Pretrained = None
    save: Annotated[
        Literal["arithmetic", "memory", "parameters"],
        Field(
            description="what is to be saved: arithmetic (of training), memory (most that a training step holds) or "
            "parameters (that train, so gradients and optimiser state)"
        ),
    ] = "arithmetic"
    tolerance: Annotated[  # type: ignore[assignment]  # None only beside a budget
        Tolerance | None,
        Field(description="largest drop that does no harm, in points or per cent as in map [default: 1]"),
    ] = None
    budget: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="share that is to be saved at least, for the smallest drop, in place of a tolerance; "
            "no verdict then [default: none]",
        ),
    ] = None
    spend: Annotated[
        float,
        Field(
            gt=1,
            description="arithmetic to spend on the search under each of its seeds, the baseline's included, in "
            "trainings of the whole network",
        ),
    ] = 3.0
    search_seeds: Annotated[int, Field(ge=1, description="number of seeds that sets are tried under")] = 1
    freeze_at: Annotated[tuple[int, ...], Field(description="epochs from which layers may be frozen")] = (0,)
    layers: Layers = ()
    blocks: Blocks = ()
    by: By = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is None and self.tolerance is None:
            object.__setattr__(self, "tolerance", 1.0)
        if self.budget is not None and self.tolerance is not None:
            raise BadRequest(
                f"budget is {self.budget:g} and tolerance {self.tolerance:g}: a budget asks for the smallest drop, "
                "so give one of the two"
            )
        if self.budget is not None and len(self.freeze_at) > 1:
            raise BadRequest(f"budget takes one epoch of freeze-at: it has {len(self.freeze_at)}")
        if not self.freeze_at:
            raise BadRequest("freeze-at is none, and search is about what may be frozen: name at least one epoch")
        check_distinct("freeze-at", self.freeze_at)
        check_epochs("freeze-at", self.freeze_at, self.recipes)
        if self.save == "memory" and self.freeze_at != (0,):
            raise BadRequest(
                "save memory takes freeze-at 0 alone: until a layer is frozen, training holds as much as without"
            )

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        return tuple(map(holding_out, self.recipes))

    @property
    def most(self) -> int:
        """The most seeds that a set is judged under."""
        if self.seeds != "auto":
            return self.seeds
        return self.max_seeds if self.budget is None else min(WITHOUT_VERDICT, self.max_seeds)

    @property
    def tries(self) -> int:
        """How many seeds sets are tried under."""
        return min(self.search_seeds, self.most)
