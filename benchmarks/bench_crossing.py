"""How often the bracket and the interval of ``letitgo dimension`` hold the true crossing: simulated curves and seeds.

The curve is that of a fully connected network on MNIST (docs/results/dimension-fcn), shifted at random along log d. A
seed moves its whole curve, and each training is off by itself; both by more where accuracy is lower. The search is the
study's. The target is 90 % of the network's own baseline, whose seeds differ too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from letitgo.recipes import Recipe
from letitgo.studies.dimension.crossing import Crossing, crossing
from letitgo.studies.dimension.search import Search, interval
from letitgo.studies.dimension.study import Dimension

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
DIMENSIONS, ERRORS = (100, 316, 562, 1000, 3000), (0.41, 0.182, 0.127, 0.093, 0.055)
CURVE = np.polyfit(np.log(DIMENSIONS), np.log(ERRORS), 2)
BASE, BASE_SPREAD, SHARE = 0.98, 0.002, 0.9


@dataclass(frozen=True)
class Study:
    """One simulated study.

    Attributes:
        true: The d at which the mean over all seeds there could be is the target.
        low: Lower end of the bracket.
        high: Upper end.
        fitted: The crossing; None where nothing can be fitted.
    """

    true: float
    low: int
    high: int
    fitted: Crossing | None


def accuracy(place: float) -> float:
    """The accuracy at a place along log d, unshifted."""
    return 1 - exp(np.polyval(CURVE, min(max(place, 1.0), 8.8)))


TRUE = np.interp(SHARE * BASE, [accuracy(place) for place in np.linspace(1, 8.8, 4000)], np.linspace(1, 8.8, 4000))


def studies(search: Search, seeds: int, of_seed: float, of_run: float) -> Iterator[Study]:
    """Simulated studies.

    Args:
        search: Says what is tried next.
        seeds: How many each study has.
        of_seed: Standard deviation of a seed's shift in accuracy near the target, a fraction.
        of_run: That of each training.
    """
    rng = np.random.default_rng(0)
    for _ in range(STUDIES):
        shift = rng.uniform(-0.5, 0.5) * log(10)
        own, base = rng.normal(0, of_seed, seeds), rng.normal(BASE, BASE_SPREAD, seeds)
        target, tried, means = SHARE * base.mean(), {}, {0: 0.1}
        while (d := search.next(target, means)) is not None:
            mean = accuracy(log(d) - shift)
            scale = min(3.0, sqrt((1 - mean) / (1 - SHARE * BASE)))
            tried[d] = mean + scale * (own + rng.normal(0, of_run, seeds))
            means[d] = float(tried[d].mean())
        low, high = interval(target, means)
        assert high is not None
        yield Study(exp(TRUE + shift), low, high, crossing(tried, [*(SHARE * base)], high))


def summary(found: Sequence[Study]) -> list[str]:
    """How often the bracket holds the true crossing, a line can be fitted, and its interval holds it; median ends."""
    fits = [(one.true, one.fitted) for one in found if one.fitted]
    low, high = np.median([(fit.low / fit.d, fit.high / fit.d) for _, fit in fits], axis=0)
    return [
        f"{100 * np.mean([one.low < one.true <= one.high for one in found]):.0f} %",
        f"{100 * len(fits) / len(found):.0f} %",
        f"{100 * np.mean([fit.low <= true <= fit.high for true, fit in fits]):.1f} %",
        f"{100 * low - 100:+.0f} to {100 * high - 100:+.0f} %",
    ]


def main() -> None:
    """Print a table for the documents."""
    print(
        "| resolution | seed, points | run, points | seeds | bracket holds it | fitted | interval holds it | its ends |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for resolution in (0.1, 0.05):
        [search] = Dimension(Recipe(widths="2000", depth=2), resolution=resolution).asked
        for of_seed, of_run in ((0.0, 0.004), (0.003, 0.004), (0.0, 0.01), (0.01, 0.005)):
            for seeds in (2, 3, 5):
                told = " | ".join(summary(list(studies(search, seeds, of_seed, of_run))))
                print(f"| {resolution:g} | {100 * of_seed:g} | {100 * of_run:g} | {seeds} | {told} |", flush=True)


if __name__ == "__main__":
    main()
