"""Deep linear networks on data of two classes: what they are trained on, their training, and what is read off it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from math import atan2, cos, degrees, pi, sin
from typing import Any, ClassVar

import torch
from torch import Tensor

from letitgo import weights
from letitgo.deep_linear.descent import Law, Point, Rule, descend, product, start
from letitgo.deep_linear.margin import NotSeparable, max_margin, separating_margin
from letitgo.errors import BadRequest
from letitgo.plan.measures import Measure
from letitgo.recipes.data import Data
from letitgo.store import Store
from letitgo.training.place import CPU, Place
from letitgo.value import Value, derive


class Problem(Value):
    """Points of two classes."""

    def signed(self) -> Tensor:
        """Inputs times their labels ±1, shape (n, d), float64, the largest of norm at most 1."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Synthetic(Problem):
    """Points of the unit disc on both sides of a line through the origin, none nearer to it than ``gap``."""

    seed: int
    points: int = 64
    gap: float = 0.25

    def signed(self) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.seed, "separable"))
        angle, *_ = 2 * pi * torch.rand(1, dtype=torch.float64, generator=generator)
        line = torch.tensor([cos(angle), sin(angle)], dtype=torch.float64)
        found: list[Tensor] = []
        while len(found) < self.points:
            point = 2 * torch.rand(2, dtype=torch.float64, generator=generator) - 1
            away = float(point @ line)
            if float(point.norm()) <= 1 and abs(away) >= self.gap:
                found.append(point if away > 0 else -point)
        return torch.stack(found)


@dataclass(frozen=True, eq=False)
class TwoClasses(Problem):
    """Images of two classes of a data set: pixels in a row, divided by the largest norm, neither centred nor whitened.

    Attributes:
        dataset: Of its training split.
        classes: The one whose label is −1, and the one whose label is +1.
        examples: How many, the first of the data set.
    """

    dataset: Data
    classes: tuple[int, int]
    examples: int

    def signed(self) -> Tensor:
        split = self.dataset.split("train")
        rows = torch.isin(split.labels, torch.tensor(self.classes)).nonzero()[: self.examples, 0]
        inputs = split.inputs[rows].flatten(1).double()
        labels = torch.where(split.labels[rows] == self.classes[1], 1.0, -1.0).double()
        return labels[:, None] * inputs / inputs.norm(dim=1).max()


@lru_cache(maxsize=32)
def _signed(problem: Problem) -> Tensor:
    return problem.signed()


@dataclass(frozen=True, eq=False)
class MaximumMargin(Measure):
    """The direction that separates a problem's classes with the largest margin."""

    problem: Problem

    def check(self) -> None:
        """Make sure that there is one.

        Raises:
            NotSeparable: There is none.
        """
        separating_margin(_signed(self.problem))

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``direction``, ``margin``, ``n``, ``d``, ``support`` (vectors) and their ``rank``."""
        signed = _signed(self.problem)
        found = max_margin(signed)
        n, d = signed.shape
        sizes = {"n": n, "d": d, "support": len(found.support), "rank": found.rank}
        return {"direction": found.direction.tolist(), "margin": found.margin, **sizes}

    def cost(self) -> int:
        """One matrix of inner products; how often the solver passes over it is not known beforehand."""
        n, d = _signed(self.problem).shape
        return 2 * n * n * d


@dataclass(frozen=True, eq=False)
class Descent(Measure):
    """Training of a deep linear network with one output, and what JT18 (arXiv:1810.02032) measures along it.

    Attributes:
        towards: The maximum margin of the problem that it is trained on.
        widths: Units of the hidden layers.
        law: Of the initial weights; see :func:`letitgo.deep_linear.descent.start`.
        seed: Of the initial weights.
        rule: Of the step; see :func:`letitgo.deep_linear.descent.descend`.
        rate: Factor of the step.
        marks: Steps at which it is measured, rising; the last one is the end.
        frozen: Places of the layers that keep their initial weights, 0 for the first.
        scale: Factor of the initial weights.
    """

    trains: ClassVar[bool] = True

    towards: MaximumMargin
    widths: tuple[int, ...]
    law: Law
    seed: int
    rule: Rule
    rate: float
    marks: tuple[int, ...]
    frozen: tuple[int, ...] = ()
    scale: float = 1.0

    @property
    def initial(self) -> list[Tensor]:
        """The matrices it starts from, first layer first."""
        return start(self.law, self.widths, _signed(self.towards.problem), self.seed, self.scale)

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """``imbalance``: D of the start; ``points``: what was measured, of the recorded steps that were reached.

        Each point has ``step``; ``risk`` (nats); ``norm`` of the product; ``angle`` between the product and the
        maximum-margin direction, degrees; ``margin`` of the product, as a share of the largest; ``angle_left``, the
        angle to the maximum-margin direction among the outputs of a frozen first layer; ``first``, the alignment of
        the first layer with the maximum-margin direction; ``ratio``, ``spectral``, ``frobenius`` of each layer;
        ``adjacent`` of each but the last; ``drift`` of the invariants; ``rank_excess`` and ``adjacent_excess``, by
        how much Lemma 2 is missed. None where something is not defined, as for a zero matrix.
        """
        signed, initial = _signed(self.towards.problem), self.initial
        best = self.towards.result(store)
        direction = torch.tensor(best["direction"], dtype=torch.float64)
        left = _among_features(signed, initial[0]) if 0 in self.frozen else None
        points = []
        wanted = set(self.marks)
        with torch.inference_mode():
            for point in descend(initial, signed, self.rule, self.rate, self.frozen):
                if point.step in wanted:
                    points.append(_measured(point, initial, signed, direction, best["margin"], left))
                if point.step >= self.marks[-1]:
                    break
        return {"imbalance": weights.imbalance(initial), "points": points}

    def cost(self) -> int:
        """Floating-point operations of the steps, counted: all gradients are outer products of two vectors."""
        n, d = _signed(self.towards.problem).shape
        sizes = [d, *self.widths, 1]
        layers = sum(a * b for a, b in pairwise(sizes))
        return self.marks[-1] * (4 * n * d + 8 * layers)

    def seconds(self) -> float:
        """Seconds on one thread, from a short measurement: of matrices this small operations tell little."""
        return self.marks[-1] * _seconds_a_step(self.towards.problem, self.widths, self.law)


@lru_cache(maxsize=256)
def _seconds_a_step(problem: Problem, widths: tuple[int, ...], law: Law) -> float:
    signed, steps = _signed(problem), 100
    with CPU.entered(), torch.inference_mode():
        points = descend(start(law, widths, signed, 0, 1.0), signed, "risk", 1.0)
        next(islice(points, steps // 10, None))  # the first steps warm up
        begin = time.perf_counter()
        next(islice(points, steps - 1, None))
        return (time.perf_counter() - begin) / steps


def _among_features(signed: Tensor, first: Tensor) -> Tensor | None:
    """What a network behind a frozen first layer can tend to: the maximum-margin direction of the layer's outputs."""
    try:
        return max_margin(signed @ first.T).direction @ first
    except NotSeparable:
        return None


def _measured(
    point: Point, initial: Sequence[Tensor], signed: Tensor, direction: Tensor, best: float, left: Tensor | None
) -> dict[str, Any]:
    found = weights.alignment(point.matrices, direction)
    whole = product(point.matrices)
    norm = float(whole.norm())
    excess = weights.lemma_2(point.matrices, initial)
    return {
        "step": point.step,
        "risk": point.risk,
        "norm": norm,
        "angle": _angle(whole, direction),
        "angle_left": None if left is None else _angle(whole, left / left.norm()),
        "margin": float((signed @ whole).min()) / norm / best if norm else None,
        "first": found.first,
        "ratio": list(found.ratio),
        "spectral": list(found.spectral),
        "frobenius": list(found.frobenius),
        "adjacent": list(found.adjacent),
        "drift": weights.invariant_drift(point.matrices, initial),
        "rank_excess": excess.rank,
        "adjacent_excess": excess.adjacent,
    }


def _angle(vector: Tensor, unit: Tensor) -> float | None:
    """Degrees; exact also where it is small. None for the zero vector."""
    along = float(vector @ unit)
    across = float((vector - along * unit).norm())
    return degrees(atan2(across, along)) if along or across else None


def two_classes(data: Data, classes: Sequence[int], examples: int) -> TwoClasses:
    """A problem from two classes of a data set.

    Raises:
        BadRequest: They are not two of its classes, or there are not at least two examples of them.
    """
    if len(classes) != 2 or classes[0] == classes[1]:
        raise BadRequest(
            f"classes is {','.join(map(str, classes))}: the theorem is about networks with one output, so give two "
            "classes, as in 0,1; of more outputs it says nothing"
        )
    for number in classes:
        if not 0 <= number < data.classes:
            raise BadRequest(f"classes names {number}: {data.name} has classes 0 to {data.classes - 1}")
    found = TwoClasses(data, (classes[0], classes[1]), examples)
    if len(_signed(found)) < 2:
        raise BadRequest(f"{data.name} has fewer than two examples of classes {classes[0]} and {classes[1]}")
    return found
