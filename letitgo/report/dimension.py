"""What is told of a search for the intrinsic dimension: tables, sentences, figures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import groups, heading, points
from letitgo.report.figures import STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.studies.compute import Outcome
from letitgo.studies.dimension import Dimension

Row = dict[str, Any]

SOURCE = (
    "Li, Farkhoor, Liu and Yosinski, Measuring the intrinsic dimension of objective landscapes, ICLR 2018, "
    "arXiv:1804.08838; scales for layers: Aghajanyan et al., arXiv:2012.13255."
)
_BLUE, _LINES = "#30638e", {"own": "#b3362c", "global": "#c58b1b"}


def show_dimensions(console: Console, study: Dimension, rows: list[Row]) -> None:
    """The rows for a person: what each d reaches, and the answers in words."""
    for recipe, part in groups(study, rows):
        console.print(f"\n[bold]{escape(heading(study, recipe))}[/bold]")
        for layer, own in _layers(part):
            told = [_cells(row) for row in own if row["row"] != "answer"]
            table = Table(title=escape(layer), title_justify="left", pad_edge=False)
            for name in told[0]:
                table.add_column(name, justify="right")
            for cells in told:
                table.add_row(*cells.values())
            console.print(table)
            for sentence in dimension_answers(study, own):
                console.print(escape(sentence))


def _layers(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each search."""
    names = dict.fromkeys(row["layer"] for row in rows)
    return [(name, [row for row in rows if row["layer"] == name]) for name in names]


def _cells(row: Row) -> dict[str, str]:
    return {
        "d": "all, plain" if row["d"] is None else f"{row['d']:,}",
        "accuracy, %": points(row["accuracy_mean"], row["accuracy_ci95"]),
        "of each seed": ", ".join(f"{100 * value:.2f}" for value in row["accuracies"]),
        "epoch": ", ".join(filter(None, [str(row["epoch"]), row["stopped"]])),
        "n": str(row["n"]),
    }


def dimension_answers(study: Dimension, rows: Sequence[Row]) -> list[str]:
    """What the rows of one search say, a sentence for each accuracy to exceed."""
    said = []
    for row in rows:
        if row["row"] == "answer":
            said.append(_answer(study, row))
    if any(row["verdict"] for row in rows):
        row = next(row for row in rows if row["verdict"])
        said.append(
            f"Frozen at initialization with all others trained, {row['layer']} is {row['verdict']} "
            f"(tolerance {100 * study.tolerance:g} points), as map tells it."
        )
    return said


def named(row: Row) -> str:
    """What is asked for: ``d_int90`` of a baseline."""
    baseline = "its own baseline" if row["baseline"] == "own" else "the global baseline"
    return f"d_int{100 * row['threshold']:g} against {baseline} (over {100 * row['target']:.2f} %)"


def _answer(study: Dimension, row: Row) -> str:
    what = named(row) + (f" of {row['layer']} with the others {row['others']}" if row["layer"] else "")
    early = " (given up before the last epoch)" if row["stopped"] == "given up" else ""
    if row["d"] is None:
        whole = row["low"] == row["D"]
        reach = "all there are" if whole else f"the largest d tried, of {row['D']:,} weights"
        hint = " More epochs or a larger learning rate may reach it." if whole and not row["layer"] else ""
        return (
            f"{what}: never reached up to d = {row['low']:,}{early}, {reach}; the best is "
            f"{points(row['accuracy_mean'], row['accuracy_ci95'])} % at d = {row['best_d']:,}.{hint}"
        )
    if row["d"] == 0:
        reached = points(row["accuracy_mean"], row["accuracy_ci95"])
        return f"{what}: 0 dimensions, since {reached} % are reached without any."
    return (
        f"{what}: {row['d']:,}, and {row['low']:,} do not suffice{early}: {_share(row['d'], row['D'])} % of "
        f"{row['D']:,} weights, {row['bits_per_label']:,.4g} bits per training label (32 for each number learned). "
        f"{_alone(row['seed_d'])}"
    )


def _share(d: int, whole: int) -> str:
    share = 100 * d / whole
    return f"{share:.0f}" if share >= 10 else f"{share:.2g}"


def _alone(dimensions: Sequence[int | None]) -> str:
    if len(dimensions) < 2:
        return "One seed: nothing is known of its spread."
    reached = sorted(d for d in dimensions if d is not None)
    missing = len(dimensions) - len(reached)
    never = f", {missing} nowhere" if missing else ""
    span = f"{reached[0]:,} to {reached[-1]:,}" if reached else "none"
    return f"Seeds by themselves, of the d tried: {span}{never} (n = {len(dimensions)})."


def write_dimension_report(study: Dimension, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``dimension.html`` and PNG and SVG of each figure into a folder.

    Raises:
        OSError: The folder cannot be written.
    """
    sections = []
    if grid := _over_sweep(study, outcome.rows):
        sections.append(
            Section("Over the sweep", figures={"sweep": grid}, tables={"answers": _told(study, outcome.rows)})
        )
    for number, (recipe, part) in enumerate(groups(study, outcome.rows), start=1):
        searches = [(layer, own) for layer, own in _layers(part) if any(row["row"] == "d" for row in own)]
        if len(searches) > 1:
            sections.append(Section(f"{heading(study, recipe)}: layers", tables={"answers": _told(study, part)}))
        for index, (layer, own) in enumerate(searches, start=1):
            mark = "-".join(
                ["accuracy"]
                + ([str(number)] if len(study.recipes) > 1 else [])
                + ([str(index)] if len(searches) > 1 else [])
            )
            title = heading(study, recipe) + (f": {layer}, others {study.others}" if layer else "")
            drawn = {mark: (accuracy(study, own), _CAPTION.format(split=_split(study)))}
            tables = {"dimensions": [_cells(row) for row in own if row["row"] != "answer"]}
            about = resolved(recipe) if index == 1 else {}
            sections.append(Section(title, dimension_answers(study, own), drawn, tables, about))
    stop = (
        f"The accuracy is looked at every {study.stop_every} epochs, and training at a d ends once the mean exceeds "
        "all that is asked for, or has come more than half the way to it and would not arrive at twice its pace "
        "of late. The best look counts."
        if study.stop_every
        else "The accuracy is that of the last epoch."
    )
    note = (
        "Training in a random subspace, θ = θ₀ + P z: only the d numbers z are learned. The intrinsic dimension is "
        f"the least d tried whose mean accuracy over {study.seeds} seeds exceeds the threshold times the baseline; the "
        "d below it that was tried does not. Each seed draws weights, order of the data and projection "
        f"({study.kind}) of its own. {stop} Accuracy is on the {_split(study)} set. Intervals are 95 %, Student's t."
    )
    return write_report("dimension", "How few dimensions are enough?", note, sections, outcome, folder, command, SOURCE)


_CAPTION = (
    "Accuracy on the {split} set against the dimension of the subspace: each seed, and the line through their means. "
    "Dashed: the network trained in full; dotted: what is to be exceeded; the band: between the last d that does not "
    "and the first that does."
)


def _split(study: Dimension) -> str:
    return "training" if study.split == "train" else "test"


def accuracy(study: Dimension, rows: Sequence[Row]) -> Figure:
    """Accuracy against d on a logarithmic axis.

    Args:
        study: The study.
        rows: Of one search.
    """
    tried = [row for row in rows if row["row"] == "d" and row["d"]]
    base = next(row for row in rows if row["row"] == "baseline")
    zero = [row for row in rows if row["row"] == "d" and row["d"] == 0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0))
        ax = figure.subplots()
        if base["n"]:
            ax.axhline(100 * base["accuracy_mean"], color="0.4", lw=1, ls="--", label="trained in full")
        if zero and zero[0]["n"]:
            ax.axhline(100 * zero[0]["accuracy_mean"], color="0.75", lw=1, ls="--", label="d = 0")
        for row in (row for row in rows if row["row"] == "answer"):
            colour = _LINES[row["baseline"]]
            name = f"{100 * row['threshold']:g} % of {'its own' if row['baseline'] == 'own' else 'the global'} baseline"
            ax.axhline(100 * row["target"], color=colour, lw=1, ls=":", label=name)
            if row["d"]:
                ax.axvspan(max(row["low"], 0.7), row["d"], color=colour, alpha=0.25, lw=0)
        for row in tried:
            ax.plot([row["d"]] * row["n"], [100 * a for a in row["accuracies"]], "o", ms=3.5, mfc="none", color=_BLUE)
        means = [100 * row["accuracy_mean"] for row in tried]
        ax.plot([row["d"] for row in tried], means, "-", lw=1.2, color=_BLUE, label="mean of the seeds (circles)")
        ax.set(xscale="log", xlabel=f"dimension of the subspace, d (D = {base['D']:,})")
        ax.set_ylabel(f"{_split(study)} accuracy, %")
        figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def _told(study: Dimension, rows: Sequence[Row]) -> list[dict[str, str]]:
    """The answers of all searches, a line each."""
    return [
        {
            **{name.replace("_", " "): str(row[name]) for name in study.swept},
            **({"layer": row["layer"]} if row["layer"] else {}),
            "D": f"{row['D']:,}",
            "asked": named(row),
            "does not suffice": "–" if row["low"] is None else f"{row['low']:,}",
            "d": "not reached" if row["d"] is None else f"{row['d']:,}",
            **({"frozen, others trained": row["verdict"]} if row["layer"] else {}),
        }
        for row in rows
        if row["row"] == "answer"
    ]


def _over_sweep(study: Dimension, rows: Sequence[Row]) -> tuple[Figure, str] | None:
    """The first answer of each network of a sweep: as a grid over widths and depths, or along D."""
    first = [row for row in rows if row["row"] == "answer" and row["threshold"] == study.thresholds[0]]
    own = [row for row in first if row["baseline"] == "own" and not row["layer"]]
    if len(own) < 2:
        return None
    if {*study.swept} == {"widths", "depth"}:
        return sweep_grid(own), f"{named(own[0]).partition(' (')[0]}, hidden layers across and widths down."
    return sweep_line(own), f"{named(own[0]).partition(' (')[0]} against the number of weights; bars are the intervals."


def sweep_grid(rows: Sequence[Row]) -> Figure:
    """The answers over widths and depths.

    Args:
        rows: Answers, one for each width and depth.
    """
    widths, depths = (sorted({row[name] for row in rows}, key=int) for name in ("widths", "depth"))
    table = np.full((len(widths), len(depths)), np.nan)
    for row in rows:
        table[widths.index(row["widths"]), depths.index(row["depth"])] = np.nan if row["d"] is None else row["d"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 0.9 * len(depths), 1.2 + 0.45 * len(widths)))
        ax = figure.subplots()
        low, high = np.nanmin(table, initial=np.inf), np.nanmax(table, initial=0)
        ax.imshow(np.log10(table), cmap="Blues", aspect="auto", vmin=np.log10(low) - 0.5, vmax=np.log10(high) + 0.5)
        for (i, j), value in np.ndenumerate(table):
            ax.text(j, i, "–" if np.isnan(value) else f"{value:,.0f}", ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        ax.set_yticks(range(len(widths)), [str(width) for width in widths])
        ax.set(xlabel="hidden layers", ylabel="units of each")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def sweep_line(rows: Sequence[Row]) -> Figure:
    """The answers against the number of weights.

    Args:
        rows: Answers, one for each network.
    """
    reached = [row for row in rows if row["d"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4))
        ax = figure.subplots()
        for row in reached:
            ax.plot([row["D"]] * 2, [max(row["low"], 1), row["d"]], "-", lw=3, color=_BLUE, solid_capstyle="butt")
            ax.plot(row["D"], row["d"], "o", ms=4, color=_BLUE)
        ax.set(xscale="log", yscale="log", xlabel="weights, D", ylabel="intrinsic dimension")
    return figure
