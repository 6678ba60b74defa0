"""What a person would write without letitgo: the yardstick of the benchmarks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import Recipe, initial_state
from letitgo.recipes.batches import Batches
from letitgo.weights import load_state


def mnist(epochs: int) -> Recipe:
    """FCN 3×256 on MNIST, batch 128, SGD with momentum at a constant rate."""
    if not os.environ.get("LETITGO_DATA"):
        sys.exit("set LETITGO_DATA to a folder that holds mnist in the hub's layout")
    return Recipe(data="mnist", epochs=epochs, schedule="constant")


def fresh(recipe: Recipe) -> nn.Module:
    """The recipe's network with its initial weights."""
    module = recipe.network()
    load_state(module, initial_state(recipe.network, recipe.seed))
    return module


def train(
    module: nn.Module, recipe: Recipe, inputs: torch.Tensor, frozen: tuple[str, ...] = (), since: int = 0
) -> nn.Module:
    """A plain loop over tensors in memory; ``frozen`` are prefixes of parameter names, frozen from an epoch on."""
    labels = recipe.dataset.split("train").labels
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(recipe.epochs):
        if epoch == since:
            for name, parameter in module.named_parameters():
                if name.startswith(frozen):
                    parameter.requires_grad_(False)
                    parameter.grad = None
        order = Batches(recipe).order(epoch)
        for begin in range(0, len(order), recipe.batch_size):
            rows = order[begin : begin + recipe.batch_size]
            optimizer.zero_grad()
            loss = cross_entropy(module(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
    return module


@torch.no_grad()
def accuracy(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    return float((module(inputs).argmax(1) == labels).float().mean())


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]
