"""A result depends on its description alone: not on what the caller's process has set, and not on unseeded draws."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import small_recipe
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from letitgo import weights
from letitgo.store import open_store
from letitgo.studies.compute import compute
from letitgo.studies.train.study import Train
from letitgo.weights.roles import roles
from letitgo.weights.state import drawing_from

CALLERS: dict[str, Callable[[], object]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16).__enter__(),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "double": lambda: torch.set_default_dtype(torch.float64),
    "a hook on all modules": lambda: register_module_forward_hook(
        lambda module, inputs, output: output * 2 if isinstance(module, nn.Linear) else None
    ),
    "other seeds": lambda: (torch.manual_seed(5), random.seed(5), np.random.seed(5)),
}


class Draws(nn.Module):
    """Draws in its forward pass, in training and when evaluated."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(inputs.flatten(1) * (1 + random.random() + np.random.rand() + torch.rand(())))


def loss(folder, model: str = "test_undisturbed:Draws") -> float:
    study = Train((small_recipe(model=model, widths=None, epochs=1),))
    return compute(study, open_store(folder)).rows[0]["loss"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> float:
    return loss(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("what", CALLERS)
def test_what_the_caller_has_set_changes_no_result(what, undisturbed, tmp_path):
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    entered = CALLERS[what]()
    try:
        assert loss(tmp_path) == undisturbed
        assert torch.get_num_threads() == threads
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if what == "autocast":
            torch.set_autocast_enabled("cpu", False)
        if hasattr(entered, "remove"):
            entered.remove()  # pyright: ignore[reportAttributeAccessIssue]


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_the_callers_generators_are_left_as_they_were(tmp_path):
    found = []
    for run in (lambda: None, lambda: loss(tmp_path)):
        CALLERS["other seeds"]()
        run()
        found.append(draws())
    assert found[0] == found[1]


def test_two_threads_do_not_change_each_others_draws(undisturbed, tmp_path):
    found: list[float] = []
    threads = [threading.Thread(target=lambda i=i: found.append(loss(tmp_path / str(i)))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [undisturbed] * 2


class Slow(nn.Module):
    """A layer that is not torch's own, draws when it is called, and takes its time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        drawn = sum(draws())
        time.sleep(0.3)
        return inputs @ self.weight + drawn


SLOW = Slow()
OTHERS: dict[str, Callable[[], object]] = {
    "building": lambda: weights.seeded(lambda: SLOW(torch.ones(1, 2)), 1),
    "counting": lambda: weights.step_cost(SLOW, torch.ones(1, 2)),
    "recognising": lambda: roles(SLOW),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_thread_waits_while_generators_are_borrowed(what):
    def drawn(between: Callable[[], object]) -> list[float]:
        with drawing_from("here"):
            first = draws()
            between()
            return first + draws()

    thread = threading.Thread(target=OTHERS[what])

    def begin_the_other() -> None:
        thread.start()
        thread.join(0.1)  # it would be in the middle by now, were it not made to wait

    assert drawn(begin_the_other) == drawn(lambda: None)
    thread.join(60)
    assert not thread.is_alive()
