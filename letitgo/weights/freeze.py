"""Freezing in place: the same Parameter objects, the same state_dict keys, and back again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from letitgo.errors import BadRequest, WorkFailed
from letitgo.weights.compiled import drop_stale_graphs
from letitgo.weights.layers import parameter_names, trains
from letitgo.weights.select import Selection, chosen_of
from letitgo.weights.sharded import flags_changed, local, refuse_fixed, refuse_unaveraged, reshard, whole

Statistics = Literal["follow", "frozen"]
Dropout = Literal["follow", "off"]
Chosen = Selection | str | Sequence[str]
"""A selection, or patterns as :func:`letitgo.select` takes them."""

HELD = "_letitgo_held"
"""Attribute of a module that :func:`letitgo.hold` holds."""

_RECORD = "_letitgo_frozen"
"""Attribute of a module that owns something frozen: own name → whether it asked for a gradient before."""


def freeze(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> None:
    """Keep the selected parameters as they are, to the bit.

    They ask for no gradient and hold none, so an optimiser given ``trainable(module)`` never sees them. They are taken
    out of the groups of one that already holds them for the time of each step. Where an optimiser moves them all the
    same, as LBFGS does, which keeps a list of its own, its step raises :class:`WorkFailed`.

    A module without parameters goes with the smallest module around it that has some, a norm with the layer before it.

    Args:
        module: The network, changed in place.
        selection: What is frozen: a selection, or patterns for :func:`select`. What is outside it is left as it was.
        statistics: ``"follow"``: the running statistics of frozen normalization layers go on following the data, since
            they describe data and were not learned. ``"frozen"``: those layers stay in evaluation mode, whatever
            ``module.train()`` says, and so do other frozen modules with buffers of real numbers, as spectral norm has.
        dropout: ``"off"``: all other modules that are wholly frozen stay in evaluation mode too, which turns off their
            dropout, that inside of attention and recurrent layers included.

    Under FSDP2 give the network that was sharded, in all processes. A group of parameters may be frozen in part.

    Raises:
        BadRequest: The selection is none, or of another network; or something in it would move all the same: it shares
            its memory with what trains, or an embedding's ``max_norm`` changes it; or the network is one of FSDP1 or
            DeepSpeed, which fix what trains.
    """
    selection = _check(module, selection)
    for name, given, kind in (("statistics", statistics, Statistics), ("dropout", dropout, Dropout)):
        if given not in get_args(kind):
            raise BadRequest(f"{name} is {given!r}: it can be {' or '.join(map(repr, get_args(kind)))}")
    _refuse_restless(module, selection)
    _watch_steps()
    for name in selection:
        parameter, (record, own_name) = module.get_parameter(name), _record(module, name)
        record.setdefault(own_name, parameter.requires_grad)
        parameter.requires_grad_(False)
        parameter.grad = None
    flags_changed(module)
    mode = module.training
    for part in still(module, selection, statistics, dropout).values():
        if not _is_held(part):
            own = _own_mode(part, module, mode)
            part.training = False
            part.train = partial(_stay, part, own)  # type: ignore[method-assign]


def thaw(module: nn.Module, selection: Chosen | None = None) -> None:
    """Undo :func:`freeze` for the selected parameters; for all that it froze if none are given.

    They train again, except what did not before it was frozen, and whole numbers; the modules held in evaluation mode
    with them follow ``module.train()`` again. What :func:`freeze` did not freeze is left as it is.

    Raises:
        BadRequest: No process would average a parameter that would train again: ``fully_shard`` was told to ignore it,
            or it was frozen when ``DistributedDataParallel`` wrapped the network.
    """
    if selection is None:
        names = parameter_names(module)
        selection = Selection(tuple(name for name in names if _recorded(module, name) is not None), names)
    selection = _check(module, selection)
    refuse_unaveraged(module, (name for name in selection if _recorded(module, name)))
    for name in selection:
        if (before := _recorded(module, name)) is not None:
            parameter = module.get_parameter(name)
            parameter.requires_grad_(before and trains(parameter))
            _forget(module, name)
    flags_changed(module)
    drop_stale_graphs()
    thawed = {id(module.get_parameter(name)) for name in selection}
    for name, part in module.named_modules():
        if _is_held(part) and thawed.intersection(map(id, _extent(module, name).parameters())):
            own = vars(part).pop("train").args[1]
            part.training = module.training if own is None else own


def train_only(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> None:
    """Freeze everything but the selection, and thaw what :func:`freeze` froze of it."""
    selection = _check(module, selection)
    refuse_unaveraged(module, (name for name in selection if _recorded(module, name)))
    freeze(module, ~selection, statistics, dropout)
    thaw(module, selection)


@contextmanager
def frozen(
    module: nn.Module, selection: Chosen, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> Iterator[nn.Module]:
    """The module with the selection frozen; on leaving, all is as it was before, but for the mode of the network."""
    restore = frozen_until(module, selection, statistics, dropout)
    try:
        yield module
    finally:
        restore()


def frozen_until(module: nn.Module, selection: Chosen, statistics: Statistics, dropout: Dropout) -> Callable[[], None]:
    """Freeze; the result, called, does what leaving :func:`frozen` does.

    For whoever may never leave: the end of a context manager that is left open runs when garbage is collected, in the
    middle of anything.
    """
    selection = _check(module, selection)
    before = {name: (module.get_parameter(name).requires_grad, _recorded(module, name)) for name in selection}
    mode = module.training
    parts = [
        (part, _own_mode(part, module, mode), vars(part).get("train"))
        for part in still(module, selection, statistics, dropout).values()
    ]
    freeze(module, selection, statistics, dropout)

    def restore() -> None:
        reshard(module)
        for name, (flag, recorded) in before.items():
            module.get_parameter(name).requires_grad_(flag)
            if recorded is None:
                _forget(module, name)
        flags_changed(module)
        drop_stale_graphs()
        for part, own, held in parts:
            vars(part).pop("train", None)
            part.training = module.training if own is None else own
            if held is not None:
                part.train = held

    return restore


def _check(module: nn.Module, selection: Chosen) -> Selection:
    if hasattr(vars(module).get(HELD), "release"):
        raise BadRequest("the module is held, which says what is frozen: release() it first")
    refuse_fixed(module)
    reshard(module)
    return chosen_of(module, selection)


def _record(module: nn.Module, name: str) -> tuple[dict[str, bool], str]:
    """The record that a parameter is in, which its owner keeps, and its name there."""
    owning, _, own_name = name.rpartition(".")
    return vars(module.get_submodule(owning)).setdefault(_RECORD, {}), own_name


def _recorded(module: nn.Module, name: str) -> bool | None:
    """Whether a parameter asked for a gradient before it was frozen; None where it is not frozen."""
    owning, _, own_name = name.rpartition(".")
    return vars(module.get_submodule(owning)).get(_RECORD, {}).get(own_name)


def _forget(module: nn.Module, name: str) -> None:
    record, own_name = _record(module, name)
    record.pop(own_name, None)
    if not record:
        del vars(module.get_submodule(name.rpartition(".")[0]))[_RECORD]


def _refuse_restless(module: nn.Module, selection: Selection) -> None:
    """Refuse to freeze what moves without an optimiser."""
    chosen = {id(module.get_parameter(name)): name for name in selection}
    for part in module.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
            now = whole(part.weight.detach())
            name, weight = chosen.get(id(part.weight)), now.clone()
            torch.embedding_renorm_(
                weight, torch.arange(len(weight), device=weight.device), part.max_norm, part.norm_type
            )
            if name and not torch.equal(weight, now):
                raise BadRequest(
                    f"{name} cannot be frozen: its max_norm shortens rows in the forward pass. Shorten them and set "
                    "max_norm to None"
                )
    moving = [(name, p) for name, p in module.named_parameters() if p.requires_grad and id(p) not in chosen]
    places: dict[int, list[tuple[str, int, int]]] = {}
    for name, parameter in moving:
        if (place := _place(parameter)) is not None:
            places.setdefault(place[0], []).append((name, *place[1:]))
    for name in selection:
        storage, begin, end = _place(module.get_parameter(name)) or (0, 0, 0)
        for other, first, last in places.get(storage, ()):
            if first < end and begin < last:
                raise BadRequest(
                    f"{name} cannot be frozen while {other} trains: two Parameters lie on the same memory. Make them "
                    "one Parameter"
                )


def _place(parameter: nn.Parameter) -> tuple[int, int, int] | None:
    """The memory a parameter lies on, its first byte there and the one after its last; None where there is none."""
    if is_lazy(parameter):
        return None
    shard = local(parameter)
    if shard.layout != torch.strided or not shard.numel() or shard.is_meta:
        return None
    spread = sum((size - 1) * step for size, step in zip(shard.shape, shard.stride(), strict=True)) + 1
    begin = int(shard.storage_offset())
    width = shard.element_size()
    return shard.untyped_storage().data_ptr(), begin * width, (begin + spread) * width


def still(
    module: nn.Module, selection: Selection, statistics: Statistics = "follow", dropout: Dropout = "follow"
) -> dict[str, nn.Module]:
    """What :func:`freeze` holds in evaluation mode, by name, outer ones first."""
    chosen = {id(module.get_parameter(name)) for name in selection}
    found = {}
    for name, part in module.named_modules():
        is_norm = isinstance(part, _NormBase)
        follows = is_norm or any(buffer.is_floating_point() for buffer in part.buffers(recurse=False))
        if statistics == "follow" if follows else dropout == "follow":
            continue
        own = [id(parameter) for parameter in part.parameters(recurse=False)]
        around = [id(parameter) for parameter in _extent(module, name).parameters()]
        if (is_norm and chosen.intersection(own)) or (around and chosen.issuperset(around)):
            found[name] = part
    return found


def _extent(module: nn.Module, name: str) -> nn.Module:
    """What a submodule goes with: itself, if it has parameters; of a norm the layer before it; else what is around."""
    part = module.get_submodule(name)
    if isinstance(part, _NormBase) and not any(True for _ in part.parameters()):
        siblings = list(module.get_submodule(name.rpartition(".")[0]).children())
        before = siblings[: next(i for i, sibling in enumerate(siblings) if sibling is part)] if name else []
        for sibling in reversed(before):
            if any(True for _ in sibling.parameters()):
                return sibling
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


def _watch_steps() -> None:
    """From now on the step of an optimiser leaves out what asks for no gradient and has none.

    An optimiser that fills in missing gradients, or keeps weights beside the network's, would move it.
    """
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_leave_out))
        _hooks.append(register_optimizer_step_post_hook(_take_back))


_hooks: list[Any] = []
_LEFT_OUT = "_letitgo_left_out"
"""Attribute of an optimiser during a step: its groups as they were, and what was done to them."""
_RATE = "_letitgo_rate"
"""Attribute of an optimiser: a factor of the learning rate, and the ids of the parameters that step with it."""

_Group = dict[str, Any]


class _Rearranged(NamedTuple):
    by: FrameType | None
    """The call of ``step`` that this was done for. A class and its parent may both run the hooks, one in the other."""
    groups: list[tuple[_Group, list[nn.Parameter]]]
    still: list[tuple[nn.Parameter, int]]
    """What is left out of the step, and its versions."""
    split: list[tuple[_Group, _Group]]
    """A group, and the one for those of its parameters that have a learning rate of their own."""


def scale_rate(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], factor: float) -> None:
    """From now on some parameters step with the learning rate of their group times a factor; no others do.

    During each step they are in a group of their own, so the groups, their order and ``state_dict()`` stay.
    """
    _watch_steps()
    vars(optimizer)[_RATE] = factor, frozenset(map(id, parameters))


def _leave_out(optimizer: torch.optim.Optimizer, *_: object) -> None:
    call = sys._getframe(1)
    if (done := vars(optimizer).get(_LEFT_OUT)) is not None and _runs(done.by, call):
        return
    _put_back(optimizer)  # a step that raised did not get there
    groups = [(group, group["params"]) for group in optimizer.param_groups]
    still = [p for _, params in groups for p in params if not p.requires_grad and p.grad is None]
    factor, scaled = vars(optimizer).get(_RATE, (1.0, frozenset()))
    if not still and not scaled:
        return
    done = vars(optimizer)[_LEFT_OUT] = _Rearranged(call, groups, [(p, p._version) for p in still], [])
    left_out = set(map(id, still))
    for group, params in groups:
        moving = [parameter for parameter in params if id(parameter) not in left_out]
        group["params"] = [parameter for parameter in moving if id(parameter) not in scaled]
        if own := [parameter for parameter in moving if id(parameter) in scaled]:
            done.split.append((group, {**group, "params": own, "lr": group["lr"] * factor}))
    optimizer.param_groups.extend(own for _, own in done.split)


def _runs(call: FrameType | None, inner: FrameType | None) -> bool:
    """Whether one call, which began before another, has not ended."""
    while inner is not None and inner is not call:
        inner = inner.f_back
    return inner is not None


def _take_back(optimizer: torch.optim.Optimizer, *_: object) -> None:
    if (begun := vars(optimizer).get(_LEFT_OUT)) is not None and begun.by is not sys._getframe(1):
        return  # the parent's step, inside of the step that this was done for
    done = _put_back(optimizer)
    if any(parameter._version != version for parameter, version in done.still):
        raise WorkFailed(
            f"{type(optimizer).__name__} moved frozen parameters: it keeps a list of them. Make it of "
            "trainable(module) after freezing"
        )
    for group, own in done.split:
        kept = [key for key in own if key not in ("params", "lr") and own[key] is not group.get(key)]
        if changed := [key for key in kept if own[key] != group.get(key)]:
            raise WorkFailed(
                f"{type(optimizer).__name__} keeps {changed[0]} for a group, not for a parameter, so some of its "
                "parameters cannot have a learning rate of their own: leave out thawed_lr"
            )


def _put_back(optimizer: torch.optim.Optimizer) -> _Rearranged:
    done = vars(optimizer).pop(_LEFT_OUT, None) or _Rearranged(None, [], [], [])
    if done.split:
        del optimizer.param_groups[len(done.groups) :]
    for group, params in done.groups:
        group["params"] = params
    return done
