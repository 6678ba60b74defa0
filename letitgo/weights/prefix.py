"""The frozen prefix: what a network computes before anything that trains, a constant for each input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

PREFIX_BYTES = 2**30
"""Outputs of a frozen prefix are kept in memory up to this size. Fixed, so that a trajectory is the same everywhere."""

_KNOWN = ("torch.nn.modules.", "letitgo.recipes.")
"""Where classes are from whose outputs depend on nothing but their inputs, weights and what is looked for here."""


def chain(module: nn.Module) -> list[nn.Module]:
    """What a network runs one after another, sequences within taken apart: the places where it can be cut.

    Returns:
        Blocks and layers in order; the network alone where it is no plain ``nn.Sequential``.
    """
    return list(_links(module))


def _links(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential and not hooked(module):
        for child in module:  # one that is there twice runs twice
            yield from _links(child)
    else:
        yield module


def frozen_prefix(module: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """Split a sequential network before the first link of its chain that trains or depends on more than its input.

    Only links made wholly of modules of ``torch.nn`` and of the networks here are taken into the prefix, since nothing
    is known of others; dropout and batch statistics end it. Both parts share the modules of the network.

    Returns:
        The prefix and the rest, or None where no layer with parameters would lie in the prefix.
    """
    links = chain(module)
    length = next((i for i, link in enumerate(links) if not _constant(link)), len(links) - 1)
    if not any(True for link in links[:length] for _ in link.parameters()):
        return None
    return nn.Sequential(*links[:length]), nn.Sequential(*links[length:])


def ends_where_it_trains(module: nn.Module) -> bool:
    """Whether the first link of a chain that is not known to be constant trains as a whole: no prefix goes further."""
    links = chain(module)
    link = next((link for link in links if not _constant(link)), None)
    return link is None or (len(links) > 1 and trains_whole(link))


def trains_whole(module: nn.Module) -> bool:
    """Whether a module has parameters, and all of them train."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    return bool(flags) and all(flags)


def _constant(module: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in module.parameters()):
        return False
    return all(
        type(part).__module__.startswith(_KNOWN)
        and not isinstance(part, (_DropoutNd, nn.RReLU, nn.RNNBase))
        and not (isinstance(part, _NormBase) and (part.training or not part.track_running_stats))
        and not hooked(part)
        for part in module.modules()
    )


def hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its class says."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in vars(module)
