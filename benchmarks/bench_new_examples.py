"""How often the two intervals of a drop hold the drop on all examples there could be: simulated seeds and examples.

Whether a network is right about an example depends on the example, on the seed, and on both. The example's part is
shared by the two ways to train to some degree. ``auto`` stops at the look that decides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import sqrt

import numpy as np
from scipy.stats import norm

from letitgo.studies.statistics import ALPHA, Drop, ci95, disagreement, for_new_examples, looks, unpaired

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
EXAMPLES, TOLERANCE = 359, 0.01
EASY, HARDNESS, SHARED, COST = 4.6, 2.2, 0.9, 0.4
Side = np.ndarray


def answers(rng: np.random.Generator, luck: float) -> tuple[float, Side, Side]:
    """The true drop, and which examples are right: 40 baselines, 20 runs of what is compared with them."""
    hard, spread = rng.normal(size=EXAMPLES), sqrt(HARDNESS**2 + luck**2 + 1)

    def right(mean: float, seeds: int) -> Side:
        own, of_seed, of_both = (rng.normal(size=size) for size in (EXAMPLES, (seeds, 1), (seeds, EXAMPLES)))
        return mean + HARDNESS * (SHARED * hard + sqrt(1 - SHARED**2) * own) + luck * of_seed + of_both > 0

    true = float(norm.cdf(EASY / spread) - norm.cdf((EASY - COST) / spread))
    return true, right(EASY, 40), right(EASY - COST, 20)


def fixed(base: Side, own: Side, seeds: int) -> tuple[Drop, list[Side]]:
    """The drop over a number of seeds, paired as ``--seeds N`` does."""
    side = np.subtract(base[:seeds], own[:seeds], dtype=float)
    return Drop(float(side.mean()), ci95(side.mean(axis=1).tolist())), [side]


def sequential(base: Side, own: Side) -> tuple[Drop, list[Side]]:
    """The drop at the look where its verdict is there."""
    for seeds in looks(20):
        sides = [base[: 2 * seeds], own[:seeds]]
        before, after = (side.mean(axis=1).tolist() for side in sides)
        [drop] = unpaired(before, [after], [max(1 / EXAMPLES, disagreement(side)) for side in sides], ALPHA)
        if seeds == 20 or drop.verdict(TOLERANCE) != "undecided":
            return drop, sides
    raise AssertionError("the last look is at 20 seeds")


def held(luck: float, seeds: int | None) -> Iterator[tuple[bool, bool]]:
    """Whether each interval of each study holds the true drop; of ``auto`` where there is no number of seeds."""
    rng = np.random.default_rng(0)
    for _ in range(STUDIES):
        true, base, own = answers(rng, luck)
        drop, sides = fixed(base, own, seeds) if seeds else sequential(base, own)
        new = for_new_examples(drop.half, sides)
        assert drop.half is not None
        assert new is not None
        yield abs(drop.mean - true) <= drop.half, abs(drop.mean - true) <= new


def main() -> None:
    """Print a table for the documents."""
    print("| seeds differ as a whole | seeds | over seeds | new examples too |")
    print("| --- | ---: | ---: | ---: |")
    for luck in (0.0, 0.2, 0.5):
        for seeds in (2, 3, 5, 10, 20, None):
            shares = np.mean(list(held(luck, seeds)), axis=0)
            shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
            name = {0.0: "no", 0.2: "a little", 0.5: "much"}[luck]
            print(f"| {name} | {seeds or '`auto`'} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
