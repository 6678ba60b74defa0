"""States: all weights and buffers of a network, and initial ones as a function of (seed, name)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from letitgo.errors import BadRequest
from letitgo.value import derive

State = dict[str, Tensor]
"""Parameters and persistent buffers by name. A tied tensor is there once, under its first name."""


def copied(module: nn.Module) -> State:
    """The module's state, with tensors of its own."""
    return {name: tensor.detach().clone() for name, tensor in _named(module)}


def load_state(module: nn.Module, state: State) -> None:
    """Copy a state into a module, whose Parameter objects stay the same.

    Raises:
        BadRequest: Names or shapes differ.
    """
    own = dict(_named(module))
    if lone := sorted(own.keys() ^ state.keys()):
        where = "it" if lone[0] in state else "the module"
        raise BadRequest(f"the state is of another network: {lone[0]!r} is only in {where}")
    for name, tensor in state.items():
        if own[name].shape != tensor.shape:
            raise BadRequest(
                f"the state is of another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the module's has {tuple(own[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


@contextmanager
def drawing_from(*parts: object) -> Iterator[None]:
    """The generators of torch, NumPy and ``random`` under a seed derived from ``parts``; then as they were again."""
    seed, of_numpy, of_python = derive(*parts), np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def seeded(factory: Callable[[], nn.Module], *parts: object) -> nn.Module:
    """``factory()`` under a seed derived from ``parts``; the caller's random state is left as it was."""
    with drawing_from(*parts):
        return factory()


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
    names = {_address(tensor): name for name, tensor in _named(module)}
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
    return a.is_meta or torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
