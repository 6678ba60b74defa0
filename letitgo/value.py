"""Values: descriptions of what would be computed, each with a key.

A value is a frozen dataclass. Its *identity* is what changes the result: by default all its fields. Its *key* is the
hash of that identity, with nested values standing in by their own keys, so equal descriptions have equal keys on
every machine and a long chain of values costs no more to hash than a short one.

Anyone may define values. The kind of ours is the name of the class; that of others is ``module:Class``, and the code
that it depends on is part of the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar

from letitgo.code import Code, code_of
from letitgo.errors import BadRequest
from letitgo.imports import import_object

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

    _places: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind, place = kind_of(cls), _place(cls)
        if (taken := Value._places.setdefault(kind, place)) != place:
            raise BadRequest(f"{place} cannot be a value of kind {kind}, which {taken} is: give it another name")

    def fields(self) -> dict[str, Any]:
        """The fields that rebuild this value, nested values as they are."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """The fields that change the result. Where and how fast it is computed are not among them."""
        return self.fields()

    @cached_property
    def description(self) -> dict[str, Any]:
        """The identity as JSON, nested values by their keys."""
        return self.described(lambda value: {"key": value.key})

    def described(self, nested: Callable[[Value], Any]) -> dict[str, Any]:
        """The kind, the code it depends on where it is not ours, and the identity, as JSON.

        Args:
            nested: What stands for a value within.

        Raises:
            BadRequest: The class has no source file or was replaced, or a field has a reserved name.
        """
        about: dict[str, Any] = {"kind": kind_of(type(self))}
        if not _is_ours(type(self)):
            about["code"] = _code(type(self))
        identity = _map(self.identity(), nested)
        if taken := sorted(about.keys() & identity.keys()):
            raise BadRequest(f"{about['kind']} has a field {taken[0]!r}, which is reserved: give it another name")
        return about | identity

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
    return value.described(lambda part: short(part) or spell(part, short))


def kind_of(cls: type[Value]) -> str:
    """The name of a class of ours; of others ``module:Class``."""
    return cls.__name__ if _is_ours(cls) else _place(cls)


def _is_ours(cls: type[Value]) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _place(cls: type[Value]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _code(cls: type[Value]) -> Code:
    now = getattr(sys.modules.get(cls.__module__), cls.__qualname__, cls)
    if now is not cls:
        raise BadRequest(f"{_place(cls)} was defined again since this value was made: make the value again")
    return code_of(_place(cls), cls)


def _map(data: Any, of_value: Any) -> Any:
    if isinstance(data, Value):
        return of_value(data)
    if isinstance(data, dict):
        return {name: _map(item, of_value) for name, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_map(item, of_value) for item in data]
    return data


def dump(values: Iterable[Value]) -> dict[str, Any]:
    """Values as JSON, each nested value once however often it is used, before those it is used in.

    Raises:
        BadRequest: Another process could not import the class of a value.
    """
    roots = list(values)
    nodes: dict[str, Any] = {}
    ahead = [(value, False) for value in roots]  # no recursion: a chain of values may be long
    while ahead:
        value, ready = ahead.pop()
        if ready:
            fields = _map(value.fields(), lambda part: {"key": part.key})
            nodes[value.key] = {"class": _importable(type(value)), "fields": fields}
        elif value.key not in nodes:
            ahead += [(value, True), *((part, False) for part in value.inputs())]
    return {"roots": [value.key for value in roots], "nodes": nodes}


def _importable(cls: type[Value]) -> str:
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        where = "the script or notebook that runs" if cls.__module__ == "__main__" else "a function or class"
        raise BadRequest(
            f"{cls.__qualname__} is defined in {where}, so worker processes cannot import it: "
            "move it to the top level of a module (a .py file), or compute with workers=0"
        )
    return _place(cls)


def load(data: dict[str, Any]) -> list[Value]:
    """The values that :func:`dump` wrote.

    Raises:
        BadRequest: The class of a value does not import.
        ValueError: A value has another key here than where it was written, so the data, the code or the version of the
            program differ.
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
        value = built[key] = import_object(node["class"], "value")(**revive(node["fields"]))
        if value.key != key:
            raise ValueError(
                f"{kind_of(type(value))} {key[:12]} reads as {value.key[:12]} here: the data, the code of the network "
                "or value, or letitgo itself is not the same as where the study was started"
            )
    return [built[key] for key in data["roots"]]
