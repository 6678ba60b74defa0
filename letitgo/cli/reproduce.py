"""``letitgo reproduce``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from letitgo.cli.options import STUDY, RunningOptions, whole


def reproduce(
    paper: Annotated[
        str, Parameter(group=STUDY, help="fc18, fdrc19, hhs18, jt18, lee23, lfly18, mypt19, rt18 or zbs19")
    ],
    /,
    *,
    scale: Annotated[
        float, Parameter(group=STUDY, help="share of the paper's training, in (0, 1]; at least an epoch")
    ] = 1.0,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Hold what a paper says against what is measured here with its protocol.

    Each line tells what the paper says, what was measured, and whether the one bears the other out. What a scaled run
    cannot show it says.
    """
    from letitgo.cli.run import run_study
    from letitgo.papers import find_paper, shortened
    from letitgo.report.table import show_claims

    found = find_paper(paper)
    study = found.study(scale, seeds)

    def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(claim) for claim in found.claims(study, rows)]

    def show(console: Console, _: Any, rows: list[dict[str, Any]]) -> None:
        show_claims(console, found.TITLE, shortened(study, found.study(1.0, seeds)), rows)

    return run_study(study, running, show, told=told)[0]
