"""``letitgo map``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, numbers, recipe_fields, whole

if TYPE_CHECKING:
    from pathlib import Path

    from letitgo.studies.compute import Outcome
    from letitgo.studies.map import Map


def map_layers(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    freeze_at: Annotated[
        str, Parameter(group=STUDY, help="epochs from which each layer is frozen, as in 0,1,2,5")
    ] = "0",
    reinit_at: Annotated[
        str | None,
        Parameter(
            group=STUDY, help="epochs to whose weights each layer is put back [default: 0,1,2,3,8 as far as reached]"
        ),
    ] = None,
    together: Annotated[
        bool,
        Parameter(
            group=STUDY,
            negative="",
            show_default=False,
            help="also sets of layers: all but one, every prefix, every suffix, all found robust",
        ),
    ] = False,
    tolerance: Annotated[
        float, Parameter(group=STUDY, help="largest drop in accuracy that does no harm, in points")
    ] = 1.0,
    layers: Annotated[
        list[str] | None, Parameter(group=STUDY, negative="", help="pattern of the layers to act on; may be repeated")
    ] = None,
    blocks: Annotated[
        list[str] | None,
        Parameter(group=STUDY, negative="", help="pattern of blocks to act on as one; may be repeated"),
    ] = None,
    statistics: Annotated[
        Literal["follow", "frozen"], Parameter(group=STUDY, help="running statistics of frozen normalization layers")
    ] = "follow",
    re_estimate: Annotated[
        bool,
        Parameter(
            group=STUDY,
            negative="",
            show_default=False,
            help="re-estimate running statistics on the training data before grafted networks are evaluated",
        ),
    ] = False,
    start: Annotated[
        str | None,
        Parameter(
            group=STUDY,
            help="fine-tune a network trained before, and tell which layers to freeze then: a data set, fields of a "
            "recipe as JSON, or a safetensors file",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        Parameter(group=STUDY, help="with --start: share of full fine-tuning's arithmetic to be met [default: 1]"),
    ] = None,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell which layers of a network need training.

    Trains the network, trains it again with each layer frozen, puts each layer of the trained network back to earlier
    values or a fresh draw, and tells what each of these costs in test accuracy.
    """
    if start is not None:
        from letitgo.cli.finetune import finetune
        from letitgo.errors import BadRequest

        given = {"freeze-at": freeze_at != "0", "reinit-at": reinit_at is not None, "re-estimate": re_estimate}
        for name in (name for name, is_given in given.items() if is_given):
            raise BadRequest(f"{name} has no sense in fine-tuning: leave out --{name} or --start")
        return finetune(
            start,
            recipe,
            running,
            report,
            seeds=seeds,
            budget=1.0 if budget is None else budget,
            together=together,
            tolerance=tolerance,
            layers=layers,
            blocks=blocks,
            statistics=statistics,
        )
    if budget is not None:
        from letitgo.errors import BadRequest

        raise BadRequest("budget is a share of fine-tuning: say what is fine-tuned with --start")

    from letitgo.cli.run import run_study
    from letitgo.report.table import show_map
    from letitgo.studies.map import Map
    from letitgo.studies.sweep import sweep

    recipes, swept = sweep(**recipe_fields(recipe))
    study = Map(
        tuple(recipes),
        swept=tuple(swept),
        seeds=seeds,
        freeze_at=numbers("freeze-at", freeze_at) or (),
        reinit_at=numbers("reinit-at", reinit_at),
        together=together,
        tolerance=tolerance / 100,
        layers=tuple(layers or ()),
        blocks=tuple(blocks or ()),
        statistics=statistics,
        re_estimate=re_estimate,
    )

    return run_study(study, running, show_map, _write, report)[0]


def _write(study: Map, outcome: Outcome, folder: str, command: str) -> Path:
    from letitgo.report.page import write_map_report  # which imports matplotlib

    return write_map_report(study, outcome, folder, command)
