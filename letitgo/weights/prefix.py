"""The frozen prefix: what a network computes before anything that trains, a constant for each input."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def frozen_prefix(module: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """Split a sequential network before the first child that trains or depends on more than its input.

    Only children made wholly of ``torch.nn`` modules are taken into the prefix, since nothing is known of others;
    dropout and batch statistics end it. Both parts share the modules of the network.

    Returns:
        The prefix and the rest, or None where the network is no plain ``nn.Sequential`` or no layer with parameters
        would lie in the prefix.
    """
    if type(module) is not nn.Sequential or _hooked(module):
        return None
    children = list(module.named_children())
    length = next((i for i, (_, child) in enumerate(children) if not _constant(child)), len(children) - 1)
    if not any(True for _, child in children[:length] for _ in child.parameters()):
        return None
    prefix, rest = nn.Sequential(), nn.Sequential()
    for i, (name, child) in enumerate(children):
        (prefix if i < length else rest).add_module(name, child)
    return prefix, rest


def _constant(module: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in module.parameters()):
        return False
    return all(
        type(part).__module__.startswith("torch.nn.modules.")
        and not isinstance(part, (_DropoutNd, nn.RReLU, nn.RNNBase))
        and not (isinstance(part, _NormBase) and (part.training or not part.track_running_stats))
        and not _hooked(part)
        for part in module.modules()
    )


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
