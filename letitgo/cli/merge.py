"""``letitgo merge``."""

from __future__ import annotations

import sys
from typing import Annotated

from letitgo.cli.options import StoreOptions
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import existing_store, printable, write
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
    if options.format == "table":
        print(f"results copied: {done.copied}, there already: {done.present}")
    else:
        counts = {name: len(found) if isinstance(found, dict) else found for name, found in vars(done).items()}
        write(options.format, [counts], vars(done))
    for what, found in (("conflict", done.conflicts), ("damaged", done.damaged)):
        for address, why in found.items():
            print(printable(f"letitgo: {what}: {address}: {why}"), file=sys.stderr)
    return 1 if done.conflicts or done.damaged else 0
