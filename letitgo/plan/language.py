"""A small language model, trained and measured: a recipe has images and classes, so this is a measure of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from letitgo import weights
from letitgo.errors import WorkFailed
from letitgo.plan.measures import Measure
from letitgo.recipes.text import LanguageModel, Output, Text
from letitgo.store import Store
from letitgo.training.place import CPU, Place

ROWS = 20
"""Places in the text that are read at once."""

LENGTH = 35
"""Words after which a gradient is cut off."""


@dataclass(frozen=True, eq=False)
class Perplexity(Measure):
    """Perplexity of a language model after each epoch. Nothing is kept of it but this.

    Attributes:
        text: What is read.
        output: The classifier, as :class:`letitgo.recipes.text.LanguageModel` takes it.
        seed: Of the initial weights, each a function of the seed and its name.
        epochs: Passes over the training part.
        vocabulary: Number of words.
        width: Of the embedding and of the hidden state.
        lr: Learning rate of Adam, falling linearly to nothing.
    """

    text: Text
    output: Output
    seed: int
    epochs: int
    vocabulary: int
    width: int
    lr: float

    def factory(self) -> nn.Module:
        """The network."""
        return LanguageModel(self.vocabulary, self.width, self.output)

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``test`` and ``train`` perplexity after each epoch, the latter as met in training; the ``scale`` if any."""
        module = self.factory()
        weights.load_state(module, weights.initial_state(self.factory, self.seed))
        train, test = self.text.numbers(self.vocabulary)
        optimizer = torch.optim.Adam(module.parameters(), lr=self.lr)
        steps = self.epochs * sum(1 for _ in _pieces(train))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        scale = getattr(module.classifier, "scale", None)
        told: dict[str, Any] = {"train": [], "test": [], "scale": None if scale is None else [scale.item()]}
        for _ in range(self.epochs):
            total, n, memory = torch.zeros(()), 0, None
            for words, following in _pieces(train):
                optimizer.zero_grad()
                logits, memory = module(words, memory)
                loss = cross_entropy(logits.flatten(0, 1), following.flatten())
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                memory = tuple(part.detach() for part in memory)
                total, n = total + loss.detach() * following.numel(), n + following.numel()
            if not torch.isfinite(total):
                raise WorkFailed(f"the loss of the language model is not finite at lr {self.lr}: give a lower one")
            told["train"].append(exp(float(total) / n))
            told["test"].append(exp(_loss(module, test)))
            if scale is not None:
                told["scale"].append(scale.item())
        return told

    def cost(self) -> int:
        """Floating-point operations, counted."""
        module = weights.seeded(partial(LanguageModel, self.vocabulary, self.width, self.output), 0)
        words, _ = self.text.numbers(self.vocabulary)
        return self.epochs * len(words) // LENGTH * weights.step_cost(module, words[:LENGTH].view(1, -1)).whole


def _pieces(words: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Words and the ones that follow them, both of shape (ROWS, at most LENGTH), each piece going on from the last."""
    columns = (len(words) - 1) // ROWS
    given, following = (words[shift : shift + ROWS * columns].view(ROWS, columns) for shift in (0, 1))
    yield from zip(given.split(LENGTH, 1), following.split(LENGTH, 1), strict=True)


@torch.no_grad()
def _loss(module: nn.Module, words: Tensor) -> float:
    """Mean cross-entropy of a text, in nats."""
    total, n, memory = 0.0, 0, None
    for given, following in _pieces(words):
        logits, memory = module(given, memory)
        total += float(cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum"))
        n += following.numel()
    return total / n
