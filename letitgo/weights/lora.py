"""What low-rank adapters would cost, counted, to compare freezing with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from letitgo.errors import BadRequest
from letitgo.weights.cost import StepCost, step_cost
from letitgo.weights.example import Example
from letitgo.weights.layers import plain
from letitgo.weights.memory import MakeOptimizer, Memory, imagined, step_of
from letitgo.weights.part import head


@dataclass(frozen=True)
class LoraCost:
    """What a training step with low-rank adapters costs.

    Attributes:
        step: Its arithmetic for one example.
        memory: What it holds.
    """

    step: StepCost
    memory: Memory


def lora_cost(
    module: nn.Module,
    example_input: Example,
    rank: int,
    *,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    **options: Any,
) -> LoraCost:
    """Count what training low-rank adapters alone would cost (LoRA; Hu et al., 2021, arXiv:2106.09685).

    Two matrices of that rank stand beside each ``nn.Linear`` but the output layer, and add to what it gives; all else
    is frozen. Their numbers are of the type of the weight. There is no dropout.

    Args:
        module: The network. It is left as it was.
        example_input: A batch as large as in training, each tensor of shape (N, ...).
        rank: Of the matrices, 1 or more.
        optimizer: Makes the optimiser of a list of parameters.
        options: As in :func:`memory`: ``loss``, ``precision`` and ``checkpoint``.

    Raises:
        BadRequest: The rank is none, no linear layer is there to adapt, or the network cannot be counted.
    """
    if rank < 1:
        raise BadRequest(f"rank is {rank}: give 1 or more")
    with imagined(module, example_input, options.get("precision")) as (copy, inputs, live):
        _adapt(copy, rank)
        arithmetic = step_cost(copy, inputs)
        step = step_of(copy, inputs, live, **options)
    return LoraCost(arithmetic, step.memory(optimizer))


def _adapt(copy: nn.Module, rank: int) -> None:
    output = head(copy)
    linears = [
        part for name, part in copy.named_modules() if isinstance(part, nn.Linear) and plain(copy, name) != output
    ]
    if not linears:
        raise BadRequest("there is no nn.Linear in this network but the output layer, so nothing to adapt")
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    for part in linears:
        part.register_parameter("lora_A", nn.Parameter(part.weight.new_empty(rank, part.in_features)))
        part.register_parameter("lora_B", nn.Parameter(part.weight.new_empty(part.out_features, rank)))
        part.register_forward_hook(_added)


def _added(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + linear(linear(args[0], part.lora_A), part.lora_B)  # type: ignore[arg-type]
