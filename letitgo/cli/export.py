"""``letitgo export``."""

from __future__ import annotations

from typing import Annotated

from letitgo.cli.options import StoreOptions
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import existing_store
from letitgo.errors import BadRequest
from letitgo.studies.options import check_target


def export(
    path: Annotated[str, Parameter(help="the file to write, as in measures.parquet")],
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Write all measurements as one Parquet table that pandas, polars and duckdb read: a row for each number."""
    from pathlib import Path

    from letitgo.catalogue.export import export as write

    target = Path(path)
    check_target(path)
    if target.suffix not in ("", ".parquet", ".pq"):
        raise BadRequest(
            f"{path!r} is not the name of a Parquet file, which is what is written: name it measures.parquet"
        )
    with existing_store(options.store) as store:
        count = write(store, target)
    print(f"{path}: {count} rows")
    return 0
