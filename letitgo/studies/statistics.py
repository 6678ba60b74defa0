"""What is said of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["robust", "critical", "undecided"]


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return fmean(values) if values else None


def ci95(values: Sequence[float]) -> float | None:
    """Half-width of the 95 % confidence interval of the mean, after Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))


def verdict(drops: Sequence[float], tolerance: float) -> Verdict:
    """Whether the mean drop is within the tolerance, beyond it, or not to be told at this number of seeds.

    Args:
        drops: Paired drops in accuracy, fractions.
        tolerance: The largest drop that does no harm, a fraction.
    """
    half = ci95(drops)
    if half is None:
        return "undecided"
    middle = fmean(drops)
    if middle + half <= tolerance:
        return "robust"
    return "critical" if middle - half > tolerance else "undecided"
