"""Freezing in place: the same Parameter objects, the same state_dict keys, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from letitgo.errors import BadRequest
from letitgo.weights.layers import owner, parameter_names
from letitgo.weights.select import Selection

Statistics = Literal["follow", "frozen"]


def freeze(module: nn.Module, selection: Selection, statistics: Statistics = "follow") -> None:
    """Keep the selected parameters as they are, to the bit.

    They ask for no gradient and hold none, so an optimiser given ``trainable(module)`` never sees them, and one that
    already holds them skips them. LBFGS alone does not: it moves all it holds at once, so make it anew.

    Args:
        module: The network, changed in place.
        selection: What is frozen. What is outside it is left as it was.
        statistics: ``"follow"``: the running statistics of frozen normalization layers go on following the data, since
            they describe data and were not learned. ``"frozen"``: those layers stay in evaluation mode, whatever
            ``module.train()`` says.

    Raises:
        BadRequest: The selection is none, or of another network.
    """
    if not isinstance(selection, Selection):
        raise BadRequest(f"{selection!r} is no selection: choose with select(module, {selection!r})")
    if selection.of != parameter_names(module):
        raise BadRequest("the selection is of another network: choose with select(module, ...)")
    if statistics not in get_args(Statistics):
        raise BadRequest(f"statistics is {statistics!r}: it can be 'follow' or 'frozen'")
    for name in selection:
        parameter = module.get_parameter(name)
        parameter.requires_grad_(False)
        parameter.grad = None
    if statistics == "frozen":
        for norm in _norms(module, selection):
            norm.train(False)
            norm.train = partial(_stay, norm)  # type: ignore[method-assign]


def thaw(module: nn.Module, selection: Selection) -> None:
    """Let the selected parameters train again, and the statistics of their normalization layers follow the data."""
    for name in selection:
        module.get_parameter(name).requires_grad_(True)
    for norm in _norms(module, selection):
        if "train" in vars(norm):
            del norm.train
            norm.train(module.training)


def train_only(module: nn.Module, selection: Selection, statistics: Statistics = "follow") -> None:
    """Freeze everything but the selection."""
    freeze(module, ~selection, statistics)


@contextmanager
def frozen(module: nn.Module, selection: Selection, statistics: Statistics = "follow") -> Iterator[nn.Module]:
    """The module with the selection frozen; on leaving, flags and modes are what they were."""
    before = {name: module.get_parameter(name).requires_grad for name in selection}
    norms = [(norm, norm.training, vars(norm).get("train")) for norm in _norms(module, selection)]
    freeze(module, selection, statistics)
    try:
        yield module
    finally:
        for name, trains in before.items():
            module.get_parameter(name).requires_grad_(trains)
        for norm, mode, held in norms:
            vars(norm).pop("train", None)
            norm.training = mode
            if held is not None:
                norm.train = held


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that may move, in the module's order: what to hand to an optimiser."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _norms(module: nn.Module, selection: Selection) -> list[nn.Module]:
    owners = dict.fromkeys(owner(module, name) for name in selection)
    return [found for name in owners if isinstance(found := module.get_submodule(name), _NormBase)]


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(norm, False)
