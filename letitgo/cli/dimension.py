"""``letitgo dimension``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from letitgo.cli.options import (
    STUDY,
    RecipeOptions,
    ReportFolder,
    RunningOptions,
    floats,
    numbers,
    recipe_fields,
    whole,
)
from letitgo.errors import BadRequest


def dimension(
    *,
    seeds: Annotated[
        int, Parameter(group=STUDY, converter=whole, help="number of seeds, of weights and projections")
    ] = 3,
    threshold: Annotated[
        str, Parameter(group=STUDY, help="share of the baseline to exceed: 0.9 is d_int90; or several")
    ] = "0.9",
    d_int100: Annotated[
        bool, Parameter(group=STUDY, negative="", show_default=False, help="also ask for the whole baseline")
    ] = False,
    global_baseline: Annotated[
        float | None,
        Parameter(
            group=STUDY,
            help="accuracy to hold the threshold against besides the network's own baseline, or 0 for none "
            "[default: the paper's: 1 for mnist, 0.5 for cifar10]",
        ),
    ] = None,
    kind: Annotated[
        Literal["dense", "sparse", "fastfood"], Parameter(group=STUDY, help="of the random projection")
    ] = "fastfood",
    resolution: Annotated[
        float, Parameter(group=STUDY, help="the search ends where the interval is this share wide")
    ] = 0.1,
    grid: Annotated[
        str | None, Parameter(group=STUDY, help="dimensions to try in place of a search, as in 100,200,400")
    ] = None,
    max_d: Annotated[
        int | None, Parameter(group=STUDY, converter=whole, help="the search goes no further [default: all weights]")
    ] = None,
    stop_every: Annotated[
        int,
        Parameter(
            group=STUDY,
            converter=whole,
            help="look every so many epochs, stop once the threshold is exceeded or out of reach; 0: look at the last",
        ),
    ] = 0,
    split: Annotated[
        Literal["train", "test"] | None,
        Parameter(group=STUDY, help="on which accuracy is measured [default: test; train with shuffled labels]"),
    ] = None,
    shuffle_pixels: Annotated[
        bool, Parameter(group=STUDY, negative="", show_default=False, help="one order of the pixels for all images")
    ] = False,
    shuffle_labels: Annotated[
        bool, Parameter(group=STUDY, negative="", show_default=False, help="train on random labels")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        Parameter(group=STUDY, negative="", help="pattern of what trains by itself, unprojected; may be repeated"),
    ] = None,
    said: Annotated[
        bool, Parameter(group=STUDY, negative="", show_default=False, help="learn a scale for each layer too (SAID)")
    ] = False,
    layer: Annotated[
        list[str] | None,
        Parameter(group=STUDY, negative="", help="pattern of layers to ask about one at a time; may be repeated"),
    ] = None,
    others: Annotated[
        Literal["frozen", "trained"] | None,
        Parameter(group=STUDY, help="what the other layers do meanwhile [default: frozen]"),
    ] = None,
    tolerance: Annotated[
        float, Parameter(group=STUDY, help="of the verdict on a layer frozen: the largest harmless drop, in points")
    ] = 1.0,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell how few dimensions a network needs: its intrinsic dimension.

    Trains in random subspaces of d dimensions, looks for the least d that reaches a share of the accuracy of the
    network trained in full, and tells the interval it lies in.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.dimension import show_dimensions, write_dimension_report
    from letitgo.studies.dimension import Dimension
    from letitgo.studies.sweep import sweep

    fields = recipe_fields(recipe)
    shuffled = {"shift": ("permute-pixels", shuffle_pixels), "label_noise": (1.0, shuffle_labels)}
    for name, (value, asked) in shuffled.items():
        if asked and name in fields:
            flag = "shuffle-pixels" if name == "shift" else "shuffle-labels"
            raise BadRequest(f"{flag} is itself a {name.replace('_', '-')}: leave out one of the two")
        fields |= {name: value} if asked else {}
    recipes, swept = sweep(**fields)
    if others and not layer:
        raise BadRequest("others is about layers asked about one at a time: give --layer too")
    study = Dimension(
        tuple(recipes),
        swept=tuple(swept),
        seeds=seeds,
        thresholds=tuple(dict.fromkeys((*floats("threshold", threshold), *((1.0,) if d_int100 else ())))),
        global_baseline=global_baseline,
        kind=kind,
        resolution=resolution,
        grid=numbers("grid", grid) or (),
        max_d=max_d,
        exclude=tuple(exclude or ()),
        said=said,
        layers=tuple(layer or ()),
        others=others or "frozen",
        split=split or ("train" if shuffle_labels else "test"),
        stop_every=stop_every,
        tolerance=tolerance / 100,
    )

    return run_study(study, running, show_dimensions, write_dimension_report, report)[0]
