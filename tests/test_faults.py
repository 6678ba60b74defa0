"""Faults, one after the other; each test prints how many it tried. ``LETITGO_FAULTS`` multiplies the counts."""

from __future__ import annotations

import json
import math
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
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import baseline, python, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import LEAVES, OPTIMIZERS, Case
from networks import step as train_step
from test_hold import outside
from torch import nn

from letitgo import weights
from letitgo.cli.main import app, run
from letitgo.errors import BadRequest, PartlyFailed, WorkFailed
from letitgo.execute.jobs import measure
from letitgo.execute.training import carry_out
from letitgo.plan import Evaluation
from letitgo.store import Store, open_store
from letitgo.studies.compute import compute
from letitgo.studies.train.study import Train
from letitgo.weights import Part

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("LETITGO_FAULTS", "1"))
COMMAND = [sys.executable, "-c", "from letitgo.cli.main import main; main()"]
SMALL = ("--epochs", "4", "--widths", "32", "--depth", "3", "--format", "csv")
ONE = ("--seeds", "1", "--report", "none")
STUDIES: dict[str, tuple[str, ...]] = {
    "map": ("map", "--freeze-at", "0,2", *ONE, *SMALL),
    "train": ("train", "--freeze", "fc1", "--freeze-at", "3", "--lr", "0.1,0.05", *SMALL),
    "fraction": ("fraction", "--shares", "1,0.5", *ONE, *SMALL),
    "classifier": ("classifier", *ONE, *SMALL),
    "finetune": ("finetune", "--pretrained", '{"half": "a"}', "--half", "b", *ONE, *SMALL),
    "ticket": ("ticket", "--levels", "2", *ONE, *SMALL),
    "dimension": ("dimension", "--grid", "20,100", *ONE, *SMALL),
    "carry": ("carry", "--optimizers", "sgd:0.1,adam:0.001", "--levels", "1", *ONE, *SMALL),
    "align": ("align", *ONE, *SMALL),
    "search": ("search", *ONE, *SMALL),
    "advisers": ("advisers", "--seeds", "2", "--report", "none", *SMALL),
    "deep-linear": ("deep-linear", "--steps", "400", *ONE, "--format", "csv"),
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
    tables, lengths = {}, {}
    for attempt in range(TIMES):
        for name, arguments in STUDIES.items():
            command, store = [*COMMAND, *arguments, "--workers"], tmp_path / f"{name}-{attempt}"
            if name not in tables:
                begin, at = time.monotonic(), str(tmp_path / name)
                tables[name] = subprocess.run([*command, "2", "--store", at], capture_output=True, check=True).stdout
                lengths[name] = time.monotonic() - begin
            process = subprocess.Popen(
                [*command, str((2, 1, 0)[attempt % 3]), "--store", str(store)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(moments.uniform(0.3, 1.0) * lengths[name])
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
            assert process.returncode != 0 or out == tables[name]
            kept = finished(store)
            again = subprocess.run([*command, "0", "--store", str(store)], capture_output=True, check=True, timeout=600)
            assert again.stdout == tables[name]
            assert {path: at for path, at in finished(store).items() if path in kept} == kept
            if store.exists():
                shutil.rmtree(store)
        print(f"round {attempt + 1} over {len(STUDIES)} studies, kills {tried}: each time the same table", flush=True)


DRIVER = """
import sys
from helpers import small_recipe
from letitgo.execute import training
from letitgo.studies.compute import compute
from letitgo.studies.train.study import Train
train, log = training._train, open(sys.argv[2], "a", buffering=1)
def noted(run, *args):
    log.write(run.key + "\\n")
    return train(run, *args)
training._train = noted
study = Train(tuple(small_recipe(epochs=8, seed=seed) for seed in range(10)))
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
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", PartlyFailed)
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
        value = STUDY.evaluations(STUDY.recipes[0])["test"]
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
            carry_out(final.run, store, [recipe.steps], on_step=vanish, checkpoint_every=0.0)
        assert not store.root.exists()
        away.rename(store.root)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            carry_out(final.run, store, [recipe.steps])
            measure(value, store)
        tried += 1
        assert final.run.folder in final.address
    print(f"{tried} stores vanished: the error names the path, nothing is made in their place, the next start goes on")


def test_every_file_damaged_in_every_way(tmp_path):
    whole = tmp_path / "whole"
    rows = compute(STUDY, whole).rows
    files = sorted(path for path in whole.glob("*/**/*.*") if path.is_file())
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


PLACES = ("show", "export", "merge", "inspect", "reproduce", "ticket export")
"""Commands that ask for something besides options."""


def commands() -> dict[str, list[str]]:
    """The program's commands and their options, as it tells them itself."""
    apps = {name: app[name] for name in app if not name.startswith("-")} | {"ticket export": app["ticket"]["export"]}
    found = {}
    for name, command in apps.items():
        options = [flag for about in command.assemble_argument_collection() for flag in about.names]
        found[name] = [flag for flag in options if flag.startswith("--") and flag != "--debug"]
    return found | {"nonsense": ["--lr"]}


COMMANDS = commands()
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
ODD += ["sgd:", ":0.1", "sgd:0.1,adam:0.001", "1ep", "99999ep", "-1it", "it", "a=b", "fc*=0.5", "fc1=nan", "2,1", "3,3"]
ODD += ["layer", "global", "both", "initial,zero", "fresh-weights", "frozen,complement", "hadamard", "dense", "a", "b"]
ODD += [
    "a.ticket",
    "damaged.ticket",
    "1x8x8",
    "1x3:int",
    "permute-labels",
    "1",
    "0.5",
    "20,100",
    "99999999",
    "classifier",
]
odd = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(ODD)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with something after it, mostly options of its own."""
    command = draw(st.sampled_from(list(COMMANDS)))
    own, every = COMMANDS[command], sorted({flag for flags in COMMANDS.values() for flag in flags})
    line = command.split()
    if command in PLACES and draw(st.integers(0, 9)):
        line.append(draw(odd))
    for _ in range(draw(st.integers(0, 4))):
        line.append(draw(st.sampled_from(own if draw(st.integers(0, 9)) else every)))
        line += [draw(odd)] if draw(st.integers(0, 5)) else []
    return [*line, "--dry-run"] if "--dry-run" in own else line


def test_malformed_requests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "store"))
    compute(STUDY, tmp_path / "store")
    weights.save_ticket("a.ticket", weights.magnitude_masks(weights.seeded(STUDY.recipes[0].network, 0), 0.5))
    Path("damaged.ticket").write_bytes(Path("a.ticket").read_bytes()[:-1])
    before, codes = finished(tmp_path / "store"), {}

    @settings(max_examples=200 * TIMES)
    @given(line=lines())
    def ask(line):
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


def test_what_is_frozen_stays():
    """Over random networks, every way to choose what trains, and every optimiser; a case is one of each together."""
    tried = held_still = 0
    for seed in range(40 * TIMES):
        dice = random.Random(seed)
        case = Case([random_tree(dice) for _ in range(dice.randint(1, 3))], ())
        module = case.module(seed)
        part = random_part(module, dice, by_entries=dice.random() < 0.5)
        if not any(outside(module, part).values()):
            continue
        for name, make in OPTIMIZERS.items():
            with weights.hold(module, part) as held:
                free = held.parameters()
                if not free or (name == "Muon" and all(p.ndim != 2 for p in free)):
                    continue
                optimizer, before = make(free), outside(module, part)
                for _ in range(2):  # the second with what the first left in the optimiser
                    module.train()
                    train_step(module, optimizer, set_to_none=dice.random() < 0.5)
                assert outside(module, part) == before, (seed, name, case, part)
                held_still += sum(map(len, before.values()))
                tried += 1
    print(f"{tried} cases, of {40 * TIMES} networks and {len(OPTIMIZERS)} optimisers: of {held_still} bytes none moved")


def random_tree(dice: random.Random, depth: int = 2) -> Any:
    if not depth or dice.random() < 0.6:
        return dice.choice(list(LEAVES))
    return [random_tree(dice, depth - 1) for _ in range(dice.randint(1, 3))]


def random_part(module: nn.Module, dice: random.Random, by_entries: bool) -> Part:
    """Of each parameter all or nothing, or else rows or entries of it."""
    whole, masks = [], {}
    for name, parameter in module.named_parameters():
        kind = dice.choice(("whole", "none", "rows", "entries") if by_entries else ("whole", "none"))
        if kind == "whole":
            whole.append(name)
        elif kind != "none":
            shape = (len(parameter), *[1] * (parameter.ndim - 1)) if kind == "rows" else parameter.shape
            flags = torch.tensor([dice.random() < 0.5 for _ in range(math.prod(shape))])
            masks[name] = flags.view(shape).expand(parameter.shape).contiguous()
    return Part(weights.Selection(tuple(whole), weights.parameter_names(module)), masks)


def test_files_of_strangers_take_no_more_than_they_declare(tmp_path):
    """A record that declares little beside a file of 2 GB, and heads that promise what is not there."""
    store = open_store(tmp_path / "store")
    final = STUDY.run(STUDY.recipes[0]).final
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
