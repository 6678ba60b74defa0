"""``letitgo runs``."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from letitgo.catalogue.contents import contents, run_rows, running_studies, study_rows
from letitgo.cli.options import StoreOptions, whole
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import Row, ago, existing_store, seconds, show_rows, write
from letitgo.errors import BadRequest, nearest
from letitgo.report.numbers import size


def runs(
    *,
    where: Annotated[
        list[str] | None,
        Parameter(negative="", help="only runs whose recipe has it, as in model=lenet or lr=0.1; may be repeated"),
    ] = None,
    study: Annotated[str | None, Parameter(help="only what this study uses: its key or the beginning of it")] = None,
    page: Annotated[int, Parameter(converter=whole, help="which page, the newest runs on the first")] = 1,
    rows: Annotated[int, Parameter(converter=whole, help="runs on a page")] = 20,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Tell what the store holds: studies, training runs, their states and sizes."""
    if page < 1 or rows < 1:
        raise BadRequest(f"{'page' if page < 1 else 'rows'} is {min(page, rows)}: give a number from 1 on")
    wanted = _conditions(where or [])
    with existing_store(options.store) as store:
        found = contents(store)
        begin = (page - 1) * rows
        of_page = list(islice(run_rows(store, found, wanted, study), begin, begin + rows))
        studies = study_rows(store)
        running = running_studies(store)
    for row in studies:
        row["under_way"] = row["key"] in running
    summary = found.row()
    table = [{name: value for name, value in row.items() if name != "recipe"} for row in of_page]
    if options.format != "table":
        write(options.format, table, {"store": str(store.root), **summary, "study_rows": studies, "rows": of_page})
        return 0
    print(
        f"{store.root}: {summary['studies']} studies, {summary['runs']} runs with {summary['states']} states, "
        f"{summary['measures']} measures, {size(summary['bytes'])}"
        + (f", {summary['damaged']} damaged files set aside" if summary["damaged"] else "")
    )
    shown: list[Row] = []
    listed = [
        {**row, "key": row["key"][:12], "begun": ago(row["begun"]), "under_way": "yes" if row["under_way"] else ""}
        for row in studies[:rows]
    ]
    show_rows(f"studies{f', the newest {rows} of {len(studies)}' if len(studies) > rows else ''}", listed)
    for row in table:
        said = {"bytes": size(row["bytes"]), "seconds": seconds(row["seconds"]), "written": ago(row["written"])}
        shown.append({**row, "key": row["key"][:12], **said})
    show_rows(f"runs, page {page}", shown)
    if not shown:
        print("no run on this page matches" if wanted or study or page > 1 else "no runs")
    return 0


def _conditions(where: list[str]) -> dict[str, str]:
    from letitgo.cli.options import RECIPE_FIELDS

    wanted = {}
    for text in where:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise BadRequest(f"where is {text!r}: give a field of a recipe and its value, as in model=lenet")
        if name not in RECIPE_FIELDS:
            raise BadRequest(f"a recipe has no field {name!r}: {nearest(name, RECIPE_FIELDS)}")
        wanted[name] = value
    return wanted
