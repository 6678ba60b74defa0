"""``letitgo ticket`` and ``letitgo ticket export``."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import App, Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, named, numbers, recipe_fields, whole
from letitgo.errors import BadRequest

if TYPE_CHECKING:
    from letitgo.studies.ticket import Lottery


app = App(name="ticket", help="Tell which weights of a network could have been trained alone.", help_on_error=False)


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class DrawOptions:
    """How tickets are found."""

    levels: Annotated[int, Parameter(group=STUDY, converter=whole, help="how often is pruned")] = 5
    rate: Annotated[
        float, Parameter(group=STUDY, help="share of the weights still there that is pruned each time, in (0, 1)")
    ] = 0.2
    output_rate: Annotated[
        float | None,
        Parameter(group=STUDY, help="the same of the last layer; 0: not pruned [default: half; none if global]"),
    ] = None
    rates: Annotated[str | None, Parameter(group=STUDY, help="rates of layers by pattern, as in conv*=0.1,fc1=0.2")] = (
        None
    )
    scope: Annotated[
        Literal["layer", "global"], Parameter(group=STUDY, help="prune of each layer its share, or of all together")
    ] = "layer"
    rewind: Annotated[str, Parameter(group=STUDY, help="where kept weights go back to: 0, or as in 500it or 1ep")] = "0"
    one_shot: Annotated[
        bool, Parameter(group=STUDY, negative="", help="prune the trained network once to each level's density")
    ] = False


@app.default
def ticket(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    draw: DrawOptions = DrawOptions(),
    variants: Annotated[
        str,
        Parameter(
            group=STUDY,
            help="what is trained besides each ticket: fresh-weights, random-mask, random-mask-and-fresh-weights, "
            "frozen, complement, or none",
        ),
    ] = "fresh-weights,random-mask,random-mask-and-fresh-weights",
    at: Annotated[
        str | None, Parameter(group=STUDY, help="levels at which those are trained, as in 3,7 [default: all]")
    ] = None,
    stability: Annotated[
        bool, Parameter(group=STUDY, negative="", help="also tell the stability to pruning and to the data's order")
    ] = False,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell which weights of a network could have been trained alone.

    Trains the network, prunes its smallest weights, puts what is left back to its initial values and trains it again,
    level by level; beside it the controls: the same mask with fresh weights, random masks, and others.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.ticket import show_tickets, write_ticket_report
    from letitgo.studies.ticket import Variant

    chosen = named("variants", variants, get_args(Variant))
    study = _lottery(draw, recipe, seeds=seeds, variants=chosen, at=numbers("at", at), stability=stability)

    code, outcome = run_study(study, running, show_tickets, write_ticket_report, report)
    for row in outcome.rows if outcome is not None else ():
        if row["empty"] and row["variant"] == "ticket":
            print(f"letitgo: warning: level {row['level']} leaves nothing of {row['empty']}", file=sys.stderr)
    return code


@app.command
def export(
    file: Annotated[str, Parameter(group=STUDY, help="the file to write")],
    /,
    *,
    level: Annotated[
        int | None, Parameter(group=STUDY, converter=whole, help="which level [default: the last]")
    ] = None,
    draw: DrawOptions = DrawOptions(),
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Write a ticket to a file: its mask, and where its weights start from.

    Asks for the same options as the lottery that found it, and finds it first where the store does not hold it.
    """
    from letitgo.cli.run import check_target, kept_from_stdout
    from letitgo.execute.executor import default_workers
    from letitgo.store import open_store
    from letitgo.studies.ticket import export_ticket

    check_target(file)
    levels = draw.levels if level is None else level
    study = _lottery(draw, recipe, seeds=1, variants=())
    if len(study.recipes) > 1:
        raise BadRequest(f"one ticket goes into one file: give one recipe, not {len(study.recipes)}")
    if running.dry_run:
        raise BadRequest("a ticket is exported or not: the dry run of letitgo ticket tells what finding it takes")
    workers = default_workers() if running.workers is None else running.workers
    with kept_from_stdout():
        told = export_ticket(study, levels, file, open_store(running.store), workers)
    print(f"ticket: {file}: of what is pruned {told}", file=sys.stderr)
    return 0


def _lottery(draw: DrawOptions, recipe: Any, **fields: Any) -> Lottery:
    from letitgo.studies.sweep import sweep
    from letitgo.studies.ticket import Lottery

    recipes, swept = sweep(**recipe_fields(recipe))
    asked = dataclasses.asdict(draw) | {"rates": _rates(draw.rates)}
    return Lottery(tuple(recipes), tuple(swept), **asked, **fields)


def _rates(text: str | None) -> tuple[tuple[str, float], ...]:
    found = []
    for part in text.split(",") if text else ():
        pattern, _, rate = part.partition("=")
        try:
            found.append((pattern, float(rate)))
        except ValueError:
            raise BadRequest(f"rates is {text!r}: give patterns and shares, as in conv*=0.1,fc1=0.2") from None
    return tuple(found)
