"""Carrying out a run whose training code is the user's own: freeze, let it train, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from letitgo import weights
from letitgo.errors import WorkFailed
from letitgo.execute.record import provenance, there, unmoved
from letitgo.plan import At, Run
from letitgo.plan.states import Partial
from letitgo.recipes.own import Own
from letitgo.store import Store
from letitgo.training.optimizer_state import decode, encode
from letitgo.training.place import Place
from letitgo.value import derive
from letitgo.weights.state import seed_generators


def train_own(
    run: Run,
    store: Store,
    wanted: set[int],
    place: Place,
    on_step: Callable[[int], None] | None,
    checkpoint_every: float,
) -> None:
    """Train with the user's code to the wanted epochs, and write the states there to the store.

    Code that can resume goes on from the latest epoch in the store, and checkpoints of it are written. Other code is
    run from the beginning again, also where something is to be frozen from a later epoch on: up to there everything is
    trained, as before.

    Raises:
        WorkFailed: The code raises, moves what is frozen, trains nothing, or yields another number of epochs than it
            states.
    """
    own, started = run.recipe.own, time.monotonic()
    assert own is not None
    saved = started
    chain = _chain(run)
    resumed = _latest(run, store, place, min(wanted)) if own.resumes else None
    first = resumed.run if resumed else chain[0]
    module = place.bring(weights.seeded(run.recipe.network, 0))
    begin, checkpoint = 0, None
    if resumed:
        begin, checkpoint = resumed.step, decode(*resumed.optimizer(store))
    ahead = {later.begin: later for later in chain[chain.index(first) + 1 :]}
    watch = Watch(ahead.pop(begin, first), module, store, resumed)
    for epoch, given in epochs_of(own, module, run.recipe.seed, begin, checkpoint, max(wanted)):
        watch.check()
        if on_step is not None:
            on_step(epoch)
        now = time.monotonic()
        if watch.run == run and (epoch in wanted or (own.resumes and now - saved >= checkpoint_every)):
            point = At(run, epoch) if epoch in wanted else Partial(run, epoch)
            tensors, body = point.packed(module, encode(given) if own.resumes else ({}, {}), [])
            if epoch == run.recipe.steps:
                body |= {"unmoved": unmoved(run, module, store)}
            store.write(point.address, point.key, {**body, **provenance(point, now - started, place)}, tensors)
            saved = now
        if epoch in ahead:  # its start is what the module is, where the code repeats itself
            watch = Watch(ahead[epoch], module, store)


def _chain(run: Run) -> list[Run]:
    """The runs that lead to this one, each beginning at a point of the one before."""
    chain = [run]
    while chain[0].begin:
        start = chain[0].start
        assert isinstance(start, At)
        chain.insert(0, start.run)
    return chain


def _latest(run: Run, store: Store, place: Place, before: int) -> At | None:
    """The latest point in the store that leads to the wanted epochs."""
    points = [
        of(each, epoch) for of in (Partial, At) for each in _chain(run) for epoch in range(each.begin + 1, before)
    ]
    starts = [each.start for each in _chain(run) if each.begin and isinstance(each.start, At)]
    found = [point for point in (*points, *starts) if there(point, store, place)]
    return max(found, key=lambda point: (point.step, point.run == run), default=None)


def epochs_of(
    own: Own, module: nn.Module, seed: int, begin: int, checkpoint: Any, end: int
) -> Iterator[tuple[int, Any]]:
    """Run training code of the user's own: the epochs after ``begin`` up to ``end``, each with what the code yields."""
    stated, path = own.epochs, own.network.factory
    module.train()
    given = own.train(module, seed, checkpoint)
    for epoch in range(begin + 1, end + 1):
        drawn = seed if epoch == 1 else derive(seed, "epoch", epoch)  # so that an epoch can be gone on from
        seed_generators(drawn)
        torch.manual_seed(drawn)  # also of devices that the code has yet to begin with
        try:
            yielded = next(given)
        except StopIteration:
            raise WorkFailed(
                f"train of the task {path!r} yields {epoch - 1} times: it states {stated} epochs"
            ) from None
        if epoch == stated and next(given, given) is not given:
            raise WorkFailed(f"train of the task {path!r} yields more than {stated} times: it states {stated} epochs")
        yield epoch, yielded


class Watch:
    """What is frozen in a network while code of the user's own trains the rest, down to single weights.

    Attributes:
        run: Says what trains.

    Args:
        run: Says what trains.
        module: The network, brought to the run's start and frozen; or to a point of the run.
        store: Holds what the start rests on.
        point: Where to go on.
    """

    def __init__(self, run: Run, module: nn.Module, store: Store, point: At | None = None) -> None:
        self.run, self._module = run, module
        if point is not None and point.run == run:
            point.restore(module, store)
        else:
            weights.load_state(module, (point or run.start).load(store))
            run.prepare(module, store)
        self._held = weights.held_of(module)
        self._before = {name: p.detach().clone() for name, p in module.named_parameters()}
        self._origin = dict(self._held.projected.origin) if self._held and self._held.projected else {}

    def check(self) -> None:
        """See that what is frozen is as it was and something else is not.

        Raises:
            WorkFailed: It is not, or the network has other parameters by now.
        """
        path, now = self.run.recipe.network.factory, dict(self._module.named_parameters())
        if other := sorted(now.keys() ^ self._before.keys()):
            raise WorkFailed(
                f"train of the task {path!r} changes which parameters there are ({other[0]}): build them in model()"
            )
        self._check_held(now)
        moved = [name for name, before in self._before.items() if not _same(now[name], before)]
        if wrong := [name for name in moved if name not in self.run.moves]:
            thawed = " It asks for a gradient again." if now[wrong[0]].requires_grad else ""
            raise WorkFailed(f"{wrong[0]} is frozen and moved all the same in train of the task {path!r}.{thawed}")
        if not moved and set(self.run.moves) == self._before.keys():
            raise WorkFailed(f"train of the task {path!r} leaves every weight as it was: train the model it is given")

    def _check_held(self, now: Mapping[str, Tensor]) -> None:
        """See that the single weights that are frozen are as they were, and that a subspace begins where it did."""
        path, held = self.run.recipe.network.factory, self._held
        if held is None:
            return
        if weights.held_of(self._module) is not held:
            raise WorkFailed(f"train of the task {path!r} releases the network, of which only a part may move")
        held()
        for name, moving in held.moving.items():
            before = self._before[name]
            if not _same(before.where(moving.mask.to(before.device), now[name].detach().to(before.device)), before):
                raise WorkFailed(
                    f"frozen entries of {name} moved all the same in train of the task {path!r}: it changes them by "
                    "hand, or trains a copy, which moves as a whole"
                )
        origin = held.projected.origin if held.projected else {}
        if left := [name for name, before in self._origin.items() if not _same(origin[name], before)]:
            raise WorkFailed(
                f"{left[0]} left the subspace it trains in, in train of the task {path!r}: weights are copied into it, "
                "or changed by hand"
            )
        if still := [name for name in self._origin if not now[name].requires_grad]:
            raise WorkFailed(
                f"{still[0]} moves in the subspace, though train of the task {path!r} freezes it: freeze it in model()"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.detach().to(b.device), b)
