"""Values: descriptions of what would be computed, each with a key.

A value is a frozen dataclass. Its *identity* is what changes the result: by default all its fields. Its *key* is the
hash of that identity, with nested values standing in by their own keys, so equal descriptions have equal keys on
every machine and a long chain of values costs no more to hash than a short one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar

FORMAT = 2
"""Part of every key. Raised when the same description comes to mean another result."""


def canonical(data: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes | str) -> str:
    """Hexadecimal SHA-256 of bytes, or of text as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def derive(*parts: object) -> int:
    """A 63-bit seed that is a function of its parts alone, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Value:
    """Base of all values. Subclasses are frozen dataclasses, declared with ``eq=False``: equality is by key."""

    kinds: ClassVar[dict[str, type[Value]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Value.kinds[cls.__name__] = cls

    def fields(self) -> dict[str, Any]:
        """The fields that rebuild this value, nested values as they are."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """The fields that change the result. Where and how fast it is computed are not among them."""
        return self.fields()

    @cached_property
    def description(self) -> dict[str, Any]:
        """The identity as JSON, nested values by their keys."""
        return {"kind": type(self).__name__, **_map(self.identity(), lambda value: {"key": value.key})}

    @cached_property
    def key(self) -> str:
        """SHA-256 over the description, 64 hexadecimal digits."""
        return sha256(canonical([FORMAT, self.description]))

    def inputs(self) -> Iterator[Value]:
        """The values this one is made of, one level deep."""
        found: list[Value] = []
        _map(self.fields(), found.append)
        return iter(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def spell(value: Value, short: Callable[[Value], dict[str, Any] | None]) -> dict[str, Any]:
    """A value's identity in full, as JSON for a person.

    Args:
        value: The value.
        short: What stands in for a nested value; None spells that one out too.
    """

    def nested(part: Value) -> dict[str, Any]:
        return short(part) or spell(part, short)

    return {"kind": type(value).__name__, **_map(value.identity(), nested)}


def _map(data: Any, of_value: Any) -> Any:
    if isinstance(data, Value):
        return of_value(data)
    if isinstance(data, dict):
        return {name: _map(item, of_value) for name, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_map(item, of_value) for item in data]
    return data


def dump(values: Iterable[Value]) -> dict[str, Any]:
    """Values as JSON, each nested value once however often it is used, before those it is used in."""
    roots = list(values)
    nodes: dict[str, Any] = {}
    ahead = [(value, False) for value in roots]  # no recursion: a chain of values may be long
    while ahead:
        value, ready = ahead.pop()
        if ready:
            fields = _map(value.fields(), lambda part: {"key": part.key})
            nodes[value.key] = {"kind": type(value).__name__, "fields": fields}
        elif value.key not in nodes:
            ahead += [(value, True), *((part, False) for part in value.inputs())]
    return {"roots": [value.key for value in roots], "nodes": nodes}


def load(data: dict[str, Any]) -> list[Value]:
    """The values that :func:`dump` wrote.

    Raises:
        ValueError: A value has another key here than where it was written, so the data, the code of the network or
            the version of the program differ.
    """
    built: dict[str, Value] = {}

    def revive(item: Any) -> Any:
        if isinstance(item, dict):
            if item.keys() == {"key"} and item["key"] in built:
                return built[item["key"]]
            return {name: revive(part) for name, part in item.items()}
        if isinstance(item, list):
            return tuple(revive(part) for part in item)
        return item

    for key, node in data["nodes"].items():
        value = built[key] = Value.kinds[node["kind"]](**revive(node["fields"]))
        if value.key != key:
            raise ValueError(
                f"{node['kind']} {key[:12]} reads as {value.key[:12]} here: the data, the network's code or "
                "letitgo itself is not the same as where the study was started"
            )
    return [built[key] for key in data["roots"]]
