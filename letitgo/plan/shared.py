"""What evaluations of grafts share: the layers before the first one that was put in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from letitgo import weights
from letitgo.plan.states import Graft, State
from letitgo.recipes.splits import Split
from letitgo.recipes.tasks import at_once

SHARED_BYTES = 2**29
"""Outputs of the layers before a graft are kept in memory up to this size."""

_kept: dict[Any, tuple[int, Tensor]] = {}
"""Of the base and split last evaluated on: how many links of its chain were run, and what they gave."""


def forget() -> None:
    """Let go of what is kept."""
    _kept.clear()


@torch.no_grad()
def ahead(state: State, module: nn.Module, split: Split, of: Any) -> tuple[nn.Module, Split]:
    """What is left to run of a state, and its inputs: of a graft, what the layers before it gave, the same to the bit.

    They are run once for all grafts of one base that come one after another, the first layers first. The last
    convolution is always left, which decides how many examples are evaluated at once.

    Args:
        state: What is evaluated.
        module: The network in that state; it comes back in evaluation mode, its flags changed.
        split: What it is evaluated on.
        of: What tells that split from others.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    convolutions = [part for part in module.modules() if isinstance(part, _ConvNd)]
    if not (isinstance(state, Graft) and convolutions and named.keys() >= set(state.parameters)):
        return module, split
    module.eval().requires_grad_(False)
    for parameter in (*(named[name] for name in state.parameters), *convolutions[-1].parameters()):
        parameter.requires_grad_(True)
    if (parts := weights.frozen_prefix(module)) is None:
        return module, split
    depth, rest = len(parts[0]), parts[1]
    begin, kept = _kept.get((state.base, of), (0, None))
    if kept is None or begin != depth:
        begin, before = (0, None) if begin > depth else (begin, kept)
        made = _run(nn.Sequential(*list(parts[0])[begin:]), split, before, at_once(module, split))
        if made is None:
            return module, split
        forget()
        kept = made
        _kept[state.base, of] = depth, kept
    return rest, replace(split, inputs=kept, mean=None, deviation=None)


def _run(links: nn.Sequential, split: Split, before: Tensor | None, size: int) -> Tensor | None:
    """The outputs of some links on a split, or on what the links before them gave; None where they are too large."""
    sample = links(split.batch(slice(0, 1)) if before is None else before[:1])
    if sample.nbytes * len(split) > SHARED_BYTES:
        return None
    found = sample.new_empty((len(split), *sample.shape[1:]))
    for first in range(0, len(split), size):
        rows = slice(first, first + size)
        found[rows] = links(split.batch(rows) if before is None else before[rows])
    return found
