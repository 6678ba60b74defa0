"""Options from a TOML file: ``letitgo map --config study.toml`` takes those of its table ``[map]``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any, get_args

from cyclopts import App, Argument, ArgumentCollection, CycloptsError

from letitgo.cli.parameter import Parameter
from letitgo.errors import BadRequest, nearest

ConfigOption = Annotated[
    str | None,
    Parameter(
        metavar="FILE", help="TOML file with options, in a table of the command's name; those given here come first"
    ),
]
"""A parameter of every command."""


@dataclass
class _Line:
    """A command line, and what came from the file that it names, spelled as options."""

    words: list[str] = field(default_factory=list)
    file: str = ""
    from_file: list[str] = field(default_factory=list)


_line = _Line()
"""The one at hand."""


def begin(words: Sequence[str]) -> None:
    """A command line begins.

    Args:
        words: Its arguments, without the program.
    """
    _line.words, _line.file, _line.from_file = list(words), "", []


def read_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take what a command line leaves out from the file that its ``--config`` names; for ``App(config=…)``.

    Raises:
        BadRequest: There is no such file or table, or something in it is no option.
    """
    from cyclopts.config import Dict

    options = {
        name[2:]: argument for argument in arguments for name in argument.parameter.name or () if name.startswith("--")
    }
    config = options.pop("config", None)
    if config is None or not config.tokens:
        return
    path = config.tokens[-1].value
    table = {key: value for key, value in _table(path, commands).items() if key not in app}
    _check(table, options, f"{path}: [{'.'.join(commands)}]")
    left = [key for key in table if not options[key].tokens]
    values = {key: json.dumps(table[key]) if isinstance(table[key], dict) else table[key] for key in left}
    nested: Any = reduce(lambda inner, name: {name: inner}, reversed(commands), values)
    Dict(nested, source=path)(app, commands, arguments)
    _line.file, _line.from_file = path, [word for key in left for word in _spelled(key, values[key])]


def command_line() -> str:
    """The command line at hand for a shell, with what came from a file spelled out, and the file in a comment."""
    words = ["letitgo", *_line.words]
    if not _line.file:
        return shlex.join(words)
    at = next(place for place, word in enumerate(words) if word.partition("=")[0] == "--config")
    del words[at : at + (1 if "=" in words[at] else 2)]
    return f"{shlex.join([*words, *_line.from_file])}  # --config {shlex.quote(_line.file)}"


def told(what: str) -> str:
    """What is wrong with the command line at hand, and the file that options came from, if any."""
    return f"{what} (options are also read from {_line.file})" if _line.file and _line.file not in what else what


def _table(path: str, commands: Sequence[str]) -> dict[str, Any]:
    """The table of a command.

    Raises:
        BadRequest: The file cannot be read or is no TOML, has no such table, or options outside tables.
    """
    from cyclopts.config import Toml

    try:
        with open(path, "rb"):
            table: Any = Toml(path).config
    except OSError as error:
        raise BadRequest(f"config is {path!r}, which cannot be read ({error.strerror}): name a TOML file") from error
    except CycloptsError as error:
        raise BadRequest(f"{path} is no TOML file: {error}") from error
    command = ".".join(commands)
    for key, value in table.items():
        if not isinstance(value, dict):
            raise BadRequest(f"{path} has {key!r} outside of a table: put it under the name of a command, [{command}]")
    for name in commands:
        if not isinstance(table.get(name), dict):
            raise BadRequest(f"{path} has no table [{command}] for this command: {nearest(name, list(table))}")
        table = table[name]
    return table


def _check(table: Mapping[str, Any], options: Mapping[str, Argument], where: str) -> None:
    """Refuse what no option can be given; the rest is checked as what a command line gives is.

    Raises:
        BadRequest: A key is no option, a flag is neither true nor false, or a list is empty.
    """
    for key, value in table.items():
        if key not in options:
            raise BadRequest(f"{where} has {key!r}, which is no option: {nearest(key, list(options))}")
        is_flag = bool in (options[key].hint, *get_args(options[key].hint))
        if is_flag and not isinstance(value, bool):
            raise BadRequest(f"{where} has {key} = {value!r}: give true or false")
        if value == []:
            raise BadRequest(f"{where} has an empty list for {key}: leave it out, or give 'none'")


def _spelled(key: str, value: Any) -> list[str]:
    """An option as a command line gives it."""
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--{key}=false"]
    values = value if isinstance(value, list) else [value]
    return [word for item in values for word in (f"--{key}", str(item))]
