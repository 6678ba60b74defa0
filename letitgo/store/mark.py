"""The mark of a store: a small file without which a folder or bucket is somebody else's, and left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from letitgo.errors import BadRequest
from letitgo.store.addresses import MARK, finished, is_address
from letitgo.store.files import Files
from letitgo.store.records import examined

FORMAT = 1
"""Raised when older versions can no longer read a store."""


def settle(files: Files, root: Path | str) -> None:
    """See that results may be written: a store stays one, an empty place becomes one.

    A store of an earlier version has no mark. It is known by a sound record at its address, and is marked.

    Raises:
        BadRequest: The place holds other things.
        OSError: It cannot be read or written.
    """
    if _marked(files, root):
        return
    if is_empty(files) or _has_records(files):
        files.put(MARK, [json.dumps({"format": FORMAT}).encode()])
    elif not _marked(files, root):  # by another process, just now
        raise BadRequest(
            f"{root} is not empty and is no store (it has no {MARK}): name a new or an empty folder with --store"
        )


def is_store(files: Files, root: Path | str) -> bool:
    """Whether a place is a store, with a mark or known by its records.

    Raises:
        BadRequest: It is a store of a later version.
        OSError: It cannot be read.
    """
    return _marked(files, root) or _has_records(files)


def is_empty(files: Files) -> bool:
    """Whether a place holds nothing, or is not there; a mark that is being written, or is torn, does not count."""
    return all(finished(name) == MARK for name in files.listing())


def _marked(files: Files, root: Path | str) -> bool:
    try:
        data = files.read(MARK)
    except FileNotFoundError:
        return False
    try:
        mark = json.loads(data)["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    if type(mark) is not int:
        return False
    if mark > FORMAT:
        raise BadRequest(f"the store {root} has format {mark}, this version reads up to {FORMAT}: update letitgo")
    return True


def _has_records(files: Files) -> bool:
    return any(_is_record(files, address) for address in _addresses(files, ""))


def _is_record(files: Files, address: str) -> bool:
    try:
        examined(files.read(f"{address}.json"), address)
    except (OSError, ValueError):
        return False
    return True


def _addresses(files: Files, folder: str) -> Iterator[str]:
    inside = f"{folder}/" if folder else ""
    for name in files.names(folder):
        address = (inside + name).removesuffix(".json")
        if name.endswith(".json") and is_address(address):
            yield address
    for name in files.folders(folder):
        yield from _addresses(files, inside + name)
