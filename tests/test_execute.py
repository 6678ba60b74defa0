"""Where and how often values are computed changes no bit; what goes wrong is named and costs only what needs it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import baseline, bits, freezing, small_recipe

from letitgo import processes
from letitgo.errors import BadRequest
from letitgo.execute import Executor, Progress, executor, plan_jobs
from letitgo.execute.jobs import describe, perform, revive
from letitgo.imports import import_object
from letitgo.plan import Distance, Evaluation, Graft, Initial, Run, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.store.store import DamagedResult


def measures(run: Run) -> list[Stored]:
    """What a small study asks for: runs that rest on each other, grafts, distances."""
    data = run.recipe.dataset
    late = freezing(run, "fc2", start=run.at_epoch(1), begin=run.recipe.steps_per_epoch, resume=True)
    grafted = Graft(run.final, run.recipe.network.layers["fc1"], run.at_epoch(1))
    states = [run.final, freezing(run, "fc1").final, late.final, grafted]
    return [*(Evaluation(state, data, "test") for state in states), Distance(run.final, run.at(0))]


def small(seed: int = 0) -> Run:
    return baseline(small_recipe(widths="8", depth=2, batch_size=128, optimizer="adam", seed=seed))


def results(store: Store, values: list[Stored]) -> list[object]:
    return [value.record(store)["result"] for value in values]


def tensors(store: Store) -> dict[str, dict[str, bytes]]:
    found = {}
    for path in sorted((store.root / "states").rglob("*.json")):
        address = str(path.relative_to(store.root).with_suffix(""))
        key = json.loads(path.read_bytes())[0]["key"]
        found[address] = bits(store.read_tensors(address, key))
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """All values computed in this process."""
    store = Store(tmp_path_factory.mktemp("here"))
    assert Executor(store).compute(measures(small())) == []
    return store


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An executor with two workers that stay: starting a process takes seconds. Each test gives it a store."""
    with Executor(Store(tmp_path_factory.mktemp("kept")), workers=2) as executor:
        yield executor


def untrained(recipe: Recipe, seed: int = 0) -> Evaluation:
    """A value that takes no training."""
    return Evaluation(Initial(recipe.network, seed), recipe.dataset, "test")


def test_workers_stay_within_a_context_and_end_with_it(store, monkeypatch):
    started = []

    class Noted(processes.Process):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(executor, "Process", Noted)
    first, second, third, fourth = [untrained(small_recipe(), seed) for seed in range(4)]
    with Executor(store, workers=1) as kept:
        assert kept.compute([first]) == kept.compute([second]) == []
        assert [process.code for process in started] == [None]
        os.kill(started[0].pid, signal.SIGKILL)
        assert kept.compute([third]) == []
        assert [process.code for process in started] == [-signal.SIGKILL, None]
    assert started[1].code == 0
    assert Executor(store, workers=1).compute([fourth]) == []
    assert [process.code for process in started] == [-signal.SIGKILL, 0, 0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the table of processes in /proc")
def test_the_death_of_the_server_costs_no_job(store):
    parent = os.getpid()
    with Executor(store, workers=1) as kept:
        assert kept.compute([untrained(small_recipe(), 0)]) == []
        [server] = [child for child in children([parent]) if children([child])]
        os.kill(server, signal.SIGKILL)
        assert kept.compute([untrained(small_recipe(), 1)]) == []


ASKING = """
import os
from torch import nn
def make(num_classes):
    if os.getpid() != int(os.environ["DRIVER"]):
        assert os.environ["SET"] == "late", "the environment is not the driver's"
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.mark.parametrize("forked", [True, False])
def test_a_worker_has_the_folder_and_the_environment_of_its_driver(forked, monkeypatch, tmp_path, store):
    processes.Process("letitgo.execute.worker", forked).end()  # the server is up before they change
    (tmp_path / "asking.py").write_text(ASKING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    monkeypatch.setenv("SET", "late")
    monkeypatch.setattr(executor, "Process", lambda main, **_: processes.Process(main, forked))
    assert Executor(store, workers=1).compute([untrained(small_recipe(model="asking:make", widths=None))]) == []


def test_workers_give_the_same_bits(kept, here, store):
    values = measures(small())
    kept.store = store
    assert kept.compute(values) == []
    assert results(store, values) == results(here, values)
    assert tensors(store) == tensors(here)
    assert len(tensors(here)) == 4


def test_threads_give_the_same_bits(tmp_path):
    final = baseline(small_recipe(widths="64")).final
    stores = {threads: Store(tmp_path / f"{threads} threads") for threads in (1, 2)}
    try:
        for threads, store in stores.items():
            torch.set_num_threads(threads)
            assert Executor(store).compute([final]) == []
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert tensors(stores[1]) == tensors(stores[2])


def test_the_second_time_nothing_is_computed(here):
    values = measures(small())
    before = {path: path.stat().st_mtime_ns for path in here.root.rglob("*")}
    assert plan_jobs(values, Store(here.root)) == []
    assert Executor(Store(here.root), workers=2).compute(values) == []
    assert {path: path.stat().st_mtime_ns for path in here.root.rglob("*")} == before


def test_jobs_come_after_what_they_need(store):
    run = small()
    jobs = plan_jobs(measures(run), store)
    trained = [job.run for job in jobs if job.run]
    assert len(trained) == len(set(trained)) == 3
    for i, job in enumerate(jobs):
        assert job.needs <= set(jobs[:i])
        assert job.cost > 0
    assert sum(len(job.values) for job in jobs if not job.run) == 5
    [base] = [job for job in jobs if job.run == run]
    assert {value.step for value in base.values} == {12, 24}


def test_a_shared_baseline_is_trained_once(store):
    steps: list[int] = []
    run = small()
    for job in plan_jobs(measures(run), store):
        perform(job, store, 30.0, steps.append if job.run == run else None)
    assert steps == list(range(1, 25))


def test_a_job_names_a_few_of_many_frozen_layers(store):
    recipe = Recipe(widths="8", depth=8, epochs=1)
    run = Run(Initial(recipe.network, 0), ("fc9.weight", "fc9.bias"), recipe)
    [job] = plan_jobs([run.final], store)
    assert str(job) == "training with fc1, fc2, fc3, fc4, 4 more frozen, seed 0"


def test_a_job_survives_the_way_to_a_worker(store):
    for job in plan_jobs(measures(small()), store):
        assert revive(json.loads(json.dumps(describe(job)))).values == job.values


def test_progress_ends_with_everything_done(kept, store, monkeypatch):
    told: list[Progress] = []
    kept.store = store
    monkeypatch.setattr(kept, "on_progress", told.append)
    kept.compute(measures(small()))
    assert len(told[-1].finished) == told[-1].jobs >= 4
    assert told[-1].done == told[-1].total
    assert told[-1].running == {}
    assert all(0 <= before.done <= after.done for before, after in pairwise(told))


@pytest.mark.parametrize("workers", [0, 1])
def test_progress_counts_the_stages_before(workers, store):
    told: list[Progress] = []
    first, second = measures(small()), measures(small(seed=1))
    with Executor(store, workers=workers, on_progress=told.append) as executor:
        executor.compute(first)
        after_first = told[-1]
        executor.compute([*first, *second])
        assert executor.compute(second) == []
    assert 0 < after_first.jobs < told[-1].jobs == len(told[-1].finished)
    assert after_first.total == after_first.done < told[-1].done == told[-1].total
    for before, after in pairwise(told):
        assert (before.done, len(before.finished), before.jobs) <= (after.done, len(after.finished), after.jobs)
        assert after.finished[: len(before.finished)] == before.finished


@pytest.mark.parametrize("damaged", ["json", "safetensors"])
def test_a_damaged_result_is_computed_again(damaged, here, store):
    values = measures(small())
    Executor(store).compute(values)
    state = small().final
    (store.root / f"{state.address}.{damaged}").write_bytes(b"?")
    for value in values:
        store.remove(value.address)
    with pytest.warns(DamagedResult):
        assert Executor(store).compute(values) == []
    assert results(store, values) == results(here, values)
    assert tensors(store) == tensors(here)


def test_a_damaged_measure_is_computed_again(here, store):
    values = measures(small())
    Executor(store).compute(values)
    (store.root / f"{values[0].address}.json").write_bytes(b"[]")
    with pytest.warns(DamagedResult):
        [job] = plan_jobs(values, store)
    assert job.values == [values[0]]
    assert Executor(store).compute(values) == []
    assert results(store, values) == results(here, values)


def mortal(model: str, marker: Path) -> Recipe:
    args = {"spare": os.getpid(), "marker": str(marker)}
    return small_recipe(model=model, widths=None, model_args=args, epochs=1)


def evaluation(run: Run) -> Evaluation:
    return Evaluation(run.final, run.recipe.dataset, "test")


def test_a_job_whose_worker_is_killed_is_tried_again(store, tmp_path):
    marker = tmp_path / "marker"
    values = [untrained(mortal("helpers:mortal", marker)), untrained(small_recipe())]
    assert Executor(store, workers=1).compute(values) == []
    assert marker.exists()
    assert plan_jobs(values, store) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_that_fails_takes_along_what_needs_it(workers, kept, store):
    bad = baseline(small_recipe(lr=1e30))
    late = freezing(bad, "fc1", start=bad.at_epoch(1), begin=23, resume=True)
    living = evaluation(small())
    executor = kept if workers else Executor(store)
    executor.store = store
    failures = executor.compute([evaluation(bad), evaluation(late), living])
    [failure] = failures
    assert failure.what == "training everything, seed 0"
    assert failure.why.startswith("the loss is not finite by step")
    assert "Traceback" in failure.trace
    assert store.intact(living.address, living.key)
    assert not list(store.under(bad.folder)) or bad.final.address not in store
    assert list(store.under(late.folder)) == []


def test_what_failed_is_not_tried_again_and_keeps_nothing_else_from_being_done(store):
    bad, living = baseline(small_recipe(lr=1e30)), evaluation(small())
    executor = Executor(store)
    assert len(executor.compute([evaluation(bad)])) == 1
    assert executor.compute([evaluation(bad), living]) == []
    assert store.intact(living.address, living.key)
    assert len(Executor(store).compute([evaluation(bad)])) == 1


class TooLong(Exception):
    pass


def patience(seconds: float = 20.0) -> Callable[[Progress], None]:
    end = time.monotonic() + seconds

    def on_progress(progress: Progress) -> None:
        if time.monotonic() > end:
            raise TooLong

    return on_progress


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_cannot_be_started_is_a_failure_and_no_endless_wait(store, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    failures = Executor(store, workers=1, on_progress=patience(5)).compute([evaluation(small())])
    assert len(failures) == 1


DRIVER = """
import sys
from itertools import pairwise
from pathlib import Path
from helpers import baseline, freezing, small_recipe
from letitgo.execute import Executor
from letitgo.store import Store
run = baseline(small_recipe(epochs=100000))
def tell(progress):
    if len(progress.running) == 2 and all(progress.running.values()):
        print("under way", flush=True)
Executor(Store(Path(sys.argv[1])), workers=2, on_progress=tell).compute([run.final, freezing(run, "fc1").final])
"""


def children(parents: Collection[int]) -> dict[int, str]:
    """Process id → start time of the live processes that some processes started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *rest = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(parent) in parents and state != "Z":
            found[int(folder.name)] = rest[17]
    return found


def alive(process: int, started: str) -> bool:
    try:
        state, _, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return False
    return state != "Z" and rest[17] == started


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the table of processes in /proc")
def test_workers_end_with_their_driver_also_where_they_cannot_see_its_end(store):
    program = [sys.executable, "-c", DRIVER, str(store.root)]
    driver = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert driver.stdout.readline() == "under way\n"
        server = children([driver.pid])
        workers = children(server)
        assert len(workers) == 2
        os.kill(next(iter(workers)), signal.SIGSTOP)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    end = time.monotonic() + 10
    both = server | workers
    while (left := [pid for pid, started in both.items() if alive(pid, started)]) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    with driver.stderr as said:
        assert said.read() == ""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the table of processes in /proc")
def test_a_worker_that_always_dies_takes_along_what_it_started_is_named_and_the_others_finish(store, tmp_path):
    dying = evaluation(baseline(mortal("helpers:mortal_parent", tmp_path / "children")))
    living = untrained(small_recipe())
    failures = Executor(store, workers=2, on_progress=patience(60)).compute([dying, living])
    assert [(failure.what, failure.why) for failure in failures] == [
        ("training everything, seed 0", f"its worker died 3 times, last with exit code {-signal.SIGKILL}")
    ]
    assert store.intact(living.address, living.key)
    assert not store.intact(dying.address, dying.key)
    orphans = [int(line) for line in (tmp_path / "children").read_text().split()]
    assert len(orphans) == 3
    end = time.monotonic() + 10
    while any(map(lives, orphans)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(lives, orphans))


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


NAMES = ["queue", "token", "random", "select", "signal", "socket", "torch", "numpy", "letitgo", "sitecustomize"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory whose files have the names of modules, and one a name of its own."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError\n"
        )
    (tmp_path / "colorsys.py").write_text("def rgb_to_hsv(): ...\n")
    (tmp_path / "net_of_this_folder.py").write_text(
        "from torch.nn import Flatten, Linear, Sequential\n"
        "def make(num_classes):\n    return Sequential(Flatten(), Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    sys.modules.pop("net_of_this_folder", None)


def test_workers_import_from_the_working_directory_only_what_is_nowhere_else(folder, store):
    value = untrained(small_recipe(model="net_of_this_folder:make", widths=None))
    assert Executor(store, workers=1).compute([value]) == []
    assert not (folder / "ran").exists()


def test_import_paths_look_in_the_working_directory_last(folder):
    assert inspect.signature(import_object("colorsys:rgb_to_hsv", "function")).parameters
    assert import_object("net_of_this_folder:make", "network")(10)
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize(
    "command", [["train", "--epochs", "1", "--widths", "4", "--workers", "0", "--report", "none"], ["runs"]]
)
def test_the_program_runs_no_file_of_the_working_directory(command, folder, store):
    program = "import sys; sys.path[:1] = []; from letitgo.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (folder / "ran").exists()


SLOW = """
import os, time
from torch import nn
def make(num_classes, seconds):
    if os.environ.get("DRIVER") != str(os.getpid()):
        os.read(0, 1)  # the end of the standard input, not a job
        time.sleep(seconds)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_run_that_exceeds_the_timeout_fails_and_the_others_go_on(tmp_path, monkeypatch, store):
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    recipes = [small_recipe(model="slow:make", widths=None, epochs=1, model_args={"seconds": s}) for s in (60, 0)]
    (failure,) = Executor(store, workers=1, timeout=5).compute([baseline(recipe).final for recipe in recipes])
    assert failure.why == "it took longer than the timeout of 5 s and was ended"
    assert baseline(recipes[1]).final.address in store


@pytest.mark.parametrize(("timeout", "workers"), [(0.0, 1), (float("inf"), 1), (1.0, 0)])
def test_a_timeout_that_cannot_end_anything_is_refused(timeout, workers, store):
    with pytest.raises(BadRequest, match=r"^timeout .*: give"):
        Executor(store, workers, timeout=timeout)
