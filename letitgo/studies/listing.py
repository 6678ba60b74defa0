"""What a store knows of the studies that use it: which results each needs, and that one is under way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from letitgo.plan import Stored, reached
from letitgo.recipes import Recipe
from letitgo.store import Store, claimed
from letitgo.value import canonical, sha256


class Listing:
    """The list of a study's results, in ``studies/``; it is there before the first of them is computed.

    Args:
        store: Where.
        study: What kind of study.
        recipes: What it trains on.
    """

    def __init__(self, store: Store, study: str, recipes: Sequence[Recipe]) -> None:
        self._store, self._study = store, study
        self._recipes = [recipe.fields() for recipe in recipes]
        self._key = ""
        self._values: dict[str, Stored] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def add(self, values: Iterable[Stored]) -> None:
        """List values, and all that they rest on. The first ones say which study it is."""
        values = list(values)
        if not self._key:
            self._key = sha256(canonical([self._study, sorted(value.key for value in values)]))
            owner = secrets.token_hex(8)
            self._stack.enter_context(claimed(self._store, f"study-{self._key}-{owner}", owner))
        self._values |= reached(values)
        address = f"studies/{self._key}"
        before = self._store.read(address, self._key) or {}
        if not self._values.keys() <= set(before.get("values", ())):
            body = {
                "study": self._study,
                "recipes": self._recipes,
                "values": sorted(self._values),
                "begun": time.time(),
            }
            self._store.write(address, self._key, body)
