"""Which layers differ between two sets of weights, and how much."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest
from letitgo.weights.checkpoint import read_weights, weight_files
from letitgo.weights.coding import differing
from letitgo.weights.layers import bare
from letitgo.weights.state import State

if TYPE_CHECKING:
    from pandas import DataFrame

Weights = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
By = Literal["layer", "tensor"]


def diff(a: Weights, b: Weights, by: By = "layer") -> DataFrame:
    """Compare two sets of weights, as a network before and after fine-tuning.

    Args:
        a: A module, a state dict, a file of weights (safetensors, ``.pt``, ``.pth``, ``.bin``) or a folder laid out as
            on the hub. The prefixes of wrappers (``module.``, ``_orig_mod.``) are left out of names.
        b: What it is compared with.
        by: A row for each ``"layer"``, that is the tensors of one module, buffers too; or for each ``"tensor"``.

    Returns:
        In the order of ``a``, then what only ``b`` has. ``layer`` or ``tensor``; ``what`` became of it from ``a`` to
        ``b`` (``same``, ``changed``, ``new``, ``gone``, or ``other shape``); ``values``, how many it has; ``changed``,
        how many of them differ in any bit, or in value where the dtypes differ. Of real numbers, counters left out:
        ``relative``, the length of the difference divided by that of ``a`` (missing where that is 0); ``distance_l2``,
        the length of the difference divided by the square root of their number; ``distance_linf``, the largest
        difference. Missing where no shapes agree.

    Raises:
        BadRequest: A file cannot be read, or the two share no name.
    """
    if by not in get_args(By):
        raise BadRequest(f"by is {by!r}: {nearest(by, get_args(By))}")
    before, after = _tensors(a), _tensors(b)
    if before.keys().isdisjoint(after):
        examples = [repr(next(iter(tensors), "nothing")) for tensors in (before, after)]
        raise BadRequest(f"the two share no tensor: one has {examples[0]}, the other {examples[1]}")
    groups: dict[str, list[str]] = {}
    for name in {**before, **after}:
        groups.setdefault(name.rpartition(".")[0] or name if by == "layer" else name, []).append(name)
    from pandas import DataFrame

    frame = DataFrame([{by: group, **_compared(names, before, after)} for group, names in groups.items()])
    return frame.astype({"changed": "Int64", "relative": float, "distance_l2": float, "distance_linf": float})


def _tensors(weights: Weights) -> State:
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if isinstance(weights, Mapping):
        found = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    elif isinstance(weights, (str, os.PathLike)):
        found = {name: tensor for file in weight_files(weights) for name, tensor in read_weights(file).items()}
    else:
        raise BadRequest(f"{type(weights).__name__} holds no weights: give a module, a state dict or a file")
    return {name: tensor.detach().cpu() for name, tensor in zip(bare(found), found.values(), strict=True)}


def _compared(names: Sequence[str], before: State, after: State) -> dict[str, Any]:
    shared = [name for name in names if name in before and name in after]
    pairs = [(before[name], after[name]) for name in shared]
    both = [pair for pair in pairs if pair[0].shape == pair[1].shape]
    changed = sum(int(_differing(*pair).sum()) for pair in both)
    if not shared:
        what = "gone" if any(name in before for name in names) else "new"
    elif len(both) < len(names):
        what = "other shape" if len(both) < len(pairs) else "changed"
    else:
        what = "changed" if changed else "same"
    found = {"what": what, "values": sum((after if n in after else before)[n].numel() for n in names)}
    if not both:
        return found | dict.fromkeys(("changed", "relative", "distance_l2", "distance_linf"))
    real = [(old.double(), new.double()) for old, new in both if old.is_floating_point()]  # counters are no distance
    moved = [(new - old).abs() for old, new in real]
    count, squares = sum(x.numel() for x in moved), float(sum(x.square().sum() for x in moved))
    length = sqrt(float(sum(old.square().sum() for old, _ in real)))
    return found | {
        "changed": changed,
        "relative": sqrt(squares) / length if length else None,
        "distance_l2": sqrt(squares / max(count, 1)),
        "distance_linf": max((float(x.max()) for x in moved if x.numel()), default=0.0),
    }


def _differing(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape differ: in any bit, or where their dtypes do, in value."""
    if a.dtype == b.dtype:
        return differing(a, b)
    return (a.double() != b.double()) & ~(a.isnan() & b.isnan())
