"""``letitgo bisect``."""

# RecipeOptions is a class made at run time.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from letitgo.cli.config import ConfigOption
from letitgo.cli.options import STUDY, RecipeOptions, recipe_fields
from letitgo.cli.parameter import Parameter
from letitgo.cli.tables import show_rows, write
from letitgo.errors import BadRequest
from letitgo.report.numbers import count, significant

if TYPE_CHECKING:
    from torch import nn

    from letitgo.recipes import Recipe
    from letitgo.recipes.metrics import Metric
    from letitgo.weights import Bisection


def bisect(
    base: Annotated[
        str, Parameter(group=STUDY, help="weights before the fine-tune: a file, or a folder as on the hub")
    ],
    tuned: Annotated[str, Parameter(group=STUDY, help="weights after it")],
    /,
    *,
    tolerance: Annotated[float, Parameter(group=STUDY, help="largest drop, in points or per cent as in map")] = 1.0,
    by: Annotated[
        Literal["block", "layer", "module"], Parameter(group=STUDY, help="what is put back as one, as in map")
    ] = "layer",
    save: Annotated[
        str | None,
        Parameter(group=STUDY, metavar="FILE", help="write the change that is left, as letitgo.save does"),
    ] = None,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="what is written to stdout")] = "table",
    config: ConfigOption = None,
    debug: Annotated[bool, Parameter(negative="", show_default=False, help="show tracebacks of errors")] = False,
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008
) -> int:
    """Find a small set of layers whose changes carry the gain of a fine-tune.

    Puts layers back to the base by halves, as long as the metric stays within the tolerance of the fine-tune's. Every
    other test example chooses; the rest judge what is found. With --task, its validate chooses and evaluate judges.
    """
    if not 0 <= tolerance < 100:
        raise BadRequest(f"tolerance is {tolerance:g}: give at least 0 and less than 100")
    from letitgo.cli.run import kept_from_stdout
    from letitgo.studies.options import check_target

    if save is not None:
        check_target(save)
    with kept_from_stdout():
        found, judged, metric = _bisected(base, tuned, tolerance / 100, by, save, recipe_fields(recipe))
    rows = found.frame.astype(object).where(found.frame.notna(), None).to_dict(orient="records")
    if format == "table":
        print(_answer(found, judged, metric, tolerance))
        show_rows("", [_readable(row, metric) for row in rows if row["what"] != "same"])
    else:
        about = {"carriers": found.carriers, "metric": metric.name, "evaluations": found.evaluations}
        write(format, rows, {**about, **judged, "rows": rows})
    return 0


def _bisected(
    base: str, tuned: str, tolerance: float, by: Any, save: str | None, fields: dict[str, Any]
) -> tuple[Bisection, dict[str, float | None], Metric]:
    """What is found, and the metric of the fine-tune and of what is left, on examples that did not choose."""
    from letitgo import weights
    from letitgo.plan import open_weights
    from letitgo.studies.sweep import sweep
    from letitgo.training import CPU

    recipe, *others = sweep(**fields)
    if others:
        raise BadRequest("bisect takes one recipe: give each option once")
    with CPU.entered():
        module = recipe.network()
        before, after = (open_weights(path, recipe.network).tensors() for path in (base, tuned))
        try:
            weights.load_state(module, after)
        except BadRequest as error:
            raise BadRequest(f"{tuned} does not fit the network {recipe.model!r}: {error}") from error
        metric, (choose, judge) = recipe.dataset.task.metric, _judges(recipe)
        start = choose(module)

        def score(module: nn.Module) -> float:
            drop = metric.drop(start, choose(module))
            if drop is None:
                raise BadRequest(f"the {metric.name} is no number here: nothing can be compared")
            return -drop

        found = weights.bisect(module, score, before, tolerance, by=by)
        judged = {"tuned": judge(module)[metric.name]}
        weights.load_state(module, found.state)
        judged["kept"] = judge(module)[metric.name]
        if save is not None:
            weights.save(module, save, before)
    return found, judged, metric


def _judges(recipe: Recipe) -> tuple[Callable[[nn.Module], Any], Callable[[nn.Module], Any]]:
    """What chooses and what judges: evaluations on every other test example each, or the task's own two."""
    if (own := recipe.own) is not None:
        if not own.validates:
            raise BadRequest(f"bisect chooses by validate(model), which the task {recipe.task!r} does not have")
        return (lambda module: own.evaluate(module, "validation")), own.evaluate
    import torch

    test, task = recipe.dataset.split("test"), recipe.dataset.task
    halves = [test.only(torch.arange(first, len(test), 2)) for first in (0, 1)]
    if not len(halves[1]):
        raise BadRequest("bisect takes at least two test examples: one half chooses, the other judges")
    return (lambda module: task.evaluate(module, halves[0])), (lambda module: task.evaluate(module, halves[1]))


def _answer(found: Bisection, judged: dict[str, float | None], metric: Metric, tolerance: float) -> str:
    shown = {name: significant(None if x is None else 100 * x if metric.share else x) for name, x in judged.items()}
    unit = " %" if metric.share else ""
    from letitgo.report.words import within

    tries = f"{found.evaluations} evaluation{'s' * (found.evaluations != 1)}"
    changed = sum(what in ("carries", "put back") for what in found.frame["what"])
    if found.base_score >= 0:
        return (
            f"the fine-tune has no gain to carry: its {metric.name} is no better than that of its base on the examples "
            "that choose. Is the base named first?"
        )
    named = f" ({', '.join(found.carriers)})" if found.carriers else ""
    return (
        f"{len(found.carriers)} of {changed} changed layers carry the gain{named}: with the others put back, "
        f"{metric.name} is {shown['kept']}{unit}, as tuned {shown['tuned']}{unit}, on examples that did not choose "
        f"({tries}, tolerance {within(tolerance, metric.unit)})"
    )


def _readable(row: dict[str, Any], metric: Metric) -> dict[str, str]:
    drop = None if row["score"] is None else -100 * row["score"]
    return {
        "layer": row["layer"],
        "values": count(row["values"]),
        "what": row["what"],
        f"drop, {metric.unit}": significant(drop),
    }
