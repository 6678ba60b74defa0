"""Which changes of a fine-tune carry its gain? Layers are put back to the base by halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights.coding import differing
from letitgo.weights.delta import Base, beside
from letitgo.weights.layers import layers as layers_of
from letitgo.weights.layers import plain
from letitgo.weights.robustness import check_evaluate, number, remembered
from letitgo.weights.sharded import refuse_sharded
from letitgo.weights.state import State
from letitgo.weights.units import By, units

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Bisection:
    """What :func:`bisect` finds.

    Attributes:
        score: Of the network as it was given.
        base_score: With all that can be put back put back.
        kept_score: With all but the carriers put back.
        frame: A row for each unit, in the network's order: ``layer``; ``values`` that changed hands when it was put
            back; ``what`` became of it: ``carries`` (it keeps its new weights), ``put back``, ``same`` (it is as in the
            base) or ``new`` (the base has nothing of its shape, so it was kept); ``score`` of the network right after
            it was tried alone, on top of what was put back by then; missing where it went back within a larger group.
        evaluations: How often ``evaluate`` was called.
        state: Copies of the network's tensors, with all but the carriers put back, for ``load_state_dict``.
    """

    score: float
    base_score: float
    kept_score: float
    frame: DataFrame
    evaluations: int
    state: State = field(repr=False)

    @property
    def carriers(self) -> tuple[str, ...]:
        """The units that keep their new weights, apart from new ones."""
        return tuple(self.frame["layer"][self.frame["what"] == "carries"])


def bisect(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Any],
    base: Base,
    tolerance: float = 0.0,
    blocks: str | Sequence[str] = (),
    by: By = "layer",
) -> Bisection:
    """Find a small set of layers whose changes carry the gain of a fine-tune over its base.

    Puts back half of the changed layers, and leaves them so if the score stays within the tolerance of the fine-tune's;
    else halves them again, down to single layers, each on top of what was put back before. With k carriers among n
    layers that takes about 2 k log₂(n / k) evaluations. A carrier could not be put back when it was tried. Layers act
    together, so another order may find another set, and a smaller one may exist. ``evaluate`` chooses the layers: judge
    what is found on other examples.

    Afterwards the model is what it was to the bit, also where ``evaluate`` raises.

    Args:
        model: The fine-tuned network, on any device.
        evaluate: Called with the model, gives one number, **larger is better**. It calls ``model.eval()`` itself.
        base: What it was tuned from, as for :func:`letitgo.save`.
        tolerance: By how much the score may fall below the fine-tune's, in its own unit.
        blocks: Patterns of modules that are one unit each.
        by: What a unit is, as in :func:`letitgo.robustness`. Its buffers, such as running statistics, go with it.

    Raises:
        BadRequest: The model is sharded, the base shares no tensor with it, the tolerance is no number from 0 on,
            ``evaluate`` is no function or gives no number, or ``by`` is no such unit.
    """
    check_evaluate(evaluate)
    if not isinstance(tolerance, Real) or not tolerance >= 0:
        raise BadRequest(f"tolerance is {tolerance!r}: give a number of at least 0")
    refuse_sharded(model, "bisect")
    own, old = beside(model, base)
    owned = _tensors_of(model, own, by, [blocks] if isinstance(blocks, str) else blocks)
    changed = {
        unit: [name for name in names if name in old and _differs(own[name], old[name])]
        for unit, names in owned.items()
    }
    search = _Search(model, evaluate, own, old, changed)
    score = search.without([])
    movable = [unit for unit, names in changed.items() if names]
    base_score = search.without(movable) if movable else score
    search.kept_score = score
    if movable:
        search.settle(movable, base_score, score - tolerance)
    rows = [
        {
            "layer": unit,
            "values": sum(own[name].numel() for name in changed[unit]),
            "what": _what(names, old, unit in search.back, unit in search.carriers),
            "score": search.alone.get(unit),
        }
        for unit, names in owned.items()
    ]
    from pandas import DataFrame

    frame = DataFrame(rows).astype({"score": float})
    back = {name for unit in search.back for name in changed[unit]}
    state = {name: (old if name in back else own)[name].detach().clone() for name in own}
    return Bisection(score, base_score, search.kept_score, frame, search.evaluations, state)


class _Search:
    """A network whose units are put back, and what was found of it.

    Attributes:
        back: Units that were put back to stay.
        carriers: Units that could not be.
        alone: Unit → the score when it was tried alone, on top of what was put back by then.
        kept_score: With what is put back by now.
    """

    def __init__(
        self,
        model: nn.Module,
        evaluate: Callable[[nn.Module], Any],
        own: State,
        old: State,
        changed: dict[str, list[str]],
    ) -> None:
        self._model, self._evaluate, self._own, self._old, self._changed = model, evaluate, own, old, changed
        self._undone = remembered(model)
        self.back: list[str] = []
        self.carriers: list[str] = []
        self.alone: dict[str, float] = {}
        self.kept_score = 0.0
        self.evaluations = 0

    def settle(self, group: list[str], score: float, least: float) -> bool:
        """Put back what can be of a group; whether that is all of it.

        Args:
            group: Units.
            score: With all of them put back, on top of what is by now.
            least: The lowest score that is accepted.
        """
        if len(group) == 1:
            self.alone[group[0]] = score
        if score >= least:
            self.back += group
            self.kept_score = score
            return True
        if len(group) == 1:
            self.carriers += group
            return False
        left, right = group[: len(group) // 2], group[len(group) // 2 :]
        whole = self.settle(left, self.without([*self.back, *left]), least)
        self.settle(right, score if whole else self.without([*self.back, *right]), least)
        return False

    def without(self, back: list[str]) -> float:
        """The score with some units put back."""
        with self._undone():
            with torch.no_grad():
                for name in (name for unit in back for name in self._changed[unit]):
                    self._own[name].copy_(self._old[name])
            self.evaluations += 1
            score = number(self._evaluate(self._model))
        if isnan(score):
            raise BadRequest("evaluate gives nan, with which nothing can be compared")
        return score


def _tensors_of(model: nn.Module, own: State, by: By, blocks: Sequence[str]) -> dict[str, list[str]]:
    """Unit → the names of its parameters and persistent buffers. Modules without parameters are no unit's."""
    of_layer = {layer: [plain(model, name) for name in names] for layer, names in layers_of(model).items()}
    parameters = {name for names in of_layer.values() for name in names}
    for name in own:
        if name not in parameters and (layer := name.rpartition(".")[0]) in of_layer:
            of_layer[layer].append(name)
    grouped = units(model, of_layer, by, blocks)
    return {unit: [name for layer in layers for name in of_layer[layer]] for unit, layers in grouped.items()}


def _differs(own: Tensor, old: Tensor) -> bool:
    return own.dtype != old.dtype or bool(differing(own, old).any())


def _what(names: list[str], old: State, back: bool, carries: bool) -> str:
    if not any(name in old for name in names):
        return "new"
    return "carries" if carries else "put back" if back else "same"
