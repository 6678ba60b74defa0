"""What is told of a study of learned fractions: a table, sentences, figures and a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import groups, heading, points
from letitgo.report.figures import COLOURS, STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.studies.compute import Outcome
from letitgo.studies.fraction import LearnedFraction

Row = dict[str, Any]

TASKS = 10
"""Tasks on one base that storage is told for."""

RANDOM = "random values"


def show_fractions(console: Console, study: LearnedFraction, rows: list[Row]) -> None:
    """The rows for a person: a table per recipe, and the answer in words."""
    for recipe, part in groups(study, rows):
        console.print(f"\n[bold]{escape(heading(study, recipe))}[/bold]")
        table = Table(pad_edge=False)
        cells = [{name: cell for name, cell in _cells(row).items() if name not in _IN_PAGE} for row in part]
        for name in cells[0]:
            table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=name not in _WORDS)
        for row, own in zip(part, cells, strict=True):
            colour = COLOURS.get(row["verdict"], "default")
            own["drop"] = f"[{colour}]{own['drop']}[/]"
            table.add_row(*own.values())
        console.print(table)
        for sentence in fraction_answers(study, part):
            console.print(escape(sentence))
    for sentence in (_tasks_sentence(tasks) for tasks in _on_one_base(study, rows)):
        console.print(escape(sentence))


_WORDS = ("learned", "rest", "norms", "classifier")
_IN_PAGE = ("moved", "training, %", "n")


def _cells(row: Row) -> dict[str, str]:
    share = "" if row["share"] is None else f"{100 * row['share']:g} % of "
    return {
        "learned": f"{share}{row['policy']}",
        "rest": row["rest"],
        "norms": row["norms"],
        "classifier": row["classifier"],
        "values": f"{row['learned']:,}",
        "moved": "–" if row["moved"] is None else f"{row['moved']:,}",
        "accuracy, %": points(row["accuracy_mean"], row["accuracy_ci95"]),
        "training, %": points(row["train_accuracy_mean"]),
        "drop": points(row["drop_mean"], row["drop_ci95"]),
        "above random": points(row["above_random_mean"], row["above_random_ci95"]),
        "delta, kB": "–" if row["delta_bytes"] is None else f"{row['delta_bytes'] / 1000:.1f}",
        "n": str(row["n"]),
    }


def stated(row: Row) -> str:
    """A policy in words, with what becomes of norms and classifier."""
    if row["policy"] in ("everything", RANDOM):
        return row["policy"]
    parts = [] if row["share"] is None else [f"rest {row['rest']}"]
    parts += [] if row["norms"] == "none" else [f"norms {row['norms']}"]
    return f"{row['policy']} ({', '.join([*parts, 'classifier ' + row['classifier']])})"


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The policies by name, each with its points; everything learned ends the lines of shares and of random values."""
    everything = next(row for row in rows if row["policy"] == "everything")
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row is not everything and row["n"]:
            lines.setdefault(stated(row), []).append(row)
    for name, own in lines.items():
        goes_on = own[0]["policy"] == RANDOM or own[0]["share"] is not None
        points_of = [*own, everything] if goes_on and own[0]["share"] != 1 else own
        yield name, sorted(points_of, key=lambda row: row["learned"])


def fraction_answers(study: LearnedFraction, rows: Sequence[Row]) -> list[str]:
    """What the rows of one recipe say."""
    rows = [row for row in rows if row["n"]]
    if not rows:
        return []
    base = rows[0]
    whole = f"{base['learned']:,} values learned, all there are, reach "
    said = [f"{whole}{points(base['accuracy_mean'], base['accuracy_ci95'])} % (n = {base['n']})."]
    within = f"{100 * study.tolerance:g} point" + ("" if study.tolerance == 0.01 else "s")
    for name, own in _lines(rows):
        shares = [row for row in reversed(own) if row["share"] is not None]
        if own[0]["policy"] == RANDOM:
            continue
        if not shares:
            (row,) = own
            said.append(
                f"{name[0].upper()}{name[1:]}: {row['learned']:,} values reach "
                f"{points(row['accuracy_mean'], row['accuracy_ci95'])} %{_beyond_random(row)}."
            )
            continue
        harmless = [row["share"] for row in shares if row["verdict"] == "robust"]
        drops = [f"{points(row['drop_mean'], row['drop_ci95'])} at {100 * row['share']:g} %" for row in shares]
        said.append(
            f"{name[0].upper()}{name[1:]}: the drop in points is {', '.join(drops)}; surely within {within} "
            + (f"down to {100 * min(harmless):g} %." if harmless else "at none of these.")
        )
    if any(row["verdict"] == "undecided" for row in rows):
        said.append(f"Undecided at n = {max(row['n'] for row in rows)} for some: more seeds (--seeds) may tell.")
    kept = [row for row in rows if row["policy"] not in (RANDOM, "everything") and row["share"] not in (None, 1)]
    if kept:
        row = min(kept, key=lambda row: abs(row["share"] - 0.1))
        part, full = row["delta_bytes"], row["whole_bytes"]
        said.append(
            f"Kept beside its base, {100 * row['share']:g} % of {stated(row)} takes {_size(part)}, {part / full:.0%} "
            f"of the {_size(full)} of the whole. {TASKS} tasks on one base, which its seed gives back, would take "
            f"{_size(TASKS * part)} instead of {_size(TASKS * full)}."
        )
    return said


def _beyond_random(row: Row) -> str:
    if row["above_random_mean"] is None:
        return ""
    mean, half = row["above_random_mean"], row["above_random_ci95"]
    return f" ({points(abs(mean), half)} points {'below' if mean < 0 else 'above'} as many random values)"


def _size(number: float) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def _on_one_base(study: LearnedFraction, rows: Sequence[Row]) -> list[list[tuple[str, list[Row]]]]:
    """For each network that several recipes of a sweep begin from: the tasks, with the rows of each."""
    bases: dict[str, list[tuple[str, list[Row]]]] = {}
    for recipe, part in groups(study, rows):
        if all(row["n"] for row in part):
            bases.setdefault(recipe.network.key, []).append((recipe.data, part))
    return [tasks for tasks in bases.values() if len({data for data, _ in tasks}) == len(tasks) > 1]


def _together(tasks: Sequence[tuple[str, list[Row]]]) -> list[Row]:
    """What each policy takes to be kept for all the tasks."""
    told = []
    for several in zip(*(rows for _, rows in tasks), strict=True):
        row = several[0]
        if row["policy"] not in ("everything", RANDOM):
            part, full = (sum(one[name] for one in several) for name in ("delta_bytes", "whole_bytes"))
            share = "" if row["share"] is None else f"{100 * row['share']:g} % of "
            told.append({"learned": share + stated(row), "deltas": part, "networks": full})
    return told


def _tasks_sentence(tasks: Sequence[tuple[str, list[Row]]]) -> str:
    names = " and ".join(data for data, _ in tasks)
    told = [f"{row['learned']} {_size(row['deltas'])}" for row in _together(tasks)]
    full = _together(tasks)[0]["networks"] if told else 0
    return f"{len(tasks)} tasks measured on one base ({names}; {_size(full)} as whole networks): {'; '.join(told)}."


def write_fraction_report(study: LearnedFraction, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``fraction.html`` and PNG and SVG of each figure into a folder.

    Args:
        study: The study.
        outcome: What came out of it.
        folder: Made if need be; files of an earlier report are overwritten.
        command: The command that makes the same report.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    sections = []
    for number, (recipe, part) in enumerate(groups(study, outcome.rows), start=1):
        rows = [row for row in part if row["n"]]
        if not rows:
            continue
        mark = f"-{number}" if len(study.recipes) > 1 else ""
        drawn = {
            f"accuracy{mark}": (
                accuracy(rows),
                "Test accuracy against the number of learned values, mean and 95 % interval over seeds. "
                "The grey line learns as many values chosen at random from the whole network.",
            ),
            f"storage{mark}": (
                storage(rows),
                "Size of the saved difference from the base, index and running statistics included. "
                "The dashed line is four bytes for each learned value.",
            ),
        }
        table = {"policies": [_cells(row) for row in rows]}
        sections.append(Section(heading(study, recipe), fraction_answers(study, rows), drawn, table, resolved(recipe)))
    for tasks in _on_one_base(study, outcome.rows):
        told = [{**row, "deltas": _size(row["deltas"]), "networks": _size(row["networks"])} for row in _together(tasks)]
        names = ", ".join(data for data, _ in tasks)
        sections.append(Section(f"Tasks on one base: {names}", tables={"kept for all of them, measured": told}))
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). A drop is paired: the same seed with "
        "everything learned, minus this. “Above random” is paired too, with as many values chosen at random from the "
        "whole network. “Values” may move, “moved” is the most that did, to the bit. “Rest” is what is not learned of "
        "the layers learned in part; all else that is not learned stays as it was drawn. Running statistics of "
        + ("frozen norms follow the data." if study.statistics == "follow" else "frozen norms stay as they are.")
    )
    source = "Rosenfeld and Tsotsos (arXiv:1802.00844); Frankle, Schwab and Morcos (arXiv:2003.00152)."
    title = "How much of a network has to be learned?"
    return write_report("fraction", title, note, sections, outcome, folder, command, source)


def accuracy(rows: Sequence[Row]) -> Figure:
    """Test accuracy against the number of learned values, a line per policy.

    Args:
        rows: Of one recipe.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9 + 0.17 * len(_styles(rows))))
        ax = figure.subplots()
        for (name, own), style in zip(_lines(rows), _styles(rows), strict=True):
            means, halves = ([100 * (row[f"accuracy_{what}"] or 0) for row in own] for what in ("mean", "ci95"))
            places = [row["learned"] for row in own]
            ax.errorbar(places, means, halves, ms=4, lw=1.2, capsize=2, label=name, **style)
        ax.axhline(100 * rows[0]["accuracy_mean"], color="0.75", lw=0.8, ls=":", zorder=0)
        ax.set(xscale="log", xlabel="learned values", ylabel="test accuracy, %")
        ax.set_ylim(max(0, ax.get_ylim()[0]), 101)
        _legend(figure, ax)
    return figure


def storage(rows: Sequence[Row]) -> Figure:
    """Bytes of the saved difference against the number of learned values.

    Args:
        rows: Of one recipe.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9 + 0.17 * len(_styles(rows))))
        ax = figure.subplots()
        for (name, own), style in zip(_lines(rows), _styles(rows), strict=True):
            sizes = [row["delta_bytes"] / 1000 for row in own]
            ax.plot([row["learned"] for row in own], sizes, ms=4, lw=1.2, label=name, **style)
        ends = np.array([min(row["learned"] for row in rows), max(row["learned"] for row in rows)])
        ax.plot(ends, 4 * ends / 1000, color="0.4", lw=0.8, ls="--", label="4 bytes a value")
        ax.axhline(rows[0]["whole_bytes"] / 1000, color="0.75", lw=0.8, ls=":", label="the whole network")
        ax.set(xscale="log", yscale="log", xlabel="learned values", ylabel="saved difference, kB")
        _legend(figure, ax)
    return figure


def _styles(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Grey for what is random, a line for shares, a mark alone for what is learned by itself."""
    lines = [own[0] for _, own in _lines(rows)]
    named = [row for row in lines if row["policy"] != RANDOM]
    colours = iter(mpl.colormaps["turbo"](np.linspace(0.08, 0.92, max(1, len(named)))))
    marks = iter("sD^v<>pPX*hd" * len(lines))
    styles = []
    for row in lines:
        if row["policy"] == RANDOM:
            styles.append({"color": "0.55", "marker": "o", "ls": "-", "mfc": "white", "zorder": 1})
        elif row["share"] is not None:
            styles.append({"color": next(colours), "marker": "o", "ls": "-"})
        else:
            styles.append({"color": next(colours), "marker": next(marks), "ls": ""})
    return styles


def _legend(figure: Figure, ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    wide = max(map(len, labels)) > 48
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=1 if wide else 2, loc="outside lower center")
