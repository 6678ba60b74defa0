"""Saving what changed: a file holds the tensors, rows and values of a model that differ, bit for bit, from a base.

A sealed file (:mod:`letitgo.weights.sealed`). What is kept of a changed tensor lies under the tensor's name, an index
of its rows or values under ``<name>.mask`` or ``<name>.gaps`` (:mod:`letitgo.weights.coding`). The metadata names the
digest of the base, its seed if it was regenerated, what changed, and how it is coded. Nothing in the file is or names
code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest
from letitgo.value import sha256
from letitgo.weights.checkpoint import read_weights
from letitgo.weights.coding import Code, Coded, decode, encode, fits
from letitgo.weights.layers import bare, plain
from letitgo.weights.sealed import About, damaged, digests, dtype, own_versions, read, write
from letitgo.weights.sharded import is_sharded, local, on_first_process, refuse_fixed, refuse_flat, whole
from letitgo.weights.state import State, initial_state, load_state, own_tensors

Factory = Callable[[], nn.Module]
Base = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str] | tuple[Factory, int]

_HINT = 4  # hexadecimal digits kept of each base tensor's digest, to name the one that differs


class Summary(BaseModel):
    """Digest of a base, beginnings of the digests of its tensors, and its seed if it was regenerated."""

    model_config = ConfigDict(strict=True)

    digest: str
    tensors: str
    seed: int | None = None


class _Change(About):
    """What a saved change says."""

    base: Summary
    changed: dict[str, Code]
    new: list[str]

    @model_validator(mode="after")
    def _whole_where_new(self) -> _Change:
        if any(self.changed.get(name) != "whole" for name in self.new):
            raise ValueError("what the base lacks is stored whole")
        return self


def save(model: nn.Module, path: str | os.PathLike[str], base: Base) -> None:
    """Write what differs from a base: parameters and persistent buffers, a tied tensor once.

    Args:
        model: On any device. Where FSDP2 sharded it, every process calls this, and the first one writes the file.
        path: The file, replaced as a whole once it is written.
        base: What the reader will have: a module, a state dict, a file of weights (safetensors, ``.pt``, ``.pth``,
            ``.bin``), or a pair (factory, seed) that stands for ``initial_state(factory, seed)``. Tensors that it lacks
            or has in another shape, as of a new head, are stored whole, and loading does not ask for them.

    Raises:
        BadRequest: The base shares no tensor with the model, has one in another dtype, or is the model's own memory and
            so moved along; a tensor holds no values or is of a type safetensors does not have; the file cannot be
            written.
    """
    own, old = beside(model, base)
    for name, tensor in old.items():
        if tensor.dtype != own[name].dtype:
            raise BadRequest(
                f"{name!r} is {dtype(tensor)} in the base and {dtype(own[name])} in the model: convert one of them"
            )
    moved = [_same_memory(tensor, own[name]) for name, tensor in old.items() if tensor.numel()]
    if moved and all(moved):
        raise BadRequest("the base is the model itself: keep a copied(model) from before training")

    changed: dict[str, str] = {}
    stored: State = {}
    for name, tensor in own.items():
        now = whole(tensor).detach()
        coded = encode(now, old[name]) if name in old else Coded("whole", now.cpu().contiguous().clone())
        if coded:
            changed[name] = coded.code
            stored[name] = coded.values
            if coded.where is not None:
                stored[_index_name(name, coded.code)] = coded.where
    about = {
        "base": summary(old) | ({"seed": int(base[1])} if isinstance(base, tuple) else {}),
        "changed": changed,
        "new": [name for name in own if name not in old],
    }
    if any(map(is_sharded, own.values())):
        on_first_process(lambda: write(path, "letitgo", about, stored))
    else:
        write(path, "letitgo", about, stored)


def load(model: nn.Module, path: str | os.PathLike[str], base: Base | Factory | None = None) -> None:
    """Make the model what was saved. Its Parameter objects stay the same.

    Everything is checked before the model is touched. The file may come from a stranger: it runs no code, and what is
    allocated is bounded by its size and the model's.

    Args:
        model: Of the same names, shapes and dtypes as the one saved; on any device. Where FSDP2 sharded it, every
            process calls this.
        path: What :func:`save` wrote.
        base: What it was saved against: nothing where the model has those weights now; else as in :func:`save`, or the
            factory alone, which is called with the seed that stands in the file.

    Raises:
        BadRequest: The file is damaged or no such file, is of another network, or was saved against another base.
    """
    refuse_fixed(model)
    own, firsts = plain_tensors(model)
    # The names of the model bound what an honest header can take: nothing larger is parsed.
    about, stored = read(path, "letitgo", _Change, 2**20 + sum(1024 + 40 * len(name) for name in firsts))
    changes = _changes(path, about, stored, own)
    if base is None:
        old = own
    else:
        if callable(base) and not isinstance(base, nn.Module):
            if about.base.seed is None:
                raise BadRequest(f"{path} was saved against given weights, not a factory and seed: give those weights")
            base = (base, about.base.seed)
        old = resolved(base, firsts)
    new = set(about.new)
    old = {name: tensor for name, tensor in old.items() if name not in new}
    for name in own:
        if name not in old and name not in new:
            raise BadRequest(f"the base is not the one {path} was saved against: it has no {name!r}")
    check_base(path, about.base, about.versions, old, own)
    patches = {}
    for name, coded in changes.items():
        try:
            patches[name] = coded.values if name in new else decode(coded, old[name])
        except ValueError as error:
            raise damaged(path, f"{name!r} cannot be decoded: {error}") from error
    load_state(model, {**old, **patches})


def check_delta(path: str | os.PathLike[str]) -> None:
    """See that a file is whole and one that :func:`save` wrote.

    Raises:
        BadRequest: It is not.
    """
    read(path, "letitgo", _Change)


def plain_tensors(model: nn.Module) -> tuple[State, dict[str, str]]:
    """:func:`own_tensors`, refused where safetensors cannot hold one or FSDP1 or DeepSpeed has laid them out anew."""
    refuse_flat(model)
    own, firsts = own_tensors(model)
    for name, tensor in own.items():
        _check_plain(name, tensor)
    return own, firsts


def beside(model: nn.Module, base: Base) -> tuple[State, State]:
    """The tensors of a model, and those of the base that have the same name and shape there, in the model's order.

    Raises:
        BadRequest: The base has none of them, or one holds no values.
    """
    own, firsts = plain_tensors(model)
    old = {name: tensor for name, tensor in resolved(base, firsts).items() if tensor.shape == own[name].shape}
    if own and not old:
        raise BadRequest(f"the base shares no tensor with the model: it has no {next(iter(own))!r} of the same shape")
    return own, old


def resolved(base: Base, firsts: dict[str, str]) -> State:
    """The tensors of the base that have a name in the model, under the first name that the tensor has there."""
    if isinstance(base, nn.Module):
        state: Mapping[str, Any] = {plain(base, name): x for name, x in base.state_dict(keep_vars=True).items()}
    elif isinstance(base, Mapping):
        state = base
    elif isinstance(base, str | os.PathLike):
        state = read_weights(base)
    elif isinstance(base, tuple) and len(base) == 2 and callable(base[0]) and isinstance(base[1], Integral):
        state = initial_state(*base)
    else:
        raise BadRequest(
            f"the base is {type(base).__name__}: it can be a module, a state dict, a safetensors file or a pair "
            "(factory, seed)"
        )
    if firsts.keys().isdisjoint(state):  # the names may be those of a wrapped model
        state = dict(zip(bare(state), state.values(), strict=True))
    found = {first: state[name] for name, first in reversed(firsts.items()) if isinstance(state.get(name), Tensor)}
    found = {first: found[first] for first in firsts.values() if first in found}  # in the model's order
    for name, tensor in found.items():
        _check_plain(name, tensor)
    return found


def _check_plain(name: str, tensor: Tensor) -> None:
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized or tensor.element_size() > 8:
        raise BadRequest(f"{name!r} is no plain tensor that safetensors can hold ({dtype(tensor)}, {tensor.device})")


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return local(a).data_ptr() == local(b).data_ptr() and a.device == b.device


def summary(tensors: State) -> dict[str, str]:
    """The fields of a :class:`Summary`."""
    found = digests(tensors)
    return {"digest": sha256("".join(found)), "tensors": "".join(digest[:_HINT] for digest in found)}


def _index_name(name: str, code: str) -> str:
    return f"{name}.{code.partition('.')[2]}"


def _changes(path: Any, about: _Change, stored: State, own: State) -> dict[str, Coded]:
    """What is stored, by the names of the model's tensors, once it is seen to be of their dtypes and shapes."""
    changes: dict[str, Coded] = {}
    left = dict(stored)
    for name, code in about.changed.items():
        if name not in own:
            raise BadRequest(f"{path} is of another network: {name!r} is not in the model; {nearest(name, list(own))}")
        parts = [name, _index_name(name, code)] if "." in code else [name]
        for part in parts:
            if part not in left:
                raise damaged(path, f"{part!r} is listed but not stored")
        coded, target = Coded(code, *(left.pop(part) for part in parts)), own[name]
        if code != "xor" and coded.values.dtype != target.dtype:
            raise BadRequest(
                f"{name!r} is {dtype(coded.values)} in {path} and {dtype(target)} in the model: convert the model"
            )
        if not fits(coded, target):
            raise BadRequest(
                f"{name!r} does not fit: {path} has {tuple(coded.values.shape)} as {code}, the model "
                f"{tuple(target.shape)}"
            )
        changes[name] = coded
    if left:
        raise damaged(path, f"{next(iter(left))!r} is stored but not listed")
    return changes


def check_base(path: Any, saved: Summary, versions: Mapping[str, str], old: State, own: State) -> None:
    """Refuse a base (``old``) other than the one that a file names; ``own`` are the model's tensors of these names."""
    for name, tensor in old.items():
        if tensor.dtype != own[name].dtype:
            raise BadRequest(
                f"{name!r} is {dtype(tensor)} in the base and {dtype(own[name])} in the model: convert the model"
            )
    here = summary(old)
    if here["digest"] == saved.digest:
        return
    known, hints = here["tensors"], saved.tensors
    if len(known) != len(hints):
        raise BadRequest(
            f"the base is not the one {path} was saved against: that one had {len(hints) // _HINT} tensors of the "
            f"model, this one has {len(known) // _HINT}"
        )
    differ = [
        repr(name)
        for place, name in zip(range(0, len(hints), _HINT), sorted(old), strict=True)
        if known[place : place + _HINT] != hints[place : place + _HINT]
    ]
    named = ", ".join(differ[:3]) + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")
    drawn = ""
    if saved.seed is not None:
        spelled = [", ".join(f"{k} {v}" for k, v in found.items()) for found in (versions, own_versions())]
        drawn = f" (saved for seed {saved.seed} under {spelled[0]}; here is {spelled[1]})"
    raise BadRequest(f"the base is not the one {path} was saved against: they differ in {named or 'a tensor'}{drawn}")
