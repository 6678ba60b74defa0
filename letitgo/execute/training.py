"""Carrying out a run: train it to the wanted steps, from its latest point in the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from torch import nn

from letitgo import weights
from letitgo.execute.own import train_own
from letitgo.execute.record import provenance, there, unmoved
from letitgo.plan import At, Run
from letitgo.plan.states import Partial
from letitgo.store import Store
from letitgo.training.loop import train
from letitgo.training.optimizer_state import pack, unpack
from letitgo.training.place import CPU, Place

PAUSE = 100
"""Steps between the moments at which a checkpoint may be written."""

LOOK = 100
"""Steps between evaluations on the held-out examples, as in FC18 (arXiv:1803.03635)."""


Point = dict[str, Any]
"""Of a curve: ``step``, ``loss`` and ``accuracy`` on the held-out examples, ``test_accuracy`` at the least loss.

Where networks are compared by another share, that stands in the accuracy's place.
"""


def carry_out(
    run: Run,
    store: Store,
    steps: Iterable[int],
    place: Place = CPU,
    on_step: Callable[[int], None] | None = None,
    checkpoint_every: float = 30.0,
) -> None:
    """Train, and write the states at ``steps`` to the store.

    Training resumes from the latest state in the store. Checkpoints are written from time to time, and removed at the
    end.

    Args:
        run: What to train.
        store: Holds what the run's start rests on, and takes the states.
        steps: After the run's ``begin``, up to the recipe's last.
        place: Where to train.
        on_step: Called with the step after each step.
        checkpoint_every: Seconds between checkpoints.

    Raises:
        WorkFailed: The loss is no longer finite.
    """
    wanted = {step for step in steps if not store.intact(At(run, step).address, At(run, step).key)}
    if wanted:
        with place.entered():
            if run.recipe.own is not None:
                train_own(run, store, wanted, place, on_step, checkpoint_every)
            else:
                _train(run, store, wanted, place, on_step, checkpoint_every)
    for address in list(store.under(run.partial_folder)):  # also what a kill left behind
        store.remove(address)


def _train(
    run: Run,
    store: Store,
    wanted: set[int],
    place: Place,
    on_step: Callable[[int], None] | None,
    checkpoint_every: float,
) -> None:
    begin, module, optimizer_state, curve = _resumed(run, store, place, before=min(wanted))
    looks = _looks(run, begin, max(wanted))
    stops = sorted({*wanted, *range(begin + PAUSE, max(wanted), PAUSE), *looks})
    started = saved = time.monotonic()
    best = weights.copied(module) if curve and _least(curve)["test_accuracy"] is None else None
    for moment in train(module, run.recipe, stops, begin, optimizer_state, on_step, place):
        now = time.monotonic()
        if moment.step in looks:
            curve = [*curve, _look(run, module, place, moment.step)]
            best = weights.copied(module) if _least(curve) is curve[-1] else best
        if moment.step not in wanted and now - saved < checkpoint_every:
            continue
        if curve:
            curve = _judged(run, curve, moment.step, module, best, place)
        old = list(store.under(run.partial_folder))
        point = At(run, moment.step) if moment.step in wanted else Partial(run, moment.step)
        tensors, body = point.packed(module, pack(moment.optimizer, module), curve)
        if moment.step == run.recipe.steps:
            body |= {"unmoved": unmoved(run, module, store)}
        store.write(point.address, point.key, {**body, **provenance(point, now - started, place)}, tensors)
        for address in old:
            store.remove(address)
        saved = now


def _resumed(
    run: Run, store: Store, place: Place, before: int
) -> tuple[int, nn.Module, dict[str, Any] | None, list[Point]]:
    """Where training goes on: the step, the network there, its optimiser's state, and the curve so far."""
    point = _latest(run, store, place, before)
    module = place.bring(weights.seeded(run.recipe.network, 0), run.recipe.memory_format)
    if point:
        point.restore(module, store)
    else:
        weights.load_state(module, run.start.load(store))
        run.prepare(module, store)
    source, optimizer_state = point or (run.start if run.resume else None), None
    if isinstance(source, At):
        fresh = run.recipe.make_optimizer(weights.trainable(module))
        optimizer_state = unpack(*source.optimizer(store), fresh, module)
    curve = point.record(store).get("curve", []) if point else []
    return point.step if point else run.begin, module, optimizer_state, curve


def _latest(run: Run, store: Store, place: Place, before: int) -> At | None:
    """The latest point to go on from; of another device none, for a trajectory is one device's."""
    points = [At(run, _step(address)) for address in store.under(run.folder)]
    points += [Partial(run, _step(address)) for address in store.under(run.partial_folder)]
    earlier = sorted((point for point in points if point.step < before), key=lambda point: point.step, reverse=True)
    return next((point for point in earlier if there(point, store, place)), None)


def _step(address: str) -> int:
    return int(address.rpartition("/")[2])


def _looks(run: Run, begin: int, end: int) -> range:
    """The steps of evaluations on the held-out examples: every 100, or every epoch where that is shorter."""
    every = min(LOOK, run.recipe.steps_per_epoch)
    return range((begin // every + 1) * every, end + 1, every) if run.recipe.validation else range(0)


def _look(run: Run, module: nn.Module, place: Place, step: int) -> Point:
    """Evaluate on the held-out examples."""
    with place.autocast(run.recipe.precision):
        found = run.recipe.dataset.task.evaluate(module, place.bring(run.recipe.dataset.split("validation")))
    module.train()
    share = run.recipe.dataset.task.share
    accuracy = found[share.name] if share else None
    return {"step": step, "loss": found["loss"], "accuracy": accuracy, "test_accuracy": None}


def _least(curve: list[Point]) -> Point:
    """The first point of least loss."""
    return min(curve, key=lambda point: math.inf if point["loss"] is None else point["loss"])


def _judged(
    run: Run, curve: list[Point], step: int, module: nn.Module, best: weights.State | None, place: Place
) -> list[Point]:
    """A curve with the test accuracy at its least loss and at no other point, as it is stored with the state of a step.

    Where the loss is least at that very step, it is left out: the state tells it.

    Args:
        module: The network; it stays as it is.
        best: Its state at the least loss; None where the test accuracy there is known.
    """
    least, share = _least(curve), run.recipe.dataset.task.share
    test = least["test_accuracy"]
    if share and test is None and least["step"] != step:
        assert best is not None
        network, split = deepcopy(module), place.bring(run.recipe.dataset.split("test"))
        weights.load_state(network, best)
        with place.autocast(run.recipe.precision):
            test = run.recipe.dataset.task.evaluate(network, split)[share.name]
    return [{**point, "test_accuracy": test if point is least else None} for point in curve]
