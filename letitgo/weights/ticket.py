"""Tickets as files: which weights are kept, and where their values come from.

A sealed file (:mod:`letitgo.weights.sealed`): under each parameter's name its mask, a bit for each weight, deflated.
It lists their shapes and where the values come from. Reading one takes no more memory than the shapes of the network
that it is for.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights.layers import named_in, no_parameter, parameter_names
from letitgo.weights.part import Part, entries, zero_out
from letitgo.weights.prune import Masks, unpack_bits
from letitgo.weights.sealed import About, damaged, read, write
from letitgo.weights.select import Selection


class _Said(About):
    """What a ticket says."""

    shapes: dict[str, list[NonNegativeInt]]
    start: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SavedTicket:
    """Which weights are kept.

    Attributes:
        masks: Parameter name → boolean mask, true where a weight is kept. Parameters without one are kept whole.
        start: Where the values come from, as JSON; see :func:`letitgo.studies.ticket.study.export_ticket`.
    """

    masks: Masks
    start: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kept, total = (sum(int(f(mask)) for mask in self.masks.values()) for f in (torch.sum, torch.numel))
        return f"{kept:,} of {total:,} weights ({100 * kept / max(1, total):.2f} %)"


def save_ticket(
    path: str | os.PathLike[str], masks: Mapping[str, Tensor], start: Mapping[str, Any] | None = None
) -> None:
    """Write masks to a file.

    Args:
        path: The file, replaced as a whole once it is written.
        masks: Parameter name → mask of its shape: zeros and ones of any type.
        start: Where the kept weights' values come from, as JSON.

    Raises:
        BadRequest: There is no mask, one has other values, or the file cannot be written.
    """
    if not masks:
        raise BadRequest("there is no mask to write: give one for each pruned parameter")
    for name, mask in masks.items():
        if not ((mask == 0) | (mask == 1)).all():
            raise BadRequest(f"the mask of {name} has values other than 0 and 1")
    plain = {name: mask.detach().bool().cpu() for name, mask in masks.items()}
    packed = {name: zlib.compress(np.packbits(mask.numpy()).tobytes(), 9) for name, mask in plain.items()}
    about = {"shapes": {name: list(mask.shape) for name, mask in plain.items()}, "start": dict(start or {})}
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in packed.items()}
    write(path, "letitgo-ticket", about, tensors)


def read_ticket(path: str | os.PathLike[str], module: nn.Module | None = None) -> SavedTicket:
    """The ticket in a file.

    Args:
        path: What :func:`save_ticket` wrote.
        module: The network that it has to fit; any if not given. Masks are unpacked only once they do.

    Raises:
        BadRequest: There is no such file, it is damaged, no ticket, or one of another network.
    """
    said, stored = read(path, "letitgo-ticket", _Said)
    shapes = {name: tuple(shape) for name, shape in said.shapes.items()}
    if shapes.keys() != stored.keys():
        raise damaged(path, "it does not hold the masks that it lists")
    if module is not None:
        own = named_in(module, shapes)
        shapes = {own[name]: shape for name, shape in shapes.items()}
        stored = {own[name]: packed for name, packed in stored.items()}
        _check(shapes, module, path)
    try:
        masks = {name: unpack_bits(_inflated(stored[name], shape), shape) for name, shape in shapes.items()}
    except (ValueError, OverflowError, zlib.error) as error:
        raise damaged(path, "its masks cannot be read") from error
    return SavedTicket(masks, said.start)


def load_ticket(module: nn.Module, path: str | os.PathLike[str]) -> Part:
    """Prune a network as a ticket says, and give what is left to train: ``hold(module, load_ticket(module, path))``.

    The kept weights are not put back to their start: the file holds no weights and no digest of them. Give a module
    that has them. For a ticket that ``letitgo ticket export`` wrote, ``read_ticket(path).start`` names the recipe, the
    seed and the step that they are from.

    Args:
        module: Its pruned weights are set to zero, in place; the others stay as they are.
        path: What :func:`save_ticket` wrote.

    Returns:
        The kept weights, and all parameters that the ticket is not about.

    Raises:
        BadRequest: The file is damaged, no ticket, or one of another network. The module is left as it was.
    """
    masks, names = read_ticket(path, module).masks, parameter_names(module)
    part = entries(module, masks)
    zero_out(module, Part(Selection((), names), {name: ~mask for name, mask in part.entries.items()}))
    return part | Selection(tuple(name for name in names if name not in masks), names)


def _check(shapes: Mapping[str, tuple[int, ...]], module: nn.Module, path: Any) -> None:
    names = parameter_names(module)
    for name, shape in shapes.items():
        if name not in names:
            raise BadRequest(f"{path} does not fit the network: it prunes {name!r}; {no_parameter(name, names)}")
        own = tuple(module.get_parameter(name).shape)
        if shape != own:
            raise BadRequest(f"{path} is of another network: {name!r} has shape {shape} there and {own} here")


def _inflated(packed: Tensor, shape: tuple[int, ...]) -> bytes:
    """As much as a mask of the shape takes; one byte more shows that there is too much."""
    return zlib.decompressobj().decompress(packed.numpy().tobytes(), -(-prod(shape) // 8) + 1)
