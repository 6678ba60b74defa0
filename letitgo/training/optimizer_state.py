"""An optimiser's state as named tensors and JSON, so that it can be stored and taken over by a run that trains less."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from letitgo.errors import WorkFailed
from letitgo.value import canonical
from letitgo.weights import State


def pack(optimizer: dict[str, Any], parameters: list[str]) -> tuple[State, dict[str, Any]]:
    """Split an optimiser's ``state_dict`` into tensors and JSON.

    Args:
        optimizer: The ``state_dict`` of an optimiser with one parameter group.
        parameters: Names of the optimiser's parameters, in its order.
    """
    tensors: State = {}
    named = {parameters[index]: item for index, item in optimizer["state"].items()}
    scalars = {key: item for key, item in optimizer["param_groups"][0].items() if type(item) in (int, float)}
    state, group = ({key: _encoded(item, key, tensors) for key, item in part.items()} for part in (named, scalars))
    return tensors, {"state": state, "group": group, "parameters": parameters}


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

    same = parameters == packed["parameters"]
    if not same and any(_shared(item) for item in packed["state"].values()):
        return fresh
    state = {
        i: _decoded(packed["state"][name], tensors) for i, name in enumerate(parameters) if name in packed["state"]
    }
    group = {key: _decoded(item, tensors) for key, item in packed["group"].items()}
    return {"state": state, "param_groups": [{**fresh["param_groups"][0], **group}]}


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
