"""What a store knows of the studies that use it: which results each needs, and that one is under way."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from letitgo.plan import Stored, reached
from letitgo.store import Store, claimed
from letitgo.value import canonical, sha256

if TYPE_CHECKING:
    from letitgo.studies.study import Study


class Listing:
    """The list of a study's results, in ``studies/``; it is there before the first of them is computed.

    Args:
        store: Where.
        study: Its kind, its recipes and its options say which study it is.
    """

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._about = {
            "study": type(study).__name__,
            "recipes": [recipe.fields() for recipe in study.recipes],
            "options": _options(study),
        }
        self._key = sha256(canonical([self._about, [recipe.key for recipe in study.recipes]]))
        self._values: dict[str, Stored] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Listing:
        owner = secrets.token_hex(8)
        self._stack.enter_context(claimed(self._store, f"study-{self._key}-{owner}", owner))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def add(self, values: Iterable[Stored]) -> None:
        """List values, and all that they rest on."""
        self._values |= reached(values)
        address = f"studies/{self._key}"
        before = self._store.read(address, self._key) or {}
        if not self._values.keys() <= set(before.get("values", ())):
            body = {**self._about, "values": sorted(self._values), "begun": time.time()}
            self._store.write(address, self._key, body)


def _options(study: Study) -> dict[str, Any]:
    """The options of a study besides its recipes, as JSON, where they are not the default."""
    given = {f.name: getattr(study, f.name) for f in fields(study) if f.name != "recipes"}
    defaults = {f.name: f.default for f in fields(study)}
    return json.loads(json.dumps({k: v for k, v in given.items() if v != defaults[k]}, default=repr))
