"""Classes of options whose constructor explains in one sentence what is wrong."""

from __future__ import annotations

from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, ValidationError

from letitgo.errors import BadRequest, nearest

STRICT = ConfigDict(extra="forbid", strict=True)
"""What study options are checked with: ``"3"`` is no number, an unknown name is an error."""

T = TypeVar("T", bound=type)


def checked(cls: T) -> T:
    """Make the constructor of a pydantic dataclass raise :class:`BadRequest`, and take lists where it takes tuples."""
    construct = cls.__init__

    @wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = {name: _frozen(value) for name, value in kwargs.items()}
        try:
            construct(self, *map(_frozen, args), **given)
        except ValidationError as error:
            raise BadRequest(explained(cls, error, given)) from None

    cls.__init__ = __init__
    return cls


def explained(cls: type, error: ValidationError, given: dict[str, Any], on_command_line: bool = False) -> str:
    """A sentence on each thing that is wrong with the fields of a class.

    Args:
        cls: A pydantic dataclass.
        error: What pydantic found.
        given: The fields as they were given.
        on_command_line: Whether there was a single field, and choices of several words are spelled with hyphens.
    """
    before = tuple(given) if on_command_line else ()
    wanted: dict[str, list[str]] = {}
    for detail in error.errors():
        place = (*before, *detail["loc"])
        head, mark, rest = _sentence(cls, detail, place, given, on_command_line).partition(": ")
        wanted.setdefault(head + mark, []).append(rest)
    return "; ".join(head + ", or ".join(dict.fromkeys(rest)) for head, rest in wanted.items())


def _frozen(value: Any) -> Any:
    """Lists as tuples; numbers of NumPy as Python's."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, Real) and type(value).__module__ == "numpy":
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def _sentence(cls: type, detail: Any, place: tuple[Any, ...], fields: dict[str, Any], on_command_line: bool) -> str:
    given, kind, bounds = detail["input"], detail["type"], detail.get("ctx", {})
    field = str(place[0]) if place else ""
    name = field.replace("_", "-")
    if len(place) == 3 and isinstance(place[1], int) and field in fields:  # of a pair: a pattern and its rate
        name += f" {fields[field][place[1]][0]}"
    if isinstance(bounds.get("error"), BadRequest):
        return str(bounds["error"])
    if kind == "unexpected_keyword_argument":
        return f"{_title(cls)} has no field {field!r}: {nearest(field, [*cls.__pydantic_fields__])}"  # type: ignore[attr-defined]
    if kind in ("missing_argument", "missing"):
        hint = getattr(cls, "SHAPES", {}).get(field)
        return f"{name} is missing" + (f": {hint}" if hint else "")
    if kind == "literal_error":
        known = [choice.replace(" ", "-") if on_command_line else choice for choice in choices(cls, field)]
        return f"{name} is {given!r}: {nearest(str(given), known) if len(known) > 1 else f'give {known[0]}'}"
    return f"{name} is {given!r}: {_wanted(cls, field, detail)}"


def _title(cls: type) -> str:
    return f"a {cls.__name__.removesuffix('Options').lower()}"


def choices(cls: type, field: str) -> list[str]:
    """The strings that a field's Literals allow."""
    ahead, found = [cls.__pydantic_fields__[field].annotation], []  # type: ignore[attr-defined]
    while ahead:
        for part in get_args(ahead.pop()):
            (found if isinstance(part, str) else ahead).append(part)
    return found


_WANTED = {
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give True or False",
    "bool_parsing": "give true or false",
    "string_type": "give text, such as a name",
    "tuple_type": "give a list",
    "dict_type": "give a dictionary",
    "too_short": "give at least one",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "give at least {}"),
    "greater_than": ("gt", "give more than {}"),
    "less_than_equal": ("le", "give at most {}"),
    "less_than": ("lt", "give less than {}"),
}


def _wanted(cls: type, field: str, detail: Any) -> str:
    kind: str = detail["type"]
    bounds: dict[str, Any] = detail.get("ctx", {})
    message: str = detail["msg"]
    if kind == "string_pattern_mismatch":
        return getattr(cls, "SHAPES", {}).get(field, f"it has to match {bounds['pattern']}")
    if kind in _BOUNDS and detail["input"] != detail["input"]:
        return "give a number"
    if kind in _BOUNDS:
        name, phrase = _BOUNDS[kind]
        bound = bounds[name]
        return phrase.format(f"{bound:,}" if isinstance(bound, int) else f"{bound:g}")
    return _WANTED.get(kind, message[0].lower() + message[1:])
