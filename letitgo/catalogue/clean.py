"""What no study needs any more. Only what is a store's by its name and by what it holds is ever removed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from letitgo.catalogue.contents import one_of, running_studies
from letitgo.errors import BadRequest
from letitgo.store.addresses import finished
from letitgo.store.claims import live
from letitgo.store.files import Entry
from letitgo.store.store import Store


@dataclass
class Rubbish:
    """Files that can go, by reason.

    Attributes:
        left_behind: Of writers that were killed, and of runs that got further or were given up.
        damaged: Set aside.
        unlisted: Of results that no study lists.
        states: Of studies that have all their measures.
        study: Lists of the studies that are given up.
    """

    left_behind: list[Entry] = field(default_factory=list)
    damaged: list[Entry] = field(default_factory=list)
    unlisted: list[Entry] = field(default_factory=list)
    states: list[Entry] = field(default_factory=list)
    study: list[Entry] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Number and size by reason."""
        return [
            {"what": name, "files": len(files), "bytes": sum(file.bytes for file in files)}
            for name, files in vars(self).items()
        ]


def find_rubbish(store: Store, studies: Iterable[str] = (), states: bool = False, hours: float = 1.0) -> Rubbish:
    """Look for what can go; nothing is removed.

    Nothing goes that a study lists, that a run under way is at, or that was written within the last hours.

    Args:
        store: The store.
        studies: Keys, or beginnings of keys, of studies to give up: what they alone list goes too.
        states: Also the states of studies that have all their measures: their tables stay, and what would be asked of
            these states later is trained again.
        hours: How old a file must be.

    Raises:
        BadRequest: A study is not in the store, or is under way.
    """
    running = running_studies(store)
    there = list(store.under("studies"))
    given_up = {one_of(store, key, [a for a in there if a.startswith(f"studies/{key}")]) for key in studies}
    for address in given_up:
        if address.rpartition("/")[2] in running:
            raise BadRequest(f"{address} is under way: end it first")
    needed, done = _needed(store, given_up, running)
    at = {name[:-6] for name in store.files.names("claims") if live(store, f"claims/{name}")}
    before = time.time() - hours * 3600
    found = Rubbish()
    for entry in store.files.walk():
        kind = entry.path.partition("/")[0]
        address = entry.path.rpartition(".")[0]
        going: list[Entry] | None = None
        if kind == "damaged":
            going = found.damaged
        elif kind == "studies":
            going = found.study if address in given_up else None
        elif entry.modified > before or _worked_at(entry.path) in at:
            going = None
        elif kind == "claims" or entry.path.endswith(".partial") or "/partial/" in entry.path:
            going = found.left_behind
        elif address not in needed:
            going = found.unlisted
        elif states and kind == "states" and address in done:
            going = found.states
        if going is not None and _holds_ours(store, entry):
            going.append(entry)
    return found


def remove(store: Store, rubbish: Rubbish, studies: Iterable[str] = ()) -> None:
    """Remove it, but for what a study has come to list meanwhile; records go before tensors."""
    store.settle()
    given_up = {entry.path[:-5] for entry in rubbish.study}
    for entry in (*rubbish.study, *rubbish.left_behind, *rubbish.damaged):
        store.files.remove(entry.path)
    results = [(entry, entry in rubbish.states) for entry in (*rubbish.unlisted, *rubbish.states)]
    results.sort(key=lambda item: item[0].path)  # .json before .safetensors
    for begin in range(0, len(results), 1000):
        needed, done = _needed(store, given_up, running_studies(store))
        for entry, is_state in results[begin : begin + 1000]:
            address = entry.path.rpartition(".")[0]
            if address not in needed or (is_state and address in done):
                store.files.remove(entry.path)


def _needed(store: Store, given_up: set[str], running: set[str]) -> tuple[set[str], set[str]]:
    """Addresses that studies list, and those that only studies list which have all their measures."""
    needed: set[str] = set()
    unfinished: set[str] = set()
    for address in store.under("studies"):
        if address in given_up:
            continue
        try:
            values = set(store.examine(address)["body"]["values"])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            raise BadRequest(
                f"{store.root}/{address} cannot be read ({error}), so what that study needs is not known: "
                "start the study again, which lists it anew"
            ) from error
        needed |= values
        measures = [value for value in values if not value.startswith("states/")]
        done = measures and address.rpartition("/")[2] not in running and all(value in store for value in measures)
        unfinished |= set() if done else values
    return needed, needed - unfinished


def _holds_ours(store: Store, entry: Entry) -> bool:
    """Whether a file of a store's name holds what a store writes: its beginning where only that can be there.

    What is in ``damaged/`` failed its check when it was moved there, so there the name decides.
    """
    if entry.path.startswith("damaged/"):
        return True
    if entry.path.startswith("claims/") or entry.path.endswith(".partial"):
        return _begins_like_ours(store, entry)
    try:
        if entry.path.endswith(".json"):
            store.examine(entry.path[:-5])
            return True
        return entry.bytes == 0 or _begins_like_ours(store, entry)
    except (FileNotFoundError, ValueError):
        return False


def _begins_like_ours(store: Store, entry: Entry) -> bool:
    """Whether a file is empty, or begins as JSON or as a file of tensors."""
    with store.files.open(entry.path, entry.bytes) as file:
        begin = file.read(9)
    return begin[:1] in (b"", b"[", b"{", b"?") or begin[8:] == b"{"


def _worked_at(path: str) -> str:
    """Key of the run or measure that whoever writes the file claims."""
    parts = finished(path).split("/")
    return parts[1].removesuffix(".claim") if parts[0] == "claims" else parts[2].partition(".")[0] if parts[2:] else ""
