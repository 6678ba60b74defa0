"""Ray against worker processes on the same cores: runs of some seconds, and many trivial ones; memory of the driver.

Ray and its workers are started before the clock, as are the worker processes' imports by a first small study. Wall time
means something on an idle machine only; core seconds are those the runs themselves report.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from letitgo.execute.executor import Progress
from letitgo.recipes import Recipe
from letitgo.studies.compute import compute
from letitgo.studies.train.study import Train

SMALL = {"schedule": "constant", "widths": "8", "depth": 2, "epochs": 1, "batch_size": 512}


def study(first: int, runs: int, **fields: object) -> Train:
    """Independent runs."""
    return Train(tuple(Recipe(**fields, seed=first + seed) for seed in range(runs)), ("seed",))


def resident() -> int:
    """Megabytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def timed(on: str, what: Train, folder: str, watch: bool = False) -> tuple[float, float, list[int]]:
    """Wall seconds, core seconds of the runs, and the driver's memory over the study."""
    memory: list[int] = []

    def look(progress: Progress) -> None:
        if len(progress.finished) * 8 // max(1, progress.jobs) >= len(memory):
            memory.append(resident())

    begin = time.perf_counter()
    outcome = compute(what, folder, ARGUMENTS.workers, on=on, on_progress=look if watch else None)
    assert not outcome.failures, outcome.failures
    return time.perf_counter() - begin, sum(outcome.usage.core.values()), memory


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for on in ("processes", "ray"):
            timed(on, study(0, ARGUMENTS.workers, **SMALL), f"{folder}/warm-{on}")
        walls: dict[str, list[float]] = {"processes": [], "ray": []}
        for turn in range(ARGUMENTS.turns):
            for on, found in walls.items():
                runs = study(0, ARGUMENTS.runs, widths="256", epochs=ARGUMENTS.epochs, schedule="constant")
                wall, core, _ = timed(on, runs, f"{folder}/{on}-{turn}")
                found.append(wall)
                print(f"{on:9}  {ARGUMENTS.runs} runs of {core / ARGUMENTS.runs:.1f} s: {wall:.1f} s", flush=True)
        ratios = [ray / own for own, ray in zip(walls["processes"], walls["ray"], strict=True)]
        print(f"ray / processes: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
        for on in walls:
            wall, _, memory = timed(on, study(0, ARGUMENTS.trivial, **SMALL), f"{folder}/many-{on}", watch=True)
            print(
                f"{on:9}  {ARGUMENTS.trivial} trivial runs: {wall:.1f} s; driver {memory} MB over the study", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trivial", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    ARGUMENTS = parser.parse_args()
    main()
