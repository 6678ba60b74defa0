"""The promises. Each is tested in each way to train; its docstring is its name in the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
from torch import nn

from letitgo import Selection, copied, freeze, moved, select, thaw
from letitgo.execute.own import epochs_of
from letitgo.promises.ways import WAYS
from letitgo.recipes.own import Own
from letitgo.weights.state import seeded

SEED = 0


@contextmanager
def prepared(trainer: Own, way: str) -> Iterator[nn.Module]:
    """The trainer's network under a seed, ready to be trained in a way."""
    module = seeded(trainer.network, SEED).train()
    with WAYS[way](module):
        yield module


def run(trainer: Own, module: nn.Module) -> None:
    """Train to the end."""
    list(epochs_of(trainer, module, SEED, 0, None, trainer.epochs))


def chosen(module: nn.Module, request: pytest.FixtureRequest) -> Selection:
    """What is frozen."""
    pattern = request.config.getoption("--frozen")
    return select(module, pattern) if pattern else select(module, index=0)


def changes(module: nn.Module, start: Any) -> set[str]:
    """Names of the parameters that differ in any bit from what they were."""
    return {each.name for each in moved(module, start) if each.moved and each.declared != "buffer"}


def test_frozen_stays(trainer: Own, way: str, request: pytest.FixtureRequest) -> None:
    """What is frozen keeps every bit."""
    with prepared(trainer, way) as module:
        part = chosen(module, request)
        freeze(module, part)
        start = copied(module)
        run(trainer, module)
        assert not changes(module, start) & set(part.parameters), "moved, although frozen"


def test_the_rest_moves(trainer: Own, way: str, request: pytest.FixtureRequest) -> None:
    """What moves when all trains moves beside what is frozen."""
    with prepared(trainer, way) as module:
        start = copied(module)
        run(trainer, module)
        free = changes(module, start)
    with prepared(trainer, way) as module:
        part = chosen(module, request)
        freeze(module, part)
        start = copied(module)
        run(trainer, module)
        assert not free - set(part.parameters) - changes(module, start), "did not move beside what is frozen"
        assert free, "the trainer moves nothing"


def test_flags_stay(trainer: Own, way: str, request: pytest.FixtureRequest) -> None:
    """What is frozen still asks for no gradient afterwards."""
    with prepared(trainer, way) as module:
        part = chosen(module, request)
        freeze(module, part)
        run(trainer, module)
        asking = [name for name in part.parameters if module.get_parameter(name).requires_grad]
        assert not asking, "asks for a gradient again"


def test_statistics_stay(trainer: Own, way: str, request: pytest.FixtureRequest) -> None:
    """Running statistics stay where they are frozen too."""
    with prepared(trainer, way) as module:
        kept = [name for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
        if not kept:
            pytest.skip("the network has no running statistics")
        freeze(module, select(module), statistics="frozen")
        thaw(module, select(module, index=-1))
        start = copied(module)
        run(trainer, module)
        wrong = {each.name for each in moved(module, start) if each.moved} & set(kept)
        assert not wrong, "moved, although frozen"


def test_thawed_moves(trainer: Own, way: str, request: pytest.FixtureRequest) -> None:
    """What is thawed after a training moves in the next."""
    with prepared(trainer, way) as module:
        part = chosen(module, request)
        freeze(module, part)
        run(trainer, module)
        thaw(module, part)
        start = copied(module)
        run(trainer, module)
        assert changes(module, start) & set(part.parameters), "did not move, although thawed"


def test_resumed_is_the_same(trainer: Own, request: pytest.FixtureRequest) -> None:
    """Training that is gone on with gives the bits of training at one go."""
    if not trainer.resumes or trainer.epochs < 2:
        pytest.skip("train takes no resume, or has one epoch")
    whole, again = (seeded(trainer.network, SEED).train() for _ in range(2))
    for module in (whole, again):
        freeze(module, chosen(module, request))
    checkpoint = None
    for epoch, given in epochs_of(trainer, whole, SEED, 0, None, trainer.epochs):
        if epoch == 1:
            again.load_state_dict(copied(whole))
            checkpoint = deepcopy(given)
    list(epochs_of(trainer, again, SEED, 1, checkpoint, trainer.epochs))
    assert not changes(again, copied(whole)), "other than at one go"
