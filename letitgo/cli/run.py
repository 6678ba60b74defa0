"""What every study command does once its study is made."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from letitgo.cli import interrupt
from letitgo.cli.config import command_line
from letitgo.cli.options import RunningOptions
from letitgo.cli.progress import shown_progress
from letitgo.cli.tables import stdout_console, write
from letitgo.errors import BadRequest, PartlyFailed, WorkFailed
from letitgo.execute import Progress
from letitgo.execute.cluster import disconnect, on_ray
from letitgo.execute.executor import default_workers
from letitgo.report.numbers import amount, duration
from letitgo.store import Store, open_store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.outcome import Outcome, by_cause, of_other_versions, of_unmoved
from letitgo.studies.study import Study
from letitgo.training import CPU, Place


def run_study(
    study: Study, options: RunningOptions, view: Callable[[Outcome], Outcome] = lambda outcome: outcome
) -> int:
    """Carry a study out, or say what it would take; write the answer to stdout, and a report.

    Args:
        study: The study.
        options: Where and how.
        view: Makes of the outcome the one that is shown.

    Returns:
        The exit code.
    """
    place = place_of(options)
    workers = _checked_workers(options, place)
    store = open_store(options.store, make=not options.dry_run)
    store.recompute_other_versions, store.device = options.recompute_other_versions, place.device
    if options.dry_run:
        with kept_from_stdout(), _no_exit():
            takes = estimate(study, store, workers, place)
        _write_estimate(takes, options.format, store)
        return 0
    if options.report != "none":
        make_folder(options.report)
    if promise := getattr(study, "promise", ""):
        print(promise, file=sys.stderr)
    outcome = view(_compute(study, options, workers, store, place))
    _write(outcome, options)
    _write_failures(outcome, options)
    if options.report != "none" and any(row.get("n", 1) for row in outcome.rows):
        forked = (
            options.on == "processes" and place.kind == "cpu"
        )  # elsewhere a process takes longer to start than to draw
        _write_report(outcome, options.report, workers if forked else 0)
    return 1 if outcome.failures else 0


def place_of(options: RunningOptions) -> Place:
    """Where jobs compute.

    Raises:
        BadRequest: The device is not there, or GPUs are asked for that no cluster is to give.
    """
    place = Place(options.device)
    if options.on == "ray":
        return on_ray(place, options.gpus)[0]
    if options.gpus is not None:
        raise BadRequest("gpus is what a job reserves on a Ray cluster: add --on ray, or give device cuda")
    place.check()
    return place


def _compute(study: Study, options: RunningOptions, workers: int, store: Store, place: Place) -> Outcome:
    with kept_from_stdout(), _no_exit(), warnings.catch_warnings(), shown_progress() as show:
        warnings.simplefilter("ignore", PartlyFailed)  # each failure is printed with the rows
        interrupt.check()

        def on_progress(state: Progress) -> None:
            interrupt.check()  # what is imported or called meanwhile may have swallowed one
            show(state)

        outcome = compute(
            study,
            store,
            workers,
            on_progress=on_progress,
            on=options.on,
            ray_address=options.ray_address,
            place=place,
            gpus=options.gpus,
            timeout=options.timeout,
            recompute_other_versions=options.recompute_other_versions,
        )
        if options.on == "ray":
            disconnect()
        return outcome


@contextmanager
def _no_exit() -> Iterator[None]:
    """User code does not end the program.

    Raises:
        WorkFailed: It tried to.
    """
    try:
        yield
    except SystemExit as error:
        what = f"the network, data or task called sys.exit({error.code!r}): it has to return, or to raise an error"
        raise WorkFailed(what) from error


def _write(outcome: Outcome, options: RunningOptions) -> None:
    if options.format == "table":
        outcome.show(stdout_console())
    else:
        recipes = [recipe.fields() for recipe in getattr(outcome.study, "recipes", ())]
        usage = outcome.usage
        about = {"recipes": recipes, "other_versions": usage.other_versions, "versions": outcome.versions}
        about["unmoved"] = usage.unmoved
        answer = getattr(outcome.study, "answer", None)
        found = {"answer": answer(outcome.rows)} if answer else {}
        write(options.format, outcome.rows, {**about, **found, "rows": outcome.rows})


def _write_failures(outcome: Outcome, options: RunningOptions) -> None:
    for failure in outcome.failures:
        if options.debug:
            print(failure.trace, file=sys.stderr)
    for line in by_cause(outcome.failures):
        print(f"letitgo: failed: {line}", file=sys.stderr)
    if outcome.failures:
        print("letitgo: finished results are in the store; the same command tries the rest again", file=sys.stderr)
    if mixed := of_other_versions(outcome.usage):
        print(f"letitgo: {mixed}; --recompute-other-versions replaces them", file=sys.stderr)
    if options.format != "table" and (still := of_unmoved(outcome.usage)):
        print(f"letitgo: {still}", file=sys.stderr)
    for note in outcome.notes:
        print(note, file=sys.stderr)


def _write_report(outcome: Outcome, folder: str, workers: int) -> None:
    try:
        with kept_from_stdout():
            path = outcome.report(folder, command_line(), workers)
    except OSError as error:
        raise BadRequest(f"the report cannot be written to {folder} ({error.strerror}): name another folder") from error
    print(f"report: {path}", file=sys.stderr)


def _checked_workers(options: RunningOptions, place: Place) -> int:
    workers = default_workers(CPU if options.on == "ray" else place) if options.workers is None else options.workers
    if workers < 0:
        raise BadRequest(f"workers is {workers}: give 0 for this process, or a number of worker processes")
    if options.on != "ray" and options.ray_address is not None:
        raise BadRequest("ray-address names a Ray cluster: add --on ray, or leave it out")
    if options.store == "":
        raise BadRequest("store is empty: name a folder, or a URL as in s3://bucket/folder")
    return workers


def kept_from_stdout() -> AbstractContextManager[Any]:
    """Send prints of user code to stderr: stdout carries the answer only."""
    return redirect_stdout(sys.stderr)


def make_folder(path: str) -> None:
    """Make a folder for results, before work that takes long.

    Raises:
        BadRequest: It cannot be made or written.
    """
    try:
        if not path:
            raise FileNotFoundError(0, "it has no name")
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"the folder {path!r} cannot be made ({error.strerror}): name another, or none") from error
    if not os.access(path, os.W_OK):
        raise BadRequest(f"the folder {path!r} cannot be written: name another, or none")


def _write_estimate(takes: Any, form: str, store: Store) -> None:
    if form != "table":
        row = {**dataclasses.asdict(takes), "covered": " ".join(takes.covered)}
        write(form, [row], {"dry_run": row})
        return
    least, left = "at least " if takes.at_least else "", ""
    if takes.seconds is not None:
        left = f"\nleft to do: {least}{amount(takes.operations)}FLOP, {least}about {duration(takes.seconds)}"
    print(
        f"{takes.runs} training runs, {takes.runs_stored} of them in the store {_short(store.root)}\n"
        f"{takes.measures} measurements (accuracies, distances, …), {takes.measures_stored} of them in the store{left}"
        + (f"\n{takes.promise}" if takes.promise else "")
        + (f"\nkeys cover: {', '.join(takes.covered)}" if takes.covered else "")
    )


def _short(root: Path | str) -> str:
    if isinstance(root, Path) and root.is_relative_to(Path.cwd()):
        return str(root.relative_to(Path.cwd()))
    return str(root)
