"""``letitgo show``."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from letitgo.catalogue.contents import shown
from letitgo.cli.options import StoreOptions
from letitgo.cli.tables import existing_store, printable, write_csv, write_json


def show(
    key: Annotated[str, Parameter(help="of a run, state, measure or study: the beginning is enough")],
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Tell of one result: its recipe, where and with what it was computed, and the values it came from."""
    with existing_store(options.store) as store:
        told = shown(store, key)
    if options.format == "json":
        write_json(told)
    elif options.format == "csv":
        write_csv([{"name": name, "value": value} for name, value in _lines(told)])
    else:
        for line in _tree(told):
            print(printable(line))
    return 0


def _tree(told: Any, indent: str = "") -> list[str]:
    lines = []
    for name, value in told.items() if isinstance(told, dict) else enumerate(told):
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
        ):
            lines += [f"{indent}{name}:", *_tree(value, indent + "  ")]
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {'' if text is None else text}")
    return lines


def _lines(told: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(told, (dict, list)):
        return [(name, told)]
    items = told.items() if isinstance(told, dict) else enumerate(told)
    return [line for part, value in items for line in _lines(value, f"{name}.{part}" if name else str(part))]
