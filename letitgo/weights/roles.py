"""What each parameter does in its layer: by the class of torch, or seen from what the layer computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from letitgo.weights.layers import is_container, owner, parameter_names
from letitgo.weights.state import drawing_from

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


class Role(NamedTuple):
    """What a parameter does.

    Attributes:
        weight: An output sums over several of its entries, so that single ones can be cut out.
        norm: It is a scale or a shift of a normalization.
        units: The dimension along which the layer's units (filters, outputs) lie.
    """

    weight: bool
    norm: bool = False
    units: int = 0


def roles(module: nn.Module) -> dict[str, Role]:
    """Parameter name → its role, in the module's order. Parameters of containers have none: they are no weights."""
    owned: dict[str, dict[str, nn.Parameter]] = {}
    names = parameter_names(module)
    for name in names:
        owned.setdefault(owner(module, name), {})[name] = module.get_parameter(name)
    found: dict[str, Role] = {}
    for owning, own in owned.items():
        layer = module.get_submodule(owning)
        if is_container(layer):
            found |= dict.fromkeys(own, Role(False))
        elif any(k.__module__.startswith("torch.nn.modules.") for k in type(layer).__mro__ if k is not nn.Module):
            found |= _by_class(layer, own)
        else:
            found |= _by_use(layer, own, f"{owning}." if owning else "")
    return {name: found[name] for name in names}


def is_norm(layer: nn.Module) -> bool:
    """Whether a module that owns parameters is a normalization: by its class, or by its name and what it keeps."""
    named = "Norm" in type(layer).__name__ or any("running" in name for name in layer._buffers)
    return isinstance(layer, _NORMS) or (named and all(p.ndim < 2 for p in layer.parameters(recurse=False)))


def _by_class(layer: nn.Module, own: Mapping[str, nn.Parameter]) -> dict[str, Role]:
    norm = isinstance(layer, _NORMS)
    units = int(isinstance(layer, _ConvTransposeNd))
    gains = _gains(layer)
    return {
        name: Role(p.ndim > 1 and not norm and not name.endswith(gains), norm, units if p.ndim > 1 else 0)
        for name, p in own.items()
    }


def _gains(layer: nn.Module) -> tuple[str, ...]:
    """Ends of the names of the gains of weight norm: one of them is a whole unit."""
    old = [f"{hook.name}_g" for hook in layer._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
    lists = getattr(layer, "parametrizations", {})
    new = [f"parametrizations.{n}.original0" for n, steps in lists.items() if isinstance(steps[0], _WeightNorm)]
    return (*old, *new)


def _by_use(layer: nn.Module, own: Mapping[str, nn.Parameter], prefix: str) -> dict[str, Role]:
    called = "Norm" in type(layer).__name__ or any("running" in name for name in layer._buffers)
    seen = _seen(layer) if any(p.ndim > 1 for p in own.values()) else {}
    found = {}
    for name, p in own.items():
        touched = seen.get(name.removeprefix(prefix))
        if p.ndim < 2 or touched is None:
            found[name] = Role(p.ndim > 1 and not called)
        else:
            units = [dim for dim in range(p.ndim) if _one(touched, dim)]
            found[name] = Role(int(touched.sum()) > 1, units=units[0] if units else 0)
    called &= not any(role.weight for role in found.values())
    said = {name for name, p in own.items() if p.ndim < 2 and "norm" in name.removeprefix(prefix).lower()}
    return {name: role._replace(norm=called or name in said) for name, role in found.items()}


def _one(touched: Tensor, dim: int) -> bool:
    """Whether all entries that count lie at one place of a dimension, of more than one."""
    return touched.shape[dim] > 1 and len(touched.nonzero()[:, dim].unique()) == 1


def _seen(layer: nn.Module) -> dict[str, Tensor]:
    """For each parameter, which of its entries one output depends on; empty where no input is found that fits.

    The layer is called on a few random numbers, with copies of its buffers.
    """
    parameters = {name: p.detach().requires_grad_() for name, p in layer.named_parameters() if p.is_floating_point()}
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    like = next(iter(parameters.values()), torch.empty(0))
    generator, training = torch.Generator().manual_seed(0), layer.training
    layer.training = False
    try:
        for shape in _shapes(parameters.values()):
            inputs = torch.randn(shape, generator=generator).to(like)
            try:
                with drawing_from("roles"), torch.enable_grad():
                    output = functional_call(layer, {**parameters, **buffers}, (inputs,))
                    last = output.view(3, -1)[:, -1].sum()
                    gradients = torch.autograd.grad(last, list(parameters.values()), allow_unused=True)
            except Exception:  # of a layer that takes other inputs, whatever it raises
                continue
            named = zip(parameters, gradients, strict=True)
            return {name: gradient != 0 for name, gradient in named if gradient is not None and gradient.any()}
    finally:
        layer.training = training
    return {}


def _shapes(parameters: Iterable[Tensor]) -> Iterator[tuple[int, ...]]:
    """Shapes of three examples that a layer with such parameters may take: those of products, then elementwise."""
    for p in parameters:
        if p.ndim > 1:
            yield 3, p.shape[1], *p.shape[2:]
            yield 3, p.shape[0], *p.shape[2:]
            yield 3, *p.shape
