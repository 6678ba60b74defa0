"""``letitgo reproduce``."""

from __future__ import annotations

from typing import Annotated

from letitgo.cli.options import STUDY, RunningOptions, whole
from letitgo.cli.parameter import Parameter
from letitgo.errors import BadRequest


def reproduce(
    paper: Annotated[
        str,
        Parameter(
            group=STUDY, show_default=False, help="fc18, fdrc19, hhs18, jt18, lee23, lfly18, mypt19, rt18 or zbs19"
        ),
    ] = "",
    /,
    *,
    scale: Annotated[
        float, Parameter(group=STUDY, help="share of the paper's training, in (0, 1]; at least an epoch")
    ] = 1.0,
    seeds: Annotated[int, Parameter(group=STUDY, converter=whole, help="number of seeds")] = 3,
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Compare a paper's claims with what its protocol gives here.

    Each line has the claim, the measurement, and whether one bears the other out. A shortened run says what it cannot
    show.
    """
    from letitgo.cli.run import run_study
    from letitgo.papers import PAPERS, find_paper
    from letitgo.papers.report import Comparison

    if not paper:
        raise BadRequest(f"name a paper: {', '.join(PAPERS)}")
    found = find_paper(paper)
    study = found.study(scale, seeds)
    return run_study(study, running, Comparison(found, study, found.study(1.0, seeds)).view)
