"""Training arithmetic, counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from letitgo.weights.prefix import frozen_prefix


@dataclass(frozen=True)
class StepCost:
    """Floating-point operations for one example, as PyTorch's flop counter counts them.

    This is the floor of what freezing leaves to do: the forward pass, gradients of the inputs above the first
    trainable layer, and gradients of the trainable weights.

    Attributes:
        forward: The forward pass of the whole network.
        backward: The backward pass as far as something trains.
        prefix: The part of ``forward`` that lies in a frozen prefix and can be computed once.
    """

    forward: int
    backward: int
    prefix: int

    @property
    def step(self) -> int:
        """One example through one training step, with the outputs of a frozen prefix at hand."""
        return self.forward - self.prefix + self.backward


def step_cost(module: nn.Module, inputs: Tensor) -> StepCost:
    """Count what one example costs with the module's parameters frozen or not as they are now.

    Args:
        module: In training mode; its statistics are left as they were.
        inputs: At least two examples, shape (N, ...).
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    split = frozen_prefix(module)
    with torch.random.fork_rng(devices=[]):
        with FlopCounterMode(display=False) as forward:
            loss = module(inputs).square().mean()
        with FlopCounterMode(display=False) as backward:
            if loss.requires_grad:
                loss.backward()
        with FlopCounterMode(display=False) as prefix, torch.no_grad():
            if split:
                split[0](inputs)
    for parameter in module.parameters():
        parameter.grad = None
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
    counts = [counter.get_total_flops() // len(inputs) for counter in (forward, backward, prefix)]
    return StepCost(*counts)
