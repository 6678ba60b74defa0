"""What a data set holds: splits of inputs and labels in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from letitgo.value import derive

Kind = Literal["images", "text", "tokens", "features"]
SplitName = Literal["train", "test", "validation"]

PADDING, UNKNOWN = 0, 1
"""In sequences of tokens: what fills up a short one, and what stands for words that are not in the vocabulary."""


@dataclass(frozen=True)
class Split:
    """Inputs and labels in memory.

    Attributes:
        inputs: Of images, pixels as they were stored, uint8, shape (N, C, H, W); of features, float32, shape
            (N, C, ...); of a text and of sequences, numbers of words or tokens, int64, shape (N, L).
        labels: Class numbers, int64, shape (N,); of a text the words that follow, shape (N, L); or targets of a
            regression, float32, standardised by the training set's moments, shape (N,) or (N, targets).
        mean: What is subtracted from each channel or feature: its mean over all training inputs, before any shift;
            shape (C, 1, ...). None for words, which reach the network as they are.
        deviation: What it is then divided by: its standard deviation over the same. Where pixels are brought to 0 to 1,
            these are 0 and the brightest training pixel.
        label_mean: What targets of a regression had subtracted; None of classes.
        label_deviation: What they were then divided by.
    """

    inputs: Tensor
    labels: Tensor
    mean: Tensor | None = None
    deviation: Tensor | None = None
    label_mean: Tensor | None = None
    label_deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def in_units(self, labels: Tensor) -> Tensor:
        """Labels, or predictions of them, in the units of the data."""
        if self.label_mean is None or self.label_deviation is None:
            return labels
        return labels * self.label_deviation + self.label_mean

    def batch(self, rows: Tensor | slice) -> Tensor:
        """Inputs of some rows: less the mean and divided by the deviation, float32; or words."""
        # index_select copies whole rows, an order of magnitude quicker than indexing with a tensor
        chosen = self.inputs.index_select(0, rows) if isinstance(rows, Tensor) else self.inputs[rows]
        if self.mean is None or self.deviation is None:
            return chosen
        return chosen.to(torch.float32, copy=True).sub_(self.mean).div_(self.deviation)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, ``size`` at a time: inputs and labels."""
        for begin in range(0, len(self), size):
            rows = slice(begin, begin + size)
            yield self.batch(rows), self.labels[rows]

    def to(self, device: str) -> Split:
        """The same on a device; the very tensors where they are there already."""
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in vars(self).items()}
        return Split(**moved)  # type: ignore[arg-type]

    def only(self, rows: Tensor) -> Split:
        """A split of these rows alone."""
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class Content:
    """All splits of a data set.

    Attributes:
        kind: What the inputs are.
        splits: ``train``, ``test`` and, where examples are held out, ``validation``.
        classes: Number of classes, of words, or of targets of a regression.
        digest: SHA-256 over all inputs and labels as they were decoded.
        white: The brightest pixel of the training images before any shift, at least 1.
        vocabulary: How many numbers of words or tokens there are; 0 where inputs are none.
        words: Whether inputs are words, numbered by their frequency.
    """

    kind: Kind
    splits: dict[str, Split]
    classes: int
    digest: str
    white: int = 1
    vocabulary: int = 0
    words: bool = False

    @property
    def train(self) -> Split:
        return self.splits["train"]

    def having(self, **splits: Split) -> Content:
        """The same with other splits in their places."""
        return replace(self, splits={**self.splits, **splits})


@dataclass(frozen=True)
class Decoded:
    """A data set as it was read, before anything is done to it.

    Attributes:
        kind: What the inputs are.
        splits: Inputs and labels of ``train`` and ``test``.
        classes: Number of classes, of words, or of targets of a regression.
        vocabulary: As of :class:`Content`.
        words: As of :class:`Content`.
    """

    kind: Kind
    splits: dict[str, tuple[Tensor, Tensor]]
    classes: int
    vocabulary: int = 0
    words: bool = False


def noisy(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a share of rows, chosen at random, is replaced by draws uniform over all classes.

    Args:
        labels: Shape (N, ...).
        classes: Number of classes.
        share: Between 0 and 1.
        seed: The same seed chooses the same rows and draws.
    """
    if share == 0:
        return labels
    generator = torch.Generator().manual_seed(derive(seed, "label noise"))
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    labels = labels.clone()
    labels[rows] = torch.randint(classes, labels[rows].shape, generator=generator)
    return labels
