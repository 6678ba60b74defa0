"""How long it takes to look at a store of many results: a dry run over it, and the first page of ``runs``.

The results are synthetic: a sixth are states (a record and an empty tensor file in a folder of their own), the rest are
measures of them. Each command is a process of its own, imports included; best of three.
"""

from __future__ import annotations

import argparse
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
        if number % 6 == 0:
            state = f"states/{key[:2]}/{key}/000000690"
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


def seconds(*arguments: str, times: int = 3) -> float:
    """Of the quickest of some processes."""

    def once() -> float:
        begin = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
        return time.perf_counter() - begin

    return min(once() for _ in range(times))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="0,1000,10000,100000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        store, before = Store(Path(folder) / "store"), 0
        store.root.mkdir()
        (store.root / "states").mkdir()
        print(f"{'results':>9}  {'dry run':>8}  {'runs':>8}  {'runs --where':>12}  {'export':>8}   seconds")
        for size in sizes:
            fill(store, before, size)
            before = size
            at = ("--store", str(store.root))
            dry = seconds("map", "--dry-run", *at)
            page = seconds("runs", *at)
            chosen = seconds("runs", "--where", "seed=6", *at, times=1)
            table = seconds("export", f"{folder}/a.parquet", *at, times=1)
            print(f"{size:9}  {dry:8.2f}  {page:8.2f}  {chosen:12.2f}  {table:8.2f}", flush=True)


if __name__ == "__main__":
    main()
