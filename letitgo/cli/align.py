"""``letitgo align``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, ReportFolder, RunningOptions, numbers, recipe_fields, whole

if TYPE_CHECKING:
    from letitgo.studies.align import Align, AlignDense

OF_LINEAR = ("model", "data", "widths", "depth", "seed")
"""Fields of a recipe that a deep linear network has too."""


def align(
    *,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    classes: Annotated[
        str | None, Parameter(group=STUDY, help="the two classes of --data [default: 0,1]", show_default=False)
    ] = None,
    examples: Annotated[
        int | None,
        Parameter(group=STUDY, converter=whole, help="how many of them [default: 1000]", show_default=False),
    ] = None,
    start: Annotated[
        list[str] | None,
        Parameter(
            group=STUDY,
            negative="",
            help="initial weights: balanced, 'zero first layer', default; may be repeated [default: all]",
        ),
    ] = None,
    scale: Annotated[
        float | None, Parameter(group=STUDY, help="factor of the initial weights [default: 1]", show_default=False)
    ] = None,
    freeze: Annotated[
        str | None,
        Parameter(
            group=STUDY,
            help="layers to freeze at initialization, one at a time, as in 1,2; or none [default: all]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        Parameter(group=STUDY, converter=whole, help="steps of gradient descent [default: 10000]", show_default=False),
    ] = None,
    rule: Annotated[
        Literal["risk", "constant"] | None,
        Parameter(
            group=STUDY,
            help="step with which to get far, besides the theorem's: in inverse proportion to the risk, or constant "
            "[default: risk]",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None, Parameter(group=STUDY, help="factor of that step [default: 8]", show_default=False)
    ] = None,
    report: ReportFolder = "letitgo-report",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Tell whether gradient descent aligns the layers of a network.

    Without --model: deep linear networks with one output, on synthetic points of the plane or two classes of --data,
    trained by gradient descent on all examples at once with the logistic loss; of a recipe --data, --widths (hidden
    layers), --depth and --seed apply. With --model: the dense layers of that network along its training.
    """
    from letitgo.cli.run import run_study
    from letitgo.report.align import show_align, show_dense, write_align_report, write_dense_report

    own = {"classes": classes and numbers("classes", classes), "examples": examples, "laws": start and tuple(start)}
    own |= {"scale": scale, "steps": steps, "rule": rule, "rate": rate}
    own = {name: value for name, value in own.items() if value is not None}
    fields = recipe_fields(recipe)
    if fields.get("model", "linear") != "linear":
        dense = _dense(fields, own, freeze, seeds)
        return run_study(dense, running, show_dense, write_dense_report, report)[0]
    study = _linear(fields, own, freeze, seeds)
    return run_study(study, running, show_align, write_align_report, report)[0]


def _linear(fields: dict[str, Any], own: dict[str, Any], freeze: str | None, seeds: int) -> Align:
    from letitgo.errors import BadRequest
    from letitgo.studies.align import Align
    from letitgo.studies.sweep import make_recipe

    for name, value in fields.items():
        flag = name.replace("_", "-")
        if name not in OF_LINEAR:
            raise BadRequest(
                f"{flag} is nothing to a deep linear network, which is trained by gradient descent on all examples: "
                "name a network with --model"
            )
        if isinstance(value, list):
            raise BadRequest(f"{flag} is {','.join(value)}: a deep linear network takes one value")
    data = fields.pop("data", "synthetic")
    if data == "synthetic" and own.keys() & {"classes", "examples"}:
        raise BadRequest("synthetic points have two classes of their own: name a data set with --data")
    checked = make_recipe(**{name: value for name, value in fields.items() if name != "model"})
    widths = tuple(int(width) for width in (checked.widths or "8").split("x"))
    if len(widths) == 1:
        widths *= 3 if checked.depth is None else checked.depth
    elif checked.depth not in (None, len(widths)):
        raise BadRequest(f"depth {checked.depth} does not fit {len(widths)} widths: give one width, or as many")
    frozen = () if freeze == "none" else numbers("freeze", freeze)
    return Align(data=data, widths=widths, freeze=frozen, seeds=seeds, seed=checked.seed, **own)


def _dense(fields: dict[str, Any], own: dict[str, Any], freeze: str | None, seeds: int) -> AlignDense:
    from letitgo.errors import BadRequest
    from letitgo.studies.align import AlignDense
    from letitgo.studies.sweep import sweep

    for name in own:
        raise BadRequest(
            f"{'start' if name == 'laws' else name} is for deep linear networks: with --model the recipe says how the "
            "network is trained"
        )
    if freeze not in (None, "none"):
        raise BadRequest(f"freeze is {freeze!r}: with --model each dense layer is frozen in turn, or none")
    recipes, swept = sweep(**fields)
    return AlignDense(tuple(recipes), tuple(swept), seeds, freeze=freeze is None)
