"""Faults, one after the other; each test prints how many it tried. ``LETITGO_FAULTS`` multiplies the counts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import baseline, python, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from letitgo import weights
from letitgo.cli.main import run
from letitgo.errors import BadRequest, WorkFailed
from letitgo.plan import Evaluation
from letitgo.store import Store, open_store
from letitgo.studies.compute import compute
from letitgo.studies.train import Train

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("LETITGO_FAULTS", "1"))
COMMAND = [sys.executable, "-c", "from letitgo.cli.main import main; main()"]
SMALL = ("--epochs", "6", "--widths", "32", "--depth", "3", "--format", "csv", "--workers", "2")
STUDIES: dict[str, tuple[str, ...]] = {
    "map": ("map", "--seeds", "1", "--freeze-at", "0,2", "--report", "none", *SMALL),
    "train": ("train", "--freeze", "fc1", "--freeze-at", "3", "--lr", "0.1,0.05", *SMALL),
    "fraction": ("fraction", "--seeds", "1", "--shares", "1,0.5", "--report", "none", *SMALL),
    "classifier": ("classifier", "--seeds", "1", "--report", "none", *SMALL),
    "transfer": ("map", "--start", '{"data": "digits"}', "--seeds", "1", "--report", "none", *SMALL),
}
STUDY = Train((small_recipe(widths="8", depth=2, epochs=1),))


def states(store: Path) -> dict[Path, Any]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.glob("*/*/**/*.json")}


def finished(store: Path) -> dict[Path, Any]:
    return {path: at for path, at in states(store).items() if path.parent.name != "partial"}


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_kills_of_driver_or_worker_at_random_moments(tmp_path):
    moments, tried = random.Random(int(os.environ.get("LETITGO_SEED", "0"))), {"driver": 0, "worker": 0, "too late": 0}
    for name, arguments in STUDIES.items():
        begin = time.monotonic()
        whole = subprocess.run([*COMMAND, *arguments, "--store", str(tmp_path / name)], capture_output=True, check=True)
        length = time.monotonic() - begin
        for attempt in range(TIMES):
            store = tmp_path / f"{name}-{attempt}"
            process = subprocess.Popen(
                [*COMMAND, *arguments, "--store", str(store)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(moments.uniform(0.3, 1.0) * length)
            workers = children(process.pid)
            if process.poll() is not None:
                tried["too late"] += 1
            elif workers and moments.random() < 0.5:
                os.kill(moments.choice(workers), signal.SIGKILL)
                tried["worker"] += 1
            else:
                os.killpg(process.pid, signal.SIGKILL)
                tried["driver"] += 1
            out, _ = process.communicate()
            assert process.returncode != 0 or out == whole.stdout
            kept = finished(store)
            again = subprocess.run(
                [*COMMAND, *arguments, "--store", str(store)], capture_output=True, check=True, timeout=600
            )
            assert again.stdout == whole.stdout
            assert {path: at for path, at in finished(store).items() if path in kept} == kept
            shutil.rmtree(store)
    print(f"{sum(tried.values())} kills over {len(STUDIES)} studies {tried}: each time the same table")


DRIVER = """
import sys
from helpers import small_recipe
from letitgo.plan import Run
from letitgo.studies.compute import compute
from letitgo.studies.train import Train
train, log = Run._train, open(sys.argv[2], "a", buffering=1)
def noted(self, *args):
    log.write(self.key + "\\n")
    return train(self, *args)
Run._train = noted
study = Train(tuple(small_recipe(epochs=8, seed=seed) for seed in range(10)), ("seed",))
print(compute(study, sys.argv[1], 0).rows)
"""


def test_two_drivers_on_one_store_train_nothing_twice(tmp_path):
    for attempt in range(TIMES):
        log = tmp_path / f"log-{attempt}"
        command = [sys.executable, "-c", DRIVER, str(tmp_path / f"store-{attempt}"), str(log)]
        drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        first, second = (driver.communicate(timeout=600)[0] for driver in drivers)
        assert [driver.returncode for driver in drivers] == [0, 0]
        assert first == second
        trained = log.read_text().split()
        assert len(trained) == len(set(trained)) == 10
    print(f"{TIMES} times two drivers on one store: 10 runs trained once each, equal tables")


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(tmp_path):
    rows = compute(STUDY, tmp_path / "whole").rows
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    tried = 0
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as disk:
        for free in [4096 * n for n in range(0, -(-size // 4096) + 8, 2)]:
            ballast, root = disk / "ballast", disk / "store"
            left = shutil.disk_usage(disk).free
            ballast.write_bytes(bytes(max(0, left - free)))
            told = []
            try:
                outcome = compute(STUDY, root)
                told = [failure.why for failure in outcome.failures]
                assert told or outcome.rows == rows
            except (BadRequest, WorkFailed) as error:
                told = [str(error)]
            assert all(str(disk) in why and "No space left" in why for why in told), told
            ballast.unlink()
            tried += 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nothing half-written is there to be read
                assert compute(STUDY, root).rows == rows
            shutil.rmtree(root)
    print(f"{tried} disks full at another moment each: the error names the path, the next start goes on")


def test_a_read_only_store(tmp_path, capsys):
    source = tmp_path / "store"
    compute(STUDY, source)
    with mounted(tmp_path / "read-only", "--bind", "-o", "ro", str(source)) as root:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=False)
        assert run(["train", "--store", str(root)]) == 2
        assert f"the store {root} cannot be written (Read-only file system)" in capsys.readouterr().err
        value = STUDY.evaluation(STUDY.recipes[0], "test")
        assert value.result(Store(root)) == value.result(Store(source))
        (source / f"{value.address}.json").write_text("?")
        with pytest.warns(UserWarning, match="could not be set aside"):
            assert Store(root).read(value.address, value.key) is None
        assert run(["runs", "--store", str(root)]) == 0


def test_a_store_that_vanishes_and_comes_back(tmp_path):
    recipe = small_recipe(epochs=30)
    final = baseline(recipe).final
    value = Evaluation(final, recipe.dataset, "test")
    tried = 0
    for step in (0, 1, 50, 300):
        store = open_store(tmp_path / f"store-{step}")
        away = tmp_path / f"away-{step}"

        def vanish(now: int, store: Store = store, away: Path = away, step: int = step) -> None:
            if now >= step and store.root.exists() and not away.exists():
                store.root.rename(away)

        if not step:
            vanish(0)
        with pytest.raises(WorkFailed, match=str(store.root)):
            final.run.compute(store, [recipe.steps], vanish, checkpoint_every=0.0)
        assert not store.root.exists()
        away.rename(store.root)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            final.run.compute(store, [recipe.steps])
            value.write(store)
        tried += 1
        assert final.run.folder in final.address
    print(f"{tried} stores vanished: the error names the path, nothing is made in their place, the next start goes on")


def test_every_file_damaged_in_every_way(tmp_path):
    whole = tmp_path / "whole"
    rows = compute(STUDY, whole).rows
    files = sorted(path for path in whole.rglob("*.*") if path.is_file())
    dice, tried = random.Random(0), 0
    for path in files:
        data = path.read_bytes()
        at = dice.randrange(len(data))
        other = next(p for p in (*files, *files) if p != path and (p.suffix == path.suffix or path.suffix != ".json"))
        ways = {
            "truncated": data[: len(data) // 2],
            "bit-flipped": data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :],
            "emptied": b"",
            "swapped": other.read_bytes(),
        }
        for damaged in ways.values():
            root = tmp_path / "store"
            shutil.copytree(whole, root)
            target = root / path.relative_to(whole)
            target.write_bytes(damaged)
            if "states" in path.parts:  # which are read only where something is to be computed from them
                for measure in root.glob("evaluations/*/*.json"):
                    measure.unlink()
            with pytest.warns(UserWarning, match="is damaged"):
                assert compute(STUDY, root).rows == rows
            assert (root / "damaged" / path.relative_to(whole)).read_bytes() == damaged
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert compute(STUDY, root).rows == rows
            shutil.rmtree(root)
            tried += 1
    print(f"{tried} damages of {len(files)} files: each noticed, set aside, computed again")


# fmt: off
OPTIONS = [
    "model", "data", "lr", "epochs", "batch-size", "optimizer", "schedule", "widths", "depth", "seed",
    "seeds", "freeze", "freeze-at", "layers", "blocks", "reinit-at", "store", "workers", "tolerance",
    "statistics", "start", "budget", "shares", "of", "rest", "only", "model-args", "optimizer-args",
    "momentum", "examples", "shift", "where", "label-noise", "page", "rows", "hours", "study", "ray-address",
    "gpus", "on",
]
# fmt: on
# fmt: off
COMMANDS = [
    "map", "train", "inspect", "classifier", "fraction", "align", "reproduce", "runs", "show", "clean",
    "export", "merge", "nonsense",
]
# fmt: on
ODD = [
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "fcn",
    "digits",
    "fc*",
    "!fc1",
    "[",
    "{}",
    '{"a": 1}',
    ",",
    "a,b",
]
ODD += ["os:system", "/", "/dev/null", "..", "none", "sgd", "../../x", "s3://", "nothing://x", "0,0", "1,2", "--"]
odd = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(ODD)
lines = st.builds(
    lambda command, options: [command, *(part for name, value in options for part in (f"--{name}", value))],
    st.sampled_from(COMMANDS),
    st.lists(st.tuples(st.sampled_from(OPTIONS), odd), max_size=4),
)


def test_malformed_requests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "store"))
    compute(STUDY, tmp_path / "store")
    before, codes = finished(tmp_path / "store"), {}

    @settings(max_examples=200 * TIMES)
    @given(line=lines, place=odd)
    def ask(line, place):
        if line[0] in ("show", "export", "merge", "inspect", "reproduce", "nonsense"):
            line = [line[0], place, *line[1:]]
        if line[0] in ("map", "train", "classifier", "fraction", "align", "reproduce"):
            line = [*line, "--dry-run"]
        begin = time.monotonic()
        code = run(line)
        told = capsys.readouterr()
        assert code in (0, 1, 2), line
        assert "Traceback" not in told.err + told.out, line
        assert "nobody foresaw" not in told.err, (line, told.err)
        assert code == 0 or told.err.startswith("letitgo: "), line
        assert time.monotonic() - begin < 120, line
        codes[code] = codes.get(code, 0) + 1

    ask()
    assert {path: at for path, at in finished(tmp_path / "store").items() if path in before} == before
    print(f"{sum(codes.values())} command lines, by exit code {codes}: no traceback, no hang, nothing lost")


def test_what_is_frozen_stays(capsys):
    """Over random networks, choices of what trains, and every optimiser of torch that takes dense gradients."""
    moved = tried = 0
    optimisers = [
        getattr(torch.optim, name)
        for name in sorted(dir(torch.optim))
        if isinstance(getattr(torch.optim, name), type)
        and issubclass(getattr(torch.optim, name), torch.optim.Optimizer)
        and name not in ("Optimizer", "SparseAdam", "LBFGS", "Muon")
    ]

    @settings(max_examples=300 * TIMES)
    @given(
        widths=st.lists(st.integers(1, 5), min_size=2, max_size=5),
        chosen=st.integers(0, 2**12 - 1),
        make=st.sampled_from(optimisers),
        decay=st.sampled_from([0.0, 0.1]),
        norm=st.booleans(),
        keep=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    def law(widths, chosen, make, decay, norm, keep, seed):
        nonlocal moved, tried
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.Tanh()]
        module = nn.Sequential(*layers)
        names = weights.parameter_names(module)
        trains = tuple(name for i, name in enumerate(names) if chosen >> i & 1)
        if not trains:
            return
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        weights.train_only(module, weights.Selection(trains, names), "frozen")
        options = {"weight_decay": decay} if "weight_decay" in make.__init__.__code__.co_varnames else {}
        optimiser = make(weights.trainable(module), **options)
        for _ in range(3):
            module.train()
            optimiser.zero_grad(set_to_none=not keep)
            module(torch.randn(4, widths[0])).square().sum().backward()
            optimiser.step()
        for name, parameter in module.named_parameters():
            if name not in trains:
                moved += int((parameter.detach() != before[name]).sum())
        tried += 1

    law()
    print(f"{tried} networks, {len(optimisers)} optimisers: {moved} frozen weights moved")
    assert moved == 0


def test_files_of_strangers_take_no_more_than_they_declare(tmp_path):
    """A record that declares little beside a file of 2 GB, and heads that promise what is not there."""
    store = open_store(tmp_path / "store")
    final = STUDY.final(STUDY.recipes[0])
    compute(STUDY, store)
    path = store.root / f"{final.address}.safetensors"
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # takes no room on the disk
    script = """
import resource, sys, warnings
from letitgo.store import Store
import letitgo.store.tensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
warnings.simplefilter("ignore")
assert Store(sys.argv[1]).read_tensors(sys.argv[2], sys.argv[3]) is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(python(script, str(store.root), final.address, final.key).stdout)
    assert grown < 20_000, f"{grown} kB"
    assert json.loads((store.root / "damaged" / f"{final.address}.json").read_text())
    print(f"a file of 2 GiB beside a record of another size: {grown} kB more memory")
