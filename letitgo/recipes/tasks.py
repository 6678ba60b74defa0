"""What a network is trained to do: its outputs, its loss, and the metric that judges it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, isfinite
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.modules.conv import _ConvNd

from letitgo.code import Code, code_of
from letitgo.errors import BadRequest, WorkFailed, named, nearest
from letitgo.imports import import_object
from letitgo.recipes.metrics import ACCURACY, Judge, Metric, find_metric
from letitgo.recipes.splits import Content, Kind, Split
from letitgo.value import Value

BATCH = 1000
"""Answers evaluated at once."""
CONV_BATCH = 128
"""The same of a network with convolutions, whose outputs would not fit the processor's caches otherwise."""
Labels = Literal["classes", "amounts"]
"""What is learned of each example: one of some classes, or numbers."""


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


class Task(Value):
    """Base of all tasks. A subclass is a frozen dataclass with a loss; the defaults of the rest fit classification.

    Attributes:
        metric: Judges networks; its name is a key of :meth:`evaluate`.
        labels: What labels have to be, ``classes`` or ``amounts``; None where the task takes them as they are.
        kinds: The data it is for; all where there is none.
        default_loss: The name of its loss in ``torch.nn.functional``.
    """

    metric: ClassVar[Metric] = ACCURACY
    labels: ClassVar[Labels | None] = None
    kinds: ClassVar[tuple[Kind, ...]] = ()
    default_loss: ClassVar[str] = ""

    @property
    def judge(self) -> Judge | None:
        """Gives the metric from all predictions and labels, in the units of the data. None where :meth:`score` does."""
        return None

    def check(self, name: str, content: Content) -> None:
        """Make sure that the task is for some data.

        Raises:
            BadRequest: It is not.
        """
        said = type(self).__name__.lower()
        if self.kinds and content.kind not in self.kinds:
            raise BadRequest(f"the task {said} is not for {content.kind}, which {name!r} holds: leave task out")
        if self.labels == "classes" and content.train.labels.is_floating_point():
            raise BadRequest(f"the labels of {name!r} are fractions, and the task {said} needs classes: leave task out")

    @property
    def share(self) -> Metric | None:
        """The share that networks are compared by where it takes one: the metric, or the accuracy; None if neither."""
        if self.metric.share:
            return self.metric
        return None if self.labels == "amounts" else ACCURACY

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

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What :attr:`judge` is given, shape of the labels. By default the number of the largest output."""
        return outputs.argmax(-1)

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Which answers count as right, shape of the labels, for the accuracy; None where there is no such thing."""
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

        Where answers are neither right nor wrong, there is no ``accuracy``. Where the metric is the share of examples
        with the right answer, also ``correct``: see :func:`packed`. The module is put into evaluation mode. None stands
        for what is not finite: JSON has no word for it.
        """
        module.eval()
        right, answers, losses, n = [], [], [], split.labels.numel()
        for inputs, labels in split.batches(at_once(module, split)):
            outputs = module(inputs)
            if (correct := self.right(outputs, labels)) is not None:
                right.append(correct)
            if self.judge is not None:
                answers.append((self.predictions(outputs, labels), labels))
            losses.append(self.loss(outputs, labels, "sum"))
        correct, total = torch.cat(right).cpu() if right else None, 0.0
        for loss in torch.stack(losses).tolist():  # one after another, in double precision
            total += loss
        loss, found = total / n, {} if correct is None else {"accuracy": int(correct.sum()) / n}
        score = self.score(found.get("accuracy", 0.0), loss) if self.judge is None else self._judged(answers, split)
        found |= {"loss": loss, "n": n, self.metric.name: score}
        finite = {name: value if value is not None and isfinite(value) else None for name, value in found.items()}
        if correct is not None and correct.ndim == 1 and self.counts_right:
            return finite | {"correct": packed(correct)}
        return finite

    @property
    def counts_right(self) -> bool:
        """Whether the metric is the share of right answers."""
        return self.metric.share and self.judge is None and type(self).score is Task.score

    def _judged(self, answers: list[tuple[Tensor, Tensor]], split: Split) -> float | None:
        assert self.judge is not None
        predictions, labels = (split.in_units(torch.cat(part)).cpu() for part in zip(*answers, strict=True))
        if labels.is_floating_point():
            predictions = predictions.to(labels.dtype)
        else:
            predictions, labels = predictions.flatten(), labels.flatten()
        try:
            return float(self.judge(predictions, labels))
        except Exception as error:
            raise WorkFailed(f"the metric {self.metric.name!r} raises {named(error)}") from error


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """One class for each input, learned by cross-entropy."""

    labels: ClassVar[Labels | None] = "classes"
    kinds: ClassVar[tuple[Kind, ...]] = ("images", "features", "tokens")
    default_loss: ClassVar[str] = "cross_entropy"

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
    kinds: ClassVar[tuple[Kind, ...]] = ("text",)

    def score(self, accuracy: float, loss: float) -> float | None:
        return exp(loss) if loss <= 700 else None

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        """The perplexity under each word's share of the training text, with one added to each count."""
        counts = 1.0 + train.flatten().bincount(minlength=classes)
        return float((counts / counts.sum()).log()[test.flatten()].mean().neg().exp())


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """One amount or several for each input, learned by squared error on standardised targets, judged by R²."""

    metric: ClassVar[Metric] = Metric("r2")
    labels: ClassVar[Labels | None] = "amounts"
    kinds: ClassVar[tuple[Kind, ...]] = ("images", "features", "tokens")
    default_loss: ClassVar[str] = "mse_loss"

    @property
    def judge(self) -> Judge:
        return find_metric("r2")[1]

    def loss(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return mse_loss(outputs.view_as(labels), labels, reduction=reduction)

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.view_as(labels)

    def right(self, outputs: Tensor, labels: Tensor) -> None:
        return None

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        """The R² of the training set's mean."""
        return best_constant(self.judge, self.metric, train, test)


def best_constant(judge: Judge, metric: Metric, train: Tensor, test: Tensor) -> float:
    """What the best prediction that ignores the inputs reaches.

    Of amounts that is the training set's mean or median. Of classes it is the most frequent one, or a guess among all,
    equally often or as often as they are there (the mean of several draws), which is ahead under a macro-averaged
    metric.
    """
    best = max if metric.more_is_better else min
    if test.is_floating_point():
        return best(float(judge(guess.expand_as(test), test)) for guess in (train.mean(0), train.median(0).values))
    flat, generator = test.flatten(), torch.Generator().manual_seed(0)

    def guessed(among: Tensor) -> float:
        draws = (among[torch.randint(len(among), flat.shape, generator=generator)] for _ in range(GUESSES))
        return fmean(float(judge(draw, flat)) for draw in draws)

    return best(float(judge(flat.mode().values.expand_as(flat), flat)), guessed(flat.unique()), guessed(flat))


GUESSES = 10
"""Draws of which the mean tells what guessing reaches."""


@dataclass(frozen=True, eq=False)
class Custom(Task):
    """A task with another loss, or judged by another metric.

    Attributes:
        task: What is changed.
        objective: The loss, a name in ``torch.nn.functional`` or an import path; the task's own where there is none.
        arguments: What the loss is called with besides.
        judged_by: The metric, as :func:`letitgo.recipes.metrics.find_metric` takes it; the task's own if none.
        code: What the import paths depend on.
    """

    task: Task
    objective: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    judged_by: str | None = None
    code: Code = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in self.fields().items() if value}

    @cached_property
    def _metric(self) -> tuple[Metric, Judge | None]:
        if self.judged_by is None:
            return self.task.metric, self.task.judge
        return find_metric(self.judged_by, self.task.labels)

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        return self._metric[0]

    @property
    def judge(self) -> Judge | None:  # type: ignore[override]
        return self._metric[1]

    @property
    def labels(self) -> Labels | None:  # type: ignore[override]
        return self.task.labels

    def check(self, name: str, content: Content) -> None:
        self.task.check(name, content)

    def outputs(self, classes: int) -> int:
        return self.task.outputs(classes)

    def loss(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        if self._loss is None:
            return self.task.loss(outputs, labels, reduction)
        if self.task.labels == "amounts":
            outputs = outputs.view_as(labels)
        else:
            outputs, labels = outputs.flatten(0, -2), labels.flatten()
        if ":" in str(self.objective):
            value = self._loss(outputs, labels, **self.arguments)
            if not isinstance(value, Tensor):
                raise BadRequest(
                    f"the loss {self.objective!r} gives {type(value).__name__}: it has to give a tensor, of one number "
                    "or of one for each label"
                )
            value = value.mean()
            return value * labels.numel() if reduction == "sum" else value
        if self.task.labels == "classes" and self.objective not in OF_CLASSES:
            labels = functional.one_hot(labels, outputs.shape[-1]).to(outputs.dtype)
            losses = self._loss(outputs, labels, reduction="none", **self.arguments).mean(-1)
        else:
            losses = self._loss(outputs, labels, reduction="none", **self.arguments)
        return losses.sum() if reduction == "sum" else losses.mean()

    @cached_property
    def _loss(self) -> Callable[..., Tensor] | None:
        if self.objective is None:
            return None
        return import_object(self.objective, "loss") if ":" in self.objective else getattr(functional, self.objective)

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.task.predictions(outputs, labels)

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        return self.task.right(outputs, labels)

    def score(self, accuracy: float, loss: float) -> float | None:
        return self.task.score(accuracy, loss)

    @property
    def counts_right(self) -> bool:
        return self.judge is None and self.task.counts_right

    def constant(self, train: Tensor, test: Tensor, classes: int) -> float | None:
        if self.judged_by is None or self.judge is None:
            return self.task.constant(train, test, classes)
        return best_constant(self.judge, self.metric, train, test)


OF_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")
"""Losses of ``torch.nn.functional`` that take class numbers."""
OF_AMOUNTS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
"""Those that take amounts. Of classes they and the binary one take ones and zeros, and the mean over all outputs."""
LOSSES = {"classes": (*OF_CLASSES, *OF_AMOUNTS, "binary_cross_entropy_with_logits"), "amounts": OF_AMOUNTS}
TASKS: dict[str, Task] = {"classification": Classification(), "next-word": NextWord(), "regression": Regression()}
"""The tasks by name."""


def task_of(content: Content) -> Task:
    """The task that data ask for: of a text the next word, of labels that are fractions a regression, else classes."""
    if content.kind == "text":
        return TASKS["next-word"]
    return TASKS["regression" if content.train.labels.is_floating_point() else "classification"]


def find_task(path: str) -> Task:
    """The task of a name, or at ``package.module:Class``.

    Raises:
        BadRequest: It does not import, or is no task.
    """
    if path in TASKS:
        return TASKS[path]
    found = import_object(path, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise BadRequest(f"the task {path!r} is no subclass of letitgo.recipes.tasks.Task")
    return found()


def customised(task: Task, loss: str | None, arguments: dict[str, Any], metric: str | None) -> Task:
    """A task with another loss or metric; itself where these are its own.

    Raises:
        BadRequest: There is no such loss or metric, or it is not for this task.
    """
    loss = loss or task.default_loss
    loss = None if loss == task.default_loss and not arguments else loss
    metric = None if metric == task.metric.name else metric
    if not loss and metric is None:
        return task
    if not task.default_loss or task.labels is None:
        raise BadRequest("loss and metric are for the tasks that are built in: a class of your own says them itself")
    code: Code = {}
    if loss is not None:
        if ":" in loss:
            code |= code_of(loss, import_object(loss, "loss"))
        elif loss not in (known := LOSSES[task.labels]):
            raise BadRequest(
                f"unknown loss {loss!r}: {nearest(loss, known)} (or give an import path package.module:function)"
            )
    if metric is not None:
        find_metric(metric, task.labels)
        if ":" in metric:
            code |= code_of(metric, import_object(metric, "metric"))
    return Custom(task, loss, arguments, metric, code)
