"""A study on Ray is the same study: on this machine, on two nodes, with a node lost in the middle."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import baseline, complaints, freezing, small_recipe

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute import plan_jobs
from letitgo.execute.cluster import RayExecutor
from letitgo.execute.executor import Board
from letitgo.plan import Evaluation
from letitgo.store import Store

COMMAND = [sys.executable, "-c", "from letitgo.cli.main import main; main()"]
SMALL = ("--seeds", "2", "--widths", "32", "--depth", "3", "--epochs", "6", "--report", "none", "--format", "csv")
MAP = ("map", *SMALL)
SEARCH = ("search", "--tolerance", "12", *SMALL)
TICKET = ("ticket", "--levels", "2", *SMALL)


def test_the_address_of_a_cluster_without_on_ray_is_a_bad_request(capsys):
    assert run(["train", "--ray-address", "127.0.0.1:1"]) == 2
    assert "add --on ray" in capsys.readouterr().err


def test_jobs_are_sent_after_what_they_need(store):
    base = baseline(small_recipe())
    late = freezing(base, "fc1", start=base.at_epoch(1), begin=23, resume=True)
    board = Board(plan_jobs([Evaluation(r.final, r.recipe.dataset, "test") for r in (base, late)], store), None)
    sent = []
    while job := board.send():
        assert job.needs <= set(sent)
        sent.append(job)
    assert len(sent) == board.jobs == 4
    assert not board.over()
    first, second, *rest = sent
    assert (first.run, second.run) == (base, late)
    board.postpone(second)
    assert board.send() is None  # not before a while
    board.finish(first)
    board.fail(second, "lost")
    for job in rest:
        board.forget(job) if board.hopeless(job) else board.finish(job)
    assert board.over()
    assert [failure.why for failure in board.failures] == ["lost"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_told_at_once(address, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(BadRequest, match=f"no Ray answers at {address}"):
        RayExecutor(Store(tmp_path), address).compute([baseline(small_recipe()).final])


def here(store: Path, study: tuple[str, ...] = MAP) -> str:
    """The table of an undisturbed run in one process."""
    command = [*COMMAND, *study, "--workers", "0", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, Path]:
    """The undisturbed map, and its store."""
    store = tmp_path_factory.mktemp("whole") / "store"
    return here(store), store


def start(store: Path | str, *more: str, study: tuple[str, ...] = MAP) -> subprocess.Popen[str]:
    command = [*COMMAND, *study, "--on", "ray", "--store", str(store), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def states(store: Path) -> dict[Path, Any]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.glob("states/*/*/*.json")}


def wait_for(store: Path, count: int, process: subprocess.Popen[str], patience: float = 400.0) -> None:
    end = time.monotonic() + patience
    while len(states(store)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_a_study_on_a_local_ray_is_the_same(whole, tmp_path):
    process = start(tmp_path / "store", "--workers", "2")
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out, complaints(err)) == (0, whole[0], "")
    assert {p.relative_to(tmp_path / "store") for p in states(tmp_path / "store")} == {
        p.relative_to(whole[1]) for p in states(whole[1])
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_a_search_on_a_local_ray_is_the_same(tmp_path):
    alone = here(tmp_path / "alone", SEARCH)
    process = start(tmp_path / "store", "--workers", "2", study=SEARCH)
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (0, alone), err
    assert {p.relative_to(tmp_path / "store") for p in states(tmp_path / "store")} == {
        p.relative_to(tmp_path / "alone") for p in states(tmp_path / "alone")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_workers_on_ray_import_from_the_working_directory_only_what_is_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("queue", "token", "select", "torch", "numpy", "letitgo"):
        Path(f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError\n")
    Path("net_of_this_folder.py").write_text(
        "from torch.nn import Flatten, Linear, Sequential\n"
        "def make(num_classes):\n"
        "    open('net_of_this_folder.py').close()\n"
        "    return Sequential(Flatten(), Linear(64, num_classes))\n"
    )
    program = "import sys; sys.path[:1] = []; from letitgo.cli.main import main; main()"
    options = ("--model", "net_of_this_folder:make", "--epochs", "1", "--on", "ray", "--workers", "1")
    command = [sys.executable, "-c", program, "train", *options, "--store", "s", "--report", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, complaints(done.stderr)) == (0, "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_what_fails_on_ray_is_named_and_the_rest_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "store"))
    train = ("train", "--epochs", "1", "--widths", "8", "--format", "json", "--on", "ray", "--workers", "2")
    done = subprocess.run(
        [*COMMAND, *train, "--lr", "0.1,1e30"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 1
    assert [row["lr"] for row in json.loads(done.stdout)["rows"]] == [0.1]
    assert "letitgo: failed: training everything, seed 0: the loss is not finite by step" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_an_interrupt_ends_the_remote_work_and_keeps_what_is_done(whole, tmp_path):
    store = tmp_path / "store"
    process = start(store, "--workers", "2")
    wait_for(store, 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, "")
    assert "interrupted; finished results are in the store" in err
    kept = states(store)
    time.sleep(2)
    assert states(store) == kept  # nobody goes on
    assert here(store) == whole[0]
    assert {path: now for path, now in states(store).items() if path in kept} == kept


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
@pytest.mark.parametrize("study", [MAP, TICKET], ids=["map", "ticket"])
def test_a_node_that_is_lost_costs_nothing_that_was_finished(study, tmp_path):
    from ray.cluster_utils import Cluster

    store, whole = tmp_path / "store", here(tmp_path / "whole", study)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        process = start(store, "--ray-address", cluster.address, study=study)
        wait_for(store, 4, process)
        finished = states(store)
        cluster.remove_node(node, allow_graceful=False)
        out, err = process.communicate(timeout=500)
    finally:
        cluster.shutdown()
    assert (process.returncode, out) == (0, whole), err  # on stderr Ray may tell of the node
    assert {path: now for path, now in states(store).items() if path in finished} == finished
    total = len(states(store))
    assert len(finished) < total
    told = f"killed after {len(finished)} of {total} states: same table, none of these computed again"
    print(f"{study[0]}: 1 node of 2 {told}")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_through_s3_and_ray_the_table_is_the_same(whole, monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    from s3_stub import make_bucket, s3

    with s3() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        make_bucket("bucket")
        process = start("s3://bucket/store", "--workers", "2")
        out, err = process.communicate(timeout=500)
        assert (process.returncode, out, complaints(err)) == (0, whole[0], "")
        assert not list(Store("s3://bucket/store").files.walk("claims"))
    assert len(list(csv.DictReader(io.StringIO(out)))) > 5
