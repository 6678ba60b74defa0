"""``letitgo transfer``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, named, numbers, recipe_fields, whole
from letitgo.errors import BadRequest

if TYPE_CHECKING:
    from letitgo.recipes import Recipe


def transfer(
    *,
    optimizers: Annotated[
        str | None,
        Parameter(group=STUDY, help="optimisers, each with its lr, as in sgd:0.1,adam:0.0003 [default: the recipe's]"),
    ] = None,
    sources: Annotated[
        str | None, Parameter(group=STUDY, help="data sets or optimisers whose tickets are carried [default: all]")
    ] = None,
    targets: Annotated[
        str | None, Parameter(group=STUDY, help="data sets or optimisers they are trained under [default: all]")
    ] = None,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    levels: Annotated[int, Parameter(group=STUDY, converter=whole, help="how often is pruned")] = 5,
    rate: Annotated[float, Parameter(group=STUDY, help="share of the weights left that is pruned each time")] = 0.2,
    scope: Annotated[
        Literal["global", "layer"], Parameter(group=STUDY, help="the smallest of all layers together, or of each")
    ] = "global",
    rewind: Annotated[
        str, Parameter(group=STUDY, help="the source's step whose weights a ticket starts from: 0, 500it or 1ep")
    ] = "1ep",
    at: Annotated[
        str | None, Parameter(group=STUDY, help="levels whose tickets are trained, as in 3,6 [default: all]")
    ] = None,
    controls: Annotated[
        str, Parameter(group=STUDY, help="what is trained besides each ticket: one of these or both, or none")
    ] = "fresh-weights,random-mask-and-fresh-weights",
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell whether lottery tickets carry over to other data sets and other optimisers.

    Finds a ticket on each data set (--data, --half, --shift, --examples) under each optimiser, trains it under each
    other, and holds it against the target's own ticket, its mask with fresh weights, and random tickets.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.transfer import show_transfer, write_transfer_report
    from letitgo.studies.transfer import Control, Transfer

    study = Transfer(
        tuple(_recipes(recipe_fields(recipe), optimizers)),
        sources=tuple(sources.split(",")) if sources else (),
        targets=tuple(targets.split(",")) if targets else (),
        seeds=seeds,
        levels=levels,
        rate=rate,
        scope=scope,
        rewind=rewind,
        at=numbers("at", at),
        controls=named("controls", controls, get_args(Control)),
    )

    return run_study(study, running, show_transfer, write_transfer_report, report)[0]


def _recipes(fields: dict[str, Any], optimizers: str | None) -> list[Recipe]:
    """The recipes, under each optimiser with its own lr."""
    from letitgo.recipes.optimizers import is_known
    from letitgo.studies.sweep import sweep

    if optimizers is None:
        return sweep(**fields)[0]
    for name in ("optimizer", "lr"):
        if name in fields:
            raise BadRequest(f"{name} and optimizers are both given: optimizers has the names and their lr")
    found: list[Recipe] = []
    for text in optimizers.split(","):
        name, mark, lr = text.rpartition(":")
        try:
            given = {"optimizer": name, "lr": float(lr)}
        except ValueError:
            if is_known(name):
                raise BadRequest(f"optimizers has {text!r}: {lr!r} is no learning rate, as 0.1 is") from None
            given = {"optimizer": text}
        if not given["optimizer"] or (mark and not lr):
            raise BadRequest(f"optimizers is {optimizers!r}: give names, each with its lr, as in sgd:0.1,adam:0.0003")
        found += sweep(**fields, **given)[0]
    return found
