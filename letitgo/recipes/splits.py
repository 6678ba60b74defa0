"""What a data set holds: splits of inputs and labels in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from letitgo.value import derive

Kind = Literal["images", "text"]
SplitName = Literal["train", "test", "validation"]


@dataclass(frozen=True)
class Split:
    """Inputs and labels in memory.

    Attributes:
        inputs: Pixels as they were stored, uint8, shape (N, C, H, W); or word numbers, int64, shape (N, L).
        labels: Class numbers, int64, shape (N,); or the words that follow, shape (N, L).
        mean: What is subtracted from each channel: its mean over all training inputs, before any shift; shape
            (C, 1, 1). None for words, which reach the network as they are.
        deviation: What it is then divided by: its standard deviation over the same, shape (C, 1, 1). Where pixels are
            brought to 0 to 1, these are 0 and the brightest training pixel.
    """

    inputs: Tensor
    labels: Tensor
    mean: Tensor | None = None
    deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor | slice) -> Tensor:
        """Inputs of some rows: pixels less the mean and divided by the deviation, float32, or words."""
        # index_select copies whole rows, an order of magnitude quicker than indexing with a tensor
        chosen = self.inputs.index_select(0, rows) if isinstance(rows, Tensor) else self.inputs[rows]
        if self.mean is None or self.deviation is None:
            return chosen
        return chosen.to(torch.float32).sub_(self.mean).div_(self.deviation)

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
        classes: Number of classes, or of words.
        digest: SHA-256 over all inputs and labels as they were decoded.
        white: The brightest pixel of the training images before any shift, at least 1.
    """

    kind: Kind
    splits: dict[str, Split]
    classes: int
    digest: str
    white: int = 1

    @property
    def train(self) -> Split:
        return self.splits["train"]

    def having(self, **splits: Split) -> Content:
        """The same with other splits in their places."""
        return replace(self, splits={**self.splits, **splits})


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
