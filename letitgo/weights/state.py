"""States: all weights and buffers of a network, and initial ones as a function of (seed, layer name)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights.layers import layers

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
    for name in own.keys() ^ state.keys():
        raise BadRequest(
            f"the state is of another network: {name!r} is only in {'it' if name in state else 'the module'}"
        )
    for name, tensor in state.items():
        if own[name].shape != tensor.shape:
            raise BadRequest(
                f"the state is of another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the module's has {tuple(own[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def seeded(factory: Callable[[], nn.Module], *parts: object) -> nn.Module:
    """``factory()`` under a seed derived from ``parts``; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*parts))
        return factory()


def initial_state(factory: Callable[[], nn.Module], seed: int) -> State:
    """The initial weights of a network: each layer's draw has a seed of its own, made of the seed and the layer's name.

    The law of each layer is whatever the factory does, including initialization of its own making: the network is
    built once per layer under that layer's seed, and the layer's parameters are kept. So freezing or re-drawing one
    layer never shifts the draw of another. In a factory that builds other layers before it, a layer may draw
    otherwise.

    Args:
        factory: Builds the network on the CPU, drawing from torch's default generator.
        seed: Any integer.
    """
    module = seeded(factory, seed, "")
    state = copied(module)
    for layer, names in layers(module).items():
        drawn = copied(seeded(factory, seed, layer))
        state.update({name: drawn[name] for name in names})
    return state


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
