"""Computing values: jobs handed to workers as soon as what they need is there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from letitgo.errors import BadRequest
from letitgo.execute.jobs import Job, describe, perform, plan_jobs, sentence
from letitgo.plan import Stored
from letitgo.processes import FORKS, Process
from letitgo.store import Store
from letitgo.training.place import CPU, Place

POLL = 1.0
"""Seconds after which is looked again whether somebody else is through with a job."""
TRIES = 3
"""How often a job is started whose worker dies."""


@dataclass(frozen=True)
class Failure:
    """A job that did not come through.

    Attributes:
        what: The job in words.
        why: One sentence.
        trace: The traceback, where there is one.
    """

    what: str
    why: str
    trace: str = ""


@dataclass
class Progress:
    """What is told while jobs are under way; costs in floating-point operations.

    Jobs are those of all calls of an executor so far, such as the stages of a study.

    Attributes:
        total: Of all jobs.
        done: Of finished jobs and finished steps.
        jobs: Number of jobs.
        finished: The jobs that came through, in order.
        running: For each job under way its share that is done.
        where: For each job under way on a cluster the machine it runs on.
    """

    total: int
    jobs: int
    done: float = 0.0
    finished: list[Job] = field(default_factory=list)
    running: dict[Job, float] = field(default_factory=dict)
    where: dict[Job, str] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


class Executor:
    """Computes values into a store, in this process or in worker processes.

    Within ``with executor:`` the processes stay from one call of :meth:`compute` to the next.

    Args:
        store: Where results are read and written.
        workers: Number of worker processes; 0 computes in this process.
        checkpoint_every: Seconds between states from which a killed run goes on.
        on_progress: Called now and then while work is under way.
        place: Where each job computes; worker processes share out all GPUs where it is ``cuda``.
        timeout: Seconds after which a worker at one job is ended, and the job has failed; no limit by default.

    Raises:
        BadRequest: A timeout is given and there are no worker processes, or it is not positive; or this machine lacks
            the place's device.
    """

    def __init__(
        self,
        store: Store,
        workers: int = 0,
        checkpoint_every: float = 30.0,
        on_progress: OnProgress | None = None,
        place: Place = CPU,
        timeout: float | None = None,
    ) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise BadRequest(f"timeout is {timeout}: give a positive number of seconds")
        if timeout is not None and workers < 1:
            raise BadRequest("timeout ends worker processes: give workers of 1 or more")
        self._check_place(place)
        self.store = store
        self.workers = workers
        self.checkpoint_every = checkpoint_every
        self.on_progress = on_progress
        self.place = place
        self.timeout = timeout
        self.owner = secrets.token_hex(8)
        self._failed: set[str] = set()
        self._progress = Progress(0, 0)
        self._idle: list[_Worker] = []
        self._stays = False

    def _check_place(self, place: Place) -> None:
        place.check()

    def __enter__(self) -> Executor:
        self._stays = True
        return self

    def __exit__(self, *_: object) -> None:
        self._stays = False
        self._end_idle()

    def compute(self, values: Iterable[Stored]) -> list[Failure]:
        """Compute what the store does not hold of these values, and what they need.

        A worker that dies costs its own job, which is tried again. A job that fails takes along those that need it;
        everything else is finished. What failed once is not tried again by this executor.

        Returns:
            What failed; empty where everything is in the store now.
        """
        jobs = plan_jobs(values, self.store)
        hopeless = _with_dependents({job for job in jobs if job.key in self._failed}, jobs)
        jobs = [job for job in jobs if job not in hopeless]
        if not jobs:
            return []
        board = Board(jobs, self.on_progress, self._progress)
        self._carry_out(board)
        self._progress = board.progress
        self._failed |= board.failed
        return board.failures

    def _carry_out(self, board: Board) -> None:
        count = min(self.workers, board.jobs)
        if count == 0:
            self._here(board)
            return
        places = self.place.spread(count)
        threads = [threading.Thread(target=self._serve, args=(board, place), daemon=True) for place in places]
        for thread in threads:
            thread.start()
        try:
            board.watch()
        finally:
            board.close()
            for thread in threads:
                thread.join()
            if not self._stays:
                self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _request(self, job: Job, place: Place | None = None) -> dict[str, Any]:
        """What a worker is told: nothing but JSON."""
        about = {
            "store": str(self.store.root),
            "recompute_other_versions": self.store.recompute_other_versions,
            "checkpoint_every": self.checkpoint_every,
            "owner": self.owner,
        }
        return {"job": describe(job), "key": job.key, "place": dataclasses.asdict(place or self.place), **about}

    def _here(self, board: Board) -> None:
        while (job := board.take()) is not None:
            try:
                on_step = functools.partial(board.step, job)
                done = perform(job, self.store, self.checkpoint_every, on_step, self.owner, self.place)
            except (Exception, SystemExit) as error:
                board.fail(job, sentence(error), traceback.format_exc())
            else:
                board.finish(job) if done else board.postpone(job)
            board.report()

    def _serve(self, board: Board, place: Place) -> None:
        """One thread: it keeps one worker process, and feeds it."""
        worker = self._idle.pop() if self._idle else None
        try:
            while (job := board.take()) is not None:
                try:
                    worker = worker or _Worker(place)
                    worker = self._hand_over(job, worker, board)
                except Exception as error:
                    board.fail(job, sentence(error), traceback.format_exc())
        finally:
            if worker is not None:
                self._idle.append(worker)

    def _hand_over(self, job: Job, worker: _Worker, board: Board) -> _Worker | None:
        """Have a job done by the worker, or by another one where it dies; gives the worker that is left."""
        request = self._request(job, worker.place)
        code = 0
        for tries in range(TRIES):
            worker = _Worker(worker.place) if tries else worker
            outcome = worker.ask(request, board, functools.partial(board.step, job), self.timeout)
            if outcome is not None and "late" in outcome:
                worker.end()
                board.fail(job, f"it took longer than the timeout of {self.timeout:g} s and was ended")
                return None
            if outcome is not None:
                if "error" in outcome:
                    board.fail(job, outcome["error"], outcome["trace"])
                else:
                    board.finish(job) if outcome["done"] else board.postpone(job)
                return worker
            code = worker.end()
            if board.closed:
                return None
        board.fail(job, f"its worker died {TRIES} times, last with exit code {code}")
        return None


class Board:
    """The jobs, and who is at which. The only thing the threads share.

    Args:
        jobs: What is to be done.
        on_progress: Called now and then.
        before: How far earlier jobs have got, which are counted too.

    Attributes:
        jobs: Number of jobs.
        failures: What did not come through.
        failed: Keys of those jobs.
        closed: Whether the work was called off.
    """

    def __init__(self, jobs: list[Job], on_progress: OnProgress | None, before: Progress | None = None) -> None:
        self.failures: list[Failure] = []
        self.failed: set[str] = set()
        self.closed = False
        self.jobs = len(jobs)
        self._on_progress = on_progress
        self._sent: set[Job] = set()
        self._waiting = list(jobs)
        self._urgency = _urgency(jobs)
        self._finished: set[Job] = set()
        self._not_before: dict[Job, float] = {}
        self._changed = threading.Condition()
        before = before or Progress(0, 0)
        total = before.total + sum(job.cost for job in jobs)
        self._progress = Progress(total, before.jobs + len(jobs), before.done, list(before.finished))

    def take(self) -> Job | None:
        """The most urgent job that is ready, waiting for one if need be; None when there is nothing left."""
        with self._changed:
            while self._waiting and not self.closed:
                now = time.monotonic()
                ready = [j for j in self._waiting if j.needs <= self._finished and self._not_before.get(j, 0) <= now]
                if ready:
                    job = max(ready, key=self._urgency.__getitem__)
                    self._waiting.remove(job)
                    self._progress.running[job] = 0.0
                    return job
                self._changed.wait(timeout=POLL if self._not_before else None)
            return None

    def send(self) -> Job | None:
        """The most urgent job that waits for nothing but jobs sent before; None where there is none just now."""
        with self._changed:
            now, there = time.monotonic(), self._finished | self._sent
            ready = [j for j in self._waiting if j.needs <= there and self._not_before.get(j, 0) <= now]
            if not ready:
                return None
            job = max(ready, key=self._urgency.__getitem__)
            self._waiting.remove(job)
            self._sent.add(job)
            return job

    def step(self, job: Job, steps: int, host: str = "") -> None:
        run = job.run
        with self._changed:
            self._progress.running[job] = steps / max(1, run.recipe.steps - run.begin) if run else 0.0
            if host:
                self._progress.where[job] = host

    def finish(self, job: Job) -> None:
        with self._changed:
            self._finished.add(job)
            self._progress.finished.append(job)
            self._drop(job)

    def postpone(self, job: Job) -> None:
        """Put a job back that somebody else is at: it is looked at again after a while, and others go first."""
        with self._changed:
            self._leave(job)
            self._not_before[job] = time.monotonic() + POLL
            self._waiting.append(job)
            self._changed.notify_all()

    def fail(self, job: Job, why: str, trace: str = "") -> None:
        """Note a failure, and give up what needs the job."""
        with self._changed:
            self.failures.append(Failure(str(job), why, trace))
            self.failed.add(job.key)
            lost = _with_dependents({job}, self._waiting)
            self._waiting = [other for other in self._waiting if other not in lost]
            self._drop(job)

    @property
    def progress(self) -> Progress:
        """How far the jobs have got, and those before them."""
        with self._changed:
            now = self._progress
            under_way = sum(job.cost * share for job, share in now.running.items())
            return Progress(
                now.total, now.jobs, now.done + under_way, list(now.finished), dict(now.running), dict(now.where)
            )

    def report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def watch(self) -> None:
        """Wait for the end, telling of the progress meanwhile."""
        while True:
            with self._changed:
                over = self.over()
                if not over:
                    self._changed.wait(timeout=0.1)
            self.report()
            if over:
                return

    def over(self) -> bool:
        """Whether nothing waits or is under way."""
        return not (self._waiting or self._sent or self._progress.running)

    def hopeless(self, job: Job) -> bool:
        """Whether something failed that the job needs."""
        return any(need.key in self.failed for need in job.needs)

    def forget(self, job: Job) -> None:
        """Give up a job that was sent before what it needs had failed."""
        with self._changed:
            self.failed.add(job.key)
            self._leave(job)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _drop(self, job: Job) -> None:
        self._progress.done += job.cost
        self._leave(job)
        self._changed.notify_all()

    def _leave(self, job: Job) -> None:
        self._progress.running.pop(job, None)
        self._progress.where.pop(job, None)
        self._sent.discard(job)


class _Worker:
    """A worker process, spoken to by one thread; it stays at one place, for a GPU keeps memory for each process."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process = Process("letitgo.execute.worker", forked=place.kind == "cpu" and FORKS)
        self._replies: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(
        self, request: dict[str, Any], board: Board, on_step: Callable[[int], None], timeout: float | None
    ) -> dict[str, Any] | None:
        """Hand over a job and wait for its outcome; None where the process died or the work was called off.

        An outcome ``late`` stands for a job that is not through after ``timeout`` seconds.
        """
        end = math.inf
        try:
            self._process.send(json.dumps(request))
        except OSError:
            return None
        while not board.closed:
            dead = self._process.code is not None
            if time.monotonic() > end:
                return {"late": True}
            try:
                reply = self._replies.get(timeout=0.1)
            except queue.Empty:
                if dead:  # and nothing is left to read, though a process that it started may hold the socket
                    return None
                continue
            if reply is None or "step" not in reply:
                return reply
            if timeout is not None and reply["step"] == 0:  # the process is up
                end = time.monotonic() + timeout
            on_step(reply["step"])
        return None

    def end(self) -> int:
        """End the process, in the middle of a job if it is at one, and what it started; give its exit code."""
        return self._process.end()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # the driver does not listen any more
            for line in self._process.lines():
                with contextlib.suppress(ValueError):  # a line cut off by the death of its writer
                    self._replies.put(json.loads(line))
        self._replies.put(None)


def _with_dependents(lost: set[Job], jobs: list[Job]) -> set[Job]:
    """These jobs and all that need them, directly or not."""
    while more := {job for job in jobs if job.needs & lost} - lost:
        lost = lost | more
    return lost


def _urgency(jobs: list[Job]) -> dict[Job, int]:
    """Each job's cost and that of the longest chain of jobs that wait for it: the longest chain goes first."""
    urgency: dict[Job, int] = {}
    for job in reversed(jobs):
        urgency[job] = urgency.get(job, 0) + job.cost
        for need in job.needs:
            urgency[need] = max(urgency.get(need, 0), urgency[job])
    return urgency


def default_workers(place: Place = CPU) -> int:
    """As many as there are cores to run on, or GPUs."""
    if place.kind != "cpu":
        return torch.cuda.device_count() if place.device == "cuda" else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
