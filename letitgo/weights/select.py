"""A choice of parameters, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

from torch import nn

from letitgo.errors import BadRequest, nearest, typed
from letitgo.weights.layers import bare, layers, owner, parameter_names, plain, ties


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
        if not isinstance(other, Selection):
            return NotImplemented  # a part knows how to take a selection in
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
        if not isinstance(other, Selection):
            raise BadRequest(f"{other} is no selection: single weights are only united (|) with one, or inverted (~)")
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
    types: type[nn.Module] | Sequence[type[nn.Module]] | None = None,
    index: int | slice | str | Sequence[int] | None = None,
    where: Callable[[str, nn.Module], bool] | None = None,
) -> Selection:
    """Choose parameters by the names, types and order of layers.

    Args:
        module: The network.
        patterns: Globs, read from left to right. Each is held against the names of layers, of the blocks they lie in
            and of parameters, so ``"fc1"``, ``"layer1.*"``, ``"layer1"`` and ``"*.bias"`` all work. A pattern with a
            leading ``!`` takes away what it matches; where the first one does, it takes from everything. A pattern that
            is a name means what has that name, whatever characters it has. Names are those without wrappers
            (``torch.compile``, ``DataParallel``). Without patterns everything is chosen.
        types: Keep only layers whose module is of these types.
        index: Keep only these of the layers chosen so far, in the module's order: ``0``, ``-1``, ``[0, 2]``,
            ``slice(3)``, or in words ``"first"``, ``"first 3"``, ``"last"``, ``"last 2"``.
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
    places = {name: _places(module, layer, name) for layer, parameters in owned.items() for name in parameters}
    chosen: set[str] | None = None if patterns else set(names)
    for pattern in patterns:
        found = {name for name, own in places.items() if pattern in own}
        takes = not found and pattern.startswith("!")
        found = found or _matching(pattern.removeprefix("!"), places)
        if not found:
            _refuse_tied(module, pattern)
            raise BadRequest(f"the pattern {pattern!r} matches no layer: {nearest(pattern, tuple(owned))}")
        chosen = set(names if takes else ()) if chosen is None else chosen
        chosen = chosen - found if takes else chosen | found

    assert chosen is not None
    kept = [layer for layer, parameters in owned.items() if chosen.intersection(parameters)]
    if types is not None or where is not None:
        types = _types(types)
        modules = {layer: module.get_submodule(owner(module, owned[layer][0])) for layer in kept}
        kept = [
            layer
            for layer in kept
            if (types is None or isinstance(modules[layer], types)) and (where is None or where(layer, modules[layer]))
        ]
        if not kept:
            raise BadRequest(f"no chosen layer has the type or property asked for ({_names(types) or 'predicate'})")
    if index is not None:
        kept = _at(kept, index)
    within = {name for layer in kept for name in owned[layer]}
    return Selection(tuple(name for name in names if name in chosen & within), names)


def blocks(module: nn.Module, *patterns: str) -> list[str]:
    """Names of the modules with parameters that match the globs; where one lies in another, the outer one.

    Raises:
        BadRequest: A pattern matches none.
    """
    inside = [plain(module, name) for name, part in module.named_modules() if any(True for _ in part.parameters())]
    names = list(dict.fromkeys(filter(None, inside)))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadRequest(f"the pattern {pattern!r} matches no block: {nearest(pattern, tuple(names))}")
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [name for name in chosen if not any(name.startswith(f"{outer}.") for outer in chosen)]


def chosen_of(module: nn.Module, choice: Selection | str | Sequence[str]) -> Selection:
    """What patterns choose of a network; or a selection of it, made before it was wrapped, inside the wrapper or here.

    Raises:
        BadRequest: It is neither, a pattern matches nothing, or the selection is of another network.
    """
    if isinstance(choice, str):
        return select(module, choice)
    if not isinstance(choice, Selection):
        if not isinstance(choice, Sequence) or not choice or not all(isinstance(pattern, str) for pattern in choice):
            what = repr(choice) if isinstance(choice, (list, tuple)) else typed(choice)
            raise BadRequest(f"{what} is no selection: give patterns, or choose with select(module, ...)")
        return select(module, *choice)
    names = parameter_names(module)
    if choice.of == names:
        return choice
    if bare(choice.of) not in (bare(names), [plain(module, name) for name in names]):
        raise BadRequest("the selection is of another network: choose with select(module, ...)")
    own = zip(choice.of, names, strict=True)
    return Selection(tuple(name for theirs, name in own if theirs in choice), names)


def _places(module: nn.Module, layer: str, parameter: str) -> set[str]:
    """The names that patterns are held against, with wrappers and without."""
    inside = [(layer, plain(module, parameter)), (owner(module, parameter), parameter)]
    prefixes = (name.split(".")[:depth] for name, _ in inside for depth in range(1, name.count(".") + 2))
    return {*map(".".join, prefixes), *(name for _, name in inside)} - {""}


def _matching(pattern: str, places: dict[str, set[str]]) -> set[str]:
    """The parameters of which a name is the pattern, or else matches it."""
    exact = {name for name, own in places.items() if pattern in own}
    return exact or {name for name, own in places.items() if any(fnmatchcase(place, pattern) for place in own)}


def _refuse_tied(module: nn.Module, pattern: str) -> None:
    for name, first in ties(module).items():
        if _matching(pattern.removeprefix("!"), {name: _places(module, plain(module, owner(module, name)), name)}):
            raise BadRequest(f"{name} is tied to {first}, and what is done to one is done to both: choose {first!r}")


def _at(layers: list[str], index: int | slice | str | Sequence[int]) -> list[str]:
    """The layers at some places, in their own order."""
    words = re.fullmatch(r"(first|last)(?: ([1-9]\d*))?", index) if isinstance(index, str) else None
    if words is not None:
        number = int(words[2] or 1)
        index = slice(number) if words[1] == "first" else slice(-number, None)
    if isinstance(index, slice):
        places = set(range(len(layers))[index])
    else:
        given: Any = [index] if isinstance(index, Integral) else index
        if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(i, Integral) for i in given):
            raise BadRequest(
                f"index is {index!r}: give a number, a list of them, a slice, or words like 'first 3' and 'last'"
            )
        if any(not -len(layers) <= i < len(layers) for i in given):
            raise BadRequest(f"index {index} is outside the {len(layers)} layers chosen")
        places = {int(i) % len(layers) for i in given}
    if not places:
        raise BadRequest(f"index {index} is outside the {len(layers)} layers chosen")
    return [layer for place, layer in enumerate(layers) if place in places]


def _types(types: type[nn.Module] | Sequence[type[nn.Module]] | None) -> tuple[type[nn.Module], ...] | None:
    if types is None:
        return None
    found = (types,) if isinstance(types, type) else types
    if isinstance(found, str) or not all(isinstance(kind, type) for kind in found):
        raise BadRequest(f"types is {types!r}: give classes, as in types=nn.Linear or types=[nn.Linear, nn.Conv2d]")
    return tuple(found)


def _names(types: tuple[type[nn.Module], ...] | None) -> str:
    return ", ".join(kind.__name__ for kind in types or ())
