"""Saving a network trained in a subspace: z and the seed, for a reader who has θ₀.

A sealed file (:mod:`letitgo.weights.sealed`): ``z``, ``scales``, and under ``rest.<name>`` what trained outside the
subspace and the buffers. The metadata names what draws P and the digest of what was drawn, and the digest of θ₀ and of
all that was frozen.
"""

from __future__ import annotations

import os

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights.delta import Summary, check_base, plain_tensors, summary
from letitgo.weights.hold import Held, held_of, hold
from letitgo.weights.layers import named_in, parameter_names, plain
from letitgo.weights.projections import Kind
from letitgo.weights.sealed import About, damaged, dtype, read, write
from letitgo.weights.select import Selection
from letitgo.weights.state import State, write_state
from letitgo.weights.subspace import Projected, Subspace, check

_REST = "rest."


class _Drawn(BaseModel):
    """What draws a projection, as in :class:`Subspace`."""

    model_config = ConfigDict(strict=True)

    d: int
    kind: Kind
    seed: int
    said: bool


class _Said(About):
    """What a file says."""

    subspace: _Drawn
    projected: list[str]
    excluded: list[str]
    projection: str
    base: Summary


def save_subspace(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write what was learned in a subspace and beside it, and the buffers; θ₀ and P by their digests alone.

    Args:
        module: Held in a :func:`subspace`.
        path: The file, replaced as a whole once it is written.

    Raises:
        BadRequest: The module is not held in a subspace, or the file cannot be written.
    """
    held = held_of(module)
    projected = held.projected if held else None
    if projected is None:
        raise BadRequest("the module is not held in a subspace: hold(module, subspace(module, d)) first")
    projected.meet()
    stored = {name: parameter.detach().cpu() for name, parameter in projected.learned.items()}
    rest = _rest(module, projected.part)
    stored |= {_REST + name: tensor.detach().cpu().contiguous().clone() for name, tensor in rest.items()}
    part = projected.part
    about = {
        "subspace": {"d": part.d, "kind": part.kind, "seed": part.seed, "said": part.said},
        "projected": [plain(module, name) for name in part.projected],
        "excluded": [plain(module, name) for name in part.excluded],
        "projection": summary(projected.projection.drawn)["digest"],
        "base": summary(_base(module, part, projected)),
    }
    write(path, "letitgo-subspace", about, stored)


def load_subspace(module: nn.Module, path: str | os.PathLike[str]) -> Held:
    """Hold a network in the subspace of a file, with what was learned there.

    Train on, or ``release()`` it, which leaves the weights θ₀ + P z.

    Args:
        module: With the weights θ₀ that training started from, in the same dtypes; on any device.
        path: What :func:`save_subspace` wrote.

    Raises:
        BadRequest: The file is damaged or of another network, the weights are not those that training started from, or
            another projection is drawn here. The module is left as it was.
    """
    about, stored = read(path, "letitgo-subspace", _Said)
    names = parameter_names(module)
    own_names = named_in(module, (*about.projected, *about.excluded))
    for name, place in own_names.items():
        if place not in names:
            raise BadRequest(f"{path} is of another network: {name!r} is not in the module")
    chosen = [{own_names[name] for name in some} for some in (about.projected, about.excluded)]
    inside, outside = (Selection(tuple(name for name in names if name in some), names) for some in chosen)
    part = Subspace(**about.subspace.model_dump(), projected=inside, excluded=outside)
    scales = check(module, part)
    shapes = [("z", part.d - scales), *([("scales", scales)] if scales else [])]
    if any(name not in stored or stored[name].shape != (count,) for name, count in shapes):
        raise damaged(path, "what was learned is not of the subspace it names")
    own = plain_tensors(module)[0]
    check_base(path, about.base, about.versions, _base(module, part), own)
    rest = _rest(module, part)
    saved = {name.removeprefix(_REST): tensor for name, tensor in stored.items() if name.startswith(_REST)}
    for name in sorted(rest.keys() | saved.keys()):
        ours, theirs = (_form(tensors.get(name)) for tensors in (rest, saved))
        if ours != theirs:
            raise BadRequest(f"{path} is of another network: {name!r} is {theirs} there and {ours} in the module")
    held = hold(module, part)
    projected = held.projected
    assert projected is not None
    if summary(projected.projection.drawn)["digest"] != about.projection:
        held.release()
        raise BadRequest(
            f"the projection drawn here is not the one {path} was trained with: it was written with "
            + ", ".join(f"{name} {version}" for name, version in about.versions.items())
        )
    with torch.no_grad():
        for name, parameter in projected.learned.items():
            parameter.copy_(stored[name])
        write_state(module, saved)
    held()
    return held


def _base(module: nn.Module, part: Subspace, projected: Projected | None = None) -> State:
    """What the reader has: θ₀ and the frozen parameters, by the names without wrappers."""
    origin = projected.origin if projected else {}
    return {
        plain(module, name): origin.get(name, parameter.detach())
        for name, parameter in module.named_parameters()
        if name not in part.excluded
    }


def _rest(module: nn.Module, part: Subspace) -> State:
    """What is stored whole: the parameters outside the subspace that train, and the buffers."""
    parameters = {plain(module, name) for name in parameter_names(module) if name not in part.excluded}
    return {name: tensor for name, tensor in plain_tensors(module)[0].items() if name not in parameters}


def _form(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{dtype(tensor)} {tuple(tensor.shape)}"
