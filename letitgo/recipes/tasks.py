"""What a network is trained to do: its outputs, its loss, and the metric that judges it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.conv import _ConvNd

from letitgo.errors import BadRequest
from letitgo.imports import import_object
from letitgo.recipes.splits import Split
from letitgo.value import Value

BATCH = 1000
"""Answers evaluated at once."""
CONV_BATCH = 128
"""The same of a network with convolutions, whose outputs would not fit the processor's caches otherwise."""


def at_once(module: nn.Module, split: Split) -> int:
    """How many examples of a split a network answers at once, where the split is."""
    convolves = split.labels.device.type == "cpu" and any(isinstance(part, _ConvNd) for part in module.modules())
    return max(1, (CONV_BATCH if convolves else BATCH) // split.labels[0].numel())


def packed(correct: Tensor) -> str:
    """Which of some examples were answered right, a bit each, eight in a byte, in base64.

    Args:
        correct: Booleans, shape (N,).
    """
    return base64.b64encode(np.packbits(correct.numpy()).tobytes()).decode()


def unpacked(correct: str, n: int) -> np.ndarray:
    """What :func:`packed` wrote of ``n`` examples: booleans, shape (n,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(correct), dtype=np.uint8), count=n).astype(bool)


@dataclass(frozen=True)
class Metric:
    """The number that decides between two networks.

    Attributes:
        name: Its key in an evaluation.
        more_is_better: Whether the larger number is the better one.
        share: Whether it is a fraction: then it is shown in per cent and drops are differences, in points. Else drops
            are relative, in per cent.
    """

    name: str
    more_is_better: bool = True
    share: bool = True

    @property
    def unit(self) -> str:
        """Unit of a drop, once it is multiplied by 100."""
        return "points" if self.share else "per cent"

    def drop(self, base: dict[str, float | None], own: dict[str, float | None]) -> float | None:
        """How much worse one evaluation is than another, a fraction; None where either has no number."""
        before, after = base[self.name], own[self.name]
        if before is None or after is None:
            return None
        worse = before - after if self.more_is_better else after - before
        return worse if self.share else worse / before if before else None

    def worth(self, values: Sequence[float], base: Sequence[float]) -> list[float]:
        """Numbers of which more is better, and whose means differ by the drop from those of a baseline.

        Args:
            values: Of some runs.
            base: Of the baseline's runs.
        """
        unit = (1 if self.more_is_better else -1) / (1 if self.share or not sum(base) else sum(base) / len(base))
        return [unit * value for value in values]

    def beats(self, mean: float, half: float | None, other: float) -> bool:
        """Whether the whole interval ``mean ± half`` is better than another number; without one, the mean."""
        half = half or 0.0
        return mean - half > other if self.more_is_better else mean + half < other


class Task(Value):
    """Base of all tasks. A subclass is a frozen dataclass with a loss; the defaults of the rest fit classification.

    Attributes:
        metric: Judges networks; its name is a key of :meth:`evaluate`.
    """

    metric: ClassVar[Metric] = Metric("accuracy")

    def outputs(self, classes: int) -> int:
        """Number of outputs for each answer, which a network gets as ``num_classes``; by default the classes."""
        return classes

    def loss(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """What training makes small.

        Args:
            outputs: Of the network, shape (*labels.shape, outputs).
            labels: Of a batch, shape (N, ...).
            reduction: ``"mean"`` or ``"sum"`` over all answers.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which answers count as right, shape of the labels, for the accuracy. By default the largest output."""
        return outputs.argmax(-1) == labels

    def score(self, accuracy: float, loss: float) -> float | None:
        """The metric, from the accuracy and the mean loss; None where it cannot be told."""
        return accuracy

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        """The metric of the best prediction that does not look at the inputs; None where it is not known.

        A network that does no better has not learned, and nothing is concluded from it.

        Args:
            train: Labels to find the prediction with.
            test: Labels that it is judged on.
            classes: Number of classes.
        """
        return None

    @torch.no_grad()
    def evaluate(self, module: nn.Module, split: Split) -> dict[str, Any]:
        """``accuracy`` (fraction), ``loss`` (mean), ``n`` (answers) and the metric on a split.

        Where the metric is the share of examples with the right answer, also ``correct``: see :func:`packed`. The
        module is put into evaluation mode. None stands for what is not finite: JSON has no word for it.
        """
        module.eval()
        right, losses, n = [], [], split.labels.numel()
        for inputs, labels in split.batches(at_once(module, split)):
            outputs = module(inputs)
            right.append(self.right(outputs, labels))
            losses.append(self.loss(outputs, labels, "sum"))
        correct, total = torch.cat(right).cpu(), 0.0
        for loss in torch.stack(losses).tolist():  # one after another, in double precision
            total += loss
        accuracy, loss = int(correct.sum()) / n, total / n
        found = {"accuracy": accuracy, "loss": loss, "n": n, self.metric.name: self.score(accuracy, loss)}
        finite = {name: value if value is not None and isfinite(value) else None for name, value in found.items()}
        of_examples = self.metric.share and correct.ndim == 1 and type(self).score is Task.score
        return finite | ({"correct": packed(correct)} if of_examples else {})


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """One class for each input, learned by cross-entropy."""

    def loss(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction=reduction)

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        """The share of the most frequent class."""
        return float(test.flatten().bincount().max()) / test.numel()


@dataclass(frozen=True, eq=False)
class NextWord(Classification):
    """The next word at each place of a text, judged by perplexity, the exponential of the loss.

    Inputs and labels are word numbers, shape (N, words).
    """

    metric: ClassVar[Metric] = Metric("perplexity", more_is_better=False, share=False)

    def score(self, accuracy: float, loss: float) -> float | None:
        return exp(loss) if loss <= 700 else None

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        """The perplexity under each word's share of the training text, with one added to each count."""
        counts = 1.0 + train.flatten().bincount(minlength=classes)
        return float((counts / counts.sum()).log()[test.flatten()].mean().neg().exp())


TASKS: dict[str, Task] = {"images": Classification(), "text": NextWord()}
"""The task that data ask for, by what the data hold."""


def find_task(path: str) -> Task:
    """The task at ``package.module:Class``.

    Raises:
        BadRequest: It does not import, or is no task.
    """
    found = import_object(path, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise BadRequest(f"the task {path!r} is no subclass of letitgo.recipes.tasks.Task")
    return found()
