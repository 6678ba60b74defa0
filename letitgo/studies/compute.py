"""Carrying a study out, or only telling what it would take."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from letitgo import weights
from letitgo.errors import BadRequest, PartlyFailed
from letitgo.execute import Executor, Failure, Job, plan_jobs
from letitgo.execute.cluster import RayExecutor, on_ray
from letitgo.execute.executor import OnProgress
from letitgo.plan import Initial, Measure, Run, Stored
from letitgo.recipes import Recipe
from letitgo.store import Store, open_store
from letitgo.studies import STUDIES, find_study
from letitgo.studies.listing import Listing
from letitgo.studies.outcome import Outcome
from letitgo.studies.study import Study
from letitgo.studies.sweep import with_seed
from letitgo.studies.usage import Meter
from letitgo.training import CPU, Place, train

RATE = 2e10
"""Floating-point operations per second that are reckoned with where there is no recipe to time."""

SAMPLE = 0.5
"""Seconds of training from which the time of a study is estimated."""


def compute(
    study: Study,
    store: Store | str | Path | None = None,
    workers: int = 0,
    checkpoint_every: float = 30.0,
    on_progress: OnProgress | None = None,
    on: Literal["processes", "ray"] = "processes",
    ray_address: str | None = None,
    place: Place = CPU,
    timeout: float | None = None,
    recompute_other_versions: bool = False,
    gpus: float | None = None,
) -> Outcome:
    """Compute what the store does not hold of a study yet, and read its rows.

    Args:
        study: A map, a training run, …
        store: A store or its folder; ``$LETITGO_STORE`` or ``.letitgo`` by default.
        workers: Number of worker processes; 0 computes in this process.
        checkpoint_every: Seconds between states from which a killed run goes on.
        on_progress: Called now and then while work is under way.
        on: Where: worker processes, or Ray, of which ``workers`` then says how many cores it uses where it is started
            here; 0 means all.
        ray_address: Of a cluster; ``$RAY_ADDRESS`` by default, else Ray is started here.
        place: Where each job computes, as in ``Place("cuda")``.
        timeout: Seconds after which a job of a worker process is ended and has failed; no limit by default.
        recompute_other_versions: Replace results of another letitgo, torch, kind of processor or device.
        gpus: Share of a GPU, at most 1, that each job on Ray reserves; 1 by default where the place is ``cuda``.

    Raises:
        BadRequest: The study cannot be carried out as it was put. Nothing was started.

    Warns:
        PartlyFailed: Jobs failed; the warning names the first. All are in :attr:`Outcome.failures`.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if on == "ray":
        place, gpus = on_ray(place, gpus)
    if recompute_other_versions or store.device != place.device:
        store = Store(store.root, recompute_other_versions or store.recompute_other_versions, place.device)
    _check(study)
    if (workers or on == "ray") and any(recipe.own and recipe.own.is_live for recipe in study.recipes):
        raise BadRequest("a task that is an object is known to this process alone: compute with workers=0")
    if on == "ray":
        if timeout is not None:
            raise BadRequest("timeout ends worker processes of this machine: leave it out on Ray")
        executor = RayExecutor(store, ray_address, workers or None, checkpoint_every, on_progress, place, gpus)
    else:
        executor = Executor(store, workers, checkpoint_every, on_progress, place, timeout)
    failures: list[Failure] = []
    meter = Meter(store)
    with executor, Listing(store, study) as listing:
        for values in study.stages(store):
            listing.add(values)
            meter.add(values)
            failures += executor.compute(values)
        rows = study.rows(store)
        notes = [] if failures else getattr(study, "finish", lambda _: [])(store)
    if failures:
        first = failures[0]
        warnings.warn(f"{len(failures)} jobs failed, the first: {first.what}: {first.why}", PartlyFailed, stacklevel=2)
    return Outcome(rows, failures, meter.usage(), study, store, notes)


def _check(study: Study) -> None:
    """See that a study can be carried out, and that its recipes still mean what they meant when they were made.

    Raises:
        BadRequest: It cannot, or code or data changed.
    """
    if not hasattr(study, "recipes"):
        raise BadRequest(f"{study!r} is no study: give a Map, a Search, a Train, …")
    for recipe in study.recipes:
        if recipe.own is not None and not getattr(study, "takes_own", False):
            *most, last = (name for name in sorted(STUDIES) if find_study(name).takes_own)
            raise BadRequest(
                f"{recipe.task!r} brings its own network, data and loop, which this study changes: "
                f"{', '.join(most)} and {last} do not"
            )
    if len(metrics := dict.fromkeys(map(_judge, study.recipes))) > 1:
        raise BadRequest(
            f"the recipes are judged by {' and '.join(metrics)}, which do not compare: run a study of each"
        )
    study.check()
    for recipe in study.recipes:
        if recipe.own is not None and recipe.own.has_changed:
            raise BadRequest(f"the object {recipe.task!r} changed since its recipe was made: make it again")
        if replace(recipe).key != recipe.key:
            raise BadRequest(f"the code or data of {recipe.model!r} changed since its recipe was made: make it again")


def _judge(recipe: Recipe) -> str:
    """What a recipe is judged by: the name of a metric, or its import path."""
    return recipe.metric if recipe.metric and ":" in recipe.metric else recipe.dataset.task.metric.name


@dataclass(frozen=True)
class Estimate:
    """What a study takes.

    Attributes:
        runs: Training runs in all.
        runs_stored: Those in the store already.
        measures: Evaluations and distances in all.
        measures_stored: Those in the store already.
        operations: Floating-point operations left to do, counted.
        seconds: Time they take, from a short measurement of training on this machine. Of training code of the user's
            own nobody knows, nor how many operations an epoch has: both are None.
        at_least: Whether what is computed first tells what else there is to do, as in a search.
        promise: What it will spend at most, in a sentence, of a study that is told.
        covered: What the keys cover that is not letitgo's: modules, installed distributions, files that factories open.
    """

    runs: int
    runs_stored: int
    measures: int
    measures_stored: int
    operations: int | None
    seconds: float | None
    at_least: bool = False
    promise: str = ""
    covered: tuple[str, ...] = ()


def estimate(study: Study, store: Store, workers: int, place: Place = CPU) -> Estimate:
    """Tell what a study takes, without computing any of it.

    Sets of layers that rest on verdicts not known yet are not counted.

    Raises:
        BadRequest: The study cannot be carried out as it was put.
    """
    _check(study)
    values = [value for stage in study.stages(store) for value in stage]
    everything, left = plan_jobs(values, None), plan_jobs(values, store, check=False)
    (runs, measures), (runs_left, measures_left) = map(_counted, (everything, left))
    operations, seconds = None, None
    if not any(recipe.own for recipe in study.recipes):
        operations = sum(job.cost for job in left)
        seconds = _seconds(left, study.recipes, place) / max(1, min(workers, len(left))) if left else 0.0
    return Estimate(
        runs=runs,
        runs_stored=runs - runs_left,
        measures=measures,
        measures_stored=measures - measures_left,
        operations=operations,
        seconds=seconds,
        at_least=bool(left) and getattr(study, "searches", False),
        promise=getattr(study, "promise", ""),
        covered=tuple(dict.fromkeys(name for recipe in study.recipes for name in recipe.covered)),
    )


def _counted(jobs: list[Job]) -> tuple[int, int]:
    """Training runs and measures."""
    alone = [value for job in jobs if not job.run for value in job.values]
    trained = sum(isinstance(value, Measure) and value.trains for value in alone)
    return sum(job.run is not None for job in jobs) + trained, len(alone) - trained


def _seconds(jobs: list[Job], recipes: tuple[Recipe, ...], place: Place) -> float:
    """Seconds of work on one thread: small networks take longer for the same operations, so each recipe is timed."""
    trained = {with_seed(job.run.recipe, 0) for job in jobs if job.run} or {with_seed(r, 0) for r in recipes}
    rates = {recipe: _rate(recipe, SAMPLE / len(trained), place) for recipe in trained}
    quickest = max(rates.values(), default=RATE)

    def of_measure(value: Stored) -> float:
        assert isinstance(value, Measure)
        seconds = value.seconds()
        return value.cost() / quickest if seconds is None else seconds

    return sum(
        job.cost / rates[with_seed(job.run.recipe, 0)] if job.run else sum(map(of_measure, job.values)) for job in jobs
    )


def _rate(recipe: Recipe, sample: float, place: Place) -> float:
    """Floating-point operations per second of training at a place, measured for some seconds."""
    with place.entered():
        module = place.bring(weights.seeded(recipe.network, recipe.seed), recipe.memory_format)
        run = Run(Initial(recipe.network, recipe.seed), weights.parameter_names(module), recipe)
        steps, begin = 0, 0.0
        for moment in train(module, recipe, range(1, recipe.steps + 1), place=place):
            if moment.step == 1:
                begin = time.perf_counter()  # the first step warms up
                continue
            steps += 1
            if time.perf_counter() - begin > sample:
                break
        elapsed = time.perf_counter() - begin
    return run.cost() / recipe.steps * max(1, steps) / elapsed
