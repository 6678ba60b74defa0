"""Computing values on Ray: the same jobs, done by the same code, placed by Ray, waiting for one another as its futures.

What travels are descriptions and outcomes; states go through the store, so every node must reach it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.execute.executor import TRIES, Board, Executor, OnProgress
from letitgo.execute.jobs import Job, answer
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.training.place import CPU, Place

WINDOW = 1000
"""Jobs handed to Ray at once, so that the driver holds no more however long the study is."""
INTERVAL = 1.0
"""Seconds between two reports of progress of a job."""
CONNECT = 10.0
"""Seconds that a cluster has to answer in."""
RESIDENT = 640 << 20
"""Bytes that a worker takes before it has a network: Python, torch and the libraries of data, measured."""
COPIES = 6
"""Times a network's weights are held in training: weights, gradients, two moments, and two states being written."""


class RayExecutor(Executor):
    """Computes values into a store, on a Ray cluster.

    A job whose worker or node is lost is tried again elsewhere, from its last state in the store.

    Args:
        store: Where results are read and written: a URL or a folder that every node sees under the same name.
        address: Of the cluster, as ``ray.init`` takes it; else ``$RAY_ADDRESS``, else Ray is started on this machine.
        workers: Cores that a Ray started here uses; all by default.
        checkpoint_every: Seconds between states from which a killed run goes on.
        on_progress: Called now and then while work is under way.
        place: Where each job computes. A job reserves as many cores as it has threads.
        gpus: Share of a GPU, at most 1, that a job reserves; 1 by default where the place is ``cuda``.
    """

    def __init__(
        self,
        store: Store,
        address: str | None = None,
        workers: int | None = None,
        checkpoint_every: float = 30.0,
        on_progress: OnProgress | None = None,
        place: Place = CPU,
        gpus: float | None = None,
    ) -> None:
        place, self.gpus = on_ray(place, gpus)
        super().__init__(store, 0, checkpoint_every, on_progress, place)
        self._address, self._cores = address, workers

    def _check_place(self, place: Place) -> None:
        """Nothing: other machines have the device."""

    def _carry_out(self, board: Board) -> None:
        ray = _connected(self._address, self._cores)
        sender = _Sender(ray, self, board)
        reported = 0.0
        try:
            while not board.over():
                sender.send()
                sender.receive()
                if self.on_progress is not None and time.monotonic() - reported > INTERVAL / 2:
                    sender.read_reports()
                    board.report()
                    reported = time.monotonic()
            board.report()
        finally:
            sender.cancel()

    def needs_of(self, job: Job) -> dict[str, float]:
        """What Ray is to set aside for a job."""
        size = 0 if job.run is None else COPIES * _weight_bytes(job.run.recipe.network)
        return {"num_cpus": self.place.threads, "num_gpus": self.gpus, "memory": RESIDENT + size}

    def request(self, job: Job) -> dict[str, Any]:
        """What a worker is told."""
        passed = ("LETITGO_DATA", "LETITGO_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE")
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        return {**self._request(job), "environment": environment, "folder": os.getcwd()}


def on_ray(place: Place, gpus: float | None) -> tuple[Place, float]:
    """The place of jobs on Ray, and the share of a GPU that each reserves: one asks for the other.

    Raises:
        BadRequest: They do not fit, or a GPU is named by number.
    """
    gpus = float(place.kind == "cuda") if gpus is None else gpus
    if not 0 <= gpus <= 1 or (place.device == "cuda" and not gpus):
        raise BadRequest(f"gpus is {gpus:g}: give a share of the GPU that a job computes on, above 0 and at most 1")
    if place.device not in ("cpu", "cuda"):
        raise BadRequest(f"device is {place.device!r}: on Ray give cpu or cuda, and Ray says which GPU")
    return (replace(place, device="cuda") if gpus else place), gpus


class _Sender:
    """The jobs that Ray has."""

    def __init__(self, ray: Any, executor: RayExecutor, board: Board) -> None:
        self._ray, self._executor, self._board = ray, executor, board
        self._refs: dict[Job, Any] = {}
        # With a GPU a process does one job: it cannot go over to another GPU, and keeps memory of its own.
        self._work = ray.remote(max_calls=1)(work) if executor.gpus else ray.remote(work)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._largest = max(node.get("memory", 0) for node in nodes)
        if executor.gpus > max(node.get("GPU", 0) for node in nodes):
            raise BadRequest("no machine of the cluster has a GPU: leave out device cuda and gpus")
        self._reports = _reports(ray) if executor.on_progress is not None else None

    def send(self) -> None:
        """Hand over what can be, the most urgent first; a job waits for what it needs where Ray has that too."""
        while len(self._refs) < WINDOW and (job := self._board.send()):
            needs = self._executor.needs_of(job)
            needs["memory"] = min(needs["memory"], self._largest)  # what no node has would be waited for for ever
            task = self._work.options(max_retries=TRIES - 1, name=str(job), **needs)
            before = [self._refs[need] for need in job.needs if need in self._refs]
            self._refs[job] = task.remote(self._executor.request(job), self._reports, *before)

    def receive(self) -> None:
        """Note what has come back."""
        refs = list(self._refs.values())
        if not refs:
            time.sleep(0.1)
            return
        ready = set(self._ray.wait(refs, num_returns=len(refs), timeout=0.1)[0])
        for job in [job for job, ref in self._refs.items() if ref in ready]:
            self._note(job, self._refs.pop(job))

    def _note(self, job: Job, ref: Any) -> None:
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            if self._board.hopeless(job):
                self._board.forget(job)
            else:
                why = f"its worker or node was lost {TRIES} times, last with {type(error).__name__}"
                self._board.fail(job, why, str(error))
            return
        if "skipped" in outcome:
            self._board.forget(job)
        elif "error" in outcome:
            self._board.fail(job, outcome["error"], outcome["trace"])
        elif outcome["done"]:
            self._board.finish(job)
        else:
            self._board.postpone(job)

    def read_reports(self) -> None:
        """Note how far the jobs under way are, and where they run."""
        assert self._reports is not None
        with suppress(self._ray.exceptions.RayError, TimeoutError):
            news = self._ray.get(self._reports.read.remote(), timeout=1)
            for job in self._refs:
                if job.key in news:
                    self._board.step(job, *news[job.key])

    def cancel(self) -> None:
        """End what is under way; its states up to now are in the store."""
        for ref in self._refs.values():
            with suppress(Exception):
                self._ray.cancel(ref, force=True)
        if self._reports is not None:
            with suppress(Exception):
                self._ray.kill(self._reports)


class _Reports:
    """An actor beside the driver: workers report to it how far they are, and the driver asks."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, str]] = {}

    def note(self, key: str, step: int, host: str) -> None:
        self._news[key] = step, host

    def read(self) -> dict[str, tuple[int, str]]:
        news, self._news = self._news, {}
        return news


def work(request: dict[str, Any], reports: Any, *before: dict[str, Any]) -> dict[str, Any]:
    """A task: one job, in a worker of the cluster.

    Args:
        request: What the driver tells of the job.
        reports: Where progress is reported, or None.
        before: Outcomes of the jobs that this one needs: waiting for them is left to Ray.
    """
    if any("error" in outcome or "skipped" in outcome for outcome in before):
        return {"skipped": True}
    if not all(outcome["done"] for outcome in before):
        return {"done": False}
    os.environ.update(request["environment"])
    with suppress(OSError):  # another machine may not have it
        os.chdir(request["folder"])
    return answer(request, _teller(request["key"], reports) if reports is not None else None)


def _teller(key: str, reports: Any) -> Callable[[int], None]:
    host, last = socket.gethostname(), time.monotonic()
    reports.note.remote(key, 0, host)

    def on_step(step: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > INTERVAL:
            last = now
            reports.note.remote(key, step, host)

    return on_step


def _reports(ray: Any) -> Any:
    from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
        NodeAffinitySchedulingStrategy,
    )

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(_Reports).options(num_cpus=0, scheduling_strategy=here).remote()


def _connected(address: str | None, cores: int | None) -> Any:
    """Ray, connected to a cluster, or started here.

    Raises:
        BadRequest: It is not installed, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadRequest("--on ray needs Ray, which is not installed: install letitgo[ray]") from error
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _listens(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"include_dashboard": False, "num_cpus": cores}
    try:
        with _empty_folder():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise BadRequest(f"no Ray answers at {address} ({why}): see to --ray-address or RAY_ADDRESS") from error
    return ray


@contextmanager
def _empty_folder() -> Iterator[None]:
    """Work in an empty folder: Ray puts the one it starts in first on the workers' import path."""
    before = os.getcwd()
    os.chdir(_nothing_in_it())
    try:
        yield
    finally:
        os.chdir(before)


@cache
def _nothing_in_it() -> str:
    folder = tempfile.mkdtemp(prefix="letitgo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _listens(address: str) -> None:
    """See that somebody is at HOST:PORT, for which Ray itself would wait for minutes.

    Raises:
        BadRequest: Nobody is.
    """
    host, mark, port = address.removeprefix("ray://").rpartition(":")
    if not mark:
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BadRequest(f"no Ray answers at {address} ({error}): see to --ray-address or RAY_ADDRESS") from error


def disconnect() -> None:
    """Let go of Ray: its threads write to stdout when a node is lost, also after the work is done."""
    import ray

    ray.shutdown()


@lru_cache(maxsize=64)
def _weight_bytes(network: Network) -> int:
    return sum(p.numel() * p.element_size() for p in weights.seeded(network, 0).parameters())
