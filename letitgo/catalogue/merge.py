"""Two stores into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from letitgo.errors import WorkFailed
from letitgo.store.addresses import is_address
from letitgo.store.store import Record, Store


@dataclass
class Merged:
    """What became of the other store's results.

    Attributes:
        copied: Number of those copied.
        present: Number of those that were there already, the same.
        conflicts: Address → what differs; what was there stays.
        damaged: Address → what is wrong with it; not copied, and left as it is.
    """

    copied: int = 0
    present: int = 0
    conflicts: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def merge(other: Store, store: Store) -> Merged:
    """Copy what a store lacks of another's results, digests checked. A second time goes on where the first broke off.

    Raises:
        WorkFailed: One cannot be read or the other not be written.
    """
    done = Merged()
    for path, _, _ in other.files.walk():
        address = path.removesuffix(".json")
        if address != path and is_address(address) and "/partial/" not in address:
            _merge_one(other, store, address, done)
    return done


def _merge_one(other: Store, store: Store, address: str, done: Merged) -> None:
    try:
        theirs = other.examine(address)
    except FileNotFoundError:
        return  # removed meanwhile
    except OSError as error:
        raise WorkFailed(f"{other.root}/{address} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        done.damaged[address] = str(error)
        return
    if address in store and store.intact(address, theirs["key"]):
        differs = _differs(theirs, store.examine(address))
        if not differs:
            done.present += 1
        elif address.startswith("studies/"):
            _list_both(store, address, theirs)
            done.copied += 1
        else:
            done.conflicts[address] = differs
        return
    try:
        other.copy(address, store)
        done.copied += 1
    except ValueError as error:
        done.damaged[address] = str(error)


def _differs(theirs: Record, ours: Record) -> str:
    """What differs of two results of the same value, but for where and when they were computed."""
    if theirs.get("tensors") != ours.get("tensors"):
        return _with_versions("its tensors differ", theirs, ours)
    for name in ("result", "optimizer", "frozen_digest", "values"):
        if theirs["body"].get(name) != ours["body"].get(name):
            return _with_versions(f"its {name.replace('_', ' ')} differs", theirs, ours)
    return ""


def _with_versions(what: str, theirs: Record, ours: Record) -> str:
    def said(record: Record) -> str:
        return ", ".join(f"{name} {version}" for name, version in record["body"].get("versions", {}).items())

    return what if said(theirs) == said(ours) else f"{what} (theirs by {said(theirs)}; ours by {said(ours)})"


def _list_both(store: Store, address: str, theirs: Record) -> None:
    """Of two lists of one study, one of which was not through: what either holds."""
    body: dict[str, Any] = store.examine(address)["body"]
    values = sorted({*body["values"], *theirs["body"]["values"]})
    store.write(address, theirs["key"], {**body, "values": values})
