"""Data that a function of the user's own returns: tensors, arrays, or data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from letitgo.errors import BadRequest, named, typed
from letitgo.imports import import_object
from letitgo.recipes.splits import Decoded, Kind
from letitgo.weights.state import drawing_from

WANTED = (
    'return {"train": (inputs, labels), "test": (inputs, labels)} of tensors or arrays, or a training and a test data '
    "set that give pairs (input, label)"
)


def call_maker(path: str) -> Any:
    """What the function at an import path returns, called under a seed that is always the same.

    Raises:
        BadRequest: It does not import, or raises.
    """
    make = import_object(path, "data")
    try:
        with drawing_from("data"):
            return make()
    except BadRequest:
        raise
    except (Exception, SystemExit) as error:
        raise BadRequest(f"the data {path!r} raise {named(error)}") from error


def decoded(path: str, made: Any) -> Decoded:
    """What was returned, as tensors.

    uint8 inputs of three or four dimensions are images. Whole numbers of two are sequences of tokens, 0 being padding;
    where the labels have two dimensions too, a text of which the next word is predicted. All else is features.

    Raises:
        BadRequest: It is none of these.
    """
    if isinstance(made, Mapping):
        test = next((split for split in ("test", "validation") if split in made), None)
        parts = (made["train"], made[test]) if "train" in made and test else ()
    else:
        parts = made if isinstance(made, (tuple, list)) else ()
    if len(parts) != 2:
        raise BadRequest(f"the data {path!r} give {_described(made)}: {WANTED}")
    splits = {split: _pair(path, split, part) for split, part in zip(("train", "test"), parts, strict=True)}
    inputs, labels = splits["train"]
    for pair in splits.values():
        for mine, first, what in zip(pair, (inputs, labels), ("inputs", "labels"), strict=True):
            if mine.shape[1:] != first.shape[1:] or mine.dtype != first.dtype:
                raise BadRequest(
                    f"the {what} of {path!r} are {_about(first)} each for training and {_about(mine)} each for testing"
                )
    kind = _kind(path, inputs, labels)
    vocabulary = 1 + max(int(pair[0].max()) for pair in splits.values()) if kind in ("tokens", "text") else 0
    if labels.is_floating_point():
        return Decoded(kind, splits, labels[0].numel(), vocabulary)
    if kind == "text":
        vocabulary = max(vocabulary, 1 + max(int(pair[1].max()) for pair in splits.values()))
        return Decoded(kind, splits, vocabulary, vocabulary)
    return Decoded(kind, splits, int(labels.max()) + 1, vocabulary)


def _kind(path: str, inputs: Tensor, labels: Tensor) -> Kind:
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        kind = "images"
    elif inputs.is_floating_point() and inputs.ndim > 1:
        kind = "features"
    elif inputs.dtype == torch.int64 and inputs.ndim == 2:
        kind = "text" if labels.dtype == torch.int64 and labels.shape == inputs.shape else "tokens"
    else:
        raise BadRequest(
            f"the inputs of {path!r} are {_about(inputs)} each: give images as uint8, features as floats, or sequences "
            "of tokens as whole numbers of shape (examples, tokens)"
        )
    if labels.ndim != 1 and kind != "text" and not (labels.is_floating_point() and labels.ndim == 2):
        raise BadRequest(
            f"the labels of {path!r} are {_about(labels)} each: give one class number an example, or floats that are "
            "its targets"
        )
    return kind


def _pair(path: str, split: str, part: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a split, of what stands for it."""
    if isinstance(part, (tuple, list)) and len(part) == 2:
        inputs, labels = part
    elif hasattr(type(part), "__getitem__") and not isinstance(part, (tuple, list, Mapping, Tensor, np.ndarray)):
        pairs = [part[i] for i in range(len(part))]
        if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise BadRequest(f"the {split} data of {path!r} give no pairs (input, label): {WANTED}")
        inputs, labels = ([_array(item) for item in column] for column in zip(*pairs, strict=True))
        inputs, labels = (_stacked(path, split, column) for column in (inputs, labels))
    else:
        raise BadRequest(f"the {split} data of {path!r} are {_described(part)}: {WANTED}")
    inputs, labels = (_tensor(path, split, item) for item in (inputs, labels))
    if inputs.dtype == torch.uint8 and inputs.ndim == 3:
        inputs = inputs.unsqueeze(1)
    if len(inputs) != len(labels) or len(inputs) < 2:
        raise BadRequest(f"the {split} data of {path!r} have {len(inputs):,} inputs and {len(labels):,} labels")
    return inputs, labels


def _array(item: Any) -> Any:
    """A picture as an array of shape (C, H, W) or (H, W); anything else as it is."""
    if type(item).__module__.startswith("PIL."):
        item = np.asarray(item)
        return item.transpose(2, 0, 1) if item.ndim == 3 else item
    return item


def _stacked(path: str, split: str, column: list[Any]) -> Any:
    try:
        return torch.stack(column) if isinstance(column[0], Tensor) else np.stack(column)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"the {split} data of {path!r} cannot be put together: {named(error)}") from error


def _tensor(path: str, split: str, item: Any) -> Tensor:
    """uint8 as it is, float32 or int64."""
    try:
        found = torch.as_tensor(item).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"the {split} data of {path!r} are no tensors: {named(error)}") from error
    if found.ndim == 0 or found.is_complex():
        raise BadRequest(f"the {split} data of {path!r} are {_about(found)}: {WANTED}")
    if found.is_floating_point():
        if not found.isfinite().all():
            raise BadRequest(f"the {split} data of {path!r} hold numbers that are not finite")
        return found.to(torch.float32).contiguous()
    images = found.dtype == torch.uint8 and found.ndim in (3, 4)
    return found.contiguous() if images else found.to(torch.int64).contiguous()


def _described(made: Any) -> str:
    if isinstance(made, Mapping):
        return f"{typed(made)} of {', '.join(map(str, made)) or 'nothing'}"
    return f"{len(made)} things" if isinstance(made, (tuple, list)) else typed(made)


def _about(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape[1:])}"
