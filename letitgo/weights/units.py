"""What is acted on as one: modules that own parameters, layers with their norms, or blocks.

All of it is found by structure: by the tree of modules, the order in which they were registered and what they own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from torch import nn

from letitgo.errors import BadRequest, nearest
from letitgo.weights.layers import layers as layers_of
from letitgo.weights.layers import owner, plain
from letitgo.weights.roles import is_norm
from letitgo.weights.select import Selection
from letitgo.weights.select import blocks as named_blocks

By = Literal["block", "layer", "module"]
"""A unit is a block; or a layer with the norm that belongs to it; or each module that owns parameters, norms too."""

_LISTS = (nn.Sequential, nn.ModuleList)


def units(
    module: nn.Module, layers: Iterable[str], by: By = "layer", patterns: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Unit → its layers, those of some layers.

    Args:
        module: The network.
        layers: Names of the layers to group, in the network's order.
        by: What a unit is. A unit of one layer with its norm has the layer's name.
        patterns: Globs of modules that are one unit each, whatever ``by`` is.

    Raises:
        BadRequest: A pattern matches no module, or ``by`` is no such unit.
    """
    if by not in get_args(By):
        raise BadRequest(f"by is {by!r}: {nearest(str(by), get_args(By))}")
    given = dict.fromkeys(layers)
    hosts = {layer: layer for layer in layers_of(module)} | ({} if by == "module" else norm_hosts(module))
    inside = [*named_blocks(module, *patterns), *(blocks_in(module) if by == "block" else ())]
    found: dict[str, list[str]] = {}
    for layer in given:
        host = hosts[layer] if hosts[layer] in given else layer
        block = next((block for name in (layer, host) for block in inside if f"{name}.".startswith(f"{block}.")), host)
        found.setdefault(block, []).append(layer)
    return found


def norm_hosts(module: nn.Module) -> dict[str, str]:
    """Norm → the layer that it belongs to, for the norms of which that can be told.

    A norm belongs to the layer before it, in the order in which modules were registered. Where the module around it
    begins with a norm, so that norms come first there, it belongs to the layer after it. Of norms side by side in one
    module nobody can tell from the order which layer each follows: they belong to none.
    """
    owned = layers_of(module)
    names = [name for name, own in owned.items() if own != (name,)]  # no parameters of containers
    norms = {n for n in names if is_norm(module.get_submodule(owner(module, owned[n][0])))}
    around = {name: name.rpartition(".")[0] for name in names}
    first: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            first.setdefault(".".join(parts[:depth]), name)
    hosts = {}
    for i, name in enumerate(names):
        beside = [*names[max(i - 1, 0) : i], *names[i + 1 : i + 2]]
        if name not in norms or any(n in norms and around[n] == around[name] for n in beside):
            continue
        opening = first[around[name]]
        leads = opening in norms and around[opening] == around[name]
        after = [n for n in names[i + 1 : i + 2] if not around[name] or n.startswith(f"{around[name]}.")]
        host = next(iter(after if leads and after else names[max(i - 1, 0) : i]), None)
        if host is not None and host not in norms:
            hosts[name] = host
    return hosts


def with_norms(module: nn.Module, selection: Selection) -> Selection:
    """A selection with the norms that belong to the layers in it."""
    owned = layers_of(module)
    chosen = {norm for norm, host in norm_hosts(module).items() if any(name in selection for name in owned[host])}
    return selection | Selection(tuple(name for norm in chosen for name in owned[norm]), selection.of)


def blocks_in(module: nn.Module) -> list[str]:
    """Names of the blocks of a network, in its order; layers in none of them are units of their own.

    From the root down, a module is a block if it has several layers, a norm not counted beside its layer. Looked into
    instead are what only strings modules together, an ``nn.Sequential`` or a list; what holds a list of blocks,
    however deep; and what holds the whole network.
    """
    hosts = norm_hosts(module)
    alone = [layer for layer in layers_of(module) if layer not in hosts]
    sizes = {
        name: sum(not (at := plain(module, name)) or f"{layer}.".startswith(f"{at}.") for layer in alone)
        for name, _ in module.named_modules()
    }

    def is_block(name: str, part: nn.Module) -> bool:
        strings = type(part) in (*_LISTS, nn.ModuleDict)
        return 1 < sizes[name] < len(alone) and not strings and not holds_blocks(name, part)

    def holds_blocks(name: str, part: nn.Module) -> bool:
        for below, inner in part.named_modules(prefix=name):
            if type(inner) in _LISTS:
                members = [(f"{below}.{child}".lstrip("."), own) for child, own in inner.named_children()]
                if sum(sizes[at] > 1 and type(own) not in (*_LISTS, nn.ModuleDict) for at, own in members) > 1:
                    return True
        return False

    def walk(name: str, part: nn.Module) -> Iterator[str]:
        if is_block(name, part):
            yield plain(module, name)
            return
        for child, own in part.named_children():
            yield from walk(f"{name}.{child}".lstrip("."), own)

    return list(walk("", module))
