"""Sweeps: any field of a recipe may be a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from letitgo.errors import BadRequest, nearest
from letitgo.recipes import Recipe


def make_recipe(**fields: Any) -> Recipe:
    """A recipe, its fields checked.

    Raises:
        BadRequest: One sentence on each field that is wrong.
    """
    try:
        return Recipe(**fields)
    except ValidationError as error:
        raise BadRequest("; ".join(_sentence(detail) for detail in error.errors())) from error


def sweep(**fields: Any) -> tuple[list[Recipe], list[str]]:
    """All recipes that lists of field values stand for, and the names of the fields that differ.

    Args:
        fields: Fields of a recipe; a list or tuple is swept over, the last field fastest.

    Raises:
        BadRequest: A field is wrong, a list is empty, or two recipes are the same.
    """
    lists: Mapping[str, Sequence[Any]] = {
        name: value if isinstance(value, (list, tuple)) else [value] for name, value in fields.items()
    }
    for name, values in lists.items():
        if not values:
            raise BadRequest(f"{name} is an empty list: give at least one value")
        if len({str(value) for value in values}) < len(values):
            raise BadRequest(f"{name} has a value twice: {', '.join(map(str, values))}")
    recipes = [make_recipe(**dict(zip(lists, choice, strict=True))) for choice in product(*lists.values())]
    return recipes, [name for name, values in lists.items() if len(values) > 1]


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe under another seed."""
    return dataclasses.replace(recipe, seed=seed)


def with_seeds(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe under its own seed and those that follow."""
    return [with_seed(recipe, recipe.seed + i) for i in range(count)]


def _sentence(detail: Any) -> str:
    field = ".".join(map(str, detail["loc"]))
    if detail["type"] == "unexpected_keyword_argument":
        names = tuple(f.name for f in dataclasses.fields(Recipe))  # type: ignore[arg-type]
        return f"a recipe has no field {field!r}: {nearest(field, names)}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if detail["type"] == "string_pattern_mismatch":
        shape = "write channels (1 or 3), height and width, as in 1x28x28"
        message = shape if field == "fit" else "write 256, or 300x100 for the layers one by one"
    return f"{field.replace('_', '-')} is {detail['input']!r}: {message}"
