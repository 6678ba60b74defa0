"""All measurements of a store as one Parquet table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from letitgo.catalogue.contents import summary
from letitgo.errors import WorkFailed
from letitgo.store.addresses import is_address
from letitgo.store.store import Store
from letitgo.whole import replaced

Row = dict[str, Any]

BATCH = 50_000
"""Rows that are held at once."""
_NUMBERS = ("value", "lr", "seconds")
_WHOLE = ("step", "begin", "epochs", "batch_size", "seed")
COLUMNS = (
    "key",
    "kind",
    "name",
    "value",
    "split",
    "state",
    "run",
    "step",
    "begin",
    "frozen",
    "part",
    "model",
    "data",
    "optimizer",
    "lr",
    "epochs",
    "batch_size",
    "seed",
    "recipe",
    "seconds",
    "host",
    "torch",
    "letitgo",
)
"""A row is one number: ``name`` says which of the measure's it is, as ``accuracy`` or ``fc1.l2``; ``state`` is the
address of the first state it was read off, ``run`` the run that is a point of, and the rest tells of that run."""


def export(store: Store, path: str | Path) -> int:
    """Write the table; a file that is there is replaced when the new one is whole.

    Args:
        store: Its measures that pass their check; what fails is left out and left where it is.
        path: The file.

    Returns:
        The number of rows.

    Raises:
        WorkFailed: The file cannot be written, or the store cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    types = {**dict.fromkeys(_NUMBERS, pa.float64()), **dict.fromkeys(_WHOLE, pa.int64())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    target = Path(path)
    count = 0
    try:
        with replaced(target) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
            for rows in _batches(_readable(store)):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                count += len(rows)
    except OSError as error:
        raise WorkFailed(f"{target} cannot be written ({error.strerror or error})") from error
    return count


def _readable(store: Store) -> Iterator[Row]:
    try:
        yield from rows_of(store)
    except OSError as error:
        raise WorkFailed(f"the store {store.root} cannot be read ({error.strerror or error})") from error


def rows_of(store: Store) -> Iterator[Row]:
    """One row for each number that was measured."""
    runs: dict[str, Row] = {}
    for path, _, _ in store.files.walk():
        address, folder = path.removesuffix(".json"), path.partition("/")[0]
        if address == path or not is_address(address) or folder in ("states", "studies"):
            continue
        try:
            record = store.examine(address)
        except (FileNotFoundError, ValueError):
            continue
        body = record["body"]
        value = body.get("value", {})
        state = first_state(value)
        about = {
            "key": record["key"],
            "kind": value.get("kind") or folder,
            "split": summary(body)["split"],
            "state": state,
            "seconds": body.get("seconds"),
            "host": body.get("host"),
            "torch": body.get("versions", {}).get("torch"),
            "letitgo": body.get("versions", {}).get("letitgo"),
            **(_of_run(store, state, runs) if state else {}),
        }
        for name, number in dotted(body.get("result")):
            if isinstance(number, (int, float)):
                yield {column: _cell(column, cell) for column, cell in {**about, "name": name, "value": number}.items()}


def _cell(column: str, value: Any) -> float | int | str | None:
    """A value as its column takes it; None for what it does not take, whoever wrote the record."""
    if column in _NUMBERS:
        return float(value) if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max else None
    if column in _WHOLE:
        return value if type(value) is int and -(1 << 63) <= value < 1 << 63 else None
    return value if isinstance(value, str) else None


def dotted(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a result, with dotted names; places in a list count from 0."""
    if isinstance(result, (dict, list)):
        for part, item in result.items() if isinstance(result, dict) else enumerate(result):
            yield from dotted(item, f"{name}.{part}" if name else str(part))
    else:
        yield name, result


def first_state(value: Any) -> str | None:
    """The address of the first state that a value, as its record tells it, was made from."""
    if isinstance(value, dict):
        at = value.get("at")
        if isinstance(at, str) and value.keys() == {"at"}:
            return at if at.startswith("states/") and is_address(at) else None
        value = list(value.values())
    if isinstance(value, list):
        return next((found for item in value if (found := first_state(item))), None)
    return None


def _of_run(store: Store, state: str, runs: dict[str, Row]) -> Row:
    folder, _, step = state.rpartition("/")
    if folder not in runs:
        try:
            body = store.examine(state)["body"]
        except (OSError, ValueError):
            body = {}  # cleaned away
        recipe, said = body.get("recipe", {}), summary(body)
        frozen = said["frozen"]
        runs[folder] = {
            "run": folder.rpartition("/")[2],
            "begin": said["begin"],
            "frozen": None if frozen is None else " ".join(frozen),
            "part": said["part"],
            **{name: recipe.get(name) for name in ("model", "data", "optimizer", "lr", "epochs", "batch_size", "seed")},
            "recipe": json.dumps(recipe) if recipe else None,
        }
    return {**runs[folder], "step": int(step)}


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    yield batch
