"""``letitgo fraction``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, floats, recipe_fields, whole


def learn_fraction(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    shares: Annotated[
        str, Parameter(group=STUDY, help="shares learned of each layer, each above 0 and at most 1")
    ] = "1,0.5,0.25,0.1,0.05,0.01",
    of: Annotated[str, Parameter(group=STUDY, help="what they are shares of: filters, weights, or both")] = "filters",
    rest: Annotated[
        str, Parameter(group=STUDY, help="what the rest of those layers is: initial, zero, or both")
    ] = "initial",
    norms: Annotated[
        str, Parameter(group=STUDY, help="whether norms are learned besides a share: learned, frozen, or both")
    ] = "learned",
    classifier: Annotated[
        str,
        Parameter(
            group=STUDY, help="the last layer besides a share: learned, frozen, or share (as the others), or several"
        ),
    ] = "learned",
    only: Annotated[
        str | None,
        Parameter(
            group=STUDY,
            help="what is learned by itself: norms, biases, classifier, layers (one at a time), or none "
            "[default: all of these that there are]",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        Parameter(group=STUDY, negative="", help="pattern of the layers learned one at a time; may be repeated"),
    ] = None,
    blocks: Annotated[
        list[str] | None,
        Parameter(group=STUDY, negative="", help="pattern of blocks learned as one; may be repeated"),
    ] = None,
    controls: Annotated[
        bool, Parameter(group=STUDY, help="also as many values chosen at random from the whole network")
    ] = True,
    statistics: Annotated[
        Literal["follow", "frozen"], Parameter(group=STUDY, help="running statistics of frozen normalization layers")
    ] = "follow",
    tolerance: Annotated[
        float, Parameter(group=STUDY, help="largest drop in accuracy that does no harm, in points")
    ] = 1.0,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell how much of a network has to be learned.

    Trains a share of the filters or weights of each layer, the norms alone, the classifier alone or one layer alone,
    and as many values chosen at random, and tells what each of these costs in test accuracy and in storage.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.fraction import show_fractions, write_fraction_report
    from letitgo.studies.fraction import LearnedFraction
    from letitgo.studies.sweep import sweep

    recipes, swept = sweep(**recipe_fields(recipe))
    words: dict[str, Any] = {"of": of, "rest": rest, "norms": norms, "classifier": classifier}
    study = LearnedFraction(
        tuple(recipes),
        swept=tuple(swept),
        seeds=seeds,
        shares=floats("shares", shares),
        **{name: tuple(text.split(",")) for name, text in words.items()},
        only=None if only is None else () if only == "none" else tuple(only.split(",")),  # type: ignore[arg-type]
        layers=tuple(layers or ()),
        blocks=tuple(blocks or ()),
        controls=controls,
        statistics=statistics,
        tolerance=tolerance / 100,
    )

    return run_study(study, running, show_fractions, write_fraction_report, report)[0]
