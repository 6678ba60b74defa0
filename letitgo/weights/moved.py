"""What happened to each tensor of a network, bit for bit, beside what was declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from letitgo.weights.coding import differing
from letitgo.weights.delta import Base, beside
from letitgo.weights.hold import helds, named_trainable
from letitgo.weights.layers import plain
from letitgo.weights.sharded import whole


@dataclass(frozen=True)
class Movement:
    """One tensor of a network beside the same of its base.

    Attributes:
        name: The tensor's.
        declared: ``trainable``, ``frozen``, ``partial`` where only some entries train, or ``buffer``.
        moved: Whether any bit differs.
        surprise: ``frozen but moved``, ``trainable but did not move``, or nothing.
    """

    name: str
    declared: Literal["trainable", "frozen", "partial", "buffer"]
    moved: bool
    surprise: str = ""


def moved(model: nn.Module, base: Base) -> tuple[Movement, ...]:
    """Compare a network with what it was, tensor by tensor.

    A tensor that is declared trainable may not have moved because it is in no optimiser, has no gradient, or its update
    is below the last bit of its dtype. Running statistics are buffers, which are not declared.

    Args:
        model: The network as it is now, with its declarations as they are now.
        base: What it was: as for :func:`letitgo.save`.

    Returns:
        Every parameter and persistent buffer that the base has in the same shape, in the model's order.

    Raises:
        BadRequest: The base shares no tensor with the model.
    """
    own, before = beside(model, base)
    masks = {id(part.parameter): part.mask for held in helds(model).values() for part in held.moving.values()}
    projected = {id(p) for held in helds(model).values() if held.projected for p in held.projected.parameters.values()}
    trains = {plain(model, name) for name, _ in named_trainable(model)}
    found = []
    for name, tensor in before.items():
        now, then = (whole(each.detach()).cpu() for each in (own[name], tensor))
        differs = (
            differing(now, then).view(now.shape) if now.dtype == then.dtype else torch.ones_like(now, dtype=torch.bool)
        )
        if not isinstance(own[name], nn.Parameter):
            found.append(Movement(name, "buffer", bool(differs.any())))
        elif (mask := masks.get(id(own[name]))) is not None:
            wrong = "frozen but moved" if differs[~mask].any() else ""
            wrong = wrong or ("" if differs[mask].any() else "trainable but did not move")
            found.append(Movement(name, "partial", bool(differs.any()), wrong))
        else:
            does = bool(differs.any())
            if name in trains or id(own[name]) in projected:
                found.append(Movement(name, "trainable", does, "" if does else "trainable but did not move"))
            else:
                found.append(Movement(name, "frozen", does, "frozen but moved" if does else ""))
    return tuple(found)
