"""What every study command does once its study is put together."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from letitgo.cli import interrupt
from letitgo.cli.options import RunningOptions
from letitgo.cli.progress import shown_progress
from letitgo.cli.tables import stdout_console, write_csv
from letitgo.errors import BadRequest
from letitgo.execute.cluster import disconnect
from letitgo.execute.executor import default_workers
from letitgo.report.table import amount, duration
from letitgo.store import Store, open_store
from letitgo.studies.compute import Outcome, Study, compute, estimate
from letitgo.version import versions


def run_study(
    study: Study,
    options: RunningOptions,
    show: Callable[[Console, Any, list[dict[str, Any]]], None],
    report: Callable[[Any, Outcome, str, str], Path] | None = None,
    folder: str = "none",
    told: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
) -> tuple[int, Outcome | None]:
    """Carry a study out, or tell what it would take; write the answer to stdout, and a report.

    Args:
        study: The study.
        options: Where and how.
        show: Writes the study's rows for a person.
        report: Writes a report of the study's outcome into a folder, given the command that makes it.
        folder: The folder, or ``none``.
        told: Makes of the study's rows those that are shown.

    Returns:
        The exit code, and the outcome; None after a dry run.
    """
    workers = _checked_workers(options)
    store = open_store(options.store, make=not options.dry_run)
    if options.dry_run:
        with kept_from_stdout():
            takes = estimate(study, store, workers)
        _tell(takes, options.format, store)
        return 0, None
    wanted = report is not None and folder != "none"
    if wanted:
        make_folder(folder)
    with kept_from_stdout(), shown_progress() as on_progress:
        interrupt.check()
        outcome = compute(
            study,
            store,
            workers,
            on_progress=on_progress,
            on=options.on,
            ray_address=options.ray_address,
        )
        if options.on == "ray":
            disconnect()
    if options.format == "table":
        show(stdout_console(), study, told(outcome.rows))
    else:
        write_rows(told(outcome.rows), options.format, {"recipes": [r.fields() for r in study.recipes]})
    for failure in outcome.failures:
        if options.debug:
            print(failure.trace, file=sys.stderr)
        print(f"letitgo: failed: {failure.what}: {failure.why}", file=sys.stderr)
    if outcome.failures:
        print("letitgo: what was finished is in the store; the same command tries the rest again", file=sys.stderr)
    if report is not None and wanted and any(row.get("n", 1) for row in outcome.rows):
        try:
            with kept_from_stdout():
                path = report(study, outcome, folder, shlex.join(["letitgo", *sys.argv[1:]]))
        except OSError as error:
            raise BadRequest(
                f"the report cannot be written to {folder} ({error.strerror}): name another folder"
            ) from error
        print(f"report: {path}", file=sys.stderr)
    return (1 if outcome.failures else 0), outcome


def _checked_workers(options: RunningOptions) -> int:
    workers = default_workers() if options.workers is None else options.workers
    if workers < 0:
        raise BadRequest(f"workers is {workers}: give 0 for this process, or a number of worker processes")
    if options.on != "ray" and options.ray_address is not None:
        raise BadRequest("ray-address names a Ray cluster: add --on ray, or leave it out")
    if options.store == "":
        raise BadRequest("store is empty: name a folder, or a URL as in s3://bucket/folder")
    return workers


def kept_from_stdout() -> AbstractContextManager[Any]:
    """Whatever a network of the user's prints goes to stderr: stdout is for the answer."""
    return redirect_stdout(sys.stderr)


def check_target(path: str) -> None:
    """Make sure, before work that takes long, that its result can be written to a file.

    Raises:
        BadRequest: The file's folder is not there, or the file is a folder.
    """
    target = Path(path)
    if not path or target.is_dir() or not os.access(target.parent, os.W_OK):
        raise BadRequest(f"{path!r} cannot be written: name a file in a folder that is there and can be written")


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


def write_rows(rows: list[dict[str, Any]], form: str, about: dict[str, Any]) -> None:
    """Rows to stdout, as JSON under the key ``rows`` or as CSV."""
    if form == "json":
        print(json.dumps({**about, "versions": versions(), "rows": rows}, indent=1))
        return
    write_csv(rows)


def _tell(takes: Any, form: str, store: Store) -> None:
    if form != "table":
        row = dataclasses.asdict(takes)
        print(json.dumps({"dry_run": row})) if form == "json" else write_rows([row], form, {})
        return
    least = "at least " if takes.at_least else ""
    print(
        f"{takes.runs} training runs, {takes.runs_stored} of them in the store {_short(store.root)}\n"
        f"{takes.measures} measures, {takes.measures_stored} of them in the store\n"
        f"left to do: {least}{amount(takes.operations)}floating-point operations, "
        f"{least}about {duration(takes.seconds)}"
    )


def _short(root: Path | str) -> str:
    if isinstance(root, Path) and root.is_relative_to(Path.cwd()):
        return str(root.relative_to(Path.cwd()))
    return str(root)
