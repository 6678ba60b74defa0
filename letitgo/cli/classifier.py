"""``letitgo classifier``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, RunningOptions, recipe_fields, whole

if TYPE_CHECKING:
    from pathlib import Path

    from letitgo.studies.compute import Outcome


def classifier(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 5,
    kinds: Annotated[
        str,
        Parameter(group=STUDY, help="what the learned classifier is held against: hadamard, orthogonal, frozen"),
    ] = "hadamard,orthogonal",
    layer: Annotated[
        str | None, Parameter(group=STUDY, help="name of the classifier [default: the last linear layer]")
    ] = None,
    tolerance: Annotated[
        float, Parameter(group=STUDY, help="largest drop in test accuracy that does no harm, in points")
    ] = 0.3,
    report: Annotated[
        str, Parameter(group=STUDY, help="folder for the HTML report and its figures, or none")
    ] = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell whether a network's classifier needs training.

    Trains the network as it is, and with its last layer a fixed Hadamard or random orthogonal matrix, one learned scale
    and a learned bias, and tells what that costs in training and in test accuracy.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.classifier import show_classifier, write_classifier_report
    from letitgo.studies.classifier import Classifier
    from letitgo.studies.sweep import sweep

    recipes, swept = sweep(**recipe_fields(recipe))
    study = Classifier(
        tuple(recipes),
        swept=tuple(swept),
        seeds=seeds,
        kinds=tuple(kinds.split(",")),  # type: ignore[arg-type]  (the study refuses what is none)
        layer=layer,
        tolerance=tolerance / 100,
    )

    def write(outcome: Outcome, folder: str, command: str) -> Path:
        return write_classifier_report(study, outcome, folder, command)

    return run_study(study, running, lambda console, rows: show_classifier(console, study, rows), write, report)[0]
