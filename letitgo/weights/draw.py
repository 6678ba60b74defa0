"""Initial weights as a function of (seed, layer name)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from letitgo.value import derive
from letitgo.weights.layers import layers

State = dict[str, Tensor]
"""A ``state_dict``: parameters and buffers by name."""


def seeded(factory: Callable[[], nn.Module], *parts: object) -> nn.Module:
    """``factory()`` under a seed derived from ``parts``; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*parts))
        return factory()


def initial_state(factory: Callable[[], nn.Module], seed: int) -> State:
    """The initial weights of a network: each layer's draw depends on the seed and the layer's name alone.

    The law of each layer is whatever the factory does, including initialization of its own making: the network is
    built once per layer under that layer's seed, and the layer's parameters are kept. So freezing, re-drawing or
    adding one layer never shifts the draw of another.

    Args:
        factory: Builds the network on the CPU, drawing from torch's default generator.
        seed: Any integer.
    """
    state = copied(seeded(factory, seed, ""))
    for layer, names in layers(seeded(factory, seed, "")).items():
        drawn = seeded(factory, seed, layer).state_dict()
        state.update({name: drawn[name].detach().clone() for name in names})
    return state


def copied(module: nn.Module) -> State:
    """The module's ``state_dict`` with tensors of its own."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
