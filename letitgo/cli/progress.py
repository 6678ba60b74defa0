"""Progress bars with time left, for the study and each run under way; lines where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from letitgo.execute import Job
from letitgo.execute import Progress as State
from letitgo.execute.executor import OnProgress

QUIET = 30.0
"""Seconds before the first line: a short study writes none."""


@contextmanager
def shown_progress() -> Iterator[OnProgress]:
    """Yields what an executor is to call while it works."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        study = bars.add_task("study", total=None)
        tasks: dict[Job, TaskID] = {}

        def show(state: State) -> None:
            what = f"study: {len(state.finished)} of {state.jobs} jobs"
            bars.update(study, description=what, total=state.total, completed=state.done)
            for job in tasks.keys() - state.running.keys():
                bars.remove_task(tasks.pop(job))
            for job, share in state.running.items():
                if job not in tasks:
                    where = f" on {state.where[job]}" if job in state.where else ""
                    tasks[job] = bars.add_task(f"  {job}{where}", total=1.0)
                bars.update(tasks[job], completed=share)

        yield show


def _lines() -> OnProgress:
    """Writes a line for each training run that came through, once the study takes long."""
    begun, told = time.monotonic(), set[Job]()

    def show(state: State) -> None:
        for i, job in enumerate(state.finished, start=1):
            if job.run and job not in told:
                told.add(job)
                if time.monotonic() - begun >= QUIET:
                    print(f"letitgo: done: {job} ({i} of {state.jobs} jobs)", file=sys.stderr, flush=True)

    return show
