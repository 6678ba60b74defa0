"""Freezing on trial: a freeze that is not kept leaves no trace, one that is kept passed a test that seldom errs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from helpers import bits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from letitgo import BadRequest, freeze, trainable
from letitgo.callbacks import speculate
from letitgo.callbacks.speculation import LEAST, half_width
from letitgo.weights import copied

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(400, 8, generator=GENERATOR)
LABELS = (INPUTS[:, :3] + 0.3 * torch.randn(400, 3, generator=GENERATOR)).argmax(1)


class Loop:
    """A network in training, with everything that training may move along."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.net = nn.Sequential(
            nn.Linear(8, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)
        self.steps(5)

    def steps(self, count: int) -> None:
        self.net.train()
        for i in range(count):
            rows = slice(32 * i, 32 * i + 32)
            self.optimizer.zero_grad()
            noise = random.random() + np.random.rand() + torch.rand(())
            (cross_entropy(self.net(INPUTS[rows]), LABELS[rows]) * (1 + 0.1 * noise)).backward()
            self.optimizer.step()
            self.scheduler.step()

    def losses(self, net: nn.Module) -> Iterator[Tensor]:
        assert not net.training
        for first in range(0, 400, 20):
            rows = slice(first, first + 20)
            yield cross_entropy(net(INPUTS[rows]), LABELS[rows], reduction="none")

    def speculate(self, patterns: str | list[str], tolerance: float, losses: Callable | None = None, count: int = 6):
        return speculate(
            self.net,
            self.optimizer,
            patterns,
            lambda: self.steps(count),
            losses or self.losses,
            tolerance,
            also=[self.scheduler],
        )

    def portrait(self):
        state = copy.deepcopy(self.optimizer.state_dict())
        tensors = {f"{i} {name}": x for i, own in state["state"].items() for name, x in own.items()}
        gradients = {n: p.grad for n, p in self.net.named_parameters() if p.grad is not None}
        draws = torch.rand(3).tolist(), random.random(), np.random.rand()
        return (
            bits(copied(self.net)),
            bits(tensors),
            bits(gradients),
            state["param_groups"],
            self.scheduler.state_dict(),
            draws,
        )


def test_a_freeze_that_costs_too_much_leaves_no_trace():
    tried = Loop()
    attempt = tried.speculate(["*", "!6"], 0.001)
    assert not attempt.kept
    assert attempt.cost > 0.001
    here = tried.portrait()
    plain = Loop()
    plain.steps(6)
    assert here == plain.portrait()
    assert len(trainable(tried.net)) == len(list(tried.net.parameters()))
    assert all(part.training for part in tried.net.modules())


def test_a_freeze_that_is_kept_is_that_of_training_with_it():
    tried = Loop()
    attempt = tried.speculate("0", 1.0)
    assert attempt.kept
    assert attempt.cost + attempt.half <= 1.0
    assert LEAST <= attempt.examples < 400
    here = tried.portrait()
    plain = Loop()
    freeze(plain.net, "0")
    plain.steps(6)
    assert here == plain.portrait()
    assert len(trainable(tried.net)) == len(list(tried.net.parameters())) - 2


def test_where_the_examples_cannot_tell_the_freeze_is_not_kept():
    def few(net: nn.Module) -> list[Tensor]:
        return [cross_entropy(net(INPUTS[:20]), LABELS[:20], reduction="none")]

    attempt = Loop().speculate("0", 1.0, few)
    assert (attempt.kept, attempt.examples) == (False, 20)


def test_an_error_on_trial_goes_back_to_before_it():
    tried, calls = Loop(), []
    before = copied(tried.net)

    def losses(net: nn.Module) -> Iterator[Tensor]:
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("no data")
        return tried.losses(net)

    with pytest.raises(RuntimeError, match="no data"):
        tried.speculate("0", 1.0, losses)
    assert bits(copied(tried.net)) == bits(before)
    assert len(trainable(tried.net)) == len(list(tried.net.parameters()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tolerance": -1}, "tolerance is -1: give a number from 0 on$"),
        ({"tolerance": None}, "tolerance is None: give"),
        ({"alpha": 2}, "alpha is 2: give a number between 0 and 1$"),
        ({"alpha": "a"}, "alpha is 'a': give"),
        ({"train": None}, "train is None: give a function"),
        ({"losses": [1.0]}, r"losses is \[1.0\]: give a function"),
        ({"optimizer": []}, "a list is no optimiser: give one"),
        ({"also": None}, "also is None: give a list"),
        ({"also": [3]}, r"also is \[3\]: give a list"),
        ({"frozen": "*"}, r"with '\*' frozen nothing is left to train"),
        ({"statistics": "still"}, "statistics is 'still'"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_training(given, said):
    loop = Loop()
    before = loop.portrait()
    usual = {"optimizer": loop.optimizer, "frozen": "0", "train": lambda: loop.steps(6), "losses": loop.losses}
    with pytest.raises(BadRequest, match=said):
        speculate(loop.net, **{**usual, "tolerance": 1.0, **given})  # type: ignore[arg-type]
    assert loop.portrait()[:5] == before[:5]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (torch.tensor(1.0), "losses gives a Tensor: give the loss of each held-out example, batch by batch"),
        (None, "losses gives a NoneType: give"),
        ([], "losses gives no examples: give"),
        ([1.0], "losses gives a float for a batch: give"),
        ([torch.tensor(1.0)], r"losses gives a tensor of shape \(\) for a batch: give"),
        ([torch.ones(4, 2)], r"losses gives a tensor of shape \(4, 2\) for a batch: give"),
    ],
)
def test_losses_that_are_none_are_refused_and_training_goes_back(found, said):
    loop = Loop()
    before = bits(copied(loop.net))
    with pytest.raises(BadRequest, match=said):
        loop.speculate("0", 1.0, lambda _: found)
    assert bits(copied(loop.net)) == before


def test_bad_requests():
    loop = Loop()
    with pytest.raises(BadRequest, match="the pattern 'nothing' matches no layer"):
        loop.speculate("nothing", 1.0)
    with pytest.raises(BadRequest, match="the optimiser has nothing of '0'"):
        speculate(copy.deepcopy(loop.net), loop.optimizer, "0", lambda: None, loop.losses, 1.0)
    freeze(loop.net, "0")
    with pytest.raises(BadRequest, match="nothing of '0' trains"):
        loop.speculate("0", 1.0)
    sizes = iter([20, 10])
    with pytest.raises(BadRequest, match="other examples the second time"):
        loop.speculate("4", 1.0, lambda net: [torch.zeros(20), torch.zeros(next(sizes))])


@pytest.mark.parametrize("law", ["normal", "heavy", "seldom"])
def test_the_test_seldom_keeps_what_costs_the_tolerance(law):
    """The true cost is the tolerance; the freeze is kept if the interval is below it at any look."""
    generator, alpha, most, kept = np.random.default_rng(0), 0.05, 600, 0
    for _ in range(400):
        draws = {
            "normal": lambda: generator.normal(size=most),
            "heavy": lambda: generator.standard_t(3, size=most),
            "seldom": lambda: (generator.random(most) < 0.1) * 10.0 - 1,
        }[law]()
        seen = torch.from_numpy(draws)
        kept += any(float(seen[:n].mean()) + half_width(seen[:n], most, alpha) <= 0 for n in range(LEAST, most + 1, 30))
    assert kept / 400 <= alpha
