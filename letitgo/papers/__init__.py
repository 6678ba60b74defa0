"""The papers: each one's protocol as a study, and what it claims held against what was measured.

A module here is one paper, named as in the list of papers of the documents. It has

- ``TITLE``: authors, title and number, in a line;
- ``study(scale, seeds)``: the study, shortened to a share of the paper's training where ``scale`` is below 1;
- ``claims(study, rows)``: what the paper says, what was measured, and whether the one is within the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import hypot, inf
from typing import TYPE_CHECKING, Any, Protocol

from letitgo.errors import BadRequest, nearest

if TYPE_CHECKING:
    from letitgo.studies.study import Study

PAPERS = ("fc18", "fdrc19", "hhs18", "jt18", "lee23", "lfly18", "mypt19", "rt18", "zbs19")


@dataclass(frozen=True)
class Claim:
    """One thing that a paper says.

    Attributes:
        quantity: What is measured.
        paper: What the paper says of it, in its words or numbers.
        measured: Mean over seeds; None where nothing was measured.
        ci95: Half-width of its 95 % interval; None for fewer than two seeds.
        n: Seeds.
        within: Whether the measurement bears it out, see :func:`inside`; None where this run cannot tell.
        note: Why, where that is not plain.
    """

    quantity: str
    paper: str
    measured: float | None
    ci95: float | None
    n: int
    within: bool | None
    note: str = ""


class Paper(Protocol):
    """What a module of a paper holds."""

    TITLE: str

    def study(self, scale: float, seeds: int) -> Study:
        """The paper's protocol."""
        ...

    def claims(self, study: Any, rows: list[dict[str, Any]]) -> Sequence[Claim]:
        """What it says, held against the rows."""
        ...


def find_paper(name: str) -> Paper:
    """The module of a paper.

    Raises:
        BadRequest: There is none of that name.
    """
    if name not in PAPERS:
        raise BadRequest(f"unknown paper {name!r}: {nearest(name, PAPERS)}")
    return import_module(f"letitgo.papers.{name}")  # type: ignore[return-value]


def inside(
    mean: float | None, half: float | None, low: float = -inf, high: float = inf, sure: bool = False
) -> bool | None:
    """Whether the whole interval ``mean ± half`` lies between two limits.

    A claim of equality gives both limits: then this is a test of equivalence at 2.5 % a side, which a wider interval
    does not pass more easily.

    Args:
        mean: What was measured.
        half: Half-width of its 95 % interval; None for fewer than two seeds.
        low: Lower limit.
        high: Upper limit.
        sure: Whether the quantity is no estimate, so that the mean alone decides.

    Returns:
        True; False where the whole interval lies outside; None where it holds a limit or nothing was measured.
    """
    half = 0.0 if sure else half
    if mean is None or half is None:
        return None
    if low < mean - half and mean + half < high:
        return True
    return False if mean + half < low or high < mean - half else None


def claim(
    quantity: str,
    paper: str,
    row: Mapping[str, Any],
    column: str,
    low: float = -inf,
    high: float = inf,
    factor: float = 100,
    note: str = "",
) -> Claim:
    """A claim on the mean of a column, read by :func:`inside`; mean and interval are shown times ``factor``."""
    mean, half = row[f"{column}_mean"], row[f"{column}_ci95"]
    shown = None if mean is None else factor * mean, None if half is None else abs(factor) * half
    return Claim(quantity, paper, *shown, row["n"], inside(mean, half, low, high), note)


def difference(row: Mapping[str, Any], other: Mapping[str, Any], column: str) -> tuple[float, float | None]:
    """Mean of a column minus that of another row, and the interval's half-width if their seeds are independent."""
    halves = row[f"{column}_ci95"], other[f"{column}_ci95"]
    return row[f"{column}_mean"] - other[f"{column}_mean"], None if None in halves else hypot(*halves)


def percent(mean: float | None, half: float | None) -> tuple[float | None, float | None]:
    """A fraction and its interval in per cent, or a difference of fractions in points."""
    return None if mean is None else 100 * mean, None if half is None else 100 * half


def shortened(study: Any, whole: Any) -> tuple[float, str]:
    """The share of a paper's own length that this is, and the same in words where it is not all of it."""
    unit = "steps" if hasattr(study, "steps") else "epochs"
    own, full = (one.steps if unit == "steps" else one.recipes[0].epochs for one in (study, whole))
    return own / full, "" if own == full else f"{own:,} of the paper's {full:,} {unit}"


def scaled(number: int, scale: float) -> int:
    """A number of epochs or steps, shortened, and at least one.

    Raises:
        BadRequest: The scale is outside (0, 1].
    """
    if not 0 < scale <= 1:
        raise BadRequest(f"scale is {scale}: give a number above 0 and at most 1, the paper's own length")
    return max(1, round(scale * number))
