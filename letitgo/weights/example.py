"""What a network is called with to be counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from letitgo.errors import BadRequest

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a network is called with: one tensor, its positional inputs, or its inputs by keyword."""


def as_data(example: Example) -> Any:
    """The same as inputs that do not train.

    Raises:
        BadRequest: There are no examples in it.
    """
    inputs: Any = dict(example) if isinstance(example, Mapping) else example
    if not number_of(inputs):
        raise BadRequest("the example is empty: its first dimension counts examples and has to be at least 1")
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, inputs)


def number_of(inputs: Any) -> int:
    """How many examples there are, by the first dimension of the first tensor."""
    sizes = [leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return sizes[0] if sizes else 1


def called(module: nn.Module, inputs: Tensor | tuple[Any, ...] | dict[str, Any]) -> Any:
    """What the network returns.

    Raises:
        BadRequest: It does not take the inputs.
    """
    try:
        if isinstance(inputs, dict):
            return module(**inputs)
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadRequest(f"the network does not take the example: {reason}") from error
