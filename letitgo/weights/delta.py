"""Saving what changed: a file holds the tensors, rows and values of a model that differ, bit for bit, from a base.

One safetensors file. What is kept of a changed tensor lies under the tensor's name, an index of its rows or values
under ``<name>.mask`` or ``<name>.gaps`` (see :mod:`letitgo.weights.coding`). The metadata holds, as JSON, the digest of
the base and the seed if it was regenerated; what changed and how it is coded; versions; and a digest of all this and
the tensors. Nothing in the file is or names code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from xxhash import xxh3_128

from letitgo.errors import BadRequest, nearest
from letitgo.value import canonical, sha256
from letitgo.version import versions
from letitgo.weights.coding import CODES, Coded, decode, encode, fits, raw
from letitgo.weights.state import State, initial_state, load_state

Factory = Callable[[], nn.Module]
Base = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str] | tuple[Factory, int]

FORMAT = 1
_ABOUT = "letitgo"
_HINT = 4  # hexadecimal digits kept of each base tensor's digest, to name the one that differs


def save(model: nn.Module, path: str | os.PathLike[str], base: Base) -> None:
    """Write what differs from a base: parameters and persistent buffers, a tied tensor once.

    Args:
        model: On any device.
        path: The file, replaced as a whole once it is written.
        base: What the reader will have: a module, a state dict, a safetensors file, or a pair (factory, seed) that
            stands for ``initial_state(factory, seed)``. Tensors that it lacks or has in another shape, as of a new
            head, are stored whole, and loading does not ask for them.

    Raises:
        BadRequest: The base shares no tensor with the model, has one in another dtype, or is the model's own memory and
            so moved along; a tensor holds no values or is of a type safetensors does not have; the file cannot be
            written.
    """
    own, firsts = _tensors(model)
    pristine = _resolved(base, firsts)
    old = {name: tensor for name, tensor in pristine.items() if tensor.shape == own[name].shape}
    if own and not old:
        raise BadRequest(f"the base shares no tensor with the model: it has no {next(iter(own))!r} of the same shape")
    for name, tensor in old.items():
        if tensor.dtype != own[name].dtype:
            raise BadRequest(
                f"{name!r} is {_kind(tensor)} in the base and {_kind(own[name])} in the model: convert one of them"
            )
    moved = [_same_memory(tensor, own[name]) for name, tensor in old.items() if tensor.numel()]
    if moved and all(moved):
        raise BadRequest("the base is the model itself: keep a copied(model) from before training")

    changed: dict[str, str] = {}
    stored: State = {}
    for name, tensor in own.items():
        coded = encode(tensor, old[name]) if name in old else Coded("whole", tensor.detach().cpu().contiguous().clone())
        if coded:
            changed[name] = coded.code
            stored[name] = coded.values
            if coded.where is not None:
                stored[_index_name(name, coded.code)] = coded.where
    about = {
        "format": FORMAT,
        "base": _summary(old) | ({"seed": base[1]} if isinstance(base, tuple) else {}),
        "changed": changed,
        "new": [name for name in own if name not in old],
        "versions": _versions(),
    }
    _write(Path(path), stored, canonical([about, _seal(about, stored)]))


def load(model: nn.Module, path: str | os.PathLike[str], base: Base | Factory | None = None) -> None:
    """Make the model what was saved. Its Parameter objects stay the same.

    Everything is checked before the model is touched. The file may come from a stranger: it runs no code, and what is
    allocated is bounded by its size and the model's.

    Args:
        model: Of the same names, shapes and dtypes as the one saved; on any device.
        path: What :func:`save` wrote.
        base: What it was saved against: nothing where the model has those weights now; else as in :func:`save`, or the
            factory alone, which is called with the seed that stands in the file.

    Raises:
        BadRequest: The file is damaged or no such file, is of another network, or was saved against another base.
    """
    own, firsts = _tensors(model)
    # The names of the model bound what an honest header can take: nothing larger is parsed.
    about, stored = _read(path, limit=2**20 + sum(1024 + 40 * len(name) for name in firsts))
    changes = _changes(path, about, stored, own)
    if base is None:
        old = own
    else:
        if callable(base) and not isinstance(base, nn.Module):
            if "seed" not in about["base"]:
                raise BadRequest(f"{path} was saved against given weights, not a factory and seed: give those weights")
            base = (base, about["base"]["seed"])
        old = _resolved(base, firsts)
    new = set(about["new"])
    old = {name: tensor for name, tensor in old.items() if name not in new}
    for name in own:
        if name not in old and name not in new:
            raise BadRequest(f"the base is not the one {path} was saved against: it has no {name!r}")
    _check_base(path, about, old, own)
    patches = {}
    for name, coded in changes.items():
        try:
            patches[name] = coded.values if name in new else decode(coded, old[name])
        except ValueError as error:
            raise _bad(path, f"the index of {name!r} is wrong: {error}") from error
    load_state(model, {**old, **patches})


def check_delta(path: str | os.PathLike[str]) -> None:
    """See that a file is whole and one that :func:`save` wrote.

    Raises:
        BadRequest: It is not.
    """
    _read(path)


def _tensors(model: nn.Module) -> tuple[State, dict[str, str]]:
    """The model's tensors by their first names, and all names with the first name of the same tensor."""
    own: State = {}
    firsts: dict[str, str] = {}
    by_id: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        _check_plain(name, tensor)
        first = firsts[name] = by_id.setdefault(id(tensor), name)
        own.setdefault(first, tensor)
    return own, firsts


def _resolved(base: Base, firsts: dict[str, str]) -> State:
    """The tensors of the base that have a name in the model, under the first name that the tensor has there."""
    if isinstance(base, nn.Module):
        state: Mapping[str, Any] = base.state_dict(keep_vars=True)
    elif isinstance(base, Mapping):
        state = base
    elif isinstance(base, str | os.PathLike):
        metadata, state = _open(base)
        if _ABOUT in metadata:
            raise BadRequest(f"{base} holds only what changed: the base is a file with all weights")
    elif isinstance(base, tuple) and len(base) == 2 and callable(base[0]) and isinstance(base[1], int):
        state = initial_state(*base)
    else:
        raise BadRequest(
            f"the base is {type(base).__name__}: it can be a module, a state dict, a safetensors file or a pair "
            "(factory, seed)"
        )
    found = {first: state[name] for name, first in reversed(firsts.items()) if isinstance(state.get(name), Tensor)}
    found = {first: found[first] for first in firsts.values() if first in found}  # in the model's order
    for name, tensor in found.items():
        _check_plain(name, tensor)
    return found


def _check_plain(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise BadRequest(f"{name} is lazy and has no shape yet: call the network on one batch first")
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized or tensor.element_size() > 8:
        raise BadRequest(f"{name!r} is no plain tensor that safetensors can hold ({_kind(tensor)}, {tensor.device})")


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.device == b.device


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _digests(tensors: State) -> list[str]:
    """XXH3-128 over name, dtype, shape and bytes of each tensor, in order of their names.

    It tells a base from any other one may have by accident, which is all it is for: who writes the file can write any
    weights anyway. SHA-256 would take more time than all the rest of saving.
    """
    digests = []
    for name in sorted(tensors):
        tensor = tensors[name]
        digest = xxh3_128(canonical([name, _kind(tensor), list(tensor.shape)]).encode())
        digest.update(raw(tensor).data)
        digests.append(digest.hexdigest())
    return digests


def _summary(tensors: State) -> dict[str, str]:
    """What tells one base from another; the beginnings of the digests are there to name the tensors that differ."""
    digests = _digests(tensors)
    return {"digest": sha256("".join(digests)), "tensors": "".join(digest[:_HINT] for digest in digests)}


def _seal(about: dict[str, Any], stored: State) -> str:
    """Digest of the metadata and all that is stored."""
    return sha256(canonical([about, _digests(stored)]))


def _versions() -> dict[str, str]:
    return {name: versions()[name] for name in ("letitgo", "torch")}


def _write(path: Path, tensors: State, about: str, key: str = _ABOUT) -> None:
    if path.exists() and not path.is_file():
        raise BadRequest(f"{path} is no ordinary file: name another")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # some versions of safetensors make files that only their owner can read
        save_file(tensors, partial, metadata={key: about})
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise BadRequest(f"{path} cannot be written ({error}): name another file") from error
    finally:
        partial.unlink(missing_ok=True)


def _bad(path: Any, why: str) -> BadRequest:
    return BadRequest(f"{path} is damaged or was not written by letitgo: {why}")


def _open(path: str | os.PathLike[str], limit: int | None = None) -> tuple[dict[str, str], State]:
    """Metadata and tensors of a safetensors file. The tensors are views of the mapped file: nothing is allocated."""
    file = Path(path)
    if not file.is_file():
        raise BadRequest(f"there is no file {path}")
    try:
        with file.open("rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if limit is not None and header > limit:
            raise BadRequest(f"{path} declares a header of {header} bytes, too many for this model")
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadRequest(f"{path} is not a whole safetensors file ({error})") from error


def _read(path: str | os.PathLike[str], limit: int | None = None) -> tuple[dict[str, Any], State]:
    """What :func:`save` wrote; its own form and digest are checked, nothing is held against a model yet."""
    metadata, stored = _open(path, limit)
    if _ABOUT not in metadata:
        raise BadRequest(f"{path} is a safetensors file, but not one that letitgo.save wrote")
    try:
        about, seal = json.loads(metadata[_ABOUT])
        newer = about["format"] > FORMAT
        sound = newer or (about["format"] == FORMAT and _well_formed(about) and seal == _seal(about, stored))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad(path, "its metadata cannot be read") from error
    if newer:
        raise BadRequest(f"{path} was written by a newer letitgo (format {about['format']}): update letitgo")
    if not sound:
        raise _bad(path, "its contents are not what its digest says")
    return about, stored


def _well_formed(about: dict[str, Any]) -> bool:
    base, changed, new = about["base"], about["changed"], about["new"]
    return (
        isinstance(base["digest"], str)
        and isinstance(base["tensors"], str)
        and isinstance(base.get("seed", 0), int)
        and isinstance(about["versions"], dict)
        and isinstance(changed, dict)
        and all(code in CODES for code in changed.values())
        and isinstance(new, list)
        and all(changed.get(name) == "whole" for name in new)
    )


def _index_name(name: str, code: str) -> str:
    return f"{name}.{code.partition('.')[2]}"


def _changes(path: Any, about: dict[str, Any], stored: State, own: State) -> dict[str, Coded]:
    """What is stored, by the names of the model's tensors, once it is seen to be of their dtypes and shapes."""
    changes: dict[str, Coded] = {}
    left = dict(stored)
    for name, code in about["changed"].items():
        if name not in own:
            raise BadRequest(f"{path} is of another network: {name!r} is not in the model; {nearest(name, list(own))}")
        parts = [name] if code == "whole" else [name, _index_name(name, code)]
        for part in parts:
            if part not in left:
                raise _bad(path, f"{part!r} is listed but not stored")
        coded, target = Coded(code, *(left.pop(part) for part in parts)), own[name]
        if coded.values.dtype != target.dtype:
            raise BadRequest(
                f"{name!r} is {_kind(coded.values)} in {path} and {_kind(target)} in the model: convert the model"
            )
        if not fits(coded, target):
            raise BadRequest(
                f"{name!r} does not fit: {path} has {tuple(coded.values.shape)} as {code}, the model "
                f"{tuple(target.shape)}"
            )
        changes[name] = coded
    for name in left:
        raise _bad(path, f"{name!r} is stored but not listed")
    return changes


def _check_base(path: Any, about: dict[str, Any], old: State, own: State) -> None:
    for name, tensor in old.items():
        if tensor.dtype != own[name].dtype:
            raise BadRequest(
                f"{name!r} is {_kind(tensor)} in the base and {_kind(own[name])} in the model: convert the model"
            )
    summary = _summary(old)
    if summary["digest"] == about["base"]["digest"]:
        return
    known, hints = summary["tensors"], about["base"]["tensors"]
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
    if "seed" in about["base"]:
        spelled = [", ".join(f"{k} {v}" for k, v in found.items()) for found in (about["versions"], _versions())]
        drawn = f" (saved for seed {about['base']['seed']} under {spelled[0]}; here is {spelled[1]})"
    raise BadRequest(f"the base is not the one {path} was saved against: they differ in {named or 'a tensor'}{drawn}")
