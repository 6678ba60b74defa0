"""``letitgo ticket export``, beside the command that every study has."""

# Annotations here are objects made at run time, so they must not become strings.
# pyright: reportInvalidTypeForm=false

import sys
from typing import Annotated

from letitgo.cli.commands import make_study
from letitgo.cli.options import STUDY, RecipeOptions, RunningOptions, option_class, whole
from letitgo.cli.parameter import Parameter
from letitgo.errors import BadRequest
from letitgo.studies import find_study
from letitgo.studies.options import check_target
from letitgo.studies.ticket.options import TicketOptions

Finding = option_class(TicketOptions, STUDY, ("recipes", "seeds", "variants", "at", "stability"))


def export(
    file: Annotated[str, Parameter(group=STUDY, help="the file to write")],
    /,
    *,
    level: Annotated[
        int | None, Parameter(group=STUDY, converter=whole, help="which level [default: the last]")
    ] = None,
    finding: Finding = Finding(),
    recipe: RecipeOptions = RecipeOptions(),
    running: RunningOptions = RunningOptions(),
) -> int:
    """Write a ticket to a file: its mask, and where its weights start from.

    Takes the options of the study that found it, and finds it first if the store does not hold it.
    """
    check_target(file)
    study = make_study(TicketOptions, lambda: find_study("ticket"), finding, recipe, seeds=1, variants=())
    if len(study.recipes) > 1:
        raise BadRequest(f"one ticket goes into one file: give one recipe, not {len(study.recipes)}")
    if running.dry_run:
        raise BadRequest("export has no dry run: that of letitgo ticket says what finding the ticket takes")

    from letitgo.cli.run import kept_from_stdout, place_of
    from letitgo.execute.executor import default_workers
    from letitgo.store import open_store
    from letitgo.studies.ticket.study import export_ticket

    place = place_of(running)
    workers = default_workers(place) if running.workers is None else running.workers
    chosen = study.levels if level is None else level
    with kept_from_stdout():
        ticket = export_ticket(study, chosen, file, open_store(running.store), workers, place)
    print(f"ticket: {file}: keeps {ticket} of those that pruning is about", file=sys.stderr)
    return 0
