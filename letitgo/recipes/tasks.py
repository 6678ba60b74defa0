"""What a network is trained to do: its loss, and the numbers it is judged by."""

from __future__ import annotations

from math import exp, isfinite
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from letitgo.recipes.splits import Split

BATCH = 1000
"""Answers evaluated at once."""


class Task:
    """Base of all tasks.

    Attributes:
        metric: Name of the number that counts, among those of :meth:`evaluate`.
        more_is_better: Whether a larger one is better.
    """

    metric: ClassVar[str]
    more_is_better: ClassVar[bool]

    def output_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        """Shape of a network's outputs for examples with these labels."""
        raise NotImplementedError

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """What training makes small on a batch: a scalar."""
        raise NotImplementedError

    def evaluate(self, module: nn.Module, split: Split) -> dict[str, float | None]:
        """Named numbers of a split; the module is put into evaluation mode.

        ``accuracy``, ``loss`` and ``n`` are among them. None stands for what is not finite: JSON has no word for it.
        """
        raise NotImplementedError


class Classification(Task):
    """One class for each input, learned by cross-entropy."""

    metric = "accuracy"
    more_is_better = True

    def output_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        return (*labels.shape, classes)

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(module(inputs).flatten(0, -2), labels.flatten())

    @torch.no_grad()
    def evaluate(self, module: nn.Module, split: Split) -> dict[str, float | None]:
        """``accuracy`` (fraction), ``loss`` (mean cross-entropy, nats) and ``n`` (answers)."""
        module.eval()
        correct, loss, n = 0, torch.zeros((), dtype=torch.float64), 0
        for inputs, given in split.batches(max(1, BATCH // split.labels[0].numel())):
            outputs, labels = module(inputs).flatten(0, -2), given.flatten()
            correct += int((outputs.argmax(1) == labels).sum())
            loss += cross_entropy(outputs, labels, reduction="sum")
            n += len(labels)
        return {"accuracy": correct / n, "loss": _finite(float(loss / n)), "n": n}


class NextWord(Classification):
    """The next word at each place of a text. Inputs and labels are word numbers, shape (N, words)."""

    metric = "perplexity"
    more_is_better = False

    def evaluate(self, module: nn.Module, split: Split) -> dict[str, float | None]:
        """As for :class:`Classification`, and ``perplexity``, the exponential of the loss."""
        found = super().evaluate(module, split)
        loss = found["loss"]
        return {**found, "perplexity": None if loss is None or loss > 700 else exp(loss)}


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None


TASKS: dict[str, Task] = {"images": Classification(), "text": NextWord()}
"""The task that data ask for, by what the data hold."""
