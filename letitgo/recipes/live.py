"""Tasks given as objects: told apart by the code of their classes and by what they hold."""

from __future__ import annotations

import enum
import types
from functools import partial
from hashlib import sha256
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from letitgo.code import Code, code_of
from letitgo.errors import BadRequest, typed
from letitgo.value import canonical

LIVE = "live:"
"""Begins the names of tasks that are objects of this process."""

_TASKS: dict[str, tuple[Any, Code]] = {}
_PLAIN = (str, int, float, bool, type(None), bytes, complex, torch.dtype, torch.device, torch.Size, PurePath, range)


def registered(task: Any) -> str:
    """The name of an object, the same for equal ones: to be used where an import path would be.

    Raises:
        BadRequest: It holds something whose content cannot be read, or its code cannot.
    """
    reader = _Reader(type(task).__name__)
    content = sha256(canonical(reader.read(task)).encode()).hexdigest()
    code = {**reader.code, "what the object holds": content}
    name = f"{LIVE}{type(task).__name__}-{sha256(canonical(code).encode()).hexdigest()[:12]}"
    _TASKS[name] = task, code
    return name


def found(name: str) -> tuple[Any, Code]:
    """The object of a name, and what its key covers.

    Raises:
        BadRequest: It is none of this process.
    """
    if name not in _TASKS:
        raise BadRequest(f"the task {name!r} is an object of another process: give an import path package.module:make")
    return _TASKS[name]


class _Reader:
    """Reads what an object holds, as JSON, and gathers the code it depends on."""

    def __init__(self, what: str) -> None:
        self.code: Code = {}
        self._what = what
        self._above: list[int] = []

    def read(self, item: Any) -> Any:
        if isinstance(item, enum.Enum) or (isinstance(item, _PLAIN) and type(item) is not torch.Size):
            return [type(item).__name__, str(item)]
        if isinstance(item, Tensor):
            raw = item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            return [str(item.dtype), list(item.shape), sha256(raw.tobytes()).hexdigest()]
        if isinstance(item, np.ndarray) and item.dtype != object:
            return [str(item.dtype), list(item.shape), sha256(np.ascontiguousarray(item).tobytes()).hexdigest()]
        if isinstance(item, np.generic):
            return [str(item.dtype), str(item)]
        if isinstance(item, torch.Generator):
            return "generator"  # seeded before each epoch
        if id(item) in self._above:
            return ["above", len(self._above) - self._above.index(id(item))]
        self._above.append(id(item))
        try:
            return self._parts(item)
        finally:
            self._above.pop()

    def _parts(self, item: Any) -> Any:
        if isinstance(item, dict):
            return ["dict", [[self.read(key), self.read(value)] for key, value in item.items()]]
        if isinstance(item, (list, tuple)):
            return [type(item).__name__, [self.read(part) for part in item]]
        if isinstance(item, (set, frozenset)):
            return ["set", sorted(canonical(self.read(part)) for part in item)]
        if isinstance(item, partial):
            return ["partial", *(self.read(part) for part in (item.func, item.args, item.keywords))]
        if isinstance(item, (types.FunctionType, type)):
            return self._code(item)
        if isinstance(item, types.MethodType):
            return ["method", item.__name__, self.read(item.__self__)]
        if isinstance(item, (types.BuiltinFunctionType, types.ModuleType)):
            return ["built in", getattr(item, "__name__", ""), str(getattr(item, "__module__", ""))]
        if isinstance(item, nn.Module):
            return [self._code(type(item)), str(item), self.read(dict(item.state_dict()))]
        if not hasattr(item, "__dict__"):
            raise BadRequest(
                f"the {self._what} holds {typed(item)}, whose content cannot be read for its key: give the "
                "task as an import path package.module:make"
            )
        return [self._code(type(item)), self.read(vars(item))]

    def _code(self, item: Any) -> Any:
        """Name of a function or class; its module's code, and what a function closes over, count too."""
        name = f"{item.__module__}:{item.__qualname__}"
        self.code |= code_of(name, item)
        cells = getattr(item, "__closure__", None) or ()
        defaults = getattr(item, "__defaults__", None) or ()
        return [name, [self.read(cell.cell_contents) for cell in cells], [self.read(value) for value in defaults]]
