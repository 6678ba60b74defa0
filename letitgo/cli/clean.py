"""``letitgo clean``."""

from __future__ import annotations

from typing import Annotated

from letitgo.cli.options import StoreOptions
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import existing_store, show_rows, write
from letitgo.errors import BadRequest
from letitgo.report.numbers import size

WHAT = {
    "left_behind": "left behind by work that ended or went on",
    "damaged": "damaged, set aside",
    "unlisted": "results that no study lists",
    "states": "states that no study needs",
    "study": "studies given up",
}
"""The reasons, for a person."""


def clean(
    *,
    remove: Annotated[bool, Parameter(negative="", show_default=False, help="remove it; otherwise only tell")] = False,
    study: Annotated[
        list[str] | None,
        Parameter(negative="", help="give up this study, its key or the beginning of it; may be repeated"),
    ] = None,
    states: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="also states of studies that have all their measures: the tables stay, later questions train again",
        ),
    ] = False,
    hours: Annotated[float, Parameter(help="how long ago something must have been written to go")] = 1.0,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Tell what no study needs any more, and remove it where asked.

    What a study lists stays, and what a run under way is at. Results written by an older version are listed when their
    study is started once more.
    """
    from letitgo.catalogue.clean import find_rubbish
    from letitgo.catalogue.clean import remove as remove_rubbish

    if not hours >= 0:
        raise BadRequest(f"hours is {hours}: give 0 or more")
    with existing_store(options.store) as store:
        found = find_rubbish(store, study or (), states, hours)
        rows = found.rows()
        if remove:
            remove_rubbish(store, found)
    if options.format == "table":
        title = "removed" if remove else "what --remove would remove"
        show_rows(title, [{**row, "what": WHAT[row["what"]], "bytes": size(row["bytes"])} for row in rows])
    else:
        write(options.format, rows, {"removed": remove, "rows": rows})
    return 0
