"""``letitgo merge``."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

from cyclopts import Parameter

from letitgo.cli.options import StoreOptions
from letitgo.cli.tables import existing_store, printable, write_csv, write_json
from letitgo.errors import BadRequest
from letitgo.store import open_store


def merge(
    other: Annotated[str, Parameter(help="folder or URL of the store to take results from; it is not changed")],
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
) -> int:
    """Copy what the store lacks of another's results, digests checked; where two differ, ours stays and is named."""
    from letitgo.catalogue.merge import merge as merged

    with existing_store(other, "name another") as theirs:
        store = open_store(options.store)
        if store.root == theirs.root:
            raise BadRequest(f"{other} is the store itself: name another")
        done = merged(theirs, store)
    if options.format == "json":
        write_json(dataclasses.asdict(done))
    elif options.format == "csv":
        write_csv([{name: getattr(done, name) for name in ("copied", "present")} | _counts(done)])
    else:
        print(f"results copied: {done.copied}, there already: {done.present}")
    for what, found in (("conflict", done.conflicts), ("damaged", done.damaged)):
        for address, why in found.items():
            print(printable(f"letitgo: {what}: {address}: {why}"), file=sys.stderr)
    return 1 if done.conflicts or done.damaged else 0


def _counts(done: object) -> dict[str, int]:
    return {name: len(getattr(done, name)) for name in ("conflicts", "damaged")}
