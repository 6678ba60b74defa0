"""Data sets: a text; or images, decoded once into one tensor and memory-mapped by whoever trains on them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from letitgo.errors import BadRequest, named, nearest
from letitgo.recipes.splits import Content, Kind, Split
from letitgo.recipes.steps import Examples, Step, TestExamples, Vocabulary, brightest, described, moments
from letitgo.recipes.tasks import TASKS, Task, find_task
from letitgo.recipes.text import PYTHON, is_text, read_text
from letitgo.value import Value, canonical, sha256
from letitgo.whole import replaced

HUB = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Short names and the hub's."""


@dataclass(frozen=True, eq=False)
class Data(Value):
    """A data set: what it holds is in its key, where it lies is not.

    Attributes:
        name: ``digits``, a short name, a hub id, a folder or a text file.
        digest: SHA-256 over all inputs and labels as they were decoded.
        steps: What is done to it, in this order.
        other_task: What a network is trained to do with it, where that is not what data of this kind ask for.
    """

    name: str
    digest: str
    steps: tuple[Step, ...] = ()
    other_task: Task | None = None

    def identity(self) -> dict[str, Any]:
        task = {"task": self.other_task} if self.other_task else {}
        return {"digest": self.digest, **described(self.steps), **task}

    @property
    def plain(self) -> Data:
        """The same with those steps alone that give inputs another shape, on which arithmetic depends."""
        return replace(self, steps=tuple(step for step in self.steps if step.reshapes))

    @property
    def unsampled(self) -> Data:
        """The same with all training and test examples."""
        return replace(self, steps=tuple(step for step in self.steps if not isinstance(step, (Examples, TestExamples))))

    @property
    def kind(self) -> Kind:
        """What the inputs are."""
        return _after(self.name, self.digest, self.steps).kind

    @property
    def task(self) -> Task:
        """What a network is trained to do with them."""
        return self.other_task or TASKS[self.kind]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height, width; or number of words."""
        return tuple(self.split("train").inputs.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes, or of words."""
        return _after(self.name, self.digest, self.steps).classes

    @property
    def outputs(self) -> int:
        """Number of outputs that a network needs for each answer."""
        return self.task.outputs(self.classes)

    def split(self, name: str) -> Split:
        """``"train"``, ``"test"``, or what is held out for ``"validation"``."""
        return _after(self.name, self.digest, self.steps).splits[name]

    @property
    def sample(self) -> Tensor:
        """Inputs of two examples, to count operations with."""
        return self.split("train").batch(slice(0, 2))

    @property
    def constant(self) -> float | None:
        """What the best prediction that does not look at the inputs reaches on the test split, in the task's metric."""
        return self.task.constant(self.split("train").labels, self.split("test").labels, self.classes)

    def learned(self, mean: float, half: float | None, n: int) -> bool:
        """Whether n networks whose test metric is ``mean ± half`` have learned anything.

        The whole interval has to be better than :attr:`constant`. Of two networks it is too wide for that, so their
        mean has to be.
        """
        return self.constant is None or self.task.metric.beats(mean, half if n > 2 else None, self.constant)


def open_data(name: str, *steps: Step, task: str | None = None) -> Data:
    """The data set of a name; decoded on its first use on this machine.

    A folder is looked through each time, so that files of another size or time are another data set.

    Args:
        name: ``digits`` (bundled with scikit-learn), ``mnist``, ``fashion_mnist``, ``cifar10``, an id on the Hugging
            Face hub, or a folder laid out as on the hub. Where the environment variable ``LETITGO_DATA`` names a folder
            that holds a folder of that short name, that is read. Or a text: ``python-manual``, which comes with
            Python, or a text file.
        steps: What is done to it, in this order; see :mod:`letitgo.recipes.steps`. A text has :class:`Vocabulary`
            first if it is not among them.
        task: Import path of the task, where it is not what data of this kind ask for.

    Raises:
        BadRequest: There is no such data set, it is none of images with labels in a training and a test split, it has
            fewer training examples, or a step is for other data.
    """
    shared = os.environ.get("LETITGO_DATA")
    is_short = Path(name).name == name != ".."
    if shared and is_short and Path(shared, name).is_dir():
        name = str(Path(shared, name).resolve())
    elif name not in (*HUB, PYTHON) and Path(name).exists():
        name = str(Path(name).resolve())
    elif name.startswith((".", "/", "~")):
        raise BadRequest(f"unknown data {name!r}: there is no such folder or file")
    content = _content(name)
    there = len(content.train)
    for step in steps:
        if step.kind not in (None, content.kind):
            raise BadRequest(f"{next(iter(step.identity()))} is for {step.kind}: {name!r} holds {content.kind}")
        there = step.left(there, name)
    if content.kind == "text" and not any(isinstance(step, Vocabulary) for step in steps):
        steps = (Vocabulary(), *steps)
    changes = tuple(step for step in steps if step.changes(content))
    other = None if task is None else find_task(task)
    return Data(name, content.digest, changes, None if other == TASKS[content.kind] else other)


def _content(name: str) -> Content:
    if is_text(name):
        return read_text(name)
    return _decoded(name, _cached(name))


@lru_cache(maxsize=4)
def _decoded(name: str, path: Path) -> Content:
    content = _read(path)
    if content is None:
        splits, classes = _digits() if name == "digits" else _from_hub(name)
        if _cached(name) != path:
            raise BadRequest(f"the data folder {name} changed while it was read: start again")
        _write(path, _checked(name, splits, classes), classes)
        content = _read(path)
        assert content is not None, f"{path} was written and cannot be read"
    return content


@lru_cache(maxsize=16)
def _after(name: str, digest: str, steps: tuple[Step, ...]) -> Content:
    if steps:
        return steps[-1].apply(_after(name, digest, steps[:-1]))
    content = _content(name)
    if content.digest != digest:
        raise BadRequest(f"the data {name!r} have changed since they were opened: start again")
    return content


def _cached(name: str) -> Path:
    """Where the decoded data lie: for a folder, another place once it has changed."""
    return _cache() / f"{sha256(canonical(_signature(name)))[:32]}.safetensors"


def _cache() -> Path:
    base = os.environ.get("LETITGO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "letitgo")
    return Path(base).expanduser() / "data"


def _signature(name: str) -> list[Any]:
    """What tells that a folder has changed since it was decoded; a hub id is decoded once."""
    if not Path(name).is_absolute():
        return [name, _DECODER]
    try:
        return [name, sorted(_files(name)), _DECODER]
    except OSError as error:
        raise BadRequest(f"the data folder {name} cannot be read ({error.strerror}: {error.filename})") from error


def _files(folder: str) -> Iterator[list[Any]]:
    """Path, size and time of all files below a folder, those behind links too."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for inside, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if (place := os.path.realpath(inside)) in seen:
            folders.clear()  # a link to a folder above
            continue
        seen.add(place)
        for name in names:
            path = os.path.join(inside, name)
            with suppress(FileNotFoundError):  # a link to nowhere
                about = os.stat(path)
                yield [path, about.st_size, about.st_mtime_ns]


def _digest(tensors: dict[str, Tensor]) -> str:
    parts = [[name, list(tensor.shape), sha256(tensor.numpy().tobytes())] for name, tensor in sorted(tensors.items())]
    return sha256(canonical(parts))


def _write(path: Path, tensors: dict[str, Tensor], classes: int) -> None:
    mean, deviation = moments(tensors["train_inputs"])
    metadata = {"classes": classes, "mean": mean.flatten().tolist(), "deviation": deviation.flatten().tolist()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial:
            save_file(tensors, partial, {"content": json.dumps({**metadata, "digest": _digest(tensors)})})
    except (OSError, SafetensorError) as error:
        raise BadRequest(
            f"the decoded data cannot be written to {path.parent} ({getattr(error, 'strerror', None) or error}): "
            "set LETITGO_CACHE to another folder"
        ) from error


def _read(path: Path) -> Content | None:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["content"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if _digest(tensors) != about["digest"]:
        return None
    mean, deviation = (torch.tensor(about[name]).reshape(-1, 1, 1) for name in ("mean", "deviation"))
    splits = {
        name: Split(tensors[f"{name}_inputs"], tensors[f"{name}_labels"], mean, deviation) for name in ("train", "test")
    }
    return Content("images", splits, about["classes"], about["digest"], brightest(splits["train"].inputs))


_DECODER = 2
"""Raised when images are decoded in another way, so that none decoded before is read."""
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
            f"unknown data {name!r}: {nearest(name, ('digits', *HUB, PYTHON))} (or give a folder, a text file, or a "
            "Hugging Face id, which has a slash)"
        )
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the outcome is told below
    try:
        found: Any = datasets.load_dataset(HUB.get(name, name), trust_remote_code=False)
    except Exception as error:
        where = "the folder gave" if here else "it is no folder, and the Hugging Face hub gave"
        raise BadRequest(f"the data set {name!r} cannot be read: {where} {named(error)}") from error
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
    if names:
        return splits, len(names)
    numbers = splits["train"][1].unique()
    if gaps := sorted(set(range(int(numbers.max()) + 1)) - set(numbers.tolist())):
        raise BadRequest(
            f"no training row of {name!r} has the label {gaps[0]}, but labels go up to {int(numbers.max())}: number "
            "the classes from 0 without gaps, or name them (ClassLabel)"
        )
    return splits, int(numbers.max()) + 1


def _decode(name: str, rows: Any, image: str, label: str) -> tuple[Tensor, Tensor]:
    import datasets
    import numpy as np

    pixels: Any = None
    size: Any = None
    mode = "L"
    for i, cell in enumerate(rows.cast_column(image, datasets.Image(decode=False))[image]):
        picture = _picture(name, cell, i)
        if pixels is None:
            size, mode = picture.size, picture.mode
            pixels = np.empty((len(rows), size[1], size[0], len(mode)), dtype=np.uint8)
        if picture.size != size:
            raise BadRequest(
                f"the images of {name!r} have to be of one size: row 0 has {size[0]}×{size[1]} pixels, "
                f"row {i} has {picture.size[0]}×{picture.size[1]}"
            )
        if mode == "L" != picture.mode:
            raise BadRequest(f"row {i} of {name!r} is in colour and row 0 is grey: convert all images to one mode")
        pixels[i] = np.asarray(picture.convert(mode)).reshape(pixels.shape[1:])
    if pixels is None:
        raise BadRequest(f"the data set {name!r} has a split without rows")
    labels = rows[label][:]
    if None in labels:
        raise BadRequest(f"row {labels.index(None)} of {name!r} has no label: leave it out")
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return inputs, torch.tensor(np.asarray(labels, dtype=np.int64))


def _picture(name: str, cell: Any, row: int) -> Any:
    """An image as a viewer shows it, grey (``L``) or in colour (``RGB``).

    Raises:
        BadRequest: It is missing or broken, or 8 bits do not hold what it shows.
    """
    from PIL import Image, ImageOps

    where = f"row {row} of {name!r}"
    if cell is None:
        raise BadRequest(f"{where} has no image: leave it out")
    try:
        with Image.open(_file_of(name, cell, row)) as found:
            if found.mode[0] in "IF":
                raise BadRequest(
                    f"{where} has pixels of more than 8 bits (mode {found.mode}): convert the images, which says how "
                    "their values map to 0 to 255"
                )
            picture = ImageOps.exif_transpose(found)
            if picture.has_transparency_data and any(picture.convert("RGBA").getchannel("A").histogram()[:255]):
                raise BadRequest(f"{where} is transparent in places: put the images on a background")
            return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRequest(f"{where} is no whole image: {named(error)}") from error


def _file_of(name: str, cell: Any, row: int) -> Any:
    """An image's bytes, or its path where that is in the data's folder or in the cache of the hub."""
    from datasets import config

    if cell["bytes"] is not None:
        return io.BytesIO(cell["bytes"])
    path = os.path.abspath(cell["path"] or "")
    roots = [name] if Path(name).is_absolute() else [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE]
    inside = any(path.startswith(os.path.join(os.path.abspath(root), "")) for root in roots)
    if not inside or not os.path.isfile(path):
        raise BadRequest(f"row {row} of {name!r} names no image of the data, but {cell['path']}: keep images with them")
    return path


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
