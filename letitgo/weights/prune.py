"""Magnitude pruning as masks, which are data: nothing is attached to the network (FC18, arXiv:1803.03635)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights.layers import named_in, no_parameter, parameter_names
from letitgo.weights.roles import roles
from letitgo.weights.select import Selection
from letitgo.weights.sharded import reshard, whole

Masks = dict[str, Tensor]
"""Parameter name → boolean mask of its shape, on the CPU; true where a weight is kept."""

Scope = Literal["layer", "global"]

T = TypeVar("T")


def prunable(module: nn.Module) -> Selection:
    """The weights that pruning is about: tensors of two dimensions or more over whose entries an output sums.

    Norms, the gains of weight norm and parameters of containers are left out.

    Raises:
        BadRequest: There is none.
    """
    found = roles(module)
    chosen = tuple(name for name, role in found.items() if role.weight)
    if not chosen:
        raise BadRequest("the network has no weights to prune: parameters with two dimensions or more are needed")
    return Selection(chosen, tuple(found))


def magnitude_masks(
    module: nn.Module,
    rate: float | Mapping[str, float],
    scope: Scope = "layer",
    within: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Masks that keep the weights of largest magnitude; among equals, those that come last in the tensor.

    Args:
        module: The network; only looked at.
        rate: Share of the weights still there that is pruned, rounded to a whole number of them: in [0, 1), for all
            :func:`prunable` weights, or for each parameter named.
        scope: ``"layer"``: of each parameter its share; ``"global"``: of all together, which asks for one rate.
        within: Masks of the round before; what they prune stays pruned. All weights are there if not given.

    Returns:
        A mask for each parameter that the rate is about.

    Raises:
        BadRequest: A rate is outside [0, 1), a name is no parameter's, the masks are of others, or the scope is
            global and the rates differ.
    """
    if scope not in ("layer", "global"):
        raise BadRequest(f"scope is {scope!r}: it can be 'layer' or 'global'")
    rates = _renamed(module, rate) if isinstance(rate, Mapping) else dict.fromkeys(prunable(module), rate)
    names = parameter_names(module)
    for name, share in rates.items():
        if name not in names:
            raise BadRequest(f"{name!r} is no parameter: {no_parameter(name, names)}")
        if not 0 <= share < 1:
            raise BadRequest(f"the rate of {name} is {share}: give at least 0 and less than 1")
    reshard(module)
    weights = {name: whole(module.get_parameter(name).detach()).cpu() for name in rates}
    there = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    if within is not None:
        within = _renamed(module, within)
        _check_within(there, within)
        there = {name: within[name].bool().cpu() for name in there}
    if scope == "layer":
        return {name: _without_smallest(weights[name].abs(), there[name], share) for name, share in rates.items()}
    if len(set(rates.values())) > 1:
        raise BadRequest("the rates differ, but the scope is global: give one rate for all weights together")
    if not rates:
        return {}
    sizes = [weight.numel() for weight in weights.values()]
    values = torch.cat([weight.abs().float().flatten() for weight in weights.values()])
    kept = _without_smallest(values, torch.cat([mask.flatten() for mask in there.values()]), next(iter(rates.values())))
    parts = zip(weights.items(), kept.split(sizes), strict=True)
    return {name: part.view(weight.shape).clone() for (name, weight), part in parts}


def random_masks(masks: Mapping[str, Tensor], seed: int) -> Masks:
    """Masks that keep as many weights of each parameter as these do, anywhere in it.

    Each draw is a function of the seed and the parameter's name.
    """
    found = {}
    for name, mask in masks.items():
        generator = torch.Generator().manual_seed(derive(seed, "random mask", name))
        chosen = torch.zeros(mask.numel(), dtype=torch.bool)
        chosen[torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]] = True
        found[name] = chosen.view(mask.shape)
    return found


def torch_masks(module: nn.Module) -> Masks:
    """The masks that ``torch.nn.utils.prune`` attached to a network, by the names that its parameters had before.

    ``prune.remove`` gives the parameters those names back; until then they are called ``…_orig``.

    Raises:
        BadRequest: It attached none.
    """
    found = {
        name.removesuffix("_mask"): buffer.detach().bool().cpu()
        for name, buffer in module.named_buffers()
        if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in dict(module.named_parameters())
    }
    if not found:
        raise BadRequest("torch.nn.utils.prune has pruned nothing of this network: it has no parameter …_orig")
    return found


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Masks as JSON, a bit for each weight: name → ``shape`` and ``bits`` (base64)."""
    return {
        name: {"shape": list(mask.shape), "bits": base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode()}
        for name, mask in masks.items()
    }


def unpack_masks(packed: Mapping[str, Any]) -> Masks:
    """The masks that :func:`pack_masks` wrote."""
    return {name: unpack_bits(base64.b64decode(item["bits"]), tuple(item["shape"])) for name, item in packed.items()}


def unpack_bits(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """A mask from its packed bits.

    Raises:
        ValueError: There are too few or too many of them.
    """
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if len(bits) != -(-count // 8) * 8:
        raise ValueError(f"{len(data)} bytes are no mask of shape {shape}")
    return torch.from_numpy(bits[:count].astype(bool)).view(shape)


def _renamed(module: nn.Module, items: Mapping[str, T]) -> dict[str, T]:
    own = named_in(module, items)
    return {own[name]: item for name, item in items.items()}


def _without_smallest(magnitudes: Tensor, there: Tensor, share: float) -> Tensor:
    places = there.flatten().nonzero().squeeze(1)
    order = magnitudes.flatten()[places].argsort(stable=True)
    kept = there.clone().flatten()
    kept[places[order[: round(share * len(places))]]] = False
    return kept.view(there.shape)


def _check_within(there: Masks, within: Mapping[str, Tensor]) -> None:
    if lone := sorted(there.keys() ^ within.keys()):
        raise BadRequest(f"{lone[0]!r} has {'no mask' if lone[0] in there else 'a mask, but no rate'}")
    for name, mask in within.items():
        if mask.shape != there[name].shape:
            raise BadRequest(
                f"the mask of {name} has shape {tuple(mask.shape)}: the parameter has {tuple(there[name].shape)}"
            )
