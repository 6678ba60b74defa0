"""What a layer is.

A layer is a module that owns parameters directly. A parameter owned by a container, such as a class token, is a layer
of its own, under its own name. Parameters behind ``torch.nn.utils.parametrize`` belong to the module they parametrize.
A tied parameter belongs to the layer where it appears first. What wrappers such as ``torch.compile`` and
``DataParallel`` put into the names of modules is left out of the names of layers.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from letitgo.errors import BadRequest, nearest
from letitgo.weights.sharded import of_deepspeed

_PARAMETRIZATIONS = ".parametrizations."
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What compilers and shards call the module that they wrap."""


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Names of all parameters in the module's own order, a tied parameter once.

    Raises:
        BadRequest: A parameter is lazy and has no shape yet.
    """
    names = []
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise BadRequest(f"{name} is lazy and has no shape yet: call the network on one batch first")
        names.append(name)
    return tuple(names)


def plain(module: nn.Module, name: str) -> str:
    """The name that a module, parameter or buffer has without the wrappers around it or around modules in it."""
    kept, here = [], module
    for part in name.split("."):
        wrapped = part == "module" and (isinstance(here, (DataParallel, DistributedDataParallel)) or of_deepspeed(here))
        if not wrapped and part not in _WRAPPED:
            kept.append(part)
        here = getattr(here, part, None)
    return ".".join(kept)


def bare(names: Iterable[str]) -> list[str]:
    """Names without wrappers, as far as the names alone show them: ``module.`` where all have it."""
    kept = [".".join(part for part in name.split(".") if part not in _WRAPPED) for name in names]
    return [name.removeprefix("module.") for name in kept] if all(n.startswith("module.") for n in kept) else kept


def named_in(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names of parameters and buffers, with wrappers or without → the module's own. What is none of its stays as it is.

    So what was named before a network was wrapped fits it afterwards, and the other way round.
    """
    given = tuple(names)
    tensors = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    inside = {plain(module, name): name for pairs in tensors for name, _ in pairs}
    known = {**inside, **{name: name for name in inside.values()}}
    return {name: known.get(name, inside.get(without, name)) for name, without in zip(given, bare(given), strict=True)}


def trains(parameter: nn.Parameter) -> bool:
    """Whether a parameter can train: whole numbers and truth values cannot."""
    return parameter.is_floating_point() or parameter.is_complex()


def no_parameter(name: str, names: tuple[str, ...]) -> str:
    """A half-sentence on a name that is no parameter's: what is near, or that PyTorch's pruning holds it."""
    if f"{name}_orig" in names:
        return "torch.nn.utils.prune holds it; take its masks with torch_masks, then end that with prune.remove"
    return nearest(name, names)


def trainable_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that ask for a gradient, in the module's own order, a tied parameter once."""
    return tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def layers(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Layer name → names of the parameters it owns, both in the module's own order."""
    owned: dict[str, list[str]] = {}
    for name in parameter_names(module):
        owned.setdefault(_layer_of(module, name), []).append(name)
    return {plain(module, layer): tuple(names) for layer, names in owned.items()}


def owner(module: nn.Module, parameter: str) -> str:
    """Name of the module a parameter belongs to; the root is the empty string."""
    head, mark, _ = f".{parameter}".partition(_PARAMETRIZATIONS)
    return head[1:] if mark else parameter.rpartition(".")[0]


def _layer_of(module: nn.Module, parameter: str) -> str:
    name = owner(module, parameter)
    if not plain(module, name):
        return parameter
    return parameter if is_container(module.get_submodule(name)) else name


def is_container(module: nn.Module) -> bool:
    """Whether a module is there for the modules in it, so that a parameter of its own is a layer of its own."""
    from_torch = type(module).__module__.startswith("torch.nn.modules.") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )
    return not from_torch and any(child != "parametrizations" for child, _ in module.named_children())


def ties(module: nn.Module) -> dict[str, str]:
    """Second names of tied parameters → the name each goes by, where it appears first."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            found[name] = known
    return found
