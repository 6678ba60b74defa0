"""``letitgo show``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from letitgo.catalogue.contents import shown
from letitgo.catalogue.export import dotted
from letitgo.cli.options import StoreOptions
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import ago, existing_store, printable, seconds, write
from letitgo.report.numbers import size


def show(
    key: Annotated[str, Parameter(help="of a run, state, measure or study: the beginning is enough")],
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Tell of one result: its recipe, where and with what it was computed, and the values it came from."""
    with existing_store(options.store) as store:
        data = shown(store, key)
    if options.format == "table":
        for line in _tree(_readable(data)):
            print(printable(line))
    else:
        write(options.format, [{"name": name, "value": value} for name, value in dotted(data)], data)
    return 0


def _readable(data: Any) -> Any:
    """The same for a person: times and sizes with their units, and nothing where nothing is said."""
    if isinstance(data, list):
        return [_readable(item) for item in data]
    if not isinstance(data, dict):
        return data
    told = {name: _SHOWN[name](value) if name in _SHOWN else _readable(value) for name, value in data.items()}
    return {name.replace("_", " "): value for name, value in told.items() if value not in (None, "", [], {})}


_SHOWN: dict[str, Callable[[Any], Any]] = {"seconds": seconds, "tensor_bytes": size, "begun": ago}


def _tree(data: Any, indent: str = "") -> list[str]:
    lines = []
    for name, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
        ):
            lines += [f"{indent}{name}:", *_tree(value, indent + "  ")]
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {'' if text is None else text}")
    return lines
