"""How long it takes to look at a store of many results: a dry run over it, and the first page of ``runs``.

The results are synthetic: a sixth are states (a record and an empty tensor file in a folder of their own), the rest are
measures of them. Each command is a process of its own, imports included; best of three.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from letitgo.store import Store
from letitgo.value import canonical, sha256

COMMAND = [sys.executable, "-c", "from letitgo.cli.main import main; main()"]
RECIPE = {"model": "fcn", "data": "digits", "lr": 0.1, "epochs": 30, "batch_size": 64, "optimizer": "sgd"}


def fill(store: Store, begin: int, end: int) -> None:
    """Write results number ``begin`` to ``end``."""
    for number in range(begin, end):
        key = sha256(f"result {number}")
        run = sha256(f"result {number - number % 6}")
        state = f"states/{run[:2]}/{run}/000000690"
        if number % 6 == 0:
            value = {"kind": "At", "run": {"kind": "Run", "begin": 0}, "step": 690}
            body = {"value": value, "recipe": {**RECIPE, "seed": number}, "frozen": ["fc1.weight"], "seconds": 1.0}
            put(
                store.root / f"{state}.json", {"key": key, "body": body, "tensors": {"sha256": sha256(b""), "bytes": 0}}
            )
            (store.root / f"{state}.safetensors").touch()
        else:
            value = {"kind": "Evaluation", "state": {"at": state}, "split": "test"}
            body = {"value": value, "result": {"accuracy": 0.9, "loss": 0.1, "n": 360}}
            put(store.root / f"evaluations/{key[:2]}/{key}.json", {"key": key, "body": body})


def put(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(canonical([record, sha256(canonical(record))]))


def seconds(*arguments: str, times: int = 3) -> tuple[float, float]:
    """Wall and core seconds of the quickest of some processes; where others run too, the second is what it takes."""

    def once() -> tuple[float, float]:
        begin, before = time.perf_counter(), os.times()
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
        after = os.times()
        core = after.children_user + after.children_system - before.children_user - before.children_system
        return time.perf_counter() - begin, core

    found = [once() for _ in range(times)]
    return min(wall for wall, _ in found), min(core for _, core in found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="0,1000,10000,100000")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        store, before = Store(Path(folder) / "store"), 0
        store.root.mkdir()
        (store.root / "states").mkdir()
        print("results: wall (core) seconds of a dry run, runs, runs --where, export")
        for size in sizes:
            fill(store, before, size)
            before = size
            at = ("--store", str(store.root))
            lines = (
                seconds("map", "--dry-run", *at, times=given.times),
                seconds("runs", *at, times=given.times),
                seconds("runs", "--where", "seed=6", *at, times=1),
                seconds("export", f"{folder}/a.parquet", *at, times=1),
            )
            print(f"{size:9}: " + ",  ".join(f"{wall:6.2f} ({core:5.2f})" for wall, core in lines), flush=True)


if __name__ == "__main__":
    main()
