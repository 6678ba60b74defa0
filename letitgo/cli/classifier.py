"""``letitgo classifier``."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, recipe_fields, whole
from letitgo.errors import BadRequest


def classifier(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 5,
    kinds: Annotated[
        str | None,
        Parameter(
            group=STUDY,
            help="what the learned classifier is held against, of hadamard, orthogonal, frozen "
            "[default: hadamard,orthogonal]",
        ),
    ] = None,
    layer: Annotated[
        str | None, Parameter(group=STUDY, help="name of the classifier [default: the last linear layer]")
    ] = None,
    tolerance: Annotated[
        float | None,
        Parameter(group=STUDY, help="largest drop in test accuracy that does no harm, in points [default: 0.3]"),
    ] = None,
    text: Annotated[
        str | None,
        Parameter(
            group=STUDY,
            help="instead of a recipe's network, a small language model on the words of a text: python-manual, which "
            "comes with Python, or a file; takes --seeds, --epochs and --lr",
        ),
    ] = None,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell whether a network's classifier needs training.

    Trains the network as it is, and with its last layer a fixed Hadamard or random orthogonal matrix, one learned scale
    and a learned bias, and tells what that costs in training and in test accuracy.
    """
    given = recipe_fields(recipe)
    if text is not None:
        others = {"kinds": kinds, "layer": layer, "tolerance": tolerance, **given}
        return _language(
            text, seeds, {name: value for name, value in others.items() if value is not None}, report, running
        )

    from letitgo.cli.run import run_study
    from letitgo.report.classifier import show_classifier, write_classifier_report
    from letitgo.studies.classifier import FIXED, Classifier
    from letitgo.studies.sweep import sweep

    recipes, swept = sweep(**given)
    study = Classifier(
        tuple(recipes),
        swept=tuple(swept),
        seeds=seeds,
        kinds=FIXED if kinds is None else tuple(kinds.split(",")),  # type: ignore[arg-type]  (refused there)
        layer=layer,
        tolerance=0.003 if tolerance is None else tolerance / 100,
    )

    return run_study(study, running, show_classifier, write_classifier_report, report)[0]


def _language(text: str, seeds: int, given: dict[str, Any], report: str, running: RunningOptions) -> int:
    from letitgo.cli.run import run_study
    from letitgo.report.classifier import show_language, write_language_report
    from letitgo.studies.language import LanguageClassifier
    from letitgo.studies.sweep import make_recipe

    for name in given.keys() - {"epochs", "lr"}:
        raise BadRequest(f"{name.replace('_', '-')} means nothing with text: that takes seeds, epochs and lr")
    if lists := [name for name, value in given.items() if isinstance(value, list)]:
        raise BadRequest(f"{lists[0]} is a list: with text there is no sweep, give one number")
    checked = make_recipe(**given)
    study = LanguageClassifier(text, seeds, **{name: getattr(checked, name) for name in given})

    return run_study(study, running, show_language, write_language_report, report)[0]
