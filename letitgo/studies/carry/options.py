"""Options of ``letitgo carry``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.studies.options import Seeds, StudyOptions, check_distinct
from letitgo.studies.ticket.options import Levels, Rate, Rewind, Scope, check_levels

Control = Literal["fresh weights", "random mask", "random mask and fresh weights"]
FRESH, SCRAMBLED, RANDOM = get_args(Control)


@checked
@dataclass(frozen=True, config=STRICT)
class CarryOptions(StudyOptions):
    """Find whether lottery tickets carry over to other data and other optimisers.

    Finds a ticket on each data set (--data, --half, --shift, --examples) under each optimiser and trains it under each
    other (Morcos, Yu, Paganini and Tian, arXiv:1906.02773). Compares it with the target's own ticket, its mask with
    fresh weights, its weights with a random mask, and random tickets.
    """

    QUESTION: ClassVar[str] = "Do lottery tickets carry over to other data and optimisers?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo carry --half a,b --epochs 5", "from one half of the digits to the other"),
        ("letitgo carry --data mnist,fashion_mnist --model lenet-300-100 --epochs 4", "from one data set to another"),
        ("letitgo carry --optimizers sgd:0.1,adam:0.0003 --data mnist --epochs 4", "from one optimiser to another"),
    )
    SHAPES: ClassVar[dict[str, str]] = {"rewind": "give 0, or steps as in 500it, or epochs as in 1ep"}

    optimizers: Annotated[
        tuple[str, ...],
        Field(description="optimisers, each with its lr, as in sgd:0.1,adam:0.0003 [default: the recipe's]"),
    ] = ()
    sources: Annotated[
        tuple[str, ...], Field(description="data sets or optimisers whose tickets are carried [default: all]")
    ] = ()
    targets: Annotated[
        tuple[str, ...], Field(description="data sets or optimisers they are trained under [default: all]")
    ] = ()
    seeds: Seeds = 3
    levels: Levels = 5
    rate: Rate = 0.2
    scope: Scope = "global"
    rewind: Rewind = "1ep"
    controls: Annotated[
        tuple[Control, ...],
        Field(
            description="what is trained besides, or none: fresh-weights, random-mask (at the ticket's own "
            "weights), random-mask-and-fresh-weights"
        ),
    ] = (FRESH, RANDOM)
    at: Annotated[tuple[int, ...] | None, Field(description="levels whose tickets are carried [default: all]")] = None

    def __post_init__(self) -> None:
        check_distinct("controls", self.controls)
        check_levels(self.at, self.levels)
        if len(self.trained) < 2 and not self.recipes[0].own:
            raise BadRequest("one recipe has nowhere to carry a ticket: give several data sets or optimisers")

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        """The recipes, each under each optimiser.

        Raises:
            BadRequest: An optimiser has no learning rate that can be read, or is given twice.
        """
        if not self.optimizers:
            return self.recipes
        if any(recipe.lr is not None or recipe.optimizer != "sgd" for recipe in self.recipes):
            raise BadRequest("optimizers names the optimisers and their lr: leave out optimizer and lr")
        given = [_optimizer(text) for text in self.optimizers]
        return tuple(dataclasses.replace(recipe, **fields) for fields in given for recipe in self.recipes)


def _optimizer(text: str) -> dict[str, str | float]:
    """The fields of a recipe that ``sgd:0.1`` stands for; ``sgd`` and ``package.module:Class`` leave the rate open."""
    name, mark, lr = text.rpartition(":")
    if not mark or "." in name:
        return {"optimizer": text}
    try:
        if name:
            return {"optimizer": name, "lr": float(lr)}
    except ValueError:
        pass
    raise BadRequest(f"optimizers has {text!r}: give a name and its lr, as in sgd:0.1")
