"""Pictures as data: panels of marks. Nothing here imports matplotlib; :mod:`letitgo.report.draw` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

BLACK, GREY, PALE = "#222222", "#7f7f7f", "#c4c4c4"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b4c9a", "#8c6d31")
"""Colours of series: those of Okabe and Ito, told apart by colour-blind readers, and two more."""
VERDICTS = {"robust": "#009E73", "critical": "#D55E00", "undecided": GREY}
"""Colours of the verdicts, in every figure, table and page."""
SHAPES = {"robust": "o", "critical": "X", "undecided": "d"}
"""Their shapes in figures, so that colour is never the only sign."""


@dataclass(frozen=True)
class Points:
    """Points with intervals, joined by a line or not. The intervals of a line without points are a band.

    Attributes:
        x: Places; where a panel has ``steps`` or ``places``, their indices.
        y: Values.
        half: Half-widths of the intervals; None for no bar.
        sideways: Whether the bars lie along x.
        label: In the legend; nothing for none.
        colour: Of all points.
        shape: Of a point, as matplotlib names it; nothing for none.
        line: As matplotlib names it; nothing for points alone.
        hollow: Whether the points are circles.
        notes: A word beside each point.
        across: Half-widths of the intervals in the other direction; the bars are then pale.
        areas: Of a pale disc around each point, 1 for a large one.
        ends: Where intervals are cut, as those of a correlation at -1 and 1.
    """

    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float | None] = ()
    sideways: bool = False
    label: str = ""
    colour: str = BLACK
    shape: str = "o"
    line: str = ""
    hollow: bool = False
    notes: Sequence[str] = ()
    across: Sequence[float | None] = ()
    areas: Sequence[float] = ()
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bars:
    """Bars from the left, one for each place of the panel; values are written beside them."""

    values: Sequence[float | None]
    half: Sequence[float | None] = ()
    colour: str = PALETTE[0]
    shown: str = "{:.0f}"


@dataclass(frozen=True)
class Grid:
    """Coloured cells with their numbers, ``places`` down and ``steps`` across, and a colour bar.

    Attributes:
        values: A row for each place; None where there is nothing.
        label: Of the colour bar.
        shown: How a value is written.
        low: Where the colours begin; the least value by default.
        high: Where they end.
        log: Whether they are spaced by ratios.
    """

    values: Sequence[Sequence[float | None]]
    label: str
    shown: str = "{:.3g}"
    low: float | None = None
    high: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Rule:
    """A line across the panel, at a value of ``y``, or of ``x`` if upright."""

    at: float
    upright: bool = False
    label: str = ""
    colour: str = GREY
    line: str = "--"


@dataclass(frozen=True)
class Band:
    """A shaded range of ``x``, such as what lies within the tolerance."""

    low: float
    high: float
    colour: str = VERDICTS["robust"]
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """A pair of axes; one in per cent (``", %"`` in its label) ends at 0 and 100, however wide the intervals are.

    Attributes:
        marks: Drawn one over the other.
        title: Above it.
        x: Label of the axis.
        y: Label of the axis.
        places: Names down the y axis, the first on top.
        steps: Names along the x axis.
        xlog: Whether x is spaced by ratios.
        ylog: Whether y is.
        xlim: Ends of the axis; reversed, it falls.
        ylim: Ends of the axis.
        ticks: Where x has its ticks.
    """

    marks: Sequence[Points | Bars | Grid | Rule | Band]
    title: str = ""
    x: str = ""
    y: str = ""
    places: Sequence[str] = ()
    steps: Sequence[str] = ()
    xlog: bool = False
    ylog: bool = False
    xlim: tuple[float | None, float | None] | None = None
    ylim: tuple[float | None, float | None] | None = None
    ticks: Sequence[float] = ()


@dataclass(frozen=True)
class Picture:
    """Panels side by side.

    Attributes:
        panels: Rows of panels.
        caption: What is to be seen.
        widths: Relative widths of the panels of a row; equal by default.
    """

    panels: Sequence[Sequence[Panel]]
    caption: str
    widths: Sequence[float] = ()


def points(
    rows: Sequence[Row], at: str | Sequence[float], y: str, factor: float = 1, sideways: bool = False, **look: Any
) -> Points:
    """A point for each row.

    Args:
        rows: Tidy rows.
        at: Column of the places, or the places themselves.
        y: Stem of ``_mean`` and ``_ci95``.
        factor: What y is multiplied by, 100 for per cent.
        sideways: Whether y lies along the x axis, the places along the other.
        look: Further fields of :class:`Points`.
    """
    places = [row[at] for row in rows] if isinstance(at, str) else at
    values = [factor * row[f"{y}_mean"] for row in rows]
    halves = [None if row.get(f"{y}_ci95") is None else factor * row[f"{y}_ci95"] for row in rows]
    along = (values, places) if sideways else (places, values)
    return Points(*along, halves, sideways, **look)


def series(
    rows: Iterable[Row],
    x: str,
    y: str,
    by: str = "",
    looks: Mapping[Any, Mapping[str, Any]] | None = None,
    factor: float = 1,
    shape: str = "o",
) -> list[Points]:
    """A line for each value of a column.

    Args:
        rows: Tidy rows; those without a value are left out.
        x: Column along the x axis.
        y: Stem of ``_mean`` and ``_ci95``.
        by: Column whose values are the lines; all rows are one line by default.
        looks: Fields of :class:`Points` by line; the palette in its order by default.
        factor: What y is multiplied by, 100 for per cent.
        shape: Of the points; empty for lines alone.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row[f"{y}_mean"] is not None and row[x] is not None:
            groups.setdefault(row[by] if by else "", []).append(row)
    drawn = []
    for i, (name, own) in enumerate(groups.items()):
        look: dict[str, Any] = {"colour": PALETTE[i % len(PALETTE)], "line": "-", "label": str(name), "shape": shape}
        look |= (looks or {}).get(name, {})
        drawn.append(points(own, x, y, factor, **look))
    return drawn


def judged(rows: Sequence[Row], y: str = "drop", verdict: str = "verdict", factor: float = 100) -> list[Points]:
    """Points along x, one for each row from top to bottom, in the colour and shape of its verdict."""
    drawn = []
    for name, colour in VERDICTS.items():
        own = {i: row for i, row in enumerate(rows) if row[verdict] == name and row[f"{y}_mean"] is not None}
        if own:
            look = {"label": name, "colour": colour, "shape": SHAPES[name]}
            drawn.append(points(list(own.values()), list(own), y, factor, sideways=True, **look))
    return drawn


def grid(
    rows: Iterable[Row],
    down: str,
    across: str,
    value: Any,
    label: str,
    places: Sequence[Any],
    steps: Sequence[Any],
    **look: Any,
) -> Grid:
    """Cells of a value by two columns.

    Args:
        rows: Tidy rows.
        down: Column of the places.
        across: Column of the steps.
        value: Function of a row; None leaves its cell empty.
        label: Of the colour bar.
        places: Values of ``down``, from the top.
        steps: Values of ``across``, from the left.
        look: Further fields of :class:`Grid`.
    """
    found = {(row[down], row[across]): value(row) for row in rows}
    return Grid([[found.get((place, step)) for step in steps] for place in places], label, **look)
