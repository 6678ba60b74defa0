"""What a store holds, from its files and records alone: no value is built, nothing is set aside."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.store.addresses import is_address
from letitgo.store.claims import live
from letitgo.store.records import Record
from letitgo.store.store import Store
from letitgo.version import other_versions

Row = dict[str, Any]

DEFAULTS = {
    field.name: {} if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(Recipe)  # type: ignore[arg-type]
    if field.name not in ("model", "data", "seed")
}
"""What a recipe says where nothing is asked for."""

APART = ("damaged", "claims")
"""Folders that hold no results."""


@dataclass
class Found:
    """A run in the store, as far as its files tell.

    Attributes:
        folder: Where its states lie.
        states: Addresses of them.
        bytes: Of all its files.
        written: When the last was, seconds of the epoch.
    """

    folder: str
    states: list[str] = field(default_factory=list)
    bytes: int = 0
    written: float = 0.0

    @property
    def key(self) -> str:
        return self.folder.rpartition("/")[2]


@dataclass
class Contents:
    """What a store holds.

    Attributes:
        runs: By folder.
        measures: Their number by kind.
        studies: Their addresses.
        bytes: Of all files.
        damaged: Files set aside.
    """

    runs: dict[str, Found] = field(default_factory=dict)
    measures: Counter[str] = field(default_factory=Counter)
    studies: list[str] = field(default_factory=list)
    bytes: int = 0
    damaged: int = 0

    def newest(self) -> list[Found]:
        """The runs, those written last first."""
        return sorted(self.runs.values(), key=lambda run: (-run.written, run.key))

    def row(self) -> Row:
        """Numbers, tidy."""
        return {
            "studies": len(self.studies),
            "runs": len(self.runs),
            "states": sum(len(run.states) for run in self.runs.values()),
            "measures": sum(self.measures.values()),
            "bytes": self.bytes,
            "damaged": self.damaged,
        }


def contents(store: Store) -> Contents:
    """Look through a store's folders; no file is opened."""
    found = Contents()
    for path, size, modified in store.files.walk():
        found.bytes += size
        kind, _, rest = path.partition("/")
        if kind in APART or path.endswith(".partial"):
            found.damaged += kind == "damaged"
        elif kind == "studies":
            found.studies.append(path[:-5])
        elif kind == "states":
            folder = path[: path.index("/", 10)] if path.count("/") > 2 else path
            run = found.runs.get(folder)
            if run is None:
                run = found.runs[folder] = Found(folder)
            run.bytes += size
            run.written = max(run.written, modified)
            if path.endswith(".json"):
                run.states.append(path[:-5])
        elif rest and path.endswith(".json"):
            found.measures[kind] += 1
    return found


def run_row(store: Store, run: Found) -> Row | None:
    """What is told of a run, from the record of its last whole state; None where it has none."""
    whole = [address for address in run.states if "/partial/" not in address]
    try:
        body = store.examine(max(whole or run.states))["body"]
    except (OSError, ValueError):
        return None
    recipe, said = body.get("recipe", {}), summary(body)
    return {
        "key": run.key,
        **{name: recipe.get(name) for name in ("model", "data", "epochs", "seed")},
        "begin": said["begin"],
        "frozen": _layers(said["frozen"]),
        "part": said["part"],
        "states": len(whole),
        "bytes": run.bytes,
        "seconds": body.get("seconds"),
        "host": body.get("host"),
        "other_versions": other_versions(body.get("versions", {})) or None,
        "written": run.written,
        "recipe": recipe,
    }


def _layers(parameters: list[str] | None) -> str | None:
    if parameters is None:
        return None
    return " ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))


def summary(body: Row) -> Row:
    """What the value of a record says of itself; None where the record is of an earlier version and says nothing.

    Of a point of a run ``begin``, the step at which its run starts; ``frozen``, the names of parameters that do not
    move; and ``part``, how parts of tensors are trained, as in ``subspace``, empty where whole ones are. Of an
    evaluation ``split``.
    """
    said = body.get("summary", {})
    names = said.get("frozen")
    frozen = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return {**{name: said.get(name) for name in ("begin", "part", "split")}, "frozen": frozen}


def run_rows(store: Store, found: Contents, where: dict[str, str], study: str | None = None) -> Iterator[Row]:
    """Rows of the runs, newest first; only those records are read that are asked for.

    Args:
        store: The store.
        found: What it holds.
        where: Recipe field → value, as text, that a run must have.
        study: Only what this study uses: its key or the beginning of it.
    """
    listed = None
    if study is not None:
        values = study_body(store, study)["values"]
        listed = {address.rpartition("/")[0] for address in values if address.startswith("states/")}
    for run in found.newest():
        if listed is not None and run.folder not in listed:
            continue
        row = run_row(store, run)
        if row is not None and all(str(row["recipe"].get(name)) == value for name, value in where.items()):
            yield row


def study_rows(store: Store) -> list[Row]:
    """The studies, newest first."""
    rows = []
    for address in store.under("studies"):
        try:
            body = store.examine(address)["body"]
        except (OSError, ValueError):
            continue
        key = address.rpartition("/")[2]
        about = {
            "models": " ".join(dict.fromkeys(str(recipe.get("model")) for recipe in body["recipes"])),
            "data": " ".join(dict.fromkeys(str(recipe.get("data")) for recipe in body["recipes"])),
            "recipe": _differing(body["recipes"]),
            "options": " ".join(f"{name}={_short(option)}" for name, option in body.get("options", {}).items()),
        }
        rows.append(
            {"key": key, "study": body["study"], **about, "results": len(body["values"]), "begun": body["begun"]}
        )
    return sorted(rows, key=lambda row: -row["begun"])


def _differing(recipes: list[Row]) -> str:
    """The length, and each other field that recipes differ in or that is not the default, with its values."""
    said = []
    for name, default in DEFAULTS.items():
        values = list(dict.fromkeys(_short(recipe.get(name)) for recipe in recipes))
        if name == "epochs" or values not in ([_short(default)], ["None"]):
            said.append(f"{name}={','.join(values)}")
    return " ".join(said)


def _short(option: Any) -> str:
    return ",".join(map(_short, option)) if isinstance(option, list) else str(option)


def study_body(store: Store, prefix: str) -> Row:
    """The record of a study.

    Raises:
        BadRequest: There is no such, or several.
    """
    return examined(store, one_of(store, prefix, [a for a in store.under("studies") if prefix in a]))["body"]


def running_studies(store: Store) -> set[str]:
    """Keys of the studies that somebody is at."""
    names = [name for name in store.files.names("claims") if name.startswith("study-")]
    return {name.split("-")[1] for name in names if live(store, f"claims/{name}")}


def find(store: Store, prefix: str) -> str:
    """The address of the result, or the folder of the run, whose key begins so.

    Raises:
        BadRequest: There is none, or several.
    """
    if len(prefix) < 4 or not set(prefix) <= set("0123456789abcdef"):
        raise BadRequest(f"key is {prefix!r}: give at least the first four of its hexadecimal digits")
    shard = prefix[:2]
    found = [address for address in store.under("studies") if address.startswith(f"studies/{prefix}")]
    for kind in store.files.folders(""):
        if kind in APART or kind == "studies":
            continue
        if kind == "states":
            found += [f"states/{shard}/{n}" for n in store.files.folders(f"states/{shard}") if n.startswith(prefix)]
        else:
            found += [a for a in store.under(f"{kind}/{shard}") if a.rpartition("/")[2].startswith(prefix)]
    return one_of(store, prefix, found)


def one_of(store: Store, prefix: str, found: list[str]) -> str:
    """The only one.

    Raises:
        BadRequest: There is none, or several.
    """
    if len(found) > 1:
        shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise BadRequest(f"key {prefix!r} is the beginning of {len(found)}: {shown}: give more digits")
    if not found:
        raise BadRequest(f"key {prefix!r} is not in the store {store.root}: letitgo runs lists what is")
    return found[0]


def examined(store: Store, address: str) -> Record:
    """The record at an address.

    Raises:
        BadRequest: It is absent or damaged.
    """
    try:
        return store.examine(address)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{store.root}/{address} cannot be told of: {error}") from error


def shown(store: Store, prefix: str) -> Row:
    """A result with its recipe, its provenance, and the values it came from, those in the store followed to the start.

    Raises:
        BadRequest: There is no such key, or several.
    """
    address = find(store, prefix)
    row: Row = {"address": address}
    if address.count("/") == 2 and address.startswith("states/"):
        row["states"] = sorted(store.under(address))
        if not row["states"]:
            raise BadRequest(f"{store.root}/{address} holds no whole state yet")
        address = row["states"][-1]
    record = examined(store, address)
    body = record["body"]
    sizes = {"tensor_bytes": record["tensors"]["bytes"]} if "tensors" in record else {}
    hidden = ("value", "summary", "optimizer", "frozen_digest", "values")
    about = {name: body[name] for name in body if name not in hidden}
    if "values" in body:
        about["results"] = len(body["values"])
    try:
        value = {"came_from": _followed(store, body["value"], set())} if "value" in body else {}
    except RecursionError as error:
        raise BadRequest(f"{store.root}/{address} came from too long a chain of results to be shown") from error
    return {**row, "key": record["key"], **sizes, **about, **value}


def _followed(store: Store, value: Any, seen: set[str]) -> Any:
    """A value as its record tells it, and in place of each address what that record tells."""
    if isinstance(value, list):
        return [_followed(store, item, seen) for item in value]
    if not isinstance(value, dict):
        return value
    address = value.get("at")
    if value.keys() != {"at"} or not is_address(address):
        return {name: _followed(store, item, seen) for name, item in value.items()}
    if address in seen:
        return {"at": address, "note": "above"}
    seen.add(address)
    try:
        body = store.examine(address)["body"]
    except (OSError, ValueError) as error:
        return {"at": address, "note": "not in the store" if isinstance(error, FileNotFoundError) else str(error)}
    return {"at": address, **_followed(store, body.get("value", {}), seen)}
