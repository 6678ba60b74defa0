"""Values whose results are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from letitgo.errors import WorkFailed
from letitgo.store import Store
from letitgo.value import Value, kind_of, spell


class Absent(WorkFailed):
    """A result is needed that the store does not hold."""


class Stored(Value):
    """A value with a result in the store. Other values are cheap, and made again wherever they are needed."""

    @property
    def address(self) -> str:
        """Where in the store its result lies."""
        kind = kind_of(type(self)).replace(":", ".").lower()
        return f"{kind}s/{self.key[:2]}/{self.key}"

    def summary(self) -> dict[str, Any]:
        """What a catalogue shows of the value, as JSON: the catalogue knows no kinds of values."""
        return {}

    def record(self, store: Store) -> dict[str, Any]:
        """What the store holds of it.

        Raises:
            Absent: It is not in the store.
        """
        body = store.read(self.address, self.key)
        if body is None:
            raise Absent(f"{self.address} is not in the store {store.root}")
        return body


def spelled_out(value: Stored) -> dict[str, Any]:
    """What a result's record says of where it comes from: the value in full, results in it by their addresses."""
    return spell(value, lambda part: {"at": part.address} if isinstance(part, Stored) else None)


def reached(values: Iterable[Stored]) -> dict[str, Stored]:
    """These values and all that they rest on, by address."""
    found: dict[str, Stored] = {}
    left = list(values)
    while left:
        value = left.pop()
        if value.address not in found:
            found[value.address] = value
            left.extend(stored_inputs(value))
    return found


def stored_inputs(value: Value) -> set[Stored]:
    """The results that must be there before this one can be computed."""
    found: set[Stored] = set()
    seen: set[Value] = set()
    left = list(value.inputs())
    while left:
        part = left.pop()
        if isinstance(part, Stored):
            found.add(part)
        elif part not in seen:
            seen.add(part)
            left.extend(part.inputs())
    return found
