"""A part: what may move of a network, down to single weights, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights.layers import is_container, layers, named_in, no_parameter, owner, parameter_names, plain, ties
from letitgo.weights.roles import roles
from letitgo.weights.select import Selection, chosen_of
from letitgo.weights.sharded import laid_out, local, reshard


@dataclass(frozen=True, eq=False)
class Part:
    """Some of a network's weights: whole parameters, and some entries of others.

    ``~part`` is the complement, ``a | b`` the union. A :class:`Selection` is a part too, of whole parameters alone.

    Attributes:
        whole: The parameters that belong to it as a whole.
        entries: Parameter name → boolean mask of the parameter's shape, true where an entry belongs to it.
    """

    whole: Selection
    entries: Mapping[str, Tensor]

    def __invert__(self) -> Part:
        rest = ~self.whole - Selection(tuple(name for name in self.whole.of if name in self.entries), self.whole.of)
        return Part(rest, {name: ~mask for name, mask in self.entries.items()})

    def __or__(self, other: Part | Selection) -> Part:
        other = other if isinstance(other, Part) else Part(other, {})
        whole = self.whole | other.whole
        entries: dict[str, Tensor] = {}
        for name, mask in [*self.entries.items(), *other.entries.items()]:
            if name not in whole:
                entries[name] = entries[name] | mask if name in entries else mask
        return Part(whole, entries)

    __ror__ = __or__

    def __str__(self) -> str:
        some = [f"{int(mask.sum()):,} of {mask.numel():,} of {name}" for name, mask in self.entries.items()]
        return ", ".join([*self.whole, *some]) or "nothing"

    def __repr__(self) -> str:
        return f"Part({self})"


def entries(module: nn.Module, masks: Mapping[str, Tensor]) -> Part:
    """The entries where a boolean mask is true, for each parameter named: the weights a pruning mask keeps, for one.

    Parameters without a mask are not in the part: add what is to move besides, as in ``entries(...) | biases(module)``.

    Args:
        module: The network.
        masks: Parameter name → mask of the parameter's shape. Zeros and ones of any type will do.

    Raises:
        BadRequest: A name is no parameter's, or a mask has another shape or other values.
    """
    names = parameter_names(module)
    found = {}
    own = named_in(module, masks)
    for given, mask in masks.items():
        name = own[given]
        if name not in names:
            raise BadRequest(f"{name!r} is no parameter: {no_parameter(name, names)}")
        if not isinstance(mask, Tensor):
            raise BadRequest(f"the mask of {name} is no tensor: give one of the parameter's shape")
        shape = module.get_parameter(name).shape
        if mask.shape != shape:
            raise BadRequest(f"the mask of {name} has shape {tuple(mask.shape)}: the parameter has {tuple(shape)}")
        if not ((mask == 0) | (mask == 1)).all():
            raise BadRequest(f"the mask of {name} has values other than 0 and 1")
        found[name] = mask.detach().bool().cpu()
    return Part(Selection((), names), found)


def fraction(
    module: nn.Module, share: float, of: str = "filters", seed: int = 0, within: Selection | None = None
) -> Part:
    """A share of the filters, or of the single weights, of each layer, chosen at random (RT18, arXiv:1802.00844).

    Args:
        module: The network.
        share: Of each weight tensor with two dimensions or more, in (0, 1], rounded, and at least one.
        of: ``"filters"``: whole filters, units or rows, the bias of each with it; ``"weights"``: single weights.
        seed: The choice is a function of the seed and the names of the layers.
        within: Choose there only. Parameters without a filter to go with (norms, tokens) are not in the part: add
            what is to move besides, as in ``fraction(...) | norms(module)``.

    Raises:
        BadRequest: The share is outside (0, 1], ``of`` is neither, or nothing has filters.
    """
    if not isinstance(share, Real) or not 0 < share <= 1:
        raise BadRequest(f"the share is {share!r}: give a number above 0 and at most 1")
    if of not in ("filters", "weights"):
        raise BadRequest(f"of is {of!r}: it can be 'filters' or 'weights'")
    within = None if within is None else chosen_of(module, within)
    owned: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name in parameter_names(module):
        owning = owner(module, name)
        if not is_container(module.get_submodule(owning)) and (within is None or name in within):
            owned.setdefault(owning, []).append((name, module.get_parameter(name)))
    chosen: dict[str, Tensor] = {}
    known = roles(module)
    for owning, tensors in owned.items():
        generator = torch.Generator().manual_seed(derive(seed, "fraction", plain(module, owning)))
        picked: dict[int, Tensor] = {}  # number of filters → the ones chosen, so that a bias goes with its weight
        for name, tensor in sorted(tensors, key=lambda item: -item[1].ndim):
            if of == "weights" and known[name].weight:
                chosen[name] = _some(tensor.numel(), share, generator).view(tensor.shape)
            elif of == "filters" and tensor.ndim:
                dim = known[name].units
                count = tensor.shape[dim]
                if tensor.ndim > 1 and count not in picked:
                    picked[count] = _some(count, share, generator)
                if count in picked:
                    shape = [count if i == dim else 1 for i in range(tensor.ndim)]
                    chosen[name] = picked[count].view(shape).expand(tensor.shape).contiguous()
    if not chosen:
        raise BadRequest("nothing there has filters: parameters with two dimensions or more are needed")
    names = parameter_names(module)
    return Part(Selection((), names), {name: chosen[name] for name in names if name in chosen})


def _some(count: int, share: float, generator: torch.Generator) -> Tensor:
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=generator)[: max(1, round(share * count))]] = True
    return chosen


def norms(module: nn.Module) -> Selection:
    """The scales and shifts of all normalization layers (Frankle, Schwab and Morcos, arXiv:2003.00152).

    Layers of ``torch.nn``; those of other packages that are called a norm or keep running statistics and hold no
    weights; and vectors of other layers that are called a norm's.

    Raises:
        BadRequest: There is none.
    """
    found = roles(module)
    chosen = tuple(name for name, role in found.items() if role.norm)
    if not chosen:
        raise BadRequest("the network has no normalization layers with weights")
    return Selection(chosen, tuple(found))


def biases(module: nn.Module) -> Selection:
    """All vectors called a bias, those of norms left out (Zaken, Goldberg and Ravfogel, arXiv:2106.10199).

    Raises:
        BadRequest: There is none.
    """
    found = roles(module)
    called = [name for name in found if "bias" in name.rpartition(".")[2] and module.get_parameter(name).ndim == 1]
    chosen = tuple(name for name in called if not found[name].norm)
    if not chosen:
        raise BadRequest("the network has no biases besides those of norms")
    return Selection(chosen, tuple(found))


def head(module: nn.Module) -> str:
    """Name of the output layer: the last layer that is no norm; of tied weights, the layer that owns them.

    Raises:
        BadRequest: There is none.
    """
    found, tied = roles(module), ties(module)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    names = [name for name in names if not found[tied.get(name, name)].norm]
    if not names:
        raise BadRequest("the network has no layer but norms, so no output layer")
    last = names[-1]
    if last in tied:
        first = next(name for name in names if owner(module, name) == owner(module, last))
        last = tied.get(first, first)
    return next(layer for layer, own in layers(module).items() if last in own)


def part_of(module: nn.Module, part: Part | Selection) -> Part:
    """A part under the names that a network has now, wrapped or not.

    Raises:
        BadRequest: It is of another network: a parameter's name or shape differs.
    """
    part = part if isinstance(part, Part) else Part(part, {})
    own = named_in(module, part.entries)
    known = set(parameter_names(module))
    for given, name in own.items():
        if name in known and part.entries[given].shape != module.get_parameter(name).shape:
            raise BadRequest(f"the part is of another network: its {name} has another shape")
    return Part(chosen_of(module, part.whole), {own[name]: mask for name, mask in part.entries.items()})


@torch.no_grad()
def zero_out(module: nn.Module, part: Part | Selection) -> None:
    """Set the weights of a part to zero in place: ``zero_out(module, ~kept)`` prunes all that ``kept`` leaves out."""
    part = part_of(module, part)
    reshard(module)
    for name in part.whole:
        module.get_parameter(name).zero_()
    for name, mask in part.entries.items():
        parameter = module.get_parameter(name)
        local(parameter).masked_fill_(local(laid_out(mask.to(parameter.device), parameter)), 0)
