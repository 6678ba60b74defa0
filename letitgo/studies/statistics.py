"""What is said of several seeds, and when enough of them have been looked at.

The sequential design looks at a growing number of seeds, of which more are drawn only for what is still undecided.
Runs that share no trained start are as good as independent under one seed, so their drops are differences of two means,
and the variance is pooled over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import fmean, stdev
from typing import Literal

import numpy as np

Verdict = Literal["robust", "critical", "undecided"]

LOOKS = (3, 4, 5, 6, 8, 10, 12, 16, 20)
"""Numbers of seeds after which an undecided drop is looked at again."""
ALPHA = 0.008
"""Two-sided error at each look, such that all looks together err in 5 % (``benchmarks/bench_verdicts.py``)."""
UNEQUAL = 4.0
"""A variance this many times the pooled one is not pooled."""


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return fmean(values) if values else None


def ci95(values: Sequence[float]) -> float | None:
    """Half-width of the 95 % confidence interval of the mean, after Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    return quantile(0.05, len(values) - 1) * stdev(values) / sqrt(len(values))


def quantile(alpha: float, df: float) -> float:
    """Two-sided quantile of Student's t: outside ± this lies a share ``alpha``."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - alpha / 2))


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None of fewer than three pairs or a constant side.

    Args:
        a: Numbers.
        b: As many.
    """
    from scipy.stats import rankdata

    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


@dataclass(frozen=True)
class Drop:
    """A drop in accuracy with its interval; both are fractions.

    Attributes:
        mean: The drop.
        half: Half-width of its interval; None where too few seeds are there for one.
    """

    mean: float
    half: float | None

    def verdict(self, tolerance: float) -> Verdict:
        """Whether the drop is within the tolerance, beyond it, or not to be told at this number of seeds.

        Args:
            tolerance: The largest drop that does no harm, a fraction.
        """
        if self.half is None:
            return "undecided"
        if self.mean + self.half <= tolerance:
            return "robust"
        return "critical" if self.mean - self.half > tolerance else "undecided"


def verdict(drops: Sequence[float], tolerance: float) -> Verdict:
    """The verdict on drops of a fixed number of seeds, paired by seed, at 95 %.

    Args:
        drops: Fractions.
        tolerance: The largest drop that does no harm, a fraction.
    """
    return Drop(mean(drops) or 0.0, ci95(drops)).verdict(tolerance)


def looks(most: int) -> Iterator[int]:
    """The numbers of seeds to look at, the last of them ``most``; beyond 20, each a quarter more than the last."""
    ahead = iter(LOOKS)
    seeds = next(ahead)
    while seeds < most:
        yield seeds
        seeds = next(ahead, ceil(1.25 * seeds))
    yield most


def paired(drops: Sequence[float], floor: float, alpha: float = ALPHA) -> Drop:
    """The drop of runs that share a trained start with what they are compared with, seed by seed.

    Args:
        drops: Fractions, one for each seed.
        floor: The least standard deviation that a drop can have.
        alpha: Two-sided error of this look.
    """
    if len(drops) < 2:
        return Drop(mean(drops) or 0.0, None)
    spread = max(_variance(drops), floor**2)
    return Drop(fmean(drops), quantile(alpha, len(drops) - 1) * sqrt(spread / len(drops)))


def unpaired(
    base: Sequence[float], groups: Sequence[Sequence[float]], floors: Sequence[float], alpha: float = ALPHA
) -> list[Drop]:
    """The drops of independent runs, with one variance for all that seem to have the same.

    Args:
        base: Accuracies of the baseline.
        groups: Accuracies of each group of runs that is compared with it.
        floors: The least standard deviation that an accuracy of the baseline and of each group can have.
        alpha: Two-sided error of this look.
    """
    if len(base) < 2:
        return [Drop(0.0, None) for _ in groups]
    every = [base, *groups]
    own = [_variance(values) if len(values) > 1 else 0.0 for values in every]
    free = [max(0, len(values) - 1) for values in every]
    pooled, df, within = _pool(own, free)
    least, drops = [floor**2 for floor in floors], []
    pooled = max(pooled, sum(v * n for v, n, kept in zip(least, free, within, strict=True) if kept) / df)
    for i, values in enumerate(groups, start=1):
        if len(values) < 2:
            drops.append(Drop(0.0, None))
            continue
        if within[0] and within[i]:
            square, freedom = pooled * (1 / len(base) + 1 / len(values)), float(df)
        else:
            a, b = max(own[0], least[0]) / len(base), max(own[i], least[i]) / len(values)
            square, freedom = a + b, (a + b) ** 2 / (a**2 / free[0] + b**2 / free[i])
        drops.append(Drop(fmean(base) - fmean(values), quantile(alpha, freedom) * sqrt(square)))
    return drops


def disagreement(correct: np.ndarray) -> float:
    """The standard deviation over seeds of an accuracy whose examples err independently of each other.

    Args:
        correct: How far each example is right under each seed, or differences of that, shape (seeds, examples).

    Returns:
        A fraction; 0 for fewer than two seeds.
    """
    seeds, examples = correct.shape
    return sqrt(correct.var(axis=0, ddof=1).sum()) / examples if seeds > 1 else 0.0


def for_new_examples(half: float | None, sides: Sequence[np.ndarray]) -> float | None:
    """Half-width of the 95 % interval of a drop where the test examples are drawn anew, as the seeds are.

    The variance over examples of the drop of each, less what it owes to having few seeds, divided by their number, is
    what new examples add to the interval over seeds.

    Args:
        half: Half-width of the interval over seeds, a fraction.
        sides: How far each example is right under each seed, shape (seeds, examples): of what is compared with and of
            what is judged; or their difference alone, where they share the seeds.

    Returns:
        A fraction; None without an interval over seeds, or with fewer than two seeds or examples on a side.
    """
    if half is None or not sides or any(min(side.shape) < 2 for side in sides):
        return None
    examples = sides[0].shape[1]
    drops = sum(sign * side.mean(axis=0) for sign, side in zip((1, -1), sides, strict=False))
    owed = sum(disagreement(side) ** 2 / len(side) for side in sides)
    added = max(0.0, float(np.var(drops, ddof=1)) / examples - owed)
    return sqrt(half**2 + quantile(0.05, examples - 1) ** 2 * added)


def _pool(own: Sequence[float], free: Sequence[int]) -> tuple[float, int, list[bool]]:
    """The pooled variance, its degrees of freedom, and which variances are in it: none is far above the others'."""
    within = [n > 0 for n in free]
    while True:
        total = sum(v * n for v, n, kept in zip(own, free, within, strict=True) if kept)
        df = sum(n for n, kept in zip(free, within, strict=True) if kept)
        largest = max((i for i, kept in enumerate(within) if kept), key=own.__getitem__)
        rest = df - free[largest]
        if not rest or own[largest] * rest <= UNEQUAL * (total - own[largest] * free[largest]):
            return total / df, df, within
        within[largest] = False


def _variance(values: Sequence[float]) -> float:
    middle = sum(values) / len(values)
    return sum((value - middle) ** 2 for value in values) / (len(values) - 1)
