"""Options that commands share. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from letitgo.errors import BadRequest, check_names
from letitgo.recipes import Recipe

RECIPE = Group("Recipe: any of these may be a list, as in --lr 0.01,0.1", sort_key=1)
STUDY = Group("Study", sort_key=0)
RUNNING = Group("Running and output", sort_key=2)

ReportFolder = Annotated[str, Parameter(group=STUDY, help="folder for the HTML report and its figures, or none")]

_FIELDS = Recipe.__pydantic_fields__  # type: ignore[attr-defined]
RECIPE_FIELDS = tuple(_FIELDS)


def _option(name: str) -> tuple[str, Any, Any]:
    about = _FIELDS[name]
    default = "" if about.default_factory or about.default is None else f" [default: {about.default}]"
    parameter = Parameter(help=f"{about.description}{default}", group=RECIPE, show_default=False)
    return name, Annotated[str | None, parameter], None


RecipeOptions: Any = Parameter(name="*")(
    dataclasses.make_dataclass(
        "RecipeOptions", [_option(name) for name in _FIELDS], frozen=True, namespace={"__module__": __name__}
    )
)
"""The fields of a recipe as the command line takes them: text, lists with commas, dictionaries as JSON."""


def whole(_: Any, tokens: Any) -> int:
    """A whole number from the command line; what has a fraction is refused, not rounded."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class RunningOptions:
    """Where and how a study runs, and what is told of it."""

    store: Annotated[
        str | None,
        Parameter(
            group=RUNNING, help="folder or URL (s3://, gs://, …) of the results; else $LETITGO_STORE, else .letitgo"
        ),
    ] = None
    workers: Annotated[
        int | None,
        Parameter(group=RUNNING, converter=whole, help="worker processes; 0: this process [default: one per core]"),
    ] = None
    on: Annotated[
        Literal["processes", "ray"], Parameter(group=RUNNING, help="worker processes of this machine, or a Ray cluster")
    ] = "processes"
    ray_address: Annotated[
        str | None, Parameter(group=RUNNING, help="of the cluster; else $RAY_ADDRESS, else Ray is started here")
    ] = None
    format: Annotated[Literal["table", "json", "csv"], Parameter(group=RUNNING, help="what is written to stdout")] = (
        "table"
    )
    dry_run: Annotated[
        bool, Parameter(group=RUNNING, negative="", show_default=False, help="only tell what would run, and how long")
    ] = False
    debug: Annotated[
        bool, Parameter(group=RUNNING, negative="", show_default=False, help="show tracebacks of errors")
    ] = False


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class StoreOptions:
    """Which store is looked at, and how that is told."""

    store: Annotated[
        str | None,
        Parameter(group=RUNNING, help="folder of the results, or a URL as s3://…; else $LETITGO_STORE, else .letitgo"),
    ] = None
    format: Annotated[Literal["table", "json", "csv"], Parameter(group=RUNNING, help="what is written to stdout")] = (
        "table"
    )
    debug: Annotated[
        bool, Parameter(group=RUNNING, negative="", show_default=False, help="show tracebacks of errors")
    ] = False


def recipe_fields(options: Any) -> dict[str, Any]:
    """The given recipe options as field values: a list where there are commas.

    Raises:
        BadRequest: A dictionary is no JSON object, or a list has an empty place.
    """
    given = {name: text for name, text in dataclasses.asdict(options).items() if text is not None}
    return {name: _parse(name, text) for name, text in given.items()}


def named(option: str, text: str, known: Sequence[str]) -> tuple[Any, ...]:
    """The names in an option, of those known, whose spaces are hyphens there; ``none`` alone for none.

    Raises:
        BadRequest: One is none of them, or stands twice.
    """
    if text == "none":
        return ()
    spelled = {name.replace(" ", "-"): name for name in known}
    names = [name.strip() for name in text.split(",")]
    check_names(option, names, [*spelled])
    return tuple(spelled[name] for name in names)


def numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them; None of None.

    Raises:
        BadRequest: One is no whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f"{name} is {text!r}: give whole numbers with commas between them, as in 1,2,5") from None


def floats(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        BadRequest: One is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f"{name} is {text!r}: give numbers with commas between them, as in 0.5,0.1") from None


def json_object(flag: str, text: str) -> dict[str, Any]:
    """A dictionary from the command line.

    Raises:
        BadRequest: The text is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"{flag} is {text!r}: give a JSON object, as in '{{\"width\": 64}}'")
    return value


def _parse(name: str, text: str) -> Any:
    flag = name.replace("_", "-")
    if _FIELDS[name].default_factory:
        return json_object(flag, text)
    parts = text.split(",")
    if "" in parts:
        raise BadRequest(f"{flag} is {text!r}: a value is missing")
    return parts if len(parts) > 1 else parts[0]
