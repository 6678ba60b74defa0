"""How the built-in networks draw their initial weights."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

from torch import nn

from letitgo.errors import BadRequest, nearest

Init = Literal["torch", "glorot", "he"]
"""How initial weights are drawn: as PyTorch does, from Glorot's normal law, or normal for ReLU (arXiv:1502.01852)."""

Module = TypeVar("Module", bound=nn.Module)


def drawn(module: Module, init: Init, fan: Literal["fan_in", "fan_out"] = "fan_in") -> Module:
    """The network with the weights of its dense layers and convolutions drawn by a law, and their biases zero.

    Args:
        module: The network, whose weights are drawn in place.
        init: The law; ``"torch"`` leaves everything as it is.
        fan: What the variance of ``"he"`` counts: inputs or outputs.

    Raises:
        BadRequest: There is no such law.
    """
    if init not in get_args(Init):
        raise BadRequest(f"init is {init!r}: {nearest(init, get_args(Init))}")
    for part in module.modules() if init != "torch" else ():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            if init == "glorot":
                nn.init.xavier_normal_(part.weight)
            else:
                nn.init.kaiming_normal_(part.weight, mode=fan, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
