"""Freezing in place: the same Parameter objects, the same state_dict keys, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from letitgo.errors import BadRequest
from letitgo.weights.layers import parameter_names, trains
from letitgo.weights.select import Selection, chosen_of

Statistics = Literal["follow", "frozen"]
Dropout = Literal["follow", "off"]
Chosen = Selection | str | Sequence[str]
"""A selection, or patterns as :func:`letitgo.select` takes them."""

HELD = "_letitgo_held"
"""Attribute of a module that :func:`letitgo.hold` holds."""

_RECORD = "_letitgo_frozen"
"""Attribute of a module with something frozen: parameter name → whether it asked for a gradient before."""


def freeze(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> None:
    """Keep the selected parameters as they are, to the bit.

    They ask for no gradient and hold none, so an optimiser given ``trainable(module)`` never sees them, and one that
    already holds them skips them. LBFGS alone does not: it moves all it holds at once, so make it anew.

    A module without parameters goes with the smallest module around it that has some.

    Args:
        module: The network, changed in place.
        selection: What is frozen: a selection, or patterns for :func:`select`. What is outside it is left as it was.
        statistics: ``"follow"``: the running statistics of frozen normalization layers go on following the data, since
            they describe data and were not learned. ``"frozen"``: those layers stay in evaluation mode, whatever
            ``module.train()`` says.
        dropout: ``"off"``: all other modules that are wholly frozen stay in evaluation mode too, which turns off their
            dropout, that inside of attention and recurrent layers included.

    Raises:
        BadRequest: The selection is none, or of another network.
    """
    selection = _check(module, selection)
    for name, given, kind in (("statistics", statistics, Statistics), ("dropout", dropout, Dropout)):
        if given not in get_args(kind):
            raise BadRequest(f"{name} is {given!r}: it can be {' or '.join(map(repr, get_args(kind)))}")
    record = vars(module).get(_RECORD, {})
    for name in selection:
        parameter = module.get_parameter(name)
        record.setdefault(name, parameter.requires_grad)
        parameter.requires_grad_(False)
        parameter.grad = None
    if record:
        vars(module)[_RECORD] = record
    mode = module.training
    for part in _still(module, selection, statistics, dropout):
        if not _is_held(part):
            own = _own_mode(part, module, mode)
            part.training = False
            part.train = partial(_stay, part, own)  # type: ignore[method-assign]


def thaw(module: nn.Module, selection: Chosen | None = None) -> None:
    """Undo :func:`freeze` for the selected parameters; for all that it froze if none are given.

    They train again, except what did not before it was frozen, and whole numbers; the modules held in evaluation mode
    with them follow ``module.train()`` again.
    """
    names = parameter_names(module)
    frozen_here = vars(module).get(_RECORD, {})
    selection = Selection(tuple(n for n in names if n in frozen_here), names) if selection is None else selection
    selection = _check(module, selection)
    record = vars(module).pop(_RECORD, {})
    for name in selection:
        parameter = module.get_parameter(name)
        parameter.requires_grad_(record.pop(name, True) and trains(parameter))
    if record:
        vars(module)[_RECORD] = record
    thawed = {id(module.get_parameter(name)) for name in selection}
    for name, part in module.named_modules():
        if _is_held(part) and thawed.intersection(map(id, _extent(module, name).parameters())):
            own = vars(part).pop("train").args[1]
            part.training = module.training if own is None else own


def train_only(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> None:
    """Freeze everything but the selection."""
    freeze(module, ~_check(module, selection), statistics, dropout)


@contextmanager
def frozen(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> Iterator[nn.Module]:
    """The module with the selection frozen; on leaving, all is as it was before, but for the mode of the network."""
    selection = _check(module, selection)
    flags = {name: module.get_parameter(name).requires_grad for name in selection}
    record, mode = dict(vars(module).get(_RECORD, {})), module.training
    parts = [
        (part, _own_mode(part, module, mode), vars(part).get("train"))
        for part in _still(module, selection, statistics, dropout)
    ]
    freeze(module, selection, statistics, dropout)
    try:
        yield module
    finally:
        for name, trains in flags.items():
            module.get_parameter(name).requires_grad_(trains)
        vars(module).pop(_RECORD, None)
        if record:
            vars(module)[_RECORD] = record
        for part, own, held in parts:
            vars(part).pop("train", None)
            part.training = module.training if own is None else own
            if held is not None:
                part.train = held


def _check(module: nn.Module, selection: Chosen) -> Selection:
    if hasattr(vars(module).get(HELD), "release"):
        raise BadRequest("the module is held, which says what is frozen: release() it first")
    return chosen_of(module, selection)


def _still(module: nn.Module, selection: Selection, statistics: Statistics, dropout: Dropout) -> list[nn.Module]:
    """The modules to hold in evaluation mode, outer ones first."""
    chosen = {id(module.get_parameter(name)) for name in selection}
    found = []
    for name, part in module.named_modules():
        is_norm = isinstance(part, _NormBase)
        if statistics == "follow" if is_norm else dropout == "follow":
            continue
        own = [id(parameter) for parameter in part.parameters(recurse=False)]
        around = [id(parameter) for parameter in _extent(module, name).parameters()]
        if (is_norm and chosen.intersection(own)) or (around and chosen.issuperset(around)):
            found.append(part)
    return found


def _extent(module: nn.Module, name: str) -> nn.Module:
    """The smallest module around a submodule, or itself, that has parameters; the root where none has."""
    while name and not any(True for _ in module.get_submodule(name).parameters()):
        name = name.rpartition(".")[0]
    return module.get_submodule(name)


def _own_mode(part: nn.Module, module: nn.Module, mode: bool) -> bool | None:
    """The mode to go back to; None where that is the network's."""
    return part.training if part is module or part.training != mode else None


def _is_held(part: nn.Module) -> bool:
    return isinstance(train := vars(part).get("train"), partial) and train.func is _stay


def _stay(part: nn.Module, own: bool | None, mode: bool = True) -> nn.Module:
    """``train()`` of a module held in evaluation mode; ``own`` is its mode before, where it was not the network's."""
    part.training = False
    for child in part.children():
        child.train(mode)
    return part
