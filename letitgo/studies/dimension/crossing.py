"""The d at which accuracy crosses a target: a line fitted to the accuracies around it, with a 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from letitgo.studies.statistics import quantile

WINDOWS = ((0.6, 1.2), (0.4, 1.6))
"""Which d are fitted, as shares of the crossing; the second where the first allows no fit."""
FEWEST = 3
"""How many d a line needs: with two, nothing says how far accuracies are off it."""
WIDEST = 10
"""The greatest ratio of an interval's end to the crossing: beyond it the line says nothing."""


@dataclass(frozen=True)
class Crossing:
    """Where the fitted accuracy equals the target.

    Attributes:
        d: Dimensions; no whole number.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    d: float
    low: float
    high: float


def crossing(tried: Mapping[int, Sequence[float]], targets: Sequence[float], near: int) -> Crossing | None:
    """The d at which the mean accuracy equals the mean target.

    The d around ``near`` are fitted, then those around the crossing found, until the same d come up again.

    Args:
        tried: d → accuracy of each seed, fractions.
        targets: Of each seed: a share of its baseline, or one accuracy for all.
        near: Where to begin, at least 1.

    Returns:
        None for a single seed; and where in both windows too few d lie, the slope is not surely positive, the crossing
        is not among the d fitted, or the interval has no bounds.
    """
    if len(targets) < 2:
        return None
    return next((found for window in WINDOWS if (found := _settled(tried, targets, near, window))), None)


def _settled(
    tried: Mapping[int, Sequence[float]], targets: Sequence[float], near: float, window: tuple[float, float]
) -> Crossing | None:
    seen: set[tuple[int, ...]] = set()
    while len(around := _around(tried, near, window)) >= FEWEST:
        found = _fitted(around, np.array([tried[d] for d in around]), np.array(targets))
        if found is None:
            return None
        if around in seen:
            return found if around[0] <= found.d <= around[-1] else None
        seen.add(around)
        near = found.d
    return None


def _around(tried: Mapping[int, Sequence[float]], near: float, window: tuple[float, float]) -> tuple[int, ...]:
    low, high = window
    return tuple(d for d in sorted(tried) if d and low * near <= d <= high * near)


def _fitted(tried: Sequence[int], accuracies: np.ndarray, targets: np.ndarray) -> Crossing | None:
    """Fieller's interval of the crossing of a line in log d, whose level differs from seed to seed.

    With z = log d minus its mean, the line is over its target by ``over + slope * z``. How far the seeds differ in
    ``over`` gives the variance of the level, and how far accuracies are off their seed's line that of the slope. The
    level's variance is no less than what the latter gives for it. Each has its own quantile, and the squares are added.

    Args:
        tried: Dimensions.
        accuracies: Fractions, shape (dimensions, seeds).
        targets: Fractions, shape (seeds,).
    """
    count, seeds = accuracies.shape
    z = np.log(tried)
    middle = z.mean()
    z = z - middle
    slope = float((z @ accuracies).mean() / (z @ z))
    each = accuracies.mean(axis=0) - targets
    over = float(each.mean())
    off = accuracies - accuracies.mean(axis=0) - slope * z[:, None]
    free = seeds * (count - 1) - 1
    noise = quantile(0.05, free) ** 2 * float((off**2).sum()) / free
    level = max(quantile(0.05, seeds - 1) ** 2 * float(each.var(ddof=1)) / seeds, noise / (count * seeds))
    # (over + slope z)² = level + steep z², solved for z
    steep = noise / (seeds * float(z @ z))
    squared = slope**2 - steep
    if slope <= 0 or squared <= 0:
        return None
    half = sqrt(max(0.0, slope**2 * over**2 - squared * (over**2 - level))) / squared
    centre = -slope * over / squared
    at = -over / slope
    if max(centre + half - at, at - centre + half) > log(WIDEST):
        return None
    return Crossing(exp(middle + at), exp(middle + centre - half), exp(middle + centre + half))
