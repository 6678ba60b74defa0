"""States: all weights and buffers of a network, and initial ones as a function of (seed, name)."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights.layers import parameter_names, plain
from letitgo.weights.sharded import laid_out, whole

State = dict[str, Tensor]
"""Parameters, persistent buffers and extra state by name. A tied tensor is one object under several names, or there
under its first name alone."""

LOCK = RLock()
"""Held while the generators that all threads of a process share are borrowed."""

_EXTRA = "_extra_state"
"""What torch calls the result of a module's ``get_extra_state``."""


def copied(module: nn.Module) -> State:
    """A copy of ``module.state_dict()`` with tensors of its own, which ``load_state_dict`` takes back.

    What is no tensor (extra state, packed weights) is copied too.

    Raises:
        BadRequest: A parameter is lazy and has no shape yet.
    """
    parameter_names(module)
    copies: dict[int, Any] = {}
    state = module.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in copies:
            copies[id(value)] = value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
    return {name: copies[id(value)] for name, value in state.items()}


def once(state: State) -> State:
    """A state with each tensor under its first name alone."""
    firsts = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor for name, tensor in state.items() if firsts[id(tensor)] == name}


def own_tensors(module: nn.Module) -> tuple[State, dict[str, str]]:
    """The module's tensors by their first names, and all names with the first name of the same tensor.

    Names are those without wrappers. None as extra state is none.

    Raises:
        BadRequest: Something in ``state_dict()`` is no tensor, so that it would not come back, or is lazy.
    """
    own: State = {}
    firsts: dict[str, str] = {}
    by_id: dict[int, str] = {}
    for full, tensor in module.state_dict(keep_vars=True).items():
        name = plain(module, full)
        if tensor is None and name.endswith(_EXTRA):
            continue
        if not isinstance(tensor, Tensor):
            what = "extra state" if name.endswith(_EXTRA) else "packed"
            raise BadRequest(
                f"{name!r} is {what} of type {type(tensor).__name__}: only tensors can be kept, so let the module give "
                "tensors in its state_dict()"
            )
        if is_lazy(tensor):
            raise BadRequest(f"{name} is lazy and has no shape yet: call the network on one batch first")
        first = firsts[name] = by_id.setdefault(id(tensor), name)
        own.setdefault(first, tensor)
    return own, firsts


def load_state(module: nn.Module, state: State) -> None:
    """Copy a state into a module, whose Parameter objects stay the same.

    Raises:
        BadRequest: Names or shapes differ, or a tied tensor has two values.
    """
    own, firsts = own_tensors(module)
    state = {plain(module, name): tensor for name, tensor in state.items()}
    if lone := sorted((own.keys() - state.keys()) | (state.keys() - firsts.keys())):
        where = "it" if lone[0] in state else "the module"
        raise BadRequest(f"the state is of another network: {lone[0]!r} is only in {where}")
    for name, tensor in state.items():
        first = state[firsts[name]]
        if tensor is not first and not _same(tensor, first):
            raise BadRequest(f"{name!r} is tied to {firsts[name]!r} in the module, but not the same in the state")
        if name == firsts[name] and own[name].shape != tensor.shape:
            raise BadRequest(
                f"the state is of another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the module's has {tuple(own[name].shape)}"
            )
    write_state(module, once(state))


@torch.no_grad()
def write_state(module: nn.Module, state: State) -> None:
    """Copy some tensors into a module, by their first names; extra state is handed to ``set_extra_state``."""
    own, _ = own_tensors(module)
    parts = {plain(module, name): part for name, part in module.named_modules()}
    for name, tensor in state.items():
        if name.endswith(_EXTRA):
            parts[name.rpartition(".")[0]].set_extra_state(tensor.clone())
        else:
            own[name].copy_(laid_out(tensor, own[name]))


@contextmanager
def drawing_from(*parts: object) -> Iterator[None]:
    """The generators of torch, NumPy and ``random`` under a seed derived from ``parts``; then as they were again.

    One thread of a process at a time is in here.
    """
    with LOCK:
        put_back = remembered_draws()
        seed_generators(derive(*parts))
        try:
            yield
        finally:
            put_back()


def remembered_draws() -> Callable[[], None]:
    """What puts the generators of torch, NumPy and ``random`` back to where they are now."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    of_torch = [(generator, generator.get_state()) for generator in _generators()]

    def put_back() -> None:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
        for generator, state in of_torch:
            generator.set_state(state)

    return put_back


@contextmanager
def same_modes(module: nn.Module) -> Iterator[None]:
    """Afterwards all modules in a network are in the modes they are in now."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def undisturbed(module: nn.Module, *parts: object) -> Iterator[None]:
    """A module runs within, drawing as :func:`drawing_from`; then all that this changes in it is as it was."""
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    buffers = [
        (part, name, buffer, None if buffer is None else buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
    ]
    try:
        with same_modes(module), drawing_from(*parts), torch.enable_grad():
            yield
    finally:
        for parameter, trains, gradient in flags:
            parameter.requires_grad_(trains)
            parameter.grad = gradient
        with torch.no_grad():
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer
                if buffer is not None and before is not None:
                    buffer.copy_(before)


def _generators() -> list[torch.Generator]:
    """Torch's, of the CPU and of the devices that are in use. ``torch.manual_seed`` is slow where CUDA is not."""
    of_mps = [torch.mps._get_default_mps_generator()] if torch.backends.mps.is_available() else []
    return [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ()), *of_mps]


def seed_generators(seed: int) -> None:
    """Seed the generators of torch on all devices in use, NumPy and ``random``."""
    for generator in _generators():
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seeded(factory: Callable[[], nn.Module], *parts: object) -> nn.Module:
    """``factory()`` under a seed derived from ``parts``; the caller's random state is left as it was."""
    with drawing_from(*parts):
        return factory()


class SameDraws(UserWarning):
    """A factory gives the same weights for every seed."""


def check_draws(factory: Callable[[], nn.Module], what: str) -> None:
    """Warn where two seeds give the same weights, as where a factory loads a checkpoint; constant ones do not count.

    Warns:
        SameDraws: They do.
    """
    one, other = (list(seeded(factory, "draws", seed).parameters()) for seed in (0, 1))
    pairs = [
        (a, b) for a, b in zip(one, other, strict=False) if not a.is_meta and a.numel() and (a != a.flatten()[0]).any()
    ]
    if pairs and all(_same(a, b) for a, b in pairs):
        warnings.warn(
            f"{what} gives the same weights for every seed: a fresh draw of a layer is none, and seeds differ in "
            "the order of the data alone",
            SameDraws,
            stacklevel=3,
        )


def initial_state(factory: Callable[[], nn.Module], seed: int) -> State:
    """The initial weights of a network: each tensor's draw is a function of the seed and the tensor's name alone.

    The law is whatever the factory does, including initialization of its own making. The network is built once to see
    which random operation writes to which parameter, and again with the generator seeded anew before each of them. So
    freezing, re-drawing or adding one layer never shifts the draw of another. A draw that does not go straight into a
    parameter (``torch.nn.init.orthogonal_`` makes one on the side) is seeded by its place among those.

    Args:
        factory: Builds the network on the CPU, drawing from torch's default generator. What it draws with NumPy or
            ``random`` is a function of the seed and of what was drawn before.
        seed: Any integer.

    Raises:
        BadRequest: The factory builds another network each time.
    """
    drawn: list[Any] = []  # keeps all results alive, so that no address is used twice
    with _Draws(after=drawn.append):
        module = seeded(factory, seed, "")
    own_tensors(module)  # refuses what would not come back
    names = {_address(tensor): name for name, tensor in once(module.state_dict(keep_vars=True)).items()}
    order = [names.get(_address(result), "") if isinstance(result, Tensor) else "" for result in drawn]

    def build() -> State:
        places, draws = iter(order), Counter[str]()

        def reseed() -> None:
            name = next(places, "")
            draws[name] += 1
            torch.default_generator.manual_seed(derive(seed, name, draws[name]))

        with _Draws(before=reseed):
            return copied(seeded(factory, seed, ""))

    state, again = build(), build()
    for name, tensor in state.items():
        if not _same(tensor, again[name]):
            raise BadRequest(
                f"the network's factory gives {name!r} other values each time: it has to draw from torch's default "
                "generator, NumPy or random"
            )
    return state


class _Draws(TorchDispatchMode):
    """Calls back before each random operation, and after it with its result."""

    def __init__(
        self, before: Callable[[], None] = lambda: None, after: Callable[[Any], None] = lambda result: None
    ) -> None:
        super().__init__()
        self._before, self._after = before, after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random:
            self._before()
        result = func(*args, **(kwargs or {}))
        if random:
            self._after(result)
        return result


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = whole(a), whole(b)
    return a.is_meta or torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
