"""Names in a store: which relative paths are a store's, so that no other file is ever read, written or removed.

===================================  ==================================================
``studies/KEY``                      the list of a study's results
``states/K1/KEY/STEP``               a state of the run ``KEY``; ``K1`` is the key's first two digits
``states/K1/KEY/partial/STEP``       a state from which a killed run goes on
``KIND/K1/KEY``                      a measure; a kind of others begins with the module's name
``claims/NAME.claim``                who computes what
``damaged/ADDRESS.…``                what failed its check
``letitgo-store.json``               the mark of a store
===================================  ==================================================

A record ends in ``.json``, its tensors in ``.safetensors``; a file that is being written ends in ``.partial``.
"""

from __future__ import annotations

import re
from typing import TypeGuard

MARK = "letitgo-store.json"

_NAME = r"(?:[^\W\d]\w*|<locals>)"  # as Python has them in the names of classes
_KIND = rf"{_NAME}(?:\.{_NAME})*"
_KEY = r"[0-9a-f]{64}"
_RUN = r"(?P<run>[0-9a-f]{2})/(?P=run)[0-9a-f]{62}"
_RESULT = r"(?P<result>[0-9a-f]{2})/(?P=result)[0-9a-f]{62}"
_APART = r"(?!(?:studies|states|claims|damaged)/)"
_ADDRESS = rf"(?:studies/{_KEY}|states/{_RUN}/(?:partial/)?[0-9]{{9,18}}|{_APART}{_KIND}/{_RESULT})"
_CLAIM = r"claims/(?:study-)?[0-9a-f]{1,64}(?:-[0-9a-f]{1,64})?\.claim"

ADDRESS = re.compile(_ADDRESS)
FILE = re.compile(rf"{re.escape(MARK)}|{_CLAIM}|(?:damaged/)?{_ADDRESS}\.(?:json|safetensors)")
FOLDER = re.compile(rf"(?:{_KIND}(?:/[0-9a-f]{{2}}(?:/{_KEY}(?:/partial)?)?)?)?")
UNFINISHED = re.compile(r"((?:[^/]+/)*)\.?([^/]+)\.[0-9a-f]{12}\.partial")


class NoAddress(ValueError):
    """A path is none of a store's."""


def is_address(address: object) -> TypeGuard[str]:
    """Whether something is the address of a result."""
    return isinstance(address, str) and ADDRESS.fullmatch(address) is not None


def finished(path: str) -> str:
    """The path that a file has once it is written; of other paths, the path itself."""
    found = UNFINISHED.fullmatch(path)
    return found[1] + found[2] if found else path


def is_file(path: str) -> bool:
    """Whether a relative path is that of a file of a store, whole or being written."""
    return FILE.fullmatch(finished(path)) is not None


def is_folder(path: str) -> bool:
    """Whether a relative path is that of a folder of a store; the empty one is the store itself."""
    return FOLDER.fullmatch(path.removeprefix("damaged/")) is not None


def checked_file(path: str) -> str:
    """The path.

    Raises:
        NoAddress: It is not that of a file of a store.
    """
    if not is_file(path):
        raise NoAddress(f"{path!r} is no file of a store")
    return path


def checked_folder(path: str) -> str:
    """The path.

    Raises:
        NoAddress: It is not that of a folder of a store.
    """
    if not is_folder(path):
        raise NoAddress(f"{path!r} is no folder of a store")
    return path


def key_at(address: str) -> str | None:
    """The key that a result has by its address; None for a state, whose address has its run's."""
    return None if address.startswith("states/") else address.rpartition("/")[2]
