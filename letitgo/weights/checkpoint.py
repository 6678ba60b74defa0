"""Weights in files of other programs: safetensors, and what ``torch.save`` wrote (``.pt``, ``.pth``, ``.bin``)."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from letitgo.errors import BadRequest
from letitgo.weights.layers import bare
from letitgo.weights.sealed import WRITERS, open_tensors
from letitgo.weights.state import State

_ENTRIES = ("state_dict", "model")
"""Where checkpoints with more than weights in them keep the weights."""


FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights in a folder laid out as on the hub. The first that is there counts; an index names the others."""


def weight_files(place: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the weights at a path: the file there, or those of a folder laid out as on the hub.

    Raises:
        BadRequest: The folder holds none, or its index names one that is not there.
    """
    folder = Path(place)
    if not folder.is_dir():
        return [folder]
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise BadRequest(f"the folder {place} holds no weights: they are in {FILES[0]} or {FILES[2]}, or have an index")
    return [found] if found.suffix != ".json" else [folder / name for name in indexed(found)]


def indexed(index: Path) -> list[str]:
    """Names of the files beside an index that hold the weights in parts.

    Raises:
        BadRequest: It is no index.
    """
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{index} is no index of weights in parts") from error
    if wrong := [name for name in names if Path(str(name)).name != name]:
        raise BadRequest(f"{index} names {wrong[0]!r}: the parts lie beside it")
    return names


def read_weights(path: str | os.PathLike[str], data: bytes | None = None) -> State:
    """The tensors of a checkpoint by name. No code in the file is run.

    Names lose the prefixes of wrappers: ``_orig_mod.``, and ``module.`` where all have it.

    Args:
        path: The file.
        data: What it holds, where that is read already.

    Raises:
        BadRequest: There is no such file, it is damaged, or it holds no weights.
    """
    if data is None and not Path(path).is_file():
        raise BadRequest(f"there is no file {path}")
    try:
        found = _tensors(path, data)
    except SafetensorError as error:
        raise BadRequest(f"{path} is not a whole safetensors file ({error})") from error
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        pickle.PickleError,
    ) as error:
        if isinstance(error, BadRequest):
            raise
        why = "it is no safetensors file, and torch.load(weights_only=True) refuses it"
        raise BadRequest(f"the weights {path} cannot be read ({why}): name a file of tensors by name") from error
    for entry in _ENTRIES:
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            found = found[entry]
    tensors = {name: x for name, x in found.items() if isinstance(x, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors and found != {}:
        raise BadRequest(f"{path} holds no weights: name a file with a state_dict, tensors by name")
    return dict(zip(bare(map(str, tensors)), tensors.values(), strict=True))


def _tensors(path: str | os.PathLike[str], data: bytes | None) -> Any:
    if data is None:
        with open(path, "rb") as file:
            head = file.read(9)
    else:
        head = data[:9]
    if head[8:] != b"{":  # which begins the header of a safetensors file
        return torch.load(path if data is None else io.BytesIO(data), map_location="cpu", weights_only=True)
    if data is not None:
        return load_tensors(data)
    metadata, tensors = open_tensors(path)
    if metadata.keys() & WRITERS.keys():
        raise BadRequest(f"{path} holds only what changed: the base is a file with all weights")
    return tensors
