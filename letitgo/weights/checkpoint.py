"""Weights in files of other programs: safetensors, and what ``torch.save`` wrote (``.pt``, ``.pth``, ``.bin``)."""

from __future__ import annotations

import io
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
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
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
