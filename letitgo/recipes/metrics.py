"""Metrics: what judges networks, by name from scikit-learn or by import path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import numpy as np
from torch import Tensor

from letitgo.errors import BadRequest, nearest
from letitgo.imports import import_object

Judge = Callable[[Tensor, Tensor], Any]
"""From all predictions and labels to a number."""


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


ACCURACY = Metric("accuracy")


# Name → the function of sklearn.metrics, its arguments, whether more is better, whether it is a share, what it judges.
_KNOWN: dict[str, tuple[str, dict[str, Any], bool, bool, Literal["classes", "amounts"]]] = {
    "accuracy": ("accuracy_score", {}, True, True, "classes"),
    "balanced_accuracy": ("balanced_accuracy_score", {}, True, True, "classes"),
    "f1_macro": ("f1_score", {"average": "macro"}, True, True, "classes"),
    "f1_weighted": ("f1_score", {"average": "weighted"}, True, True, "classes"),
    "precision_macro": ("precision_score", {"average": "macro", "zero_division": 0}, True, True, "classes"),
    "recall_macro": ("recall_score", {"average": "macro", "zero_division": 0}, True, True, "classes"),
    "r2": ("r2_score", {}, True, True, "amounts"),
    "rmse": ("root_mean_squared_error", {}, False, False, "amounts"),
    "mae": ("mean_absolute_error", {}, False, False, "amounts"),
}


def find_metric(name: str, labels: str | None = None) -> tuple[Metric, Judge]:
    """A metric, and the function that gives it.

    Args:
        name: ``accuracy``, ``f1_macro``, ``rmse``, …, as scikit-learn calls them; or ``package.module:function``, whose
            attribute ``more_is_better`` says which direction is better, and ``share``, if it has one, whether it lies
            between 0 and 1.
        labels: ``classes`` or ``amounts``, where a metric has to be one of these.

    Raises:
        BadRequest: There is no such metric, it is for other labels, or does not say which direction is better.
    """
    if ":" in name:
        found = import_object(name, "metric")
        better, share = getattr(found, "more_is_better", None), getattr(found, "share", False)
        if not isinstance(better, bool) or not isinstance(share, bool):
            function = name.rpartition(":")[2]
            raise BadRequest(
                f"the metric {name!r} does not say which direction is better: set {function}.more_is_better to True or "
                f"False, and {function}.share to True where it lies between 0 and 1"
            )
        return Metric(name.rpartition(":")[2], better, share), found
    known = [one for one, about in _KNOWN.items() if labels in (None, about[-1])]
    if name not in known:
        raise BadRequest(
            f"unknown metric {name!r}: {nearest(name, known)} (or give an import path package.module:function)"
        )
    function, args, better, share, _ = _KNOWN[name]
    return Metric(name, better, share), _Named(function, args)


@dataclass(frozen=True)
class _Named:
    """A function of ``sklearn.metrics``, which has the labels first."""

    function: str
    args: dict[str, Any]

    def __call__(self, predictions: Tensor, labels: Tensor) -> float:
        from sklearn import metrics

        with catch_warnings():
            simplefilter("ignore")  # of classes that are never predicted, or not there
            numbers: list[np.ndarray] = [labels.numpy(), predictions.numpy()]
            return float(getattr(metrics, self.function)(*numbers, **self.args))
