"""What is told of carried tickets: a table, sentences, the matrix, curves and a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import length, points
from letitgo.report.figures import STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.studies.compute import Outcome
from letitgo.studies.ticket import DENSE
from letitgo.studies.transfer import FRESH, OWN, RANDOM, TICKET, Transfer

Row = dict[str, Any]
Place = tuple[str, str]

EVEN = 0.5
"""Points up to which the colours of the matrix go evenly, and by orders of magnitude from there."""

_CONTROLS = {FRESH: "own mask, fresh weights", RANDOM: "random mask and fresh weights"}

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are; on what is dark, white is written."""

PANELS = 3
"""Levels in the figure of the matrix; the page has all of them in its table."""


def show_transfer(console: Console, study: Transfer, rows: list[Row]) -> None:
    """The rows for a person: a line for each ticket under each target, and the answer in words."""
    console.print(f"\n[bold]{escape(_heading(study))}[/bold]")
    for title, lines in _tables(rows).items():
        table = Table(title=escape(title), title_justify="left", title_style="dim", pad_edge=False)
        for name in lines[0]:
            words = name == "ticket of"
            table.add_column(name, justify="left" if words else "right", no_wrap=words)
        for line in lines:
            table.add_row(*map(escape, line.values()))
        console.print(table)
    for sentence in transfer_answers(rows):
        console.print(escape(sentence))


def _tables(rows: Sequence[Row]) -> dict[str, list[dict[str, str]]]:
    """For each target what everything reaches there, and a line for each ticket trained under it."""
    tables = {}
    for target in dict.fromkeys(_target(row) for row in rows):
        here = [row for row in rows if _target(row) == target]
        accuracy = points(here[0]["accuracy_mean"], here[0]["accuracy_ci95"])
        tables[f"trained under {_name(target)}: everything reaches {accuracy} %"] = _lines(here)
    return tables


def _lines(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A line for each ticket trained under one target, with its controls beside it."""
    controls = {(_source(row), row["level"], row["variant"]): row for row in rows}
    lines = []
    for row in rows:
        if row["variant"] not in (OWN, TICKET):
            continue
        beside = [controls.get((_source(row), row["level"], variant)) for variant in (FRESH, RANDOM)]
        accuracies = [points(one["accuracy_mean"], one["accuracy_ci95"]) if one else "–" for one in beside]
        lines.append(
            {
                "ticket of": _name(_source(row)),
                "weights, %": "–" if row["density"] is None else f"{100 * row['density']:.3g}",
                "accuracy, %": points(row["accuracy_mean"], row["accuracy_ci95"]),
                "same mask, fresh weights": accuracies[0],
                "random mask and fresh weights": accuracies[1],
                "against own ticket": points(row["above_own_mean"], row["above_own_ci95"]),
                "against random": points(row["above_random_mean"], row["above_random_ci95"]),
                "n": str(row["n"]),
            }
        )
    return lines


def _source(row: Row) -> Place:
    return row["source_data"], row["source_optimizer"]


def _target(row: Row) -> Place:
    return row["target_data"], row["target_optimizer"]


def _name(place: Place, between: str = ", ") -> str:
    return between.join((place[0].rpartition("/")[2], place[1]))


def _heading(study: Transfer) -> str:
    recipe = study.recipes[0]
    left = f"{study.levels} levels of {100 * study.rate:g} %"
    return f"{recipe.model}, {length(recipe)}, {left}, {study.scope}, rewound to {study.rewind}"


def transfer_answers(rows: Sequence[Row]) -> list[str]:
    """What the rows say, the fewest weights first."""
    rows = [row for row in rows if row["n"]]
    said = []
    for level in sorted({row["level"] for row in rows if row["level"]}, reverse=True):
        carried = [row for row in rows if row["level"] == level and row["variant"] == TICKET]
        if carried:
            said.append(f"With {100 * carried[0]['density']:.3g} % of the weights, {_against(carried)}.")
            said += [f"{kind}: {_ranges(own)}." for kind, own in _kinds(carried)]
    empty = sorted({name for row in rows for name in row["empty"].split(", ") if name})
    if empty:
        said.append(f"Some tickets have layers without any weight: {', '.join(empty)}.")
    return said


def _against(carried: Sequence[Row]) -> str:
    total = len(carried)
    worse = sum(_surely(row, "own", -1) for row in carried)
    told = f"{worse} of {total} tickets found elsewhere are surely worse than the target's own"
    with_random = [row for row in carried if row["above_random_ci95"] is not None]
    if with_random:
        better = sum(_surely(row, "random", 1) for row in with_random)
        told += f", and {better} of {total} surely better than a random ticket"
    return told


def _surely(row: Row, other: str, sign: int) -> bool:
    """Whether the whole interval of the difference is on one side of zero."""
    middle, half = row[f"above_{other}_mean"], row[f"above_{other}_ci95"]
    return half is not None and sign * middle - half > 0


def _kinds(carried: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    named = {
        (True, False): "From other data, same optimiser",
        (False, True): "From the other optimiser, same data",
        (True, True): "From other data and another optimiser",
    }
    for differs, name in named.items():
        own = [
            row for row in carried if tuple(a != b for a, b in zip(_source(row), _target(row), strict=True)) == differs
        ]
        if own:
            yield name, own


def _ranges(own: Sequence[Row]) -> str:
    told = [f"{_range(own, 'own')} points against the target's own ticket"]
    if any(row["above_random_mean"] is not None for row in own):
        told.append(f"{_range(own, 'random')} against a random one")
    return ", ".join(told)


def _range(own: Sequence[Row], other: str) -> str:
    means = [row[f"above_{other}_mean"] for row in own if row[f"above_{other}_mean"] is not None]
    low, high = points(min(means, default=None)), points(max(means, default=None))
    return low if low == high else f"{low} to {high}"


def write_transfer_report(study: Transfer, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``tickets-transfer.html`` and PNG and SVG of each figure into a folder.

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
    rows = [row for row in outcome.rows if row["n"]]
    drawn = {
        "matrix": (
            matrix(rows),
            "Test accuracy, mean over seeds in %; below it the paired difference from the target's own ticket with its "
            "95 % interval, which is also the colour. The controls have as many weights in each layer as the "
            "target's own ticket.",
        ),
    }
    if len({row["level"] for row in rows if row["level"]}) > 1:
        drawn["weights"] = (
            curves(rows),
            "Test accuracy against the share of weights left, a panel per target, its own ticket thick; mean, least "
            "and most over seeds. The controls have as many weights in each layer as the target's own ticket.",
        )
    recipe = {name: value for name, value in resolved(study.recipes[0]).items() if name not in _VARIED}
    recipe |= {"trained under": "; ".join(dict.fromkeys(_name(_target(row)) for row in rows))}
    tables: dict[str, list[dict[str, Any]]] = {
        **_tables(rows),
        "kept of each layer": [
            {"ticket of": _name(_source(row)), "level": row["level"], "of the first seed": row["layers"]}
            for row in rows
            if row["variant"] == OWN
        ],
    }
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t), not corrected for how many there are. "
        "Differences are paired by seed. A ticket is its source's mask and its source's weights at "
        f"{study.rewind}, and takes all of the target's steps, as the controls do. “Same mask, fresh weights” and "
        "“random mask and fresh weights” (the paper's random ticket) are two controls; both have as many weights in "
        "each layer as the ticket beside them. The output layer is not pruned."
    )
    title = "Do lottery tickets carry over to other data and optimisers?"
    section = Section(_heading(study), transfer_answers(rows), drawn, tables, recipe)
    source = "Morcos, Yu, Paganini and Tian (arXiv:1906.02773)."
    return write_report("tickets-transfer", title, note, [section], outcome, folder, command, source)


_VARIED = ("data", "half", "shift", "examples", "label_noise", "optimizer", "optimizer arguments", "digest of the data")


def matrix(rows: Sequence[Row]) -> Figure:
    """Accuracy and difference from the target's own ticket: sources down, targets across, controls below.

    Args:
        rows: Those with a seed at least.
    """
    levels = sorted({row["level"] for row in rows if row["level"]})
    chosen = [levels[i] for i in sorted({round(i) for i in np.linspace(0, len(levels) - 1, PANELS)})] if levels else []
    targets = list(dict.fromkeys(_target(row) for row in rows))
    sources = [place for place in dict.fromkeys(_source(row) for row in rows) if place[0] is not None]
    sources.sort(key=lambda place: targets.index(place) if place in targets else len(targets))
    controls = [variant for variant in (FRESH, RANDOM) if any(row["variant"] == variant for row in rows)]
    names = [*(f"ticket of {_name(place)}" for place in sources), *(_CONTROLS[name] for name in controls), DENSE]
    reach = max([100 * abs(row["above_own_mean"]) for row in rows if row["above_own_mean"] is not None] + [2 * EVEN])
    norm, colours = SymLogNorm(EVEN, vmin=-reach, vmax=reach), mpl.colormaps["RdBu"]
    with mpl.rc_context(STYLE):
        wide = max(1.15, 0.085 * max(len(word) for place in targets for word in place))
        figure = Figure(figsize=(2.6 + wide * len(targets), 0.8 + (0.3 + 0.36 * len(names)) * len(chosen)))
        for ax, level in zip(figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0], chosen, strict=True):
            table = np.zeros((len(names), len(targets)))
            for row in rows:
                line = _line(row, level, names)
                if line is None:
                    continue
                above = 100 * (_above_own(row, level, rows)[0] or 0)
                column = targets.index(_target(row))
                table[line, column] = above
                dark = np.dot(colours(norm(above))[:3], LUMA) < 0.5
                text, colour = _text(row, level, rows), "white" if dark else "black"
                ax.text(column, line, text, ha="center", va="center", color=colour, fontsize=7)
            ax.imshow(table, norm=norm, cmap=colours, aspect="auto")
            ax.axhline(len(sources) - 0.5, color="white", lw=3)
            ax.set_xticks(range(len(targets)), [_name(place, "\n") for place in targets], fontsize=8)
            ax.set_yticks(range(len(names)), names, fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            density = next(row["density"] for row in rows if row["level"] == level)
            ax.set_title(f"{100 * density:.3g} % of the weights", fontsize=9)
        figure.supxlabel("trained under", fontsize=9)
    return figure


def _line(row: Row, level: int, names: Sequence[str]) -> int | None:
    """In which line of the matrix a row is told; controls are those of the target's own ticket."""
    if row["variant"] == DENSE:
        return len(names) - 1
    if row["level"] != level:
        return None
    if row["variant"] in (OWN, TICKET):
        return names.index(f"ticket of {_name(_source(row))}")
    return names.index(_CONTROLS[row["variant"]]) if _source(row) == _target(row) else None


def _above_own(row: Row, level: int, rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """How far a row is above the target's own ticket of the level, and half the interval."""
    if row["variant"] != DENSE:
        return row["above_own_mean"], row["above_own_ci95"]
    own = [r for r in rows if r["variant"] == OWN and r["level"] == level and _target(r) == _target(row)]
    if not own or own[0]["above_everything_mean"] is None:
        return None, None
    return -own[0]["above_everything_mean"], own[0]["above_everything_ci95"]


def _text(row: Row, level: int, rows: Sequence[Row]) -> str:
    accuracy = points(row["accuracy_mean"])
    if row["variant"] == OWN:
        return f"{accuracy}\nown"
    above, half = _above_own(row, level, rows)
    within = "" if half is None else f" ± {100 * half:.2f}"
    return accuracy if above is None else f"{accuracy}\n{100 * above:+.2f}{within}"


def curves(rows: Sequence[Row]) -> Figure:
    """Accuracy against the share of weights left, a panel for each target.

    Args:
        rows: Those with a seed at least.
    """
    targets = list(dict.fromkeys(_target(row) for row in rows))
    sources = [place for place in dict.fromkeys(_source(row) for row in rows) if place[0] is not None]
    colours = dict(zip(sources, mpl.colormaps["turbo"](np.linspace(0.1, 0.9, max(1, len(sources)))), strict=True))
    columns = min(2, len(targets))
    lines = -(-len(targets) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 2.2 * lines))
        panels = list(figure.subplots(lines, columns, sharex=True, squeeze=False).flat)
        for ax, target in zip(panels, targets, strict=False):
            here = [row for row in rows if _target(row) == target]
            for row in here:
                if row["variant"] == DENSE:
                    ax.axhline(100 * row["accuracy_mean"], color="0.4", lw=1.2, ls=":", label=DENSE)
            for source in sources:
                own = [row for row in here if _source(row) == source and row["variant"] in (OWN, TICKET)]
                width = 2.2 if source == target else 1.1
                _curve(ax, own, label=f"ticket of {_name(source)}", color=colours[source], lw=width)
            for variant, style in ((FRESH, "--"), (RANDOM, "-.")):
                own = [row for row in here if _source(row) == target and row["variant"] == variant]
                _curve(ax, own, label=_CONTROLS[variant], color="0.35", lw=1.1, ls=style)
            shares = sorted({float(f"{100 * row['density']:.3g}") for row in here if row["level"]})
            ax.set(xscale="log", title=_name(target))
            ax.set_xticks(shares, [f"{share:g}" for share in shares])
            ax.set_xticks([], minor=True)
        for ax in panels[len(targets) :]:
            ax.set_visible(False)
        for ax in panels[-columns:]:
            ax.set_xlabel("weights left, %")
        for ax in panels[::columns]:
            ax.set_ylabel("test accuracy, %")
        panels[0].invert_xaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def _curve(ax: Any, own: Sequence[Row], **style: Any) -> None:
    own = sorted(own, key=lambda row: row["density"])
    if own:
        means, low, high = ([100 * row[f"accuracy_{what}"] for row in own] for what in ("mean", "min", "max"))
        reach = [[m - a for m, a in zip(means, low, strict=True)], [b - m for m, b in zip(means, high, strict=True)]]
        ax.errorbar([100 * row["density"] for row in own], means, reach, marker="o", ms=3.5, capsize=2, **style)
