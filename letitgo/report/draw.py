"""Draws pictures with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from letitgo.report.pictures import Band, Bars, Grid, Panel, Picture, Points, Rule

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "letitgo",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}
WIDTH = 7.4
"""Of a figure, in inches."""
LETTERS = 15
"""Of a title in an inch."""
PLACES = [(side * 5, up) for up in (3, -3, 9, -9, 15, -15) for side in (1, -1)]
"""Of a note beside its point, in points: the first that is free is taken."""
DISC = 400
"""Area of a disc around a point, in square points."""
ROOM = 56
"""Characters beside each other below a grid."""


def to_figure(picture: Picture) -> Figure:
    """A figure of a picture."""
    lines, across = len(picture.panels), max(map(len, picture.panels))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(_height(panels) for panels in picture.panels)))
        axes = figure.subplots(
            lines,
            across,
            squeeze=False,
            sharey="row" if _shared(picture) else False,
            width_ratios=picture.widths or None,
        )
        for i, panels in enumerate(picture.panels):
            for j, panel in enumerate(panels):
                _panel(figure, axes[i][j], panel)
                axes[i][j].set_title(fill(panel.title, int(LETTERS * (WIDTH / across - 0.7))))
            for ax in axes[i][len(panels) :]:
                ax.set_visible(False)
        _legend(figure, axes)
        noted = [
            (axes[i][j], panel)
            for i, panels in enumerate(picture.panels)
            for j, panel in enumerate(panels)
            if any(isinstance(mark, Points) and any(mark.notes) for mark in panel.marks)
        ]
        if noted:
            figure.draw_without_rendering()  # which says where points are
        for ax, panel in noted:
            _place_notes(ax, panel)
    return figure


def render(figure: Figure, form: str, identifier: str) -> bytes:
    """A figure as a file, ``svg``, ``png`` or ``pdf``; the same bytes for the same figure and, in SVG, identifier."""
    buffer = io.BytesIO()
    about: Mapping[str, Any] = {"svg": {"Date": None, "Identifier": identifier}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=form, dpi=200, metadata=about.get(form, {}))
    return buffer.getvalue()


def _shared(picture: Picture) -> bool:
    """Whether the panels of each row have the same places."""
    return all(panel.places and panel.places == panels[0].places for panels in picture.panels for panel in panels)


def _height(panels: Sequence[Panel]) -> float:
    return max((1.3 + 0.27 * len(panel.places) if panel.places else 3.1) for panel in panels)


def _panel(figure: Figure, ax: Axes, panel: Panel) -> None:
    if panel.places:
        ax.set_yticks(range(len(panel.places)), list(panel.places))
        ax.set_ylim(len(panel.places) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
    if panel.steps:
        tilted = len(panel.steps) * max(len(line) for step in panel.steps for line in step.split("\n")) > ROOM
        look: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
        ax.set_xticks(range(len(panel.steps)), list(panel.steps), **look)
        ax.set_xlim(-0.5, len(panel.steps) - 0.5)
    for mark in panel.marks:
        _DRAWN[type(mark)](figure, ax, mark)
    ax.set(xlabel=panel.x, ylabel=panel.y)
    if panel.xlog:
        ax.set_xscale("log")
    if panel.ylog:
        ax.set_yscale("log")
    if not panel.xlog and not panel.steps and ax.get_xlim()[1] >= 10_000:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.ticks:
        ax.xaxis.set_major_locator(FixedLocator(list(panel.ticks)))
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
        )
        ax.xaxis.set_minor_locator(NullLocator())
    if panel.xlim:
        ax.set_xlim(*panel.xlim)
    if panel.ylim:
        ax.set_ylim(*panel.ylim)
    if ", %" in panel.y and not panel.ylim:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -2), min(high, 102))
    if ", %" in panel.x and not panel.xlog:
        low, high = ax.get_xlim()
        if not panel.xlim and not any(isinstance(mark, Bars) for mark in panel.marks):  # these leave room for words
            ax.set_xlim(max(low, -2), min(high, 102))
        ax.set_xticks([tick for tick in ax.get_xticks() if max(low, 0) <= tick <= min(high, 100)])


def _place_notes(ax: Axes, panel: Panel) -> None:
    """Move the notes of a panel off its points, their intervals and each other; one that has no place is left out."""
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    taken = []
    for mark in marks:
        for x, y, half in zip_longest(mark.x, mark.y, () if mark.across else mark.half):  # crosses may lie below notes
            reach = (half or 0.0, 0.0) if mark.sideways else (0.0, half or 0.0)
            ends = ax.transData.transform([np.subtract((x, y), reach), np.add((x, y), reach)])
            taken.append(Bbox(ends).padded(3))
    for note in (text for text in ax.texts if isinstance(text, Annotation)):
        for x, y in PLACES:
            note.set(position=(x, y), ha="left" if x > 0 else "right", va="bottom" if y > 0 else "top")
            box = note.get_window_extent()
            if ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1) and not box.count_overlaps(taken):
                taken.append(box)
                break
        else:
            note.set_visible(False)


def _points(_: Figure, ax: Axes, mark: Points) -> None:
    halves, others = (
        [half or 0.0 for half in given] if any(half is not None for half in given) else None
        for given in (mark.half, mark.across)
    )
    if halves and not mark.shape:
        low, high = np.subtract(mark.y, halves), np.add(mark.y, halves)
        ax.fill_between(mark.x, low, high, color=mark.colour, alpha=0.15, lw=0)
        halves = None
    if halves and mark.ends:
        values, (low, high) = mark.x if mark.sideways else mark.y, mark.ends
        halves = [np.minimum(halves, np.subtract(values, low)), np.minimum(halves, np.subtract(high, values))]
    if mark.areas:
        ax.scatter(mark.x, mark.y, [DISC * area for area in mark.areas], mark.colour, alpha=0.15, lw=0, zorder=0)
    ax.errorbar(
        mark.x,
        mark.y,
        xerr=halves if mark.sideways else others,
        yerr=others if mark.sideways else halves,
        color=mark.colour,
        ecolor=(mark.colour, 0.35) if mark.across else None,
        marker=mark.shape or "",
        ls=mark.line,
        ms=4.5,
        lw=1.2,
        capsize=2,
        mfc="white" if mark.hollow else mark.colour,
        label=mark.label or None,
    )
    for x, y, note in zip(mark.x, mark.y, mark.notes, strict=False):
        ax.annotate(note, (x, y), (4, 3), textcoords="offset points", fontsize=7, color=mark.colour)


def _bars(_: Figure, ax: Axes, mark: Bars) -> None:
    values = [0.0 if value is None else value for value in mark.values]
    halves = [half or 0.0 for half in mark.half] if any(mark.half) else None
    bars = ax.barh(range(len(values)), values, xerr=halves, color=mark.colour, height=0.65)
    shown = ["" if value is None else mark.shown.format(value) for value in mark.values]
    ax.bar_label(bars, labels=shown, padding=3, fontsize=8)
    ax.set_xlim(0, 1.18 * max([*values, 1e-12]))


def _grid(figure: Figure, ax: Axes, mark: Grid) -> None:
    values = np.array([[np.nan if value is None else value for value in row] for row in mark.values], dtype=float)
    there = values[np.isfinite(values)]
    low = mark.low if mark.low is not None else (there.min() if there.size else 0.0)
    high = max(mark.high if mark.high is not None else (there.max() if there.size else 1.0), low * 1.001 + 1e-12)
    norm = LogNorm(low, high) if mark.log else Normalize(low, high)
    image = ax.imshow(np.clip(values, low, high), norm=norm, cmap="cividis", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = norm(min(max(value, low), high)) < 0.5
            colour = "white" if dark else "black"
            ax.text(j, i, mark.shown.format(value), ha="center", va="center", color=colour, fontsize=8)
    if mark.label:
        bar = figure.colorbar(image, ax=ax, pad=0.02, aspect=30)
        bar.set_label(fill(mark.label, max(14, 4 * len(mark.values))), fontsize=8)
        bar.ax.tick_params(labelsize=8)
        if mark.log:
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.outline.set_visible(False)  # type: ignore[operator]
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _rule(_: Figure, ax: Axes, mark: Rule) -> None:
    line = ax.axvline if mark.upright else ax.axhline
    line(mark.at, color=mark.colour, lw=0.9, ls=mark.line, label=mark.label or None, zorder=0)


def _band(_: Figure, ax: Axes, mark: Band) -> None:
    ax.axvspan(mark.low, mark.high, color=mark.colour, alpha=0.15, lw=0, label=mark.label or None, zorder=0)


_DRAWN: dict[type, Any] = {Points: _points, Bars: _bars, Grid: _grid, Rule: _rule, Band: _band}


def _legend(figure: Figure, axes: Any) -> None:
    """One legend for all panels, each name once; the figure grows with it."""
    found: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        columns = max(1, min(4, len(found), int(WIDTH / (0.4 + 0.062 * max(map(len, found))))))
        figure.set_figheight(figure.get_figheight() + 0.17 * max(0, ceil(len(found) / columns) - 2))
        figure.legend(
            list(found.values()), list(found), frameon=False, fontsize=8, ncols=columns, loc="outside lower center"
        )
