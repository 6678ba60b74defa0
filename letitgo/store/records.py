"""Records: what a result's JSON has to look like, whoever wrote it."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any

from letitgo.store.addresses import is_address, key_at
from letitgo.value import canonical, sha256

Record = dict[str, Any]

LARGEST = 1 << 30
"""Bytes of a record; a larger file is none. Masks are in records, a bit a weight."""
DEEPEST = 100
"""Levels of lists and objects in a record."""


def parsed(data: bytes) -> Record:
    """A record, its digest and form checked.

    Raises:
        ValueError: Something is wrong with it.
    """
    try:
        record, digest = json.loads(data)
        sound = sha256(canonical(record)) == digest
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("its record cannot be read") from error
    if not sound:
        raise ValueError("its record is not the one that was written")
    about = isinstance(record, dict) and record.get("tensors", {"sha256": "", "bytes": 0})
    formed = (
        isinstance(about, dict)
        and isinstance(record.get("key"), str)
        and isinstance(record.get("body"), dict)
        and isinstance(about.get("sha256"), str)
        and type(about.get("bytes")) is int
        and about["bytes"] >= 0
    )
    if not formed:
        raise ValueError("its record has another form")
    return record


def examined(data: bytes, address: str) -> Record:
    """A record that a stranger may have written, its body checked for what every reader relies on.

    Raises:
        ValueError: Something is wrong with it.
    """
    from pydantic import ValidationError

    record = parsed(data)
    if key_at(address) not in (None, record["key"]):
        raise ValueError("it is the result of something else")
    try:
        _form(address.startswith("studies/")).validate_python(record["body"], strict=True)
    except ValidationError as error:
        raise ValueError("its record has another form") from error
    if not _shallow(record["body"]):
        raise ValueError("its record is nested too deeply")
    return record


@cache
def _form(study: bool) -> Any:
    from pydantic import AfterValidator, ConfigDict, TypeAdapter, create_model

    def address(text: str) -> str:
        if not is_address(text):
            raise ValueError
        return text

    named = dict[str, Any]
    fields: dict[str, Any] = {
        "value": (named, {}),
        "summary": (named, {}),
        "recipe": (named, {}),
        "result": (named, {}),
        "versions": (dict[str, str], {}),
        "frozen": (list[str], []),
        "seconds": (float | None, None),
        "host": (str | None, None),
    }
    if study:
        values = list[Annotated[str, AfterValidator(address)]]
        fields = {
            "study": (str, ...),
            "recipes": (list[named], ...),
            "options": (named, {}),
            "values": (values, ...),
            "begun": (float, ...),
        }
    return TypeAdapter(create_model("Body", __config__=ConfigDict(extra="ignore"), **fields))


def _shallow(data: Any) -> bool:
    level = [data]
    for _ in range(DEEPEST):
        level = [
            part
            for item in level
            if isinstance(item, (dict, list))
            for part in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False
