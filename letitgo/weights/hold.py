"""Training a part of a network, down to single weights or a random subspace, with the rest frozen by construction.

Where only some entries of a parameter may move, they are a small Parameter of their own, which is what an optimiser is
handed: nothing else is there for decay or momentum to act on, and the optimiser's state is as small. The network keeps
its Parameter objects, its modules and its ``state_dict`` keys. After ``backward()`` the gradient of the whole parameter
is cut down to the moving entries and let go, with a stand-in for those who clip the network's gradients
(:mod:`letitgo.weights.gradients`); after ``optimizer.step()`` the entries are written back in place. In a subspace
(:mod:`letitgo.weights.subspace`) its coordinates are what the optimiser is handed.

In several processes gradients are averaged first. Under ``DistributedDataParallel`` they are cut down at the end of the
backward pass. Under FSDP2 each process holds the moving entries of its shard; together they are one DTensor.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves

from letitgo.errors import BadRequest, WorkFailed
from letitgo.weights.compiled import drop_stale_graphs
from letitgo.weights.freeze import HELD, Dropout, Statistics, frozen_until
from letitgo.weights.gradients import Shown, after_averaging, has_gradient
from letitgo.weights.layers import parameter_names, trains
from letitgo.weights.part import Part, part_of
from letitgo.weights.select import Selection
from letitgo.weights.sharded import (
    averaged_by,
    by_first_dimension,
    flags_changed,
    is_sharded,
    joined,
    laid_out,
    local,
    refuse_offloaded,
    refuse_sharded,
    refuse_unaveraged,
    reshard,
)
from letitgo.weights.subspace import Projected, Subspace, subspace_of


def hold(
    module: nn.Module,
    part: Part | Selection | Subspace,
    statistics: Statistics = "follow",
    dropout: Dropout = "follow",
) -> Held:
    """Let only a part of a network move, down to single weights or a random subspace, until it is let go of.

    Hand ``held.parameters()`` (or ``trainable(module)``, the same) to the optimiser and to gradient clipping, and
    train as ever. The parameters outside the part are frozen as by :func:`freeze`; what was frozen and lies in it
    moves meanwhile. A copy of a held module is not held.

    Args:
        module: The network, changed in place.
        part: What may move.
        statistics: Of the normalization layers that are frozen, as in :func:`freeze`.
        dropout: Of the modules that are frozen, as in :func:`freeze`.

    Returns:
        What lets go again, by ``release()`` or as a context manager.

    Raises:
        BadRequest: The module is held already, or the part is none or of another network, or is a subspace of a
            network that is spread over processes, or single entries of parameters that are offloaded.
    """
    if not isinstance(part, (Part, Selection, Subspace)):
        raise BadRequest(f"{part!r} is no part: choose with select, fraction, entries or subspace")
    try:
        part = subspace_of(module, part) if isinstance(part, Subspace) else part_of(module, part)
    except BadRequest:
        raise BadRequest("the part is of another network: choose one of this network") from None
    if held_of(module):
        raise BadRequest("the module is held already: release() it first")
    if isinstance(part, Subspace):
        refuse_sharded(module, "a subspace")
    else:
        refuse_offloaded(module, part.entries)
        refuse_unaveraged(module, (*part.whole, *part.entries))
    return Held(module, part, statistics, dropout)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that may move, in the module's order: what to hand to an optimiser.

    Where the module is held, the moving entries of a parameter stand in for it, and the coordinates of a subspace,
    which come first, for all that are projected.
    """
    return [parameter for _, parameter in named_trainable(module)]


def named_trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """:func:`trainable`, each with the name of the module's parameter.

    The coordinates of a subspace are called ``"subspace.z"``, its learned scales ``"subspace.scales"``.
    """
    reshard(module)
    stand_ins: dict[int, nn.Parameter | None] = {}
    for prefix, held in helds(module).items():
        stand_ins |= {id(moving.parameter): moving.values for moving in held.moving.values()}
        if held.projected:
            stand_ins |= dict.fromkeys(map(id, held.projected.parameters.values()))
            yield from ((f"{prefix}subspace.{name}", own) for name, own in held.projected.learned.items())
    for name, parameter in module.named_parameters():
        own = stand_ins.get(id(parameter), parameter)
        if parameter.requires_grad and own is not None:
            yield name, own


def held_of(module: nn.Module) -> Held | None:
    """What holds a module, if anything does."""
    held = vars(module).get(HELD)
    return held if isinstance(held, Held) else None


def helds(module: nn.Module) -> dict[str, Held]:
    """Prefix of its parameters' names → what holds a module or one inside it."""
    named = ((f"{name}." if name else "", held_of(part)) for name, part in module.named_modules())
    return {prefix: held for prefix, held in named if held is not None}


@contextmanager
def suspended(module: nn.Module) -> Iterator[None]:
    """Within, nothing that is written to the weights of what is held reaches the optimiser's parameters."""
    inside = [held for held in helds(module).values() if not held.suspended]
    for held in inside:
        held.suspended = True
    try:
        yield
    finally:
        for held in inside:
            held.suspended = False


class Held:
    """A network of which only a part may move. Made by :func:`hold`.

    Attributes:
        moving: Parameter name → the entries that move, of the parameters that do so in part.
        projected: The parameters that move in a subspace, if any do.
        suspended: Whether network and moving entries go their own ways for now.
    """

    def __init__(self, module: nn.Module, part: Part | Subspace, statistics: Statistics, dropout: Dropout) -> None:
        self._module = module
        names = parameter_names(module)
        if isinstance(part, Subspace):
            partly, moves = {}, {*part.projected, *part.excluded}
        else:
            partly = {name: mask for name, mask in part.entries.items() if mask.any() and not mask.all()}
            moves = {*part.whole, *(name for name, mask in part.entries.items() if mask.any())}
        rest = Selection(tuple(name for name in names if name not in moves), names)
        moves = {name for name in moves if trains(module.get_parameter(name))}
        self._flags = {name: module.get_parameter(name).requires_grad for name in names if name in moves}
        self._thaw = frozen_until(module, rest, statistics, dropout)
        for name in self._flags:
            module.get_parameter(name).requires_grad_(True)
        flags_changed(module)
        drop_stale_graphs()
        self.moving = {n: Moving(n, module.get_parameter(n), mask) for n, mask in partly.items() if n in moves}
        self.projected = Projected(module, part) if isinstance(part, Subspace) else None
        self.suspended = False
        vars(module)[HELD] = self
        self._hooks: list[Any] = []
        self._is_spread = any(is_sharded(p) for mover in self._movers for p in mover.parameters.values())
        self._guarded = False  # whether a backward pass to come makes room for its gradients
        self._followed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        if self._movers:
            module.zero_grad = partial(_zero_grad, module, self)  # type: ignore[method-assign]
            for owner in self._owners():
                owner._apply = partial(_apply, owner, self)  # type: ignore[method-assign]
            _watch(self)
            self._hooks = [
                *(hook for mover in self._movers for hook in mover.hooks),
                module.register_forward_pre_hook(self, prepend=True),  # ahead of FSDP's
                module.register_forward_hook(partial(_after_forward, self)),
                module.register_state_dict_pre_hook(self),
            ]

    @property
    def _movers(self) -> list[Moving | Projected]:
        """What stands between the network's parameters and those of the optimiser."""
        return [*self.moving.values(), *([self.projected] if self.projected else [])]

    def parameters(self) -> list[nn.Parameter]:
        """What may move, in the module's order: what to hand to an optimiser and to gradient clipping."""
        return trainable(self._module)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same, each with the name of the module's parameter."""
        return named_trainable(self._module)

    def release(self) -> None:
        """Let go: the network is as it was before, but for what was trained. A second time does nothing."""
        if vars(self._module).get(HELD) is not self:
            return
        self(self._module)
        self._hide()
        for mover in self._movers:
            for own in mover.own:
                vars(own)[_RELEASED] = mover.name
        for hook in self._hooks:
            hook.remove()
        _alive.discard(self)
        del vars(self._module)[HELD]
        vars(self._module).pop("zero_grad", None)
        for owner in self._owners():
            vars(owner).pop("_apply", None)
        self._thaw()
        for name, flag in self._flags.items():
            self._module.get_parameter(name).requires_grad_(flag)
        flags_changed(self._module)
        drop_stale_graphs()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __call__(self, *_: object) -> None:
        """Bring the network and its moving entries together: run before a forward pass and before ``state_dict``."""
        if not torch.compiler.is_compiling() and not self.suspended:
            self._reshard()
            self._check_parameters()
            for mover in self._movers:
                mover.meet()

    def _check_parameters(self) -> None:
        """Refuse to go on where a Parameter that moves was replaced: what the optimiser moves would reach nothing."""
        for mover in self._movers:
            for name, parameter in mover.parameters.items():
                if self._module.get_parameter(name) is not parameter:
                    raise WorkFailed(
                        f"{name} is another Parameter than when the module was held: release() it, hold it again and "
                        "make the optimiser anew"
                    )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _let_go

    def __reduce__(self) -> Any:
        return _made_let_go, ()

    def _begin_backward(self, deferred: bool, averaged: bool, _: Tensor) -> None:
        """Make room for gradients that are averaged over processes.

        Args:
            deferred: Whether they are there at the end of the backward pass only.
            averaged: Whether they are averaged then, or stay in each process until they are.
        """
        self._hide()
        for mover in self._movers:
            mover.deferred = deferred
        after_averaging(partial(self._end_backward, averaged))

    def _end_backward(self, averaged: bool) -> None:
        for mover in self._movers:
            mover.deferred = False
            if averaged:
                mover.collect()
        self._show()

    def _follow(self, averaging: nn.Module) -> None:
        """Make room before each forward pass of what averages, too: it may move gradients into buckets then."""
        self._show()
        if averaging not in self._followed:
            self._followed.add(averaging)
            self._hooks.append(averaging.register_forward_pre_hook(partial(_make_room, self)))

    def _reshard(self) -> None:
        if self._is_spread:
            reshard(self._module)

    def _show(self) -> None:
        """Show the gradients of what moves as those of the network's parameters."""
        for mover in self._movers:
            for shown in mover.shown:
                shown.show()

    def _hide(self) -> None:
        """Make room for gradients of the network's parameters."""
        for mover in self._movers:
            for shown in mover.shown:
                shown.hide()

    def _owners(self) -> list[nn.Module]:
        """The modules that own what moves in part."""
        moving = {id(parameter) for mover in self._movers for parameter in mover.parameters.values()}
        return [part for part in self._module.modules() if not moving.isdisjoint(map(id, part._parameters.values()))]

    def before_step(self, given: set[int]) -> None:
        """Take in what changed since the forward pass. ``given`` are the ids of the optimiser's parameters.

        Raises:
            WorkFailed: What the optimiser does would not reach the network.
        """
        for mover in self._movers:
            for name, parameter in mover.parameters.items():
                if id(parameter) in given and given.isdisjoint(map(id, mover.own)):
                    raise WorkFailed(
                        f"the optimiser was given {name} itself, which does not move as a whole: make it of "
                        "letitgo.trainable(module), once the module is held"
                    )
        concerned = [mover for mover in self._movers if not given.isdisjoint(map(id, mover.own))]
        if concerned:
            self._reshard()
            self._check_parameters()
        for mover in concerned:
            if mover.touched():
                mover.meet()
            if (name := mover.late()) is not None:
                raise WorkFailed(
                    f"a gradient of {name} came after what moves of it had its own, as where processes average "
                    "gradients by other means than DistributedDataParallel and fully_shard"
                )
            mover.collect()

    def after_step(self, given: set[int]) -> None:
        """Write what the optimiser moved into the network."""
        for mover in self._movers:
            if not given.isdisjoint(map(id, mover.own)):
                mover.meet(stepped=True)
        if self._is_spread and not self._guarded:
            self._hide()  # a compiled network calls no hook that would before FSDP adds to gradients
        self._guarded = False


class Moving:
    """The moving entries of one parameter; of one that FSDP2 spreads over processes, those of this process's shard.

    Attributes:
        parameter: The network's.
        mask: Where it moves, shape of the parameter or of its shard, on its device.
        values: The moving entries, for the optimiser: shape (rows, ...) where whole rows of dimension 0 move, else
            (entries, 1, …) of as many dimensions as the parameter, by which optimisers tell weights from biases. A
            DTensor where the parameter is one, of shards that may have different lengths.
        shown: What shows their gradient as the parameter's.
        deferred: Whether gradients are there at the end of the backward pass only.
    """

    def __init__(self, name: str, parameter: nn.Parameter, mask: Tensor) -> None:
        self.name, self.parameter, self.parameters = name, parameter, {name: parameter}
        self.deferred = False
        rows = _rows(mask)
        self._by_rows = bool((rows == rows[:, :1]).all()) and by_first_dimension(parameter)
        self._length = int((rows[:, 0] if self._by_rows else mask).sum())
        self.mask = local(laid_out(mask.to(parameter.device), parameter))
        self._index = (_rows(self.mask)[:, 0] if self._by_rows else self.mask.reshape(-1)).nonzero().squeeze(1)
        self.values = nn.Parameter(self._moving(parameter.data))
        self._seen = local(self.values).detach().clone()
        self._version = parameter._version
        self.shown = [Shown(parameter, self.values)]
        parameter.grad = None
        self.hooks = [
            parameter.register_hook(lambda _: self.shown[0].hide()),
            parameter.register_post_accumulate_grad_hook(self._arrived),
        ]

    @property
    def own(self) -> list[nn.Parameter]:
        """What the optimiser gets."""
        return [self.values]

    def late(self) -> str | None:
        """The parameter's name if a gradient of it came after the values had theirs."""
        return self.name if has_gradient(self.parameter) and self.values.grad is not None else None

    def touched(self) -> bool:
        """Whether the parameter was written to since both were last brought together, other than through ``data``."""
        return self.parameter._version != self._version

    def meet(self, stepped: bool = False) -> None:
        """Write the values into the parameter where they changed; read them from it where it was changed by others."""
        own, values = local(self.parameter.data), local(self.values)
        self._version = self.parameter._version
        if values.device != own.device or values.dtype != own.dtype:
            self._index, self.mask = self._index.to(own.device), self.mask.to(own.device)
            gradient, self.values.grad = self.values.grad, None
            self.values.data = self._moving(self.parameter.data)
            self.values.grad = None if gradient is None else gradient.to(own.device, own.dtype)
            self.shown = [Shown(self.parameter, self.values)]
        elif stepped:
            self._write(own)
        elif not torch.equal(now := self._read(own), self._seen):
            with torch.no_grad():
                values.copy_(now)
        elif not torch.equal(values, self._seen):
            self._write(own)
        else:
            return
        self._seen = local(self.values).detach().clone()

    def _arrived(self, _: Tensor) -> None:
        if not self.deferred:
            self.collect()

    def collect(self) -> None:
        """Cut the gradient down to the moving entries, and let the rest go."""
        if not has_gradient(self.parameter):  # a function on the way gave none
            return
        assert self.parameter.grad is not None
        gradient, self.parameter.grad = self._moving(self.parameter.grad), None
        if self.values.grad is None:
            self.values.grad = gradient
        else:
            self.values.grad += gradient
        self.shown[0].show()

    def _moving(self, tensor: Tensor) -> Tensor:
        """The moving entries of a tensor that is spread as the parameter is."""
        return joined(self._read(local(tensor)), self._length, self.parameter)

    def _read(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to_dense() if tensor.is_sparse else tensor
        if self._by_rows:
            return tensor.index_select(0, self._index)
        return tensor.reshape(-1).index_select(0, self._index).view(-1, *(1,) * (tensor.ndim - 1))

    def _write(self, tensor: Tensor) -> None:
        # ``tensor`` is the parameter's ``data``, so that autograd takes it for the same weights that a graph may hold.
        values = local(self.values).detach()
        if self._by_rows:
            tensor.index_copy_(0, self._index, values)
        elif tensor.is_contiguous():
            tensor.view(-1).scatter_(0, self._index, values.flatten())
        else:
            tensor.masked_scatter_(self.mask, values)


def _rows(mask: Tensor) -> Tensor:
    """A mask as a matrix, a row for each index of dimension 0."""
    return mask.unsqueeze(-1).flatten(1)


_alive: weakref.WeakSet[Held] = weakref.WeakSet()


def _watch(held: Held) -> None:
    """Have a network told of the steps of optimisers, for as long as it lives.

    Torch keeps the two hooks for good once there was a held network: taking one away when a network is collected, which
    can be while torch goes through them, would break the step of an optimiser that has nothing to do with it.
    """
    if not _hooked:
        _hooked.append(register_optimizer_step_pre_hook(_before_steps))
        _hooked.append(register_optimizer_step_post_hook(_after_steps))
    _alive.add(held)


_hooked: list[Any] = []

_RELEASED = "_letitgo_released"
"""Attribute of what stood in for a parameter of a network that was released: the parameter's name."""


def _before_steps(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if name := vars(parameter).get(_RELEASED):
                raise WorkFailed(
                    f"the optimiser moves what stood in for {name} until the module was released: make it anew"
                )
    for held in tuple(_alive):
        held.before_step(_ids(optimizer))


def _after_steps(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for held in tuple(_alive):
        held.after_step(_ids(optimizer))


def _ids(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _after_forward(held: Held, module: nn.Module, _: object, outputs: Any) -> None:
    """Have the backward pass of a held module begin with :meth:`Held._begin_backward`, where processes share it."""
    if not isinstance(held, Held) or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    averaging = averaged_by(module)
    if averaging is not None:
        held._follow(averaging)
    if averaging is not None or held._is_spread:
        held._guarded = True
        averaged = averaging is None or averaging.require_backward_grad_sync
        begin = partial(held._begin_backward, averaging is not None, averaged)
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(begin)


def _make_room(held: Held, *_: object) -> None:
    if isinstance(held, Held) and torch.is_grad_enabled():
        held._hide()


def _apply(owner: nn.Module, held: Held, fn: Any, recurse: bool = True) -> nn.Module:
    """``to(…)`` and the like, of a module that owns what moves in part: no stand-in is to be converted."""
    if isinstance(held, Held):
        held._hide()
    return type(owner)._apply(owner, fn, recurse)


def _zero_grad(module: nn.Module, held: Held, set_to_none: bool = True) -> None:
    """``zero_grad()`` of a held module: it reaches the moving entries too."""
    nn.Module.zero_grad(module, set_to_none)
    if isinstance(held, Held):
        for parameter in (parameter for mover in held._movers for parameter in mover.own):
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()


def _let_go(*_: object) -> None:
    """What a copy of a held module has in place of its :class:`Held`."""


def _made_let_go() -> Any:
    return _let_go
