"""What a study is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

from letitgo.plan import Stored
from letitgo.recipes import Recipe
from letitgo.report import Report
from letitgo.store import Store


class Study(Protocol):
    """What every study has: it is a dataclass, whose fields identify it.

    It may also have ``searches``, true if results decide what else is computed; ``promise``, a sentence on what it may
    spend; ``answer(rows)``, for a program; and ``finish(store)``, which writes files once all is computed and returns a
    line about each.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What is trained on."""
        ...

    def check(self) -> None:
        """Raise ``BadRequest`` where it cannot be carried out."""
        ...

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute; a stage may rest on the results of those before."""
        ...

    def rows(self, store: Store) -> list[dict[str, Any]]:
        """The answer, from what the store holds."""
        ...

    def seed_rows(self, store: Store) -> list[dict[str, Any]]:
        """The values of each seed, from what the store holds."""
        ...

    def report(self, rows: Sequence[dict[str, Any]]) -> Report:
        """What the rows say."""
        ...
