"""Options of ``letitgo ticket``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.studies.options import Seeds, StudyOptions, check_distinct

Variant = Literal["fresh weights", "random mask", "random mask and fresh weights", "frozen", "complement"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
CONTROLS = VARIANTS[:3]

Levels = Annotated[int, Field(ge=1, description="number of pruning levels")]
Rate = Annotated[float, Field(gt=0, lt=1, description="share of the remaining weights pruned at each level")]
Scope = Annotated[
    Literal["layer", "global"],
    Field(
        description="prune the smallest weights of each layer, or of all layers together, the last left alone by "
        "default"
    ),
]
Rewind = Annotated[
    str, Field(pattern=r"^(0|\d+(it|ep))$", description="where kept weights go back to: 0, or as in 500it or 1ep")
]


@checked
@dataclass(frozen=True, config=STRICT)
class TicketOptions(StudyOptions):
    """Find which weights of a network could have been trained alone: lottery tickets.

    Trains the network, prunes its smallest weights, puts what is left back to its initial values or an early step, and
    trains it again, level by level (Frankle and Carbin, arXiv:1803.03635). Trains the controls beside each ticket: the
    same mask with fresh weights, random masks, pruned weights frozen at their initial values, the complement.
    """

    QUESTION: ClassVar[str] = "Which weights could have been trained alone?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo ticket --levels 3", "a small network on the bundled digits"),
        ("letitgo ticket --model lenet-300-100 --data mnist --epochs 4 --validation 5000", "with the early-stop step"),
        ("letitgo ticket --rewind 1ep --stability --variants random-mask", "rewinding and stability"),
    )
    SHAPES: ClassVar[dict[str, str]] = {"rewind": "give 0, or steps as in 500it, or epochs as in 1ep"}

    seeds: Seeds = 3
    levels: Levels = 5
    rate: Rate = 0.2
    output_rate: Annotated[
        float | None,
        Field(ge=0, lt=1, description="the same for the last layer; 0: not pruned [default: half; none if global]"),
    ] = None
    rates: Annotated[
        tuple[tuple[str, Annotated[float, Field(ge=0, lt=1)]], ...],
        Field(
            description="rates by pattern of layers, as in conv*=0.1,fc1=0; later patterns override earlier ones; "
            "0 spares a layer"
        ),
    ] = ()
    scope: Scope = "layer"
    rewind: Rewind = "0"
    one_shot: Annotated[bool, Field(description="prune the trained network once to each level's density")] = False
    variants: Annotated[
        tuple[Variant, ...],
        Field(
            description="what is trained besides each ticket, or none: fresh-weights, random-mask, "
            "random-mask-and-fresh-weights, frozen, complement"
        ),
    ] = CONTROLS
    at: Annotated[
        tuple[int, ...] | None, Field(description="levels at which the variants are trained [default: all]")
    ] = None
    stability: Annotated[bool, Field(description="also measure stability to pruning and to the order of the data")] = (
        False
    )

    def __post_init__(self) -> None:
        check_distinct("variants", self.variants)
        check_levels(self.at, self.levels)
        named = [rate for _, rate in self.rates]
        if self.scope == "global" and {*named, self.output_rate} - {None, 0, self.rate}:
            raise BadRequest("one scope for all weights has one rate: give 0 or the rate in rates and output-rate")
        if self.stability and any(recipe.examples or recipe.label_noise for recipe in self.recipes):
            raise BadRequest(
                "stability compares two orders of the same data, but the seed of the order also chooses examples and "
                "label noise: leave out examples and label-noise, or stability"
            )


def check_levels(at: Sequence[int] | None, levels: int) -> None:
    """Make sure that the levels named exist.

    Raises:
        BadRequest: One does not.
    """
    for level in at or ():
        if not 1 <= level <= levels:
            raise BadRequest(f"at names level {level}: give levels of 1 to {levels}")
