"""Figures of the map, each from the rows alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from letitgo.report.table import column_name

if TYPE_CHECKING:
    from letitgo.studies.map import Map

Row = dict[str, Any]

COLOURS = {"robust": "#2a7f62", "critical": "#b3362c", "undecided": "#c58b1b"}
"""Of the verdicts, on paper and in the page."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "letitgo",
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
}
"""Of all figures."""


def render(figure: Figure, form: str) -> bytes:
    """A figure as ``svg`` or ``png``; the same bytes for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def heatmap(rows: Sequence[Row]) -> Figure:
    """Test error, layers down and interventions across, as ZBS19 draws it, with freezing beside it.

    Args:
        rows: Of one recipe, the baseline among them.
    """
    base = next(row for row in rows if row["intervention"] == "baseline")
    acted = [row for row in rows if row["intervention"] != "baseline" and row["n"]]
    layers = list(dict.fromkeys(row["layer"] for row in acted))
    groups = [
        ("frozen in training, from epoch", "frozen"),
        ("fresh draw", "rerandomised"),
        ("trained, then put back to epoch", "reinitialised"),
    ]
    columns = [
        (title, sorted({row["epoch"] for row in acted if row["intervention"] == kind}, key=lambda e: e or 0), kind)
        for title, kind in groups
    ]
    columns = [column for column in columns if column[1]]
    floor = 1e-4
    top = max([1 - row["accuracy_mean"] for row in acted] + [floor * 10])
    low = max(floor, min(1 - row["accuracy_mean"] for row in [*acted, base]))
    norm = LogNorm(min(low, 0.01), max(top, 0.5))
    with mpl.rc_context(STYLE):
        # The trained network is a last column of its own, as in the paper.
        widths = [len(epochs) + (kind == "reinitialised") for _, epochs, kind in columns]
        figure = Figure(figsize=(2.2 + 0.62 * sum(widths), 1.35 + 0.34 * len(layers)))
        axes = figure.subplots(1, len(columns), sharey=True, width_ratios=widths, squeeze=False)[0]
        for ax, (title, epochs, kind) in zip(axes, columns, strict=True):
            error = np.full((len(layers), len(epochs) + (kind == "reinitialised")), np.nan)
            for row in acted:
                if row["intervention"] == kind:
                    error[layers.index(row["layer"]), epochs.index(row["epoch"])] = 1 - row["accuracy_mean"]
            if kind == "reinitialised":
                error[:, -1] = 1 - base["accuracy_mean"]
            ax.imshow(np.clip(error, low, None), norm=norm, cmap="YlOrRd", aspect="auto")
            for (i, j), value in np.ndenumerate(error):
                if np.isfinite(value):
                    dark = norm(max(value, low)) > 0.6
                    label = f"{100 * value:.1f}" if value < 0.0995 else f"{100 * value:.0f}"
                    ax.text(j, i, label, ha="center", va="center", color="white" if dark else "black", fontsize=8)
            marks = ["" if epoch is None else str(epoch) for epoch in epochs]
            ax.set_xticks(range(error.shape[1]), [*marks, "end"] if kind == "reinitialised" else marks)
            ax.set_yticks(range(len(layers)), layers)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(fill(title, max(11, 9 * error.shape[1])), fontsize=8.5)
        figure.supxlabel("test error, %", fontsize=9)
    return figure


def cost(study: Map, rows: Sequence[Row]) -> Figure:
    """What freezing each layer saves, and what it costs, with 95 % intervals and the tolerance."""
    frozen = [row for row in rows if row["intervention"] == "frozen" and row["n"]]
    names = [row["layer"] + (f", from epoch {row['epoch']}" if row["epoch"] else "") for row in frozen]
    places = np.arange(len(frozen))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.26 * len(frozen)))
        saves, drops = figure.subplots(1, 2, sharey=True)
        bars = saves.barh(places, [100 * row["saved"] for row in frozen], color="#5b7f9f", height=0.65)
        saves.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        saves.set(xlabel="training arithmetic saved, %", yticks=places, yticklabels=names)
        saves.set_xlim(0, 1.12 * max([100 * row["saved"] for row in frozen] + [1]))
        saves.set_ylim(len(frozen) - 0.4, -0.6)
        saves.tick_params(axis="y", length=0)
        for place, row in zip(places, frozen, strict=True):
            half = 100 * row["drop_ci95"] if row["drop_ci95"] is not None else 0
            drops.errorbar(
                100 * row["drop_mean"], place, xerr=half, fmt="o", ms=4, capsize=2, color=COLOURS[row["verdict"]]
            )
        drops.axvspan(-1e3, 100 * study.tolerance, color="#2a7f62", alpha=0.07, lw=0)
        drops.axvline(0, color="0.6", lw=0.8)
        drops.axvline(100 * study.tolerance, color="#2a7f62", lw=0.8, ls="--")
        reach = [100 * (row["drop_mean"] + sign * (row["drop_ci95"] or 0)) for row in frozen for sign in (-1, 1)]
        low, high = min([*reach, 0.0]), max([*reach, 100 * study.tolerance])
        pad = 0.06 * (high - low)
        drops.set_xlim(low - pad, high + pad)
        drops.set_xlabel("drop in test accuracy, points")
        handles = [_dot(name) for name in COLOURS]
        figure.legend(handles=handles, frameon=False, fontsize=8, ncols=3, loc="outside upper right")
    return figure


def generalization(rows: Sequence[Row]) -> Figure:
    """Training and test accuracy against the number of trained parameters: the question of the paper."""
    shown = [row for row in rows if row["intervention"] in ("baseline", "frozen") and not row["epoch"] and row["n"]]
    singles = [row["layer"] for row in shown if row["scope"] == "layer"]
    colours = dict(zip(singles, mpl.colormaps["viridis"](np.linspace(0, 0.92, len(singles))), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9))
        accuracy, gap = figure.subplots(1, 2)
        handles = [
            Line2D([], [], marker="o", ls="", ms=4, color="0.2", label="test"),
            Line2D([], [], marker="s", ls="", ms=4, mfc="none", color="0.2", label="training"),
        ]
        for row in sorted(shown, key=lambda row: row["scope"] in ("all", "layer")):
            colour = {"all": "black", "layer": colours.get(row["layer"])}.get(row["scope"], "0.7")
            place, half = row["trained"], 100 * (row["accuracy_ci95"] or 0)
            accuracy.plot(place, 100 * row["train_accuracy_mean"], "s", ms=5, mfc="none", color=colour)
            accuracy.errorbar(place, 100 * row["accuracy_mean"], half, fmt="o", ms=4, capsize=2, color=colour)
            gap.plot(place, 100 * row["gap_mean"], "o", ms=4, color=colour)
        named = [("black", "nothing frozen"), *((colour, f"{name} frozen") for name, colour in colours.items())]
        if any(row["scope"] not in ("all", "layer") for row in shown):
            named.append(("0.7", "sets frozen"))
        if len(named) <= 12:  # more would not be told apart
            handles += [Patch(color=colour, label=name) for colour, name in named]
        figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right upper", handlelength=1)
        accuracy.set(ylabel="accuracy, %", xlabel="trained parameters")
        gap.axhline(0, color="0.6", lw=0.8)
        gap.set(ylabel="training − test accuracy, points", xlabel="trained parameters")
        trained = [row["trained"] for row in shown]
        for ax in (accuracy, gap):
            if max(trained) > 20 * min(trained):
                ax.set_xscale("log")
            else:
                ax.xaxis.set_major_formatter(EngFormatter(sep=""))
                ax.margins(x=0.15)
    return figure


def distances(rows: Sequence[Row]) -> Figure:
    """How far the trained weights are from those at each epoch, layer by layer: ZBS19's panels of weight distances."""
    moved = [row for row in rows if row["intervention"] == "reinitialised" and row["scope"] == "layer" and row["n"]]
    layers = list(dict.fromkeys(row["layer"] for row in moved))
    epochs = sorted({row["epoch"] for row in moved})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.32 * len(layers)))
        for ax, key, title in zip(
            figure.subplots(1, 2, sharey=True),
            ("distance_l2", "distance_linf"),
            (r"$\|\theta_T-\theta_k\|_2\,/\,\sqrt{m}$, $m$ weights", r"$\|\theta_T-\theta_k\|_\infty$"),
            strict=True,
        ):
            table = np.full((len(layers), len(epochs)), np.nan)
            for row in moved:
                table[layers.index(row["layer"]), epochs.index(row["epoch"])] = row[key]
            ax.imshow(table, cmap="Blues", aspect="auto", vmin=0)
            for (i, j), value in np.ndenumerate(table):
                colour = "white" if value > 0.6 * np.nanmax(table) else "black"
                ax.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=8, color=colour)
            ax.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
            ax.set_yticks(range(len(layers)), layers)
            ax.set(title=title, xlabel="epoch k")
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
    return figure


def swept(study: Map, rows: Sequence[Row]) -> Figure:
    """Drops of each layer along a sweep over one field, a panel per intervention."""
    (field,) = study.swept
    values = [getattr(recipe, field) for recipe in study.recipes]
    acted = [row for row in rows if row["scope"] == "layer" and row["epoch"] in (0, None) and row["n"]]
    layers = list(dict.fromkeys(row["layer"] for row in acted))
    kinds = [
        kind for kind in ("frozen", "reinitialised", "rerandomised") if any(r["intervention"] == kind for r in acted)
    ]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(kinds) + 1.2, 2.9))
        panels = figure.subplots(1, len(kinds), squeeze=False)[0]
        for ax, kind in zip(panels, kinds, strict=True):
            for layer, colour in zip(layers, colours, strict=True):
                own = {row[field]: row for row in acted if (row["layer"], row["intervention"]) == (layer, kind)}
                places = [i for i, value in enumerate(values) if value in own]
                means = [100 * own[values[i]]["drop_mean"] for i in places]
                halves = [100 * (own[values[i]]["drop_ci95"] or 0) for i in places]
                ax.errorbar(places, means, halves, fmt="o-", ms=3.5, lw=1, capsize=2, color=colour, label=layer)
            ax.axhline(100 * study.tolerance, color="#2a7f62", lw=0.8, ls="--")
            ax.set_xticks(range(len(values)), [str(value) for value in values])
            row = next(row for row in acted if row["intervention"] == kind)
            ax.set(title=column_name(row), xlabel=field.replace("_", " "))
        panels[0].set_ylabel("drop in test accuracy, points")
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure


def _dot(verdict: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", ms=4, ls="", color=COLOURS[verdict], label=verdict)
