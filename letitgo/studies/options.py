"""What the options of all studies have in common. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe


def _several(value: Any) -> Any:
    found = (value,) if isinstance(value, Recipe) else value
    if not isinstance(found, tuple) or not found or not all(isinstance(recipe, Recipe) for recipe in found):
        raise BadRequest("recipes takes a Recipe, or a list of at least one")
    return found


if TYPE_CHECKING:
    Recipes = Any  # a type checker would refuse a single recipe
else:
    Recipes = Annotated[tuple[Recipe, ...], BeforeValidator(_several)]


def _number_or_auto(value: Any) -> Any:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise BadRequest(f"seeds is {value!r}: give a whole number of at least 1, or auto")
    return value


Seeds = Annotated[int, Field(ge=1, description="number of seeds, counted up from the recipe's")]
Layers = Annotated[tuple[str, ...], Field(description="patterns of the layers to act on [default: all]")]
Blocks = Annotated[tuple[str, ...], Field(description="patterns of blocks to act on as one")]
Statistics = Annotated[
    Literal["follow", "frozen"],
    Field(description="running statistics of frozen normalization layers: follow the data, or frozen"),
]
Tolerance = Annotated[
    float,
    Field(
        ge=0,
        lt=100,
        description="largest drop in test accuracy that does no harm, in points; of text, largest rise in perplexity, "
        "in per cent",
    ),
]


@checked
@dataclass(frozen=True, config=STRICT)
class StudyOptions:
    """Options that every study of recipes has.

    Attributes:
        recipes: What is trained on: one recipe, or those of a sweep.
    """

    QUESTION: ClassVar[str]
    """What the study answers: its help and its title."""
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]]
    """Command lines, and what each does."""

    recipes: Recipes

    @property
    def swept(self) -> tuple[str, ...]:
        """Names of the recipe fields that differ; each is a column of the rows."""
        first, *others = self.recipes
        return tuple(name for name in first.fields() if any(getattr(r, name) != getattr(first, name) for r in others))


@checked
@dataclass(frozen=True, config=STRICT, kw_only=True)
class JudgedOptions(StudyOptions):
    """Options of a study whose rows get verdicts.

    Attributes:
        recipes: What is trained on: one recipe, or those of a sweep.
    """

    seeds: Annotated[
        int | Literal["auto"],
        BeforeValidator(_number_or_auto),
        Field(description="number of seeds, counted up from the recipe's; auto: as many as each verdict needs"),
    ] = "auto"
    max_seeds: Annotated[int, Field(ge=2, description="most seeds of a row where seeds is auto")] = 20
    familywise: Annotated[
        bool, Field(description="where seeds is auto: divide the error of a verdict by the number of verdicts")
    ] = False
    tolerance: Tolerance = 1.0


def check_epochs(option: str, epochs: Sequence[int] | None, recipes: Sequence[Recipe]) -> None:
    """Make sure that training reaches the epochs an option names.

    Raises:
        BadRequest: It does not.
    """
    reached = min(recipe.epochs for recipe in recipes)
    for epoch in epochs or ():
        if not 0 <= epoch < reached:
            raise BadRequest(f"{option} names epoch {epoch}: training has {reached} epochs, 0 to {reached - 1}")


def check_distinct(option: str, values: Sequence[Any] | None) -> None:
    """Make sure that a list names nothing twice.

    Raises:
        BadRequest: It does.
    """
    if values and len(set(values)) < len(values):
        raise BadRequest(f"{option} has a value twice: {', '.join(map(str, values))}")


def check_target(path: str) -> None:
    """Make sure, before work that takes long, that its result can be written to a file.

    Raises:
        BadRequest: The file's folder is not there, or the file is a folder.
    """
    target = Path(path)
    if not path or target.is_dir() or not os.access(target.parent, os.W_OK):
        raise BadRequest(f"{path!r} cannot be written: name a file in a folder that is there and can be written")
