"""An optimiser's state as named tensors and JSON, so that it can be stored and taken over by a run that trains less."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from letitgo.weights import State


def pack(optimizer: dict[str, Any], parameters: list[str]) -> tuple[State, dict[str, Any]]:
    """Split an optimiser's ``state_dict`` into tensors and JSON.

    Args:
        optimizer: The ``state_dict`` of an optimiser with one parameter group.
        parameters: Names of the optimiser's parameters, in its order.
    """
    tensors: State = {}

    def encode(item: Any, place: str) -> Any:
        if isinstance(item, Tensor):
            tensors[place] = item.detach().clone()
            return {"tensor": place}
        if isinstance(item, dict):
            return {"dict": {key: encode(part, f"{place}/{key}") for key, part in item.items()}}
        if isinstance(item, (list, tuple)):
            return {"list": [encode(part, f"{place}/{i}") for i, part in enumerate(item)]}
        if isinstance(item, float):
            return {"float": item.hex()}  # exact, and defined for what is not finite
        return item

    state = {parameters[index]: encode(item, parameters[index]) for index, item in optimizer["state"].items()}
    scalars = {
        key: encode(item, key) for key, item in optimizer["param_groups"][0].items() if type(item) in (int, float)
    }
    return tensors, {"state": state, "group": scalars, "parameters": parameters}


def unpack(tensors: State, packed: dict[str, Any], fresh: dict[str, Any], parameters: list[str]) -> dict[str, Any]:
    """The ``state_dict`` for an optimiser of these parameters.

    A parameter takes over its own state. LBFGS keeps one state for all parameters together, which means nothing for
    fewer of them: there the state starts afresh.

    Args:
        tensors: What :func:`pack` gave, as is ``packed``.
        packed: The JSON.
        fresh: The ``state_dict`` of the optimiser as it was made.
        parameters: Names of its parameters, in its order.
    """

    def decode(item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        ((kind, content),) = item.items()
        if kind == "tensor":
            return tensors[content].clone()
        if kind == "float":
            return float.fromhex(content)
        if kind == "list":
            return [decode(part) for part in content]
        return {key: decode(part) for key, part in content.items()}

    same = parameters == packed["parameters"]
    if not same and any(_shared(item) for item in packed["state"].values()):
        return fresh
    state = {i: decode(packed["state"][name]) for i, name in enumerate(parameters) if name in packed["state"]}
    group = {key: decode(item) for key, item in packed["group"].items()}
    return {"state": state, "param_groups": [{**fresh["param_groups"][0], **group}]}


def _shared(item: Any) -> bool:
    return any(isinstance(part, dict) and "list" in part for part in item["dict"].values())
