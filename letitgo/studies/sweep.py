"""Sweeps: any field of a recipe may be a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.recipes.recipe import does_not_apply


def sweep(**fields: Any) -> list[Recipe]:
    """All recipes that lists of field values stand for.

    Args:
        fields: Fields of a recipe; a list or tuple is swept over, the last field fastest.

    Raises:
        BadRequest: A field is wrong, a list is empty, two recipes are the same, two fields say how long, or a field is
            given that a task with training code of its own says itself.
    """
    lists: Mapping[str, Sequence[Any]] = {
        name: value if isinstance(value, (list, tuple)) else [value] for name, value in fields.items()
    }
    if {"epochs", "iterations"} <= lists.keys():
        raise BadRequest("epochs and iterations both say how long training is: give one of them")
    for name, values in lists.items():
        if not values:
            raise BadRequest(f"{name} is an empty list: give at least one value")
        if len({str(value) for value in values}) < len(values):
            said = f"{name} has a value twice: {', '.join(map(str, values))}"
            raise BadRequest(f"{said}; one network has {'x'.join(map(str, values))}" if name == "widths" else said)
    found = [dict(zip(lists, choice, strict=True)) for choice in product(*lists.values())]
    recipes = [Recipe(**given) for given in found]
    for recipe, given in zip(recipes, found, strict=True):
        for name in given if recipe.own else ():
            if name not in ("task", "model_args", "seed") and given[name] != recipe.own_fields.get(name):
                raise BadRequest(does_not_apply(name, recipe.task))
    return recipes


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe under another seed."""
    return dataclasses.replace(recipe, seed=seed)


def with_seeds(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe under its own seed and those that follow."""
    return [with_seed(recipe, recipe.seed + i) for i in range(count)]
