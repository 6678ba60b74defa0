"""What the options of all studies have in common. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
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
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_SEEDS):
        raise BadRequest(f"seeds is {value!r}: give a whole number from 1 to {MOST_SEEDS:,}, or auto")
    return value


MOST_SEEDS = 10_000
HELD_OUT, MOST, LEAST = 5, 5000, 30
"""What is held out to choose on: one training example in so many, at most so many, and no fewer than so many."""

Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS, description="number of seeds, counted up from the recipe's")]
Layers = Annotated[tuple[str, ...], Field(description="patterns of the layers to act on [default: all]")]
Blocks = Annotated[
    tuple[str, ...], Field(description="patterns of blocks to act on as one; by decides for the other layers")
]
By = Annotated[
    Literal["block", "layer", "module"],
    Field(
        description="what is acted on as one: block (of the network's own), layer (with the norm that belongs to it), "
        "or module (each that owns parameters, norms too)"
    ),
]
Statistics = Literal["follow", "frozen", "re-estimate"]
Tolerance = Annotated[
    float,
    Field(
        ge=0,
        lt=100,
        description="largest drop in test accuracy, or another share, that does no harm, in points; of a perplexity or "
        "an error, largest rise, in per cent",
    ),
]


@checked
@dataclass(frozen=True, config=STRICT)
class StudyOptions:
    """Options that every study of recipes has.

    Attributes:
        recipes: What is trained on: one recipe, or those of a sweep.
        statistics: What becomes of the running statistics of normalization layers.
    """

    QUESTION: ClassVar[str]
    """What the study answers: its help and its title."""
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]]
    """Command lines, and what each does."""
    takes_own: ClassVar[bool] = False
    """Whether it can be asked of a task with training code of the user's own."""

    recipes: Recipes
    statistics: Annotated[
        Statistics,
        Field(
            description="running statistics of norms: follow (the data, in frozen norms too), frozen (in those), "
            "re-estimate (on training inputs before every evaluation)"
        ),
    ] = dataclasses.field(default="follow", kw_only=True)

    @property
    def swept(self) -> tuple[str, ...]:
        """Names of the recipe fields that differ; each is a column of the rows."""
        first, *others = self.recipes
        return tuple(name for name in first.fields() if any(getattr(r, name) != getattr(first, name) for r in others))

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        """The recipes as they are trained, with what is held out to choose on."""
        return self.recipes


@checked
@dataclass(frozen=True, config=STRICT, kw_only=True)
class SeededOptions(StudyOptions):
    """Options of a study whose verdicts take as many seeds as they need.

    Attributes:
        recipes: What is trained on: one recipe, or those of a sweep.
    """

    seeds: Annotated[
        int | Literal["auto"],
        BeforeValidator(_number_or_auto),
        Field(description="number of seeds, counted up from the recipe's; auto: as many as each verdict needs"),
    ] = "auto"
    max_seeds: Annotated[int, Field(ge=2, le=MOST_SEEDS, description="most seeds of a row where seeds is auto")] = 20
    tolerance: Tolerance = 1.0

    def __post_init__(self) -> None:
        _only_of_auto(self, "max_seeds")


@checked
@dataclass(frozen=True, config=STRICT, kw_only=True)
class JudgedOptions(SeededOptions):
    """Options of a study whose rows get verdicts.

    Attributes:
        recipes: What is trained on: one recipe, or those of a sweep.
    """

    familywise: Annotated[
        bool, Field(description="where seeds is auto: divide the error of a verdict by the number of verdicts")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _only_of_auto(self, "familywise")


@checked
@dataclass(frozen=True, config=STRICT, kw_only=True)
class ChoosingOptions(JudgedOptions):
    """Options of a study that advises one of its rows."""

    select: Annotated[
        Literal["validation", "test"],
        Field(
            description="the examples that advice is chosen on: validation (the recipe's held-out examples, or a fifth "
            "of the training examples, at most 5,000) or test; the numbers shown are of the test set"
        ),
    ] = "validation"

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        return tuple(map(holding_out, self.recipes)) if self.chooses_on == "validation" else self.recipes

    @property
    def chooses_on(self) -> Literal["validation", "test"]:
        """As asked; the test set where a task with training code of its own has no ``validate``."""
        return "test" if any(recipe.own and not recipe.own.validates for recipe in self.recipes) else self.select

    @property
    def held_out(self) -> tuple[Literal["validation"], ...]:
        """The split that choices are read from besides the test split, if any."""
        return ("validation",) if self.chooses_on == "validation" else ()

    @property
    def chosen(self) -> str:
        """How the names of the columns begin that choices are read from: ``validation_drop_mean``, ``drop_mean``."""
        return "validation_" if self.chooses_on == "validation" else ""

    def passes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row may be advised: its mean drop on held-out examples is within the tolerance.

        That takes no certainty, since the test set judges it. Where the test set chooses, the whole interval has to be.
        """
        drop = row[f"{self.chosen}drop_mean"]
        if self.chooses_on == "test" or row["verdict"] is None:
            return row["verdict"] == "robust"
        return drop is not None and drop <= self.tolerance / 100


def _only_of_auto(options: SeededOptions, name: str) -> None:
    """Refuse an option beside a fixed number of seeds, which it would do nothing to."""
    default = type(options).__dataclass_fields__[name].default
    if options.seeds != "auto" and getattr(options, name) != default:
        raise BadRequest(
            f"{name.replace('_', '-')} is for seeds auto, and seeds is {options.seeds}: leave out one of them"
        )


def holding_out(recipe: Recipe) -> Recipe:
    """A recipe with training examples held out to choose on: its own number, else a fifth and at most 5,000.

    Raises:
        BadRequest: They are too few, or too few are left.
    """
    if recipe.own is not None:
        return recipe  # its validate holds them
    there = len(recipe.dataset.split("train"))
    count = recipe.validation or min(MOST, there // HELD_OUT)
    if count < LEAST:
        raise BadRequest(
            f"{count} of {there:,} training examples would be held out to choose on, and {LEAST} are the least: give "
            "more examples, or choose on the test set (select test)"
        )
    found = dataclasses.replace(recipe, validation=count)
    try:
        assert found.dataset
    except BadRequest as error:
        raise BadRequest(
            f"{error}, besides {count:,} held out to choose on: give fewer, or choose on the test set (select test)"
        ) from error
    return found


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
