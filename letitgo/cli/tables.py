"""Rows on stdout, for a person and for a program. Nothing here imports torch."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.errors import BadRequest, WorkFailed
from letitgo.report.numbers import duration
from letitgo.store import Store, open_store
from letitgo.store.addresses import MARK
from letitgo.store.mark import is_empty, is_store

Row = dict[str, Any]
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """Text that may come from a stranger's store or data, with nothing left in it that steers a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def stdout_console() -> Console:
    """For tables: as wide as the terminal, or wide enough where there is none."""
    return Console(emoji=False) if sys.stdout.isatty() else Console(width=140, emoji=False)


def write(form: str, rows: Sequence[Row], data: Any) -> None:
    """What a program reads, to stdout: ``data`` as JSON, or the rows as CSV under a head."""
    if form == "json":
        print(json.dumps(data, indent=1))
        return
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: printable(x) if isinstance(x, str) else x for name, x in row.items()} for row in rows)


def show_rows(title: str, rows: Sequence[Row]) -> None:
    """A table for a person."""
    if not rows:
        return
    table = Table(title=escape(title), title_justify="left")
    for name, value in rows[0].items():
        justify = "right" if isinstance(value, (int, float)) else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold", no_wrap=name == "key")
    for row in rows:
        table.add_row(*(escape("–" if value is None else printable(value)) for value in row.values()))
    stdout_console().print(table)


def seconds(value: float | None) -> str | None:
    """A time for a person: ``0.27 s``, ``3 min``."""
    return None if value is None else f"{value:.2g} s" if value < 10 else duration(value)


def ago(then: float) -> str:
    """How long ago a moment was, for a person."""
    passed = max(0.0, time.time() - then)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit} ago"
    return "just now"


@contextmanager
def existing_store(root: str | None, hint: str = "name another with --store") -> Iterator[Store]:
    """Open a store that exists. An error in reading it becomes one sentence that names the store.

    Args:
        root: As in :func:`open_store`.
        hint: What to do where there is none.

    Raises:
        BadRequest: There is none.
        WorkFailed: It cannot be reached any more.
    """
    if root == "":
        raise BadRequest("store is empty: name a folder, or a URL as in s3://bucket/folder")
    store = open_store(root, make=False)
    try:
        if not is_store(store.files, store.root):
            if is_empty(store.files):
                raise BadRequest(f"there is no store at {store.root}: {hint}")
            raise BadRequest(f"{store.root} is no store (it has no {MARK}): {hint}")
        yield store
    except OSError as error:
        raise WorkFailed(f"the store {store.root} cannot be read ({error.strerror or error})") from error
