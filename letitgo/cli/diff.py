"""``letitgo diff``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from letitgo.cli.config import ConfigOption
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import printable, show_rows, write
from letitgo.report.numbers import count, percent, significant


def diff(
    a: Annotated[str, Parameter(help="file of weights, or a folder laid out as on the hub")],
    b: Annotated[str, Parameter(help="what it is compared with")],
    /,
    *,
    by: Annotated[Literal["layer", "tensor"], Parameter(help="what a row is")] = "layer",
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="what is written to stdout")] = "table",
    config: ConfigOption = None,
    debug: Annotated[bool, Parameter(negative="", show_default=False, help="show tracebacks of errors")] = False,
) -> int:
    """Tell which layers differ between two files of weights, and how much.

    Reads safetensors, .pt, .pth and .bin; runs no code in them. Running statistics count as values of their layer.
    """
    from letitgo.weights.difference import diff as compared

    frame = compared(a, b, by)
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    differing = [row for row in rows if row["what"] != "same"]
    if format != "table":
        write(format, rows, {"a": a, "b": b, "rows": rows})
        return 0
    changed, values = (sum(row[name] or 0 for row in rows) for name in ("changed", "values"))
    print(f"{len(differing)} of {len(rows)} {by}s differ, in {count(changed)} of {count(values)} values")
    show_rows("", [_readable(row, by) for row in differing])
    return 0


def _readable(row: dict[str, Any], by: str) -> dict[str, str]:
    share = None if row["changed"] is None else percent(row["changed"] / max(row["values"], 1))
    found = {by: printable(row[by]), "what": row["what"], "values": count(row["values"]), "changed": share}
    return found | {"relative": significant(row["relative"]), "largest": significant(row["distance_linf"])}
