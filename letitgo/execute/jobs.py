"""From values to jobs: what is missing in the store, grouped by the run that yields it."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from letitgo.errors import LetItGoError
from letitgo.execute.record import provenance
from letitgo.execute.training import carry_out
from letitgo.imports import arguments
from letitgo.plan import At, Choice, Measure, Run, Stored, Subspace, stored_inputs
from letitgo.plan.shared import forget
from letitgo.plan.states import read_once
from letitgo.store import Store, claimed
from letitgo.training.place import CPU, Place
from letitgo.value import dump, load

MEASURES = 8
"""Measures of one kind of need that are handed to a worker at once: each takes milliseconds, a message costs one."""

NAMES = 4
"""Names of frozen modules that a job's own name lists."""


@dataclass(eq=False)
class Job:
    """What one worker does at a time: the states of one run, or some measures that need the same results.

    Attributes:
        values: Points of one run, or measures.
        needs: Jobs to be finished before.
        cost: Floating-point operations, counted.
    """

    values: list[Stored]
    needs: set[Job] = field(default_factory=set)
    cost: int = 0

    @property
    def run(self) -> Run | None:
        """The run to train; None for measures."""
        first = self.values[0]
        return first.run if isinstance(first, At) else None

    @property
    def key(self) -> str:
        """Key of the run, or of the first measure."""
        run = self.run
        return self.values[0].key if run is None else run.key

    def __str__(self) -> str:
        run = self.run
        if run is None:
            return f"measuring ({len(self.values)})"
        frozen = [name for names in run.recipe.network.layers.values() for name in names if name not in run.moves]
        what = "training everything"
        if frozen:
            owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in frozen))
            if len(owners) > NAMES + 1:
                owners[NAMES:] = [f"{len(owners) - NAMES} more"]
            what = f"training with {', '.join(owners)} frozen"
        if isinstance(run.trains, Subspace):
            what = f"training in {run.trains.d:,} dimensions"
        elif isinstance(run.trains, Choice):
            what = "training single weights"
        since = f" from step {run.begin}" if run.begin else ""
        return f"{what}{since}, seed {run.recipe.seed}"


def plan_jobs(values: Iterable[Stored], store: Store | None, check: bool = True) -> list[Job]:
    """The jobs that are left to do for these values, in an order that respects what they need.

    Args:
        values: What is wanted.
        store: What is there already is not done again; None is an empty one.
        check: Read what is there and set damaged results aside; otherwise only look whether it is there, unless results
            of other versions are computed again.
    """
    check = check or (store is not None and store.recompute_other_versions)
    runs: dict[str, Job] = {}
    measures: dict[frozenset[Job], list[Job]] = {}
    jobs: dict[Stored, Job | None] = {}
    order: list[Job] = []

    def visit(value: Stored) -> Job | None:
        if value in jobs:
            return jobs[value]
        if store and (store.intact(value.address, value.key) if check else value.address in store):
            jobs[value] = None
            return None
        inputs = sorted(stored_inputs(value), key=lambda stored: stored.key)
        needs = {job for stored in inputs if (job := visit(stored))}
        if isinstance(value, At):
            job = runs.get(value.run.key)
            if job is None:
                job = runs[value.run.key] = Job([], cost=value.run.cost())
                order.append(job)
        else:
            assert isinstance(value, Measure)
            group = measures.setdefault(frozenset(needs), [])
            if not group or len(group[-1].values) >= MEASURES:
                group.append(Job([]))
                order.append(group[-1])
            job = group[-1]
            job.cost += value.cost()
        job.values.append(value)
        job.needs |= needs
        jobs[value] = job
        return job

    for value in values:
        visit(value)
    return order


def describe(job: Job) -> dict[str, Any]:
    """A job as JSON, without what it needs: what travels to a worker."""
    return dump(job.values)


def revive(description: dict[str, Any]) -> Job:
    """The job that :func:`describe` wrote.

    Raises:
        ValueError: A value reads as another one here.
    """
    return Job([value for value in load(description) if isinstance(value, Stored)])


def perform(
    job: Job,
    store: Store,
    checkpoint_every: float,
    on_step: Callable[[int], None] | None = None,
    owner: str | None = None,
    place: Place = CPU,
) -> bool:
    """Compute what a job stands for and write it to the store, unless somebody else is at it.

    Args:
        job: What to do.
        store: Where its inputs are and its results go.
        checkpoint_every: Seconds between states from which a killed run goes on.
        on_step: Called with the number of steps done since the run's beginning.
        owner: On whose behalf; claims that it left behind are taken over.
        place: Where to compute.

    Returns:
        Whether all of it is in the store now; otherwise somebody else is at the rest.

    Raises:
        WorkFailed: It does not come through.
    """
    owner = owner or secrets.token_hex(8)
    run = job.run
    if run is not None:
        steps = [value.step for value in job.values if isinstance(value, At)]
        with claimed(store, run.key, owner) as mine:
            if mine:
                since = on_step and (lambda step: on_step(step - run.begin))
                carry_out(run, store, steps, place, since, checkpoint_every)
        return mine
    everything = True
    with read_once():
        for value in job.values:
            assert isinstance(value, Measure)
            with claimed(store, value.key, owner) as mine:
                if mine and not store.intact(value.address, value.key):
                    measure(value, store, place)
            everything &= mine
    forget()
    return everything


def measure(value: Measure, store: Store, place: Place = CPU) -> None:
    """Compute a measure and write its result to the store. One that runs no network may leave ``place`` out."""
    begin = time.monotonic()
    takes_place = "place" in arguments(value.compute, "measure")
    with place.entered():
        result = value.compute(store, place) if takes_place else value.compute(store)
    body = {"result": result, "summary": value.summary(), **provenance(value, time.monotonic() - begin, place)}
    store.write(value.address, value.key, body)


def answer(request: dict[str, Any], on_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Do a job as a worker is told to.

    Returns:
        ``done``, as :func:`perform` has it; or ``error``, a sentence, and ``trace``.
    """
    try:
        place, every, owner = Place(**request["place"]), request["checkpoint_every"], request["owner"]
        store = Store(request["store"], request.get("recompute_other_versions", False), place.device)
        return {"done": perform(revive(request["job"]), store, every, on_step, owner, place)}
    except (Exception, SystemExit) as error:
        return {"error": sentence(error), "trace": traceback.format_exc()}


def sentence(error: BaseException) -> str:
    """What went wrong, for a person."""
    return str(error) if isinstance(error, (LetItGoError, OSError, ValueError)) else f"{type(error).__name__}: {error}"
