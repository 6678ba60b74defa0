"""Image data sets, decoded once into one tensor and memory-mapped by whoever trains on them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from letitgo.errors import BadRequest, nearest
from letitgo.value import Value, canonical, derive, sha256

HUB = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Short names and the hub's."""

Shift = Literal["none", "invert", "noise", "permute-labels", "permute-pixels"]
Half = Literal["none", "a", "b"]
Pixels = Literal["standard", "unit"]
NOISE = 0.6
"""Standard deviation of the noise, as a share of the range of pixels: small networks lose 25 to 35 points on MNIST."""


@dataclass(frozen=True, eq=False)
class Data(Value):
    """A data set: what it holds is in its key, where it lies is not.

    Attributes:
        name: ``digits``, a short name, a hub id or a folder.
        digest: SHA-256 over all inputs and labels.
        shift: What is done to both splits, as :func:`shifted` tells.
        examples: How many training examples are kept, chosen at random; all if not given.
        seed: Chooses them.
        half: Which half of the training examples is there at all; the halves are the same for everyone.
        validation: How many of those are held out, in a split of their own; the same for everyone.
        fit: The shape that the images are brought to, as in ``1x28x28``, where it is not their own; see :func:`fitted`.
        pixels: How they reach the network, see :func:`open_data`.
    """

    name: str
    digest: str
    shift: Shift = "none"
    examples: int | None = None
    seed: int = 0
    half: Half = "none"
    validation: int = 0
    fit: str | None = None
    pixels: Pixels = "standard"

    def identity(self) -> dict[str, Any]:
        shift = {} if self.shift == "none" else {"shift": self.shift}
        kept = {} if self.examples is None else {"examples": self.examples, "seed": self.seed}
        half = {} if self.half == "none" else {"half": self.half}
        validation = {"validation": self.validation} if self.validation else {}
        fit = {} if self.fit is None else {"fit": self.fit}
        pixels = {} if self.pixels == "standard" else {"pixels": self.pixels}
        return {"digest": self.digest, **shift, **kept, **half, **validation, **fit, **pixels}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height, width."""
        return tuple(self.split("train").inputs.shape[1:])

    @property
    def classes(self) -> int:
        return _content(self.name).classes

    def split(self, name: str) -> Split:
        """``"train"``, ``"test"``, or what is held out for ``"validation"``."""
        content = _content(self.name, self.fit)
        chosen = self.examples if name == "train" else None
        half, held_out = (self.half, self.validation) if name != "test" else ("none", 0)
        if self.shift == "none" and chosen is None and half == "none" and not held_out:
            inputs, labels = content.tensors[f"{name}_inputs"], content.tensors[f"{name}_labels"]
        else:
            seed = 0 if chosen is None else self.seed
            inputs, labels = _split(self.name, self.fit, self.shift, name, chosen, seed, half, held_out)
        if self.pixels == "unit":
            return Split(inputs, labels, torch.zeros_like(content.mean), torch.full_like(content.mean, content.white))
        return Split(inputs, labels, content.mean, content.deviation)


@dataclass(frozen=True)
class Split:
    """Inputs and labels in memory.

    Attributes:
        inputs: Pixels as they were stored, uint8, shape (N, C, H, W).
        labels: Class numbers, int64, shape (N,).
        mean: What is taken off each channel: its mean over all training inputs, before any shift; shape (C, 1, 1).
        deviation: What it is divided by then: its standard deviation over the same, shape (C, 1, 1). Where pixels are
            brought to 0 to 1, these are 0 and the brightest training pixel.
    """

    inputs: Tensor
    labels: Tensor
    mean: Tensor
    deviation: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor | slice) -> Tensor:
        """Inputs of some rows, less the mean and divided by the deviation, float32."""
        # index_select copies whole rows, an order of magnitude quicker than indexing with a tensor
        chosen = self.inputs.index_select(0, rows) if isinstance(rows, Tensor) else self.inputs[rows]
        return chosen.to(torch.float32).sub_(self.mean).div_(self.deviation)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, ``size`` at a time: inputs and labels."""
        for begin in range(0, len(self), size):
            rows = slice(begin, begin + size)
            yield self.batch(rows), self.labels[rows]


def noisy(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a share, chosen at random, is replaced by draws uniform over all classes.

    Args:
        labels: Shape (N,).
        share: Between 0 and 1.
        seed: The same seed chooses the same rows and draws.
    """
    if share == 0:
        return labels
    generator = torch.Generator().manual_seed(derive(seed, "label noise"))
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    labels = labels.clone()
    labels[rows] = torch.randint(classes, (len(rows),), generator=generator)
    return labels


def shifted(
    inputs: Tensor, labels: Tensor, white: int, classes: int, shift: Shift, split: str
) -> tuple[Tensor, Tensor]:
    """A split under a shift of the inputs or of the labels: another data set, the same for everyone.

    Args:
        inputs: Pixels, uint8, shape (N, C, H, W).
        labels: Class numbers, shape (N,).
        white: The brightest pixel.
        classes: Number of classes.
        shift: ``none``; ``invert``: black becomes white; ``noise``: Gaussian noise of standard deviation ``NOISE`` on
            every pixel, clipped; ``permute-labels``: the classes change their numbers, in one cycle, so that none
            keeps its own; ``permute-pixels``: the pixels of each image in another order, the same for all.
        split: Its noise is drawn by this name.
    """
    if shift == "invert":
        return white - inputs.clamp(max=white), labels
    if shift == "noise":
        generator = torch.Generator().manual_seed(derive("shift", "noise", split))
        parts = [
            (part + white * NOISE * torch.randn(part.shape, generator=generator)).round_().clamp_(0, white).byte()
            for part in inputs.split(10_000)
        ]
        return torch.cat(parts), labels
    if shift == "permute-labels":
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(derive("shift", "permute-labels")))
        number = torch.empty_like(order)
        number[order] = order.roll(1)
        return inputs, number[labels]
    if shift == "permute-pixels":
        pixels, generator = inputs.flatten(2), torch.Generator().manual_seed(derive("shift", "permute-pixels"))
        return pixels[:, :, torch.randperm(pixels.shape[2], generator=generator)].view(inputs.shape), labels
    return inputs, labels


def fitted(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images brought to a shape: grey-scale or three channels; then padded with black, or cropped, about the centre.

    Args:
        inputs: Pixels, uint8, shape (N, C, H, W), C being 1 or 3.
        shape: Channels, 1 or 3, height, width. Three become one by ITU-R 601's luma (0.299, 0.587, 0.114); one becomes
            three equal ones. Nothing is scaled. Where a border cannot be even, the odd row or column is the last.
    """
    if shape[0] < inputs.shape[1]:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        parts = [(part * luma).sum(1, keepdim=True).round_().byte() for part in inputs.split(10_000)]
        inputs = torch.cat(parts)
    inputs = inputs.expand(-1, shape[0], -1, -1)
    borders: list[int] = []
    for old, new in zip(inputs.shape[:1:-1], shape[:0:-1], strict=True):  # the last dimension first, as pad has it
        before = int((new - old) / 2)
        borders += [before, new - old - before]
    return pad(inputs, borders).contiguous()


@lru_cache
def open_data(
    name: str,
    shift: Shift = "none",
    examples: int | None = None,
    seed: int = 0,
    half: Half = "none",
    validation: int = 0,
    fit: str | None = None,
    pixels: Pixels = "standard",
) -> Data:
    """The data set of a name; decoded on its first use on this machine.

    Args:
        name: ``digits`` (bundled with scikit-learn), ``mnist``, ``fashion_mnist``, ``cifar10``, an id on the Hugging
            Face hub, or a folder laid out as on the hub. Where the environment variable ``LETITGO_DATA`` names a folder
            that holds a folder of that short name, that is read.
        shift: What is done to both splits, as :func:`shifted` tells.
        examples: How many training examples are kept, chosen at random; all if not given.
        seed: Chooses them.
        half: Only one half of the training examples, ``a`` or ``b``.
        validation: How many of the training examples are held out in a split ``"validation"``.
        fit: Channels, height and width that the images are brought to, as :func:`fitted` tells, as in ``1x28x28``.
        pixels: How they reach the network: ``standard``, with mean 0 and deviation 1 over the training inputs of each
            channel; or ``unit``, from 0 to the brightest training pixel's 1.

    Raises:
        BadRequest: There is no such data set, it is none of images with labels in a training and a test split, or it
            has fewer training examples.
    """
    shared = os.environ.get("LETITGO_DATA")
    is_short = Path(name).name == name != ".."
    if shared and is_short and Path(shared, name).is_dir():
        name = str(Path(shared, name).resolve())
    elif name not in HUB and Path(name).is_dir():
        name = str(Path(name).resolve())
    content = _content(name)
    there = len(content.tensors["train_labels"])
    there = there if half == "none" else (there + (half == "a")) // 2
    if validation and validation >= there:
        raise BadRequest(f"validation is {validation:,}: {name!r} has {there:,} for training, and some have to be left")
    if examples is not None and examples > there - validation:
        raise BadRequest(f"examples is {examples:,}: {name!r} has {there - validation:,} for training")
    own = "x".join(map(str, content.tensors["train_inputs"].shape[1:]))
    fit = None if fit == own else fit
    return Data(name, content.digest, shift, examples, 0 if examples is None else seed, half, validation, fit, pixels)


@dataclass(frozen=True)
class _Content:
    tensors: dict[str, Tensor]
    classes: int
    mean: Tensor
    deviation: Tensor
    digest: str

    @cached_property
    def white(self) -> int:
        """The brightest pixel of the training inputs, at least 1."""
        return max(1, int(self.tensors["train_inputs"].max()))


@lru_cache(maxsize=4)
def _content(name: str, fit: str | None = None) -> _Content:
    if fit is not None:
        content = _content(name)
        shape = tuple(int(side) for side in fit.split("x"))
        images = {key: fitted(x, shape) for key, x in content.tensors.items() if key.endswith("_inputs")}
        mean, deviation = _moments(images["train_inputs"])
        return replace(content, tensors={**content.tensors, **images}, mean=mean, deviation=deviation)
    path = _cache() / f"{sha256(canonical(_signature(name)))[:32]}.safetensors"
    content = _read(path)
    if content is None:
        splits, classes = _digits() if name == "digits" else _from_hub(name)
        _write(path, _checked(name, splits, classes), classes)
        content = _read(path)
        assert content is not None, f"{path} was written and cannot be read"
    return content


@lru_cache(maxsize=8)
def _split(
    name: str,
    fit: str | None,
    shift: Shift,
    split: str,
    examples: int | None,
    seed: int,
    half: Half,
    validation: int,
) -> tuple[Tensor, Tensor]:
    """Inputs and labels; the shift comes first, then the half, what is held out, and last the examples chosen."""
    content = _content(name, fit)
    if validation and examples is None:
        inputs, labels = _split(name, fit, shift, "train", None, 0, half, 0)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive("validation")))
        rows = (order[:validation] if split == "validation" else order[validation:]).sort().values
        return inputs[rows], labels[rows]
    if half != "none" and examples is None:
        inputs, labels = _split(name, fit, shift, split, None, 0, "none", 0)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive("halves")))
        rows = order[half == "b" :: 2].sort().values
        return inputs[rows], labels[rows]
    if examples is not None:
        inputs, labels = _split(name, fit, shift, split, None, 0, half, validation)
        generator = torch.Generator().manual_seed(derive(seed, "examples"))
        rows = torch.randperm(len(labels), generator=generator)[:examples]
        return inputs[rows], labels[rows]
    inputs, labels = content.tensors[f"{split}_inputs"], content.tensors[f"{split}_labels"]
    return shifted(inputs, labels, content.white, content.classes, shift, split)


def _cache() -> Path:
    base = os.environ.get("LETITGO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "letitgo")
    return Path(base).expanduser() / "data"


def _signature(name: str) -> list[Any]:
    """What tells that a folder has changed since it was decoded; a hub id is decoded once."""
    if not Path(name).is_absolute():
        return [name]
    try:
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return [name, [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
    except OSError as error:
        raise BadRequest(f"the data folder {name} cannot be read ({error.strerror}: {error.filename})") from error


def _digest(tensors: dict[str, Tensor]) -> str:
    parts = [[name, list(tensor.shape), sha256(tensor.numpy().tobytes())] for name, tensor in sorted(tensors.items())]
    return sha256(canonical(parts))


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, shape (C, 1, 1)."""
    pixels = inputs.to(torch.float32)
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0).clamp(min=1e-6)
    return mean.view(-1, 1, 1), deviation.view(-1, 1, 1)


def _write(path: Path, tensors: dict[str, Tensor], classes: int) -> None:
    mean, deviation = _moments(tensors["train_inputs"])
    metadata = {"classes": classes, "mean": mean.flatten().tolist(), "deviation": deviation.flatten().tolist()}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {"content": json.dumps({**metadata, "digest": _digest(tensors)})})
        partial.replace(path)
    except OSError as error:
        raise BadRequest(
            f"the decoded data cannot be written to {path.parent} ({error.strerror}): "
            "set LETITGO_CACHE to another folder"
        ) from error


def _read(path: Path) -> _Content | None:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["content"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if _digest(tensors) != about["digest"]:
        return None
    mean, deviation = (torch.tensor(about[name]).reshape(-1, 1, 1) for name in ("mean", "deviation"))
    return _Content(tensors, about["classes"], mean, deviation, about["digest"])


_Splits = dict[str, tuple[Tensor, Tensor]]


def _digits() -> tuple[_Splits, int]:
    """Scikit-learn's 1,797 handwritten digits of 8×8; every fifth is held out for testing."""
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    inputs = torch.tensor(bundle.images, dtype=torch.uint8).unsqueeze(1)
    labels = torch.tensor(bundle.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % 5 == 4
    return {"train": (inputs[~held_out], labels[~held_out]), "test": (inputs[held_out], labels[held_out])}, 10


def _from_hub(name: str) -> tuple[_Splits, int]:
    import datasets

    here = Path(name).is_dir()
    if not here and name not in HUB and "/" not in name:
        raise BadRequest(
            f"unknown data {name!r}: {nearest(name, ('digits', *HUB))} (or give a folder, or a Hugging Face id, "
            "which has a slash)"
        )
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the outcome is told below
    try:
        found: Any = datasets.load_dataset(HUB.get(name, name))
    except Exception as error:
        where = "the folder gave" if here else "it is no folder, and the Hugging Face hub gave"
        raise BadRequest(
            f"the data set {name!r} cannot be read: {where} {type(error).__name__}: {_first_line(error)}"
        ) from error
    test = next((split for split in ("test", "validation") if split in found), None)
    if "train" not in found or test is None:
        raise BadRequest(f"the data set {name!r} needs a split 'train' and a split 'test': it has {', '.join(found)}")
    features = found["train"].features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [column for column in ("label", "labels") if column in features]
    if not images or not labels:
        raise BadRequest(
            f"the data set {name!r} needs a column of images and one of class labels: it has {', '.join(features)}"
        )
    if not str(getattr(features[labels[0]], "dtype", "")).startswith(("int", "uint")):
        raise BadRequest(
            f"the labels of {name!r} are {getattr(features[labels[0]], 'dtype', 'no numbers')}: give class numbers, "
            "a ClassLabel or an integer column"
        )
    splits = {
        split: _decode(name, found[source].select_columns([images[0], labels[0]]), images[0], labels[0])
        for split, source in (("train", "train"), ("test", test))
    }
    names = getattr(features[labels[0]], "names", None)
    return splits, len(names) if names else int(splits["train"][1].max()) + 1


def _decode(name: str, rows: Any, image: str, label: str) -> tuple[Tensor, Tensor]:
    import datasets
    import numpy as np
    from PIL import Image

    pixels: Any = None
    size: Any = None
    mode = "L"
    for i, cell in enumerate(rows.cast_column(image, datasets.Image(decode=False))[image]):
        with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as picture:
            if pixels is None:
                size, mode = picture.size, ("L" if picture.mode in ("1", "L") else "RGB")
                pixels = np.empty((len(rows), size[1], size[0], 1 if mode == "L" else 3), dtype=np.uint8)
            if picture.size != size:
                raise BadRequest(
                    f"the images of {name!r} have to be of one size: row 0 has {size[0]}×{size[1]} pixels, "
                    f"row {i} has {picture.size[0]}×{picture.size[1]}"
                )
            pixels[i] = np.asarray(picture.convert(mode)).reshape(pixels.shape[1:])
    if pixels is None:
        raise BadRequest(f"the data set {name!r} has a split without rows")
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return inputs, torch.tensor(np.asarray(rows[label][:], dtype=np.int64))


def _checked(name: str, splits: _Splits, classes: int) -> dict[str, Tensor]:
    for split, (inputs, labels) in splits.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise BadRequest(
                f"labels of {name!r} out of range: split {split!r} has labels {low} to {high}, "
                f"{classes} classes are numbered 0 to {classes - 1}"
            )
        if inputs.shape[1:] != splits["train"][0].shape[1:]:
            raise BadRequest(f"the images of {name!r} have to be of one size and mode in all splits")
    return {
        f"{split}_{kind}": tensor
        for split, pair in splits.items()
        for kind, tensor in zip(("inputs", "labels"), pair, strict=True)
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
