"""An optimiser's state as named tensors and JSON, so that it can be stored and taken over by a run that trains less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import WorkFailed
from letitgo.value import canonical
from letitgo.weights import State, named_trainable


def pack(optimizer: torch.optim.Optimizer, module: nn.Module) -> tuple[State, dict[str, Any]]:
    """Split an optimiser's state into tensors and JSON.

    Args:
        optimizer: Over what trains in the module, in one parameter group or several.
        module: Names the parameters.
    """
    tensors: State = {}
    found = optimizer.state_dict()
    names = list(_named(optimizer, module))
    state = {names[index]: _encoded(item, names[index], tensors) for index, item in found["state"].items()}
    groups = []
    for group in found["param_groups"]:
        scalars = {key: _encoded(item, key, tensors) for key, item in group.items() if type(item) in (int, float)}
        groups.append({"group": scalars, "parameters": [names[index] for index in group["params"]]})
    several = {"groups": groups} if len(groups) > 1 else {}
    return tensors, {"state": state, "group": groups[0]["group"], "parameters": names, **several}


def unpack(
    tensors: State, packed: dict[str, Any], optimizer: torch.optim.Optimizer, module: nn.Module
) -> dict[str, Any]:
    """The ``state_dict`` for an optimiser as it was made.

    A parameter takes over its own state, and a parameter group that of the group its parameters were in. LBFGS keeps
    one state for all parameters together, which means nothing for fewer of them: there the state starts afresh.

    Args:
        tensors: What :func:`pack` gave, as is ``packed``.
        packed: The JSON.
        optimizer: Over what trains in the module, which may be less than what was packed.
        module: Names the parameters.
    """
    fresh, named = optimizer.state_dict(), _named(optimizer, module)
    names = list(named)
    shared = any(_shared(item) for item in packed["state"].values())
    if shared and names != packed["parameters"]:
        return fresh
    state = {i: _decoded(packed["state"][name], tensors) for i, name in enumerate(names) if name in packed["state"]}
    for i, item in state.items() if not shared else ():
        state[i] = {key: _shaped(part, named[names[i]]) for key, part in item.items()}
    homes = {name: part["group"] for part in packed.get("groups", [packed]) for name in part["parameters"]}
    groups = []
    for group in fresh["param_groups"]:
        home = next((homes[names[i]] for i in group["params"] if names[i] in homes), {})
        groups.append({**group, **{key: _decoded(item, tensors) for key, item in home.items()}})
    return {"state": state, "param_groups": groups}


def _named(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of an optimiser by name, numbered as in its ``state_dict``."""
    names = {id(parameter): name for name, parameter in named_trainable(module)}
    return {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}


def _shaped(item: Any, parameter: nn.Parameter) -> Any:
    """A tensor in the shape of the moving entries that it is about, which earlier versions stored flat."""
    flat = isinstance(item, Tensor) and item.shape == (parameter.numel(),)
    return item.view(parameter.shape) if flat else item


def encode(item: Any) -> tuple[State, dict[str, Any]]:
    """Tensors and JSON that stand for numbers, texts, tensors, and lists and dicts of these.

    Raises:
        WorkFailed: It holds something else.
    """
    tensors: State = {}
    packed = {"item": _encoded(item, "item", tensors)}
    try:
        canonical(packed)
    except (TypeError, ValueError) as error:
        raise WorkFailed(
            f"a checkpoint holds what cannot be stored: {error}; keep to numbers, texts, tensors"
        ) from None
    return tensors, packed


def decode(tensors: State, packed: dict[str, Any]) -> Any:
    """What :func:`encode` was given, tuples as lists."""
    return _decoded(packed["item"], tensors)


def _encoded(item: Any, place: str, tensors: State) -> Any:
    if isinstance(item, Tensor):
        tensors[place] = item.detach().clone()
        return {"tensor": place}
    if isinstance(item, dict) and not all(isinstance(key, str) for key in item):  # JSON knows no other keys
        return {"pairs": [[key, _encoded(part, f"{place}/{key}", tensors)] for key, part in item.items()]}
    if isinstance(item, dict):
        return {"dict": {key: _encoded(part, f"{place}/{key}", tensors) for key, part in item.items()}}
    if isinstance(item, (list, tuple)):
        return {"list": [_encoded(part, f"{place}/{i}", tensors) for i, part in enumerate(item)]}
    if isinstance(item, float):
        return {"float": item.hex()}  # exact, and defined for what is not finite
    return item


def _decoded(item: Any, tensors: State) -> Any:
    if not isinstance(item, dict):
        return item
    ((kind, content),) = item.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "float":
        return float.fromhex(content)
    if kind == "list":
        return [_decoded(part, tensors) for part in content]
    if kind == "pairs":
        return {key: _decoded(part, tensors) for key, part in content}
    return {key: _decoded(part, tensors) for key, part in content.items()}


def _shared(item: Any) -> bool:
    return any(isinstance(part, dict) and "list" in part for part in item["dict"].values())
