"""How often verdicts are wrong, and how many runs they take: simulated studies of four layers.

Drops and spreads are those of the stored results (``docs/results``). Seeds disagree in single test examples, by a share
of the spread that was measured on the digits; that is the floor of intervals. The design of ``--seeds auto`` is held
against fixed numbers of seeds, paired as ``--seeds N`` does. Where the true drop is the tolerance itself, every verdict
counts as wrong: no design can decide more than its error there. Rows that share a trained start with the baseline
(layers put back, drawn afresh, frozen from a later epoch) are simulated by themselves, from the spreads of their paired
drops.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path

import numpy as np

from letitgo.studies.statistics import ALPHA, looks, paired, quantile, unpaired, verdict

RESULTS = Path(__file__).parents[1] / "docs" / "results"
STUDIES, LAYERS, TOLERANCE, TEST = int(sys.argv[1]) if len(sys.argv) > 1 else 2000, 4, 0.01, 359
DISAGREEMENT = (0.6, 1.0)
"""The seeds' disagreement as a share of the spread, at least and at most."""
Noise = Callable[[np.random.Generator, float, int], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, sd, n: rng.normal(0, sd, n),
    "heavy tails": lambda rng, sd, n: rng.standard_t(3, n) * sd / sqrt(3),
    "one run in 20 far off": lambda rng, sd, n: rng.normal(0, sd, n) - 4 * sd * ((rng.random(n) < 0.05) - 0.05),
}


def measured(shared: bool = False) -> Iterator[tuple[float, float]]:
    """The drop and the standard deviation over seeds of every row with a verdict that a result compares.

    Args:
        shared: Rows that share a trained start with the baseline, and the spread of their paired drops; else runs from
            initialization, and the spread of their accuracies.
    """
    spread = "drop_ci95" if shared else "accuracy_ci95"
    for name in ("map-mnist", "fraction", "fraction-lenet", "classifier", "classifier-lenet"):
        with (RESULTS / name / "rows.csv").open() as file:
            for row in csv.DictReader(file):
                trained = row.get("intervention", "frozen") == "frozen" and row.get("epoch", "0") in ("0", "")
                if row["verdict"] and trained != shared:
                    n = int(row["n"])
                    yield float(row["drop_mean"]), float(row[spread]) * sqrt(n) / quantile(0.05, n - 1)


def sequential(
    draw: Callable[[int], np.ndarray], base: np.ndarray, floors: list[float], alpha: float
) -> tuple[list[str], int]:
    """The verdict on each layer, and the runs it took."""
    layers = [draw(i) for i in range(LAYERS)]
    counts, said = [0] * LAYERS, ["undecided"] * LAYERS
    most = 0
    for seeds in looks(20):
        ahead = [i for i in range(LAYERS) if said[i] == "undecided"]
        if not ahead:
            break
        most = seeds
        for i in ahead:
            counts[i] = seeds
        groups = [layer[:count].tolist() for layer, count in zip(layers, counts, strict=True)]
        drops = unpaired(base[: 2 * seeds].tolist(), groups, floors, alpha)
        for i in ahead:
            said[i] = drops[i].verdict(TOLERANCE)
    return said, 2 * most + sum(counts)


def fixed(draw: Callable[[int], np.ndarray], base: np.ndarray, seeds: int) -> tuple[list[str], int]:
    """The same for a fixed number of seeds."""
    said = [verdict((base[:seeds] - draw(i)[:seeds]).tolist(), TOLERANCE) for i in range(LAYERS)]
    return list(said), (1 + LAYERS) * seeds


DESIGNS = {
    "auto": lambda draw, base, floors: sequential(draw, base, floors, ALPHA),
    "auto, familywise": lambda draw, base, floors: sequential(draw, base, floors, ALPHA / LAYERS),
    "auto, floor of one example": lambda draw, base, _: sequential(draw, base, [1 / TEST] * (1 + LAYERS), ALPHA),
    **{f"{n} seeds": lambda draw, base, _, n=n: fixed(draw, base, n) for n in (3, 5, 10)},
}


def truth(drops: str, rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True drops of the layers and their standard deviations over seeds."""
    chosen = rows[rng.integers(len(rows), size=LAYERS)]
    spread = np.maximum(chosen[:, 1], 5e-4)
    if drops == "near":
        return rng.uniform(0.5, 1.5, LAYERS) * TOLERANCE, spread
    return (chosen[:, 0] if drops == "measured" else np.full(LAYERS, TOLERANCE)), spread


def is_wrong(said: str, drop: float) -> bool:
    """Whether a verdict contradicts the true drop."""
    return said == ("robust" if drop > TOLERANCE else "critical") or (drop == TOLERANCE and said != "undecided")


def simulate(drops: str, noise: Noise, design: str) -> tuple[float, float, float, float]:
    """Shares of verdicts and of studies that are wrong, of verdicts decided, and mean runs."""
    rng, chance, rows = np.random.default_rng(0), np.random.default_rng(1), np.array(list(measured()))
    wrong, studies, decided, runs = 0, 0, 0, 0
    for _ in range(STUDIES):
        true, spread = truth(drops, rng, rows)

        def accuracies(drop: float, sd: float) -> np.ndarray:
            return np.round((0.97 - drop + noise(rng, sd, 40)) * TEST) / TEST

        usual = float(np.median(spread))
        base = accuracies(0.0, usual)
        layers = [accuracies(*pair) for pair in zip(true.tolist(), spread.tolist(), strict=True)]
        floors = np.maximum(1 / TEST, chance.uniform(*DISAGREEMENT, 1 + LAYERS) * [usual, *spread]).tolist()
        said, took = DESIGNS[design](layers.__getitem__, base, floors)
        errors = [is_wrong(*pair) for pair in zip(said, true.tolist(), strict=True)]
        wrong, studies, runs = wrong + sum(errors), studies + any(errors), runs + took
        decided += LAYERS - said.count("undecided")
    verdicts = STUDIES * LAYERS
    return wrong / verdicts, studies / STUDIES, decided / verdicts, runs / STUDIES


def simulate_shared(drops: str, noise: Noise, seeds: int | None) -> tuple[float, float, float, float]:
    """The same of rows that share a trained start, judged seed by seed; of ``auto`` where ``seeds`` is None.

    In the place of runs: seeds of a row.
    """
    rng, chance, rows = np.random.default_rng(0), np.random.default_rng(1), np.array(list(measured(shared=True)))
    wrong, studies, decided, took = 0, 0, 0, 0
    for _ in range(STUDIES):
        true, spread = truth(drops, rng, rows)
        errors = []
        for drop, sd in zip(true.tolist(), spread.tolist(), strict=True):
            own = np.round((drop + noise(rng, sd, 20)) * TEST) / TEST
            floor = max(1 / TEST, chance.uniform(*DISAGREEMENT) * sd)
            n, said = 0, "undecided"
            for n in looks(20) if seeds is None else (seeds,):
                found = own[:n].tolist()
                said = verdict(found, TOLERANCE) if seeds else paired(found, floor).verdict(TOLERANCE)
                if said != "undecided":
                    break
            took += n
            decided += said != "undecided"
            errors.append(is_wrong(said, drop))
        wrong, studies = wrong + sum(errors), studies + any(errors)
    verdicts = STUDIES * LAYERS
    return wrong / verdicts, studies / STUDIES, decided / verdicts, took / verdicts


def main() -> None:
    """Print two tables for the documents."""
    print("| true drops | noise | design | wrong verdicts | studies with one | decided | runs |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for drops in ("measured", "near", "at the tolerance"):
        for name, noise in NOISES.items():
            for design in DESIGNS:
                *shares, runs = simulate(drops, noise, design)
                shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(f"| {drops} | {name} | {design} | {shown} | {runs:.0f} |", flush=True)
    print(
        "\n| true drops | noise | design, trained start shared | wrong verdicts | studies with one | decided | seeds |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for drops in ("measured", "near", "at the tolerance"):
        for name, noise in NOISES.items():
            for seeds in (None, 3, 5, 10):
                *shares, took = simulate_shared(drops, noise, seeds)
                shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(
                    f"| {drops} | {name} | {f'{seeds} seeds' if seeds else 'auto'} | {shown} | {took:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
