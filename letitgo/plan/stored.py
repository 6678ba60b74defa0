"""Values whose results are kept."""

from __future__ import annotations

from typing import Any

from letitgo.errors import WorkFailed
from letitgo.store import Store
from letitgo.value import Value


class Absent(WorkFailed):
    """A result is needed that the store does not hold."""


class Stored(Value):
    """A value with a result in the store. Other values are cheap, and made again wherever they are needed."""

    @property
    def address(self) -> str:
        """Where in the store its result lies."""
        return f"{type(self).__name__.lower()}s/{self.key[:2]}/{self.key}"

    def record(self, store: Store) -> dict[str, Any]:
        """What the store holds of it.

        Raises:
            Absent: It is not in the store.
        """
        body = store.read(self.address, self.key)
        if body is None:
            raise Absent(f"{self.address} is not in the store {store.root}")
        return body


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
