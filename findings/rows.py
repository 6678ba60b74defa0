"""The committed rows of studies, and what the document computes from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from letitgo.studies.statistics import spearman

RESULTS = Path(__file__).parent.parent / "docs" / "results"
Row = dict[str, Any]


class NoLongerTrue(Exception):
    """A sentence of the document that the rows do not bear out any more."""


def table(study: str, file: str = "rows.csv") -> list[Row]:
    """The rows of a committed study; numbers are floats, empty cells None."""
    with (RESULTS / study / file).open(encoding="utf-8", newline="") as lines:
        return [{name: _value(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]


def _value(cell: str) -> Any:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def where(rows: Iterable[Row], **cells: Any) -> list[Row]:
    """The rows with these values; a column that a study lacks counts as empty."""
    return [row for row in rows if all(row.get(name) == value for name, value in cells.items())]


def one(rows: Iterable[Row], **cells: Any) -> Row:
    """The row with these values, of which there has to be one."""
    [row] = where(rows, **cells)
    return row


def claim(holds: bool, sentence: str) -> None:
    """Stop where the rows contradict a sentence of the template.

    Raises:
        NoLongerTrue: They do.
    """
    if not holds:
        raise NoLongerTrue(f"the rows no longer say that {sentence}: rewrite it in findings.md.j2")


Ranks = tuple[np.ndarray, np.ndarray]


def ranked(pairs: Sequence[tuple[float, float]]) -> Ranks:
    """The ranks of a group's members by each of their two values, centred and scaled, so that groups do not matter."""
    first, second = ((rankdata(values) - 1) / (len(pairs) - 1) - 0.5 for values in zip(*pairs, strict=True))
    return first, second


def correlation(groups: Sequence[Ranks]) -> float:
    """Spearman's over groups, ranked within each."""
    found = spearman(*(np.concatenate(side).tolist() for side in zip(*groups, strict=True)))
    return float("nan") if found is None else found


def bootstrap(
    groups: Sequence[Any], statistic: Callable[[Sequence[Any]], float], draws: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over groups drawn with replacement; their order may not matter."""
    random, known = np.random.default_rng(0), dict[tuple[int, ...], float]()
    found = []
    for _ in range(draws):
        drawn = tuple(sorted(random.integers(len(groups), size=len(groups)).tolist()))  # of few groups often the same
        if drawn not in known:
            known[drawn] = statistic([groups[i] for i in drawn])
        found.append(known[drawn])
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
