"""What is told of a lottery: a table, sentences, the papers' figures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import groups, heading, points
from letitgo.report.figures import STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.studies.compute import Outcome
from letitgo.studies.ticket import DENSE, Lottery

Row = dict[str, Any]

NAMES = {
    "ticket": "ticket",
    "fresh weights": "same mask, fresh weights",
    "random mask": "random mask, original weights",
    "random mask and fresh weights": "random mask, fresh weights",
    "frozen": "pruned weights frozen where they started",
    "complement": "what was pruned trained, the ticket frozen",
}
"""What the variants are called wherever they are told of: never one for another."""

_LOOKS = {
    "ticket": ("#2a7f62", "o", "-"),
    "fresh weights": ("#b3362c", "s", "--"),
    "random mask": ("#c58b1b", "^", "--"),
    "random mask and fresh weights": ("0.45", "v", ":"),
    "frozen": ("#3b6ea5", "D", "-."),
    "complement": ("#7d4f9e", "P", ":"),
}


def show_tickets(console: Console, study: Lottery, rows: list[Row]) -> None:
    """The rows for a person: a table per recipe, and the answer in words."""
    for recipe, part in groups(study, rows):
        console.print(f"\n[bold]{escape(heading(study, recipe))}[/bold]")
        table = Table(pad_edge=False)
        cells = [_cells(row) for row in part]
        for name in cells[0]:
            table.add_column(name, justify="left" if name == "trained" else "right", no_wrap=name != "trained")
        for own in cells:
            table.add_row(*own.values())
        console.print(table)
        for sentence in ticket_answers(study, part):
            console.print(escape(sentence))


def _cells(row: Row) -> dict[str, str]:
    cells = {
        "level": str(row["level"]),
        "trained": NAMES.get(row["variant"], DENSE),
        "weights left": "–" if row["weights_left"] is None else f"{row['weights_left']:,}",
        "%": "–" if row["density"] is None else f"{100 * row['density']:.3g}",
        "accuracy, %": points(row["accuracy_mean"], row["accuracy_ci95"]),
        "drop": points(row["drop_mean"], row["drop_ci95"]),
    }
    if row["stop_mean"] is not None:
        cells["least loss at step"] = f"{row['stop_mean']:,.0f}"
        cells["accuracy then, %"] = points(row["stop_accuracy_mean"], row["stop_accuracy_ci95"])
    return {**cells, "n": str(row["n"])}


def ticket_answers(study: Lottery, rows: Sequence[Row]) -> list[str]:
    """What the rows of one recipe say."""
    rows = [row for row in rows if row["n"]]
    if not rows or rows[0]["variant"] != DENSE:
        return []
    base = rows[0]
    said = [f"All {base['weights_left']:,} weights reach {points(base['accuracy_mean'], base['accuracy_ci95'])} %."]
    for variant in dict.fromkeys(row["variant"] for row in rows[1:]):
        said.append(_how_far([row for row in rows if row["variant"] == variant]))
    tickets = [row for row in rows if row["variant"] == "ticket"]
    if empty := [row for row in tickets if row["empty"]]:
        told = "; ".join(f"{row['empty']} at level {row['level']}" for row in empty)
        said.append(f"Nothing is left of {told}.")
    if tickets and tickets[0]["stop_ratio_mean"] is not None:
        said.append(_how_early(min(tickets, key=lambda row: row["stop_ratio_mean"])))
    stable = [row for row in rows if row["order_l2_mean"] is not None]
    return said + [_how_stable(row) for row in stable if row["level"] == stable[-1]["level"]]


def _how_stable(row: Row) -> str:
    """A sentence on the stability of one variant."""
    apart, angle, pruned, turned = (
        row[f"{name}_mean"] for name in ("order_l2", "order_angle", "pruning_l2", "pruning_angle")
    )
    name = NAMES[row["variant"]]
    return (
        f"Stability at {_share(row)}, {name}: two orders of the data end {apart:.3g} apart ({angle:.3g}°); trained, "
        f"it is {pruned:.3g} ({turned:.3g}°) from the whole network."
    )


def _how_early(row: Row) -> str:
    """A sentence on the level with the earliest least loss."""
    ratio, half = row["stop_ratio_mean"], row["stop_ratio_ci95"]
    if ratio >= 1:
        return "At no level is the loss on the held-out examples least before it is with all weights."
    sure = "" if half is not None and ratio + half < 1 else ", which is not clearly earlier"
    told = f"{ratio:.2f}" if half is None else f"{ratio:.2f} ± {half:.2f}"
    return (
        f"The loss on the held-out examples is least after {told} of the steps that all weights take, at "
        f"{_share(row)} of the weights{sure}; no other level is earlier."
    )


def _share(row: Row) -> str:
    return f"{100 * row['density']:.3g} %"


def _how_far(rows: Sequence[Row]) -> str:
    """A sentence on the levels of one variant."""
    name, last = NAMES[rows[0]["variant"]], _reaches(rows)
    if rows[0]["drop_ci95"] is None:
        told = "with one seed nothing can be told of how sure the drops are"
    elif last is None and all(map(_below, rows)):
        told = "clearly below that at every level told of"
    elif last is None:
        where = _listed([_share(row) for row in rows if _below(row)])
        told = f"clearly below that at {where} of the weights; at other levels the seeds differ too much to tell"
    else:
        end = ", the last level told of" if last is rows[-1] else ""
        way = "up" if rows[0]["variant"] == "complement" else "down"
        told = f"not clearly below that {way} to {_share(last)} of the weights{end}"
    above = [_share(row) for row in rows if row["drop_ci95"] is not None and row["drop_mean"] + row["drop_ci95"] < 0]
    told += f", and clearly above that at {_listed(above)}" if above else ""
    drops = ", ".join(f"{points(row['drop_mean'], row['drop_ci95'])} at {_share(row)}" for row in rows[-3:])
    return f"{name[0].upper()}{name[1:]}: {told}; the drop in points is {drops}."


def _listed(shares: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(shares[:-1]), shares[-1])))


def _below(row: Row) -> bool:
    """Whether the drop is clearly above zero."""
    return row["drop_ci95"] is not None and row["drop_mean"] - row["drop_ci95"] > 0


def _reaches(rows: Sequence[Row]) -> Row | None:
    """The last of the levels, from the first on without a gap, at which the drop is not clearly above zero."""
    last = None
    for row in rows:
        if row["drop_ci95"] is None or _below(row):
            break
        last = row
    return last


def write_ticket_report(study: Lottery, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``ticket.html`` and PNG and SVG of each figure into a folder.

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
        ends = "bars from the least to the most over seeds"
        drawn = {
            f"accuracy{mark}": (
                against_weights(rows, "accuracy", "test accuracy, %", 100),
                f"Test accuracy at the end of training against the weights that are left, {ends}.",
            )
        }
        if rows[0]["stop_mean"] is not None:
            drawn[f"stop{mark}"] = (
                against_weights(rows, "stop", "step of least validation loss", 1),
                f"The step at which the loss on {recipe.validation:,} held-out examples is least, {ends}.",
            )
            drawn[f"stop-accuracy{mark}"] = (
                against_weights(rows, "stop_accuracy", "test accuracy at that step, %", 100),
                f"Test accuracy at the step of least validation loss, {ends}.",
            )
        if any(row["order_l2_mean"] is not None for row in rows):
            drawn[f"stability{mark}"] = (
                stability(rows),
                "Distance (left) and angle (right), on the weights kept, between the whole network and the pruned one "
                "trained in the same order (above), and between two trainings of the pruned one in different orders "
                "(below), as FDRC19 defines them: lower is more stable.",
            )
        told = {"levels": [_cells(row) for row in rows]}
        if any(row["order_l2_mean"] is not None for row in rows):
            told["stability"] = [_stability_cells(row) for row in rows if row["order_l2_mean"] is not None]
        sections.append(Section(heading(study, recipe), ticket_answers(study, rows), drawn, told, resolved(recipe)))
    back = "their initial values" if study.rewind == "0" else f"where they were after {study.rewind}"
    how = "the trained network is pruned once to each level's density" if study.one_shot else "level by level"
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). A drop is paired: the same seed with all "
        f"weights, minus this. Magnitude pruning {how}, {study.scope}-wise; kept weights go back to {back}; biases and "
        "norms are not pruned. “Weights left” are those that train, of all that pruning is about. Fresh weights train "
        "for the full length."
    )
    source = "Frankle and Carbin (arXiv:1803.03635); Frankle, Dziugaite, Roy and Carbin (arXiv:1903.01611)."
    title = "Which weights could have been trained alone?"
    return write_report("ticket", title, note, sections, outcome, folder, command, source)


def _stability_cells(row: Row) -> dict[str, str]:
    def cell(name: str) -> str:
        mean, low, high = (row[f"{name}_{of}"] for of in ("mean", "min", "max"))
        return "–" if mean is None else f"{mean:.3g} ({low:.3g} to {high:.3g})"

    return {
        "level": str(row["level"]),
        "trained": NAMES[row["variant"]],
        "%": f"{100 * row['density']:.3g}",
        "to pruning, L2": cell("pruning_l2"),
        "to pruning, degrees": cell("pruning_angle"),
        "to data order, L2": cell("order_l2"),
        "to data order, degrees": cell("order_angle"),
    }


def against_weights(rows: Sequence[Row], column: str, label: str, factor: float) -> Figure:
    """A column against the share of weights left, falling along a log axis, a line per variant, as FC18 draws it.

    Args:
        rows: Of one recipe.
        column: With ``_mean``, ``_min`` and ``_max``.
        label: Of the axis.
        factor: What the column is multiplied by.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.9))
        ax = figure.subplots()
        _draw(ax, rows, column, factor)
        ax.axhline(factor * rows[0][f"{column}_mean"], color="0.75", lw=0.8, ls=":", zorder=0)
        ax.set(ylabel=label)
        _log_axis(ax, rows)
        figure.legend(*ax.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def stability(rows: Sequence[Row]) -> Figure:
    """Stability to pruning and to the order of the data against the share of weights left (FDRC19).

    Args:
        rows: Of one recipe.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.2))
        axes = figure.subplots(2, 2, sharex=True)
        told = [row for row in rows if row["order_l2_mean"] is not None]
        for line, (kind, title) in zip(
            axes, (("pruning", "to pruning"), ("order", "to the data's order")), strict=True
        ):
            for ax, (measure, label) in zip(line, (("l2", "distance"), ("angle", "angle, degrees")), strict=True):
                _draw(ax, told, f"{kind}_{measure}", 1)
                ax.set(ylabel=label, title=title)
                ax.set_ylim(bottom=0)
                _log_axis(ax, told, named=line is axes[1])
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def _draw(ax: Any, rows: Sequence[Row], column: str, factor: float) -> None:
    everything = [row for row in rows if row["variant"] == DENSE]
    for variant, (colour, marker, line) in _LOOKS.items():
        own = [row for row in rows if row["variant"] == variant and row[f"{column}_mean"] is not None]
        if not own:
            continue
        whole = [row for row in everything if row[f"{column}_mean"] is not None and variant == "ticket"]
        places = [100 * row["density"] for row in [*whole, *own]]
        mean, low, high = ([factor * row[f"{column}_{of}"] for row in [*whole, *own]] for of in ("mean", "min", "max"))
        bars = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
        ax.errorbar(
            places, mean, bars, color=colour, marker=marker, ls=line, ms=4, lw=1.2, capsize=2, label=NAMES[variant]
        )


def _log_axis(ax: Any, rows: Sequence[Row], named: bool = True) -> None:
    levels = sorted(
        {round(100 * row["density"], 4) for row in rows if row["variant"] in (DENSE, "ticket")}, reverse=True
    )
    ax.set_xscale("log")
    shares = [100 * row["density"] for row in rows if row["density"]]
    pad = 1.1 * (max(shares) / min(shares)) ** 0.03
    ax.set_xlim(pad * max(shares), min(shares) / pad)
    beside = {round(100 * row["density"], 4) for row in rows if row["variant"] not in (DENSE, "ticket", "complement")}
    some = [levels[0], *beside] if 0 < len(beside) < 9 else levels[:: max(1, -(-len(levels) // 8))]
    ax.xaxis.set_major_locator(FixedLocator(some))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    if named:
        ax.set(xlabel="weights left, %")
