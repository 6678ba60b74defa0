"""``letitgo train``."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from letitgo.cli.options import STUDY, RecipeOptions, RunningOptions, recipe_fields, whole


def train(
    *,
    freeze: Annotated[
        list[str] | None, Parameter(group=STUDY, negative="", help="pattern of what stays frozen; may be repeated")
    ] = None,
    freeze_at: Annotated[int, Parameter(group=STUDY, converter=whole, help="the epoch from which it is frozen")] = 0,
    statistics: Annotated[
        Literal["follow", "frozen"], Parameter(group=STUDY, help="running statistics of frozen normalization layers")
    ] = "follow",
    ticket: Annotated[
        str | None, Parameter(group=STUDY, help="ticket file: what it prunes is zero, what it keeps is trained")
    ] = None,
    save: Annotated[
        str | None, Parameter(group=STUDY, help="safetensors file for the trained weights (one recipe only)")
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  # pyright: ignore[reportInvalidTypeForm]
    running: RunningOptions = RunningOptions(),  # noqa: B008
) -> int:
    """Train a network once, with some of it frozen, or pruned as a ticket says.

    Patterns are globs over the names of layers, blocks and parameters; a leading ! takes away.
    """
    from letitgo.cli.run import check_target, kept_from_stdout, run_study
    from letitgo.errors import BadRequest
    from letitgo.report.table import show_train
    from letitgo.store import open_store
    from letitgo.studies.sweep import sweep
    from letitgo.studies.train import Train

    recipes, swept = sweep(**recipe_fields(recipe))
    if save is not None:
        check_target(save)
    if save and len(recipes) > 1:
        raise BadRequest(f"save names one file for {len(recipes)} runs: train one recipe, or leave it out")
    study = Train(tuple(recipes), tuple(swept), tuple(freeze or ()), freeze_at, statistics, ticket)

    code, outcome = run_study(study, running, lambda console, _, rows: show_train(console, rows))
    if save and outcome is not None and code == 0:
        from pathlib import Path

        from safetensors.torch import save as packed

        with kept_from_stdout():
            state = study.final(recipes[0]).load(open_store(running.store))
        try:
            Path(save).write_bytes(packed(state))
        except OSError as error:
            raise BadRequest(f"the weights cannot be saved to {save} ({error.strerror}): name another file") from error
        print(f"weights: {save}", file=sys.stderr)
    return code
