"""A choice of parameters, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from letitgo.errors import BadRequest, nearest
from letitgo.weights.layers import layers, owner, parameter_names, ties


@dataclass(frozen=True)
class Selection:
    """Some of a module's parameters, by name.

    Selections of one module form an algebra: ``~a`` is the complement, ``a | b``, ``a & b`` and ``a - b`` the union,
    intersection and difference. A selection holds names only, so it can be printed, hashed, stored (``to_json``,
    ``from_json``) and sent.

    Attributes:
        parameters: Names of the selected parameters, in the module's order.
        of: Names of all the module's parameters, in the module's order.
    """

    parameters: tuple[str, ...]
    of: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return name in self.parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __invert__(self) -> Selection:
        return self._keep(set(self.of) - set(self.parameters))

    def __or__(self, other: Selection) -> Selection:
        return self._keep({*self.parameters, *self._same(other)})

    def __and__(self, other: Selection) -> Selection:
        return self._keep(set(self.parameters) & set(self._same(other)))

    def __sub__(self, other: Selection) -> Selection:
        return self._keep(set(self.parameters) - set(self._same(other)))

    def __str__(self) -> str:
        if len(self) == len(self.of):
            return "everything"
        return ", ".join(self.parameters) or "nothing"

    def to_json(self) -> str:
        """The selection as JSON."""
        return json.dumps({"parameters": self.parameters, "of": self.of})

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """The selection that :meth:`to_json` wrote.

        Raises:
            BadRequest: The text is no such JSON.
        """
        try:
            data = json.loads(text)
            parameters, of = data["parameters"], data["of"]
            lists = isinstance(parameters, list) and isinstance(of, list)
            if not lists or not all(isinstance(name, str) for name in of) or not set(parameters) <= set(of):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise BadRequest("this is no selection: give what Selection.to_json() wrote") from None
        return cls(tuple(parameters), tuple(of))

    def _keep(self, names: set[str]) -> Selection:
        return Selection(tuple(name for name in self.of if name in names), self.of)

    def _same(self, other: Selection) -> tuple[str, ...]:
        if self.of != other.of:
            raise BadRequest("the two selections are of different networks")
        return other.parameters


def everything(module: nn.Module) -> Selection:
    """All parameters of the module."""
    names = parameter_names(module)
    return Selection(names, names)


def select(
    module: nn.Module,
    *patterns: str,
    types: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
    index: int | slice | str | None = None,
    where: Callable[[str, nn.Module], bool] | None = None,
) -> Selection:
    """Choose parameters by the names, types and order of layers.

    Args:
        module: The network.
        patterns: Globs, read from left to right. Each is held against the names of layers, of the blocks they lie in
            and of parameters, so ``"fc1"``, ``"layer1.*"``, ``"layer1"`` and ``"*.bias"`` all work. A pattern with a
            leading ``!`` takes away what it matches; where the first one does, it takes from everything. Without
            patterns everything is chosen.
        types: Keep only layers whose module is of these types.
        index: Keep only these of the layers chosen so far, in the module's order: ``0``, ``-1``, ``slice(3)``, or in
            words ``"first"``, ``"first 3"``, ``"last"``, ``"last 2"``.
        where: Keep only layers for which ``where(layer_name, module)`` is true.

    Returns:
        The selection, in the module's order.

    Raises:
        BadRequest: A pattern, the types, the index or the predicate match nothing, or a pattern matches only the
            second name of a tied parameter: freezing it would freeze the first too.
    """
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise BadRequest(f"{pattern!r} is no pattern: give strings, each by itself, as in select(module, '0', '1')")
    owned = layers(module)
    names = parameter_names(module)
    chosen: set[str] = set(names) if not patterns or patterns[0].startswith("!") else set()
    for pattern in patterns:
        found = {
            name
            for layer, parameters in owned.items()
            for name in parameters
            if _matches(pattern.removeprefix("!"), layer, name)
        }
        if not found:
            _refuse_tied(module, pattern)
            raise BadRequest(f"the pattern {pattern!r} matches no layer: {nearest(pattern, tuple(owned))}")
        chosen = chosen - found if pattern.startswith("!") else chosen | found

    kept = [layer for layer, parameters in owned.items() if chosen.intersection(parameters)]
    if types is not None or where is not None:
        modules = {layer: module.get_submodule(owner(module, owned[layer][0])) for layer in kept}
        kept = [
            layer
            for layer in kept
            if (types is None or isinstance(modules[layer], types)) and (where is None or where(layer, modules[layer]))
        ]
        if not kept:
            raise BadRequest(f"no chosen layer has the type or property asked for ({_names(types) or 'predicate'})")
    if index is not None:
        places = range(len(kept))[_slice(index)]
        if not places:
            raise BadRequest(f"index {index} is outside the {len(kept)} layers chosen")
        kept = [kept[place] for place in places]
    within = {name for layer in kept for name in owned[layer]}
    return Selection(tuple(name for name in names if name in chosen & within), names)


def blocks(module: nn.Module, *patterns: str) -> list[str]:
    """Names of the modules with parameters that match the globs; where one lies in another, the outer one.

    Raises:
        BadRequest: A pattern matches none.
    """
    names = [name for name, part in module.named_modules() if name and any(True for _ in part.parameters())]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadRequest(f"the pattern {pattern!r} matches no block: {nearest(pattern, tuple(names))}")
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [name for name in chosen if not any(name.startswith(f"{outer}.") for outer in chosen)]


def _matches(pattern: str, layer: str, parameter: str) -> bool:
    parts = layer.split(".")
    places = [parameter, *(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))]
    return any(fnmatchcase(place, pattern) for place in places)


def _refuse_tied(module: nn.Module, pattern: str) -> None:
    for name, first in ties(module).items():
        if _matches(pattern.removeprefix("!"), name.rpartition(".")[0], name):
            raise BadRequest(f"{name} is tied to {first}, and what is done to one is done to both: choose {first!r}")


def _slice(index: int | slice | str) -> slice:
    if isinstance(index, slice):
        return index
    if isinstance(index, int):
        return slice(index, None if index == -1 else index + 1)
    words = re.fullmatch(r"(first|last)(?: ([1-9]\d*))?", index)
    if words is None:
        raise BadRequest(f"index is {index!r}: give a number, a slice, or words like 'first 3' and 'last'")
    number = int(words[2] or 1)
    return slice(number) if words[1] == "first" else slice(-number, None)


def _names(types: type[nn.Module] | tuple[type[nn.Module], ...] | None) -> str:
    if types is None:
        return ""
    return ", ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
