"""``letitgo map --start``."""

from __future__ import annotations

from typing import Any, Literal

from letitgo.cli.options import RunningOptions, json_object, recipe_fields


def finetune(
    start: str,
    recipe: Any,
    running: RunningOptions,
    report: str,
    *,
    seeds: int,
    budget: float,
    together: bool,
    tolerance: float,
    layers: list[str] | None,
    blocks: list[str] | None,
    statistics: Literal["follow", "frozen"],
) -> int:
    """Tell which layers to freeze when a network is fine-tuned."""
    from letitgo.cli.run import run_study
    from letitgo.report.finetune import show_finetune, write_finetune_report
    from letitgo.studies.finetune import FineTune
    from letitgo.studies.sweep import sweep

    recipes, swept = sweep(**recipe_fields(recipe))
    study = FineTune(
        tuple(recipes),
        json_object("start", start) if start.startswith("{") else start,
        swept=tuple(swept),
        seeds=seeds,
        budget=budget,
        together=together,
        tolerance=tolerance / 100,
        layers=tuple(layers or ()),
        blocks=tuple(blocks or ()),
        statistics=statistics,
    )

    return run_study(study, running, show_finetune, write_finetune_report, report)[0]
