"""Options that commands share. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group
from pydantic import TypeAdapter, ValidationError

from letitgo.checked import choices, explained
from letitgo.cli.config import ConfigOption
from letitgo.cli.parameter import Parameter
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe

RECIPE = Group("Recipe: any of these may be a list, as in --lr 0.01,0.1", sort_key=1)
STUDY = Group("Study", sort_key=0)
RUNNING = Group("Running and output", sort_key=2)


def option_class(cls: Any, group: Group, leave_out: Sequence[str] = ()) -> Any:
    """A class of command line options, one for each field of a pydantic dataclass; values are text or flags."""
    fields = [_option(cls, name, group) for name in cls.__pydantic_fields__ if name not in leave_out]
    made = dataclasses.make_dataclass(cls.__name__, fields, frozen=True, namespace={"__module__": __name__})
    return Parameter(name="*")(made)


def _option(cls: Any, name: str, group: Group) -> tuple[str, Any, Any]:
    about = cls.__pydantic_fields__[name]
    if about.annotation is bool:
        negative = "" if not about.default else None
        kind, shown = bool | None, ""
    else:
        negative, kind, shown = "", list[str] | None, spelled(about.default)
    default = f" [default: {shown}]" if shown and "[default" not in about.description else ""
    parameter = Parameter(
        help=f"{about.description}{default}",
        group=group,
        show_default=False,
        negative=negative,
        metavar=None if kind == bool | None else metavar(about.annotation),
    )
    return name, Annotated[kind, parameter], None


def metavar(annotation: Any) -> str:
    """What stands for a value in the help and the documents: ``INTEGER``, ``CHOICE,…``, ``PATTERN=NUMBER,…``."""
    kind = str(annotation)
    if "tuple[tuple" in kind:
        return "PATTERN=NUMBER,…"
    names = {"dict": "JSON", "Literal": "CHOICE", "int": "INTEGER", "float": "NUMBER", "str": "TEXT", "bool": "BOOLEAN"}
    first = re.search(rf"\b({'|'.join(names)})\b", kind)
    assert first is not None, kind
    return f"{names[first[0]]},…" if "tuple" in kind else names[first[0]]


def spelled(default: Any) -> str:
    """A default as the command line spells it; nothing where none is named."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(str(item).replace(" ", "-") for item in default)
    return f"{default}" if isinstance(default, (str, int, float)) else ""


def given(cls: Any, options: Any) -> dict[str, Any]:
    """The fields that a command line gives, as values: ``a,b`` and a repeated option are lists alike.

    Raises:
        BadRequest: One cannot be read, or takes one value and has several.
    """
    found = {name: value for name, value in vars(options).items() if value is not None}
    return {name: value if isinstance(value, bool) else _value(cls, name, value) for name, value in found.items()}


def _value(cls: Any, name: str, tokens: list[str]) -> Any:
    kind, flag = cls.__pydantic_fields__[name].annotation, name.replace("_", "-")
    if "tuple" not in str(kind):
        if len(tokens) > 1:
            raise BadRequest(f"{flag} is given {len(tokens)} times: it takes one value")
        value: Any = json_object(flag, tokens[0]) if tokens[0].startswith("{") else _hyphens(cls, name, tokens[0])
    elif tokens == ["none"]:
        value = ()
    else:
        value = [_hyphens(cls, name, part) for part in _parts(flag, tokens)]
        value = [part.partition("=")[::2] for part in value] if "tuple[tuple" in str(kind) else value
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadRequest(explained(cls, error, {name: value}, on_command_line=True)) from None


def _parts(flag: str, tokens: list[str]) -> list[str]:
    parts = [part.strip() for token in tokens for part in token.split(",")]
    if "" in parts:
        raise BadRequest(f"{flag} is {','.join(tokens)!r}: a value is missing")
    return parts


def _hyphens(cls: Any, name: str, text: str) -> str:
    """A choice of several words, which a command line spells with hyphens."""
    return next((known for known in choices(cls, name) if known.replace(" ", "-") == text), text)


RECIPE_FIELDS = tuple(Recipe.__pydantic_fields__)  # type: ignore[attr-defined]
RecipeOptions: Any = option_class(Recipe, RECIPE)
"""The fields of a recipe as the command line takes them: text, lists with commas, dictionaries as JSON."""


def whole(_: Any, tokens: Any) -> int:
    """A whole number from the command line; what has a fraction is refused, not rounded."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class StoreOptions:
    """Which store is looked at, and how that is told."""

    store: Annotated[
        str | None,
        Parameter(
            group=RUNNING,
            metavar="FOLDER",
            help="folder or URL (s3://, gs://, …) of the results; else $LETITGO_STORE, else .letitgo",
        ),
    ] = None
    format: Annotated[Literal["table", "json", "csv"], Parameter(group=RUNNING, help="what is written to stdout")] = (
        "table"
    )
    config: Annotated[ConfigOption, Parameter(group=RUNNING)] = None
    debug: Annotated[
        bool, Parameter(group=RUNNING, negative="", show_default=False, help="show tracebacks of errors")
    ] = False


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class RunningOptions(StoreOptions):
    """Where and how a study runs, and what is told of it."""

    workers: Annotated[
        int | None,
        Parameter(
            group=RUNNING,
            metavar="INTEGER",
            converter=whole,
            help="worker processes; 0: this process [default: one per core, or per GPU]",
        ),
    ] = None
    device: Annotated[
        str,
        Parameter(
            group=RUNNING,
            metavar="DEVICE",
            help="where networks are computed: cpu, cuda, cuda:1 (one of several GPUs), mps, or auto: the first "
            "of cuda, mps and cpu that is there",
        ),
    ] = "cpu"
    on: Annotated[
        Literal["processes", "ray"], Parameter(group=RUNNING, help="worker processes of this machine, or a Ray cluster")
    ] = "processes"
    ray_address: Annotated[
        str | None,
        Parameter(group=RUNNING, metavar="ADDRESS", help="of the cluster; else $RAY_ADDRESS, else Ray is started here"),
    ] = None
    gpus: Annotated[
        float | None,
        Parameter(
            group=RUNNING,
            metavar="NUMBER",
            help="share of a GPU that each job on Ray reserves, as in 0.5 [default: 1 with --device cuda]",
        ),
    ] = None
    report: Annotated[
        str, Parameter(group=RUNNING, metavar="FOLDER", help="folder for the HTML report and its figures, or none")
    ] = "letitgo-report"
    dry_run: Annotated[
        bool, Parameter(group=RUNNING, negative="", show_default=False, help="only tell what would run, and how long")
    ] = False
    timeout: Annotated[
        float | None,
        Parameter(
            group=RUNNING, metavar="NUMBER", help="seconds after which a run is ended and has failed; the others go on"
        ),
    ] = None
    recompute_other_versions: Annotated[
        bool,
        Parameter(
            group=RUNNING,
            negative="",
            show_default=False,
            help="replace results of another letitgo, torch, kind of processor or device",
        ),
    ] = False


def recipe_fields(options: Any) -> dict[str, Any]:
    """The given recipe options as field values: a list where there are several.

    Raises:
        BadRequest: A dictionary is no JSON object, or a list has an empty place.
    """
    found = {name: tokens for name, tokens in vars(options).items() if tokens is not None}
    return {name: _several(name, tokens) for name, tokens in found.items()}


def _several(name: str, tokens: list[str]) -> Any:
    flag = name.replace("_", "-")
    mapping = Recipe.__pydantic_fields__[name].default_factory  # type: ignore[attr-defined]
    parts = [json_object(flag, token) for token in tokens] if mapping else _parts(flag, tokens)
    return parts if len(parts) > 1 else parts[0]


def json_object(flag: str, text: str) -> dict[str, Any]:
    """A dictionary from the command line.

    Raises:
        BadRequest: The text is no JSON object, or has a name twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise BadRequest(f"{flag} is {text!r}: a name stands there twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
    except BadRequest:
        raise
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"{flag} is {text!r}: give a JSON object, as in '{{\"width\": 64}}'")
    return value
