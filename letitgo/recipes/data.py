"""Data sets: images, tables and texts, decoded once and memory-mapped by whoever trains on them; or a user's own."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from letitgo.code import code_of
from letitgo.errors import BadRequest, named, nearest
from letitgo.imports import import_object
from letitgo.recipes.made import call_maker, decoded
from letitgo.recipes.metrics import Metric
from letitgo.recipes.splits import Content, Decoded, Kind, Split
from letitgo.recipes.steps import Examples, Length, Step, TestExamples, Vocabulary, brightest, described, moments
from letitgo.recipes.tables import read_table
from letitgo.recipes.tasks import Task, task_of
from letitgo.recipes.text import PYTHON, TABLES, is_table, is_text, read_text
from letitgo.value import Value, canonical, sha256
from letitgo.whole import replaced

HUB = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Short names and the hub's."""
LENGTH = 128
"""Tokens of a sequence of words, where they are not stated and some have more."""
Reading = tuple[tuple[str, str], ...]
"""How columns are read, as pairs of a name and a value: see :func:`letitgo.recipes.tables.read_table`."""


@dataclass(frozen=True, eq=False)
class Data(Value):
    """A data set: what it holds is in its key, where it lies is not.

    Sequences of tokens have :attr:`shape` ``(length,)`` and numbers from 0 to ``vocabulary - 1``. 0 is padding, at the
    end: a network that has to leave it out computes its mask, ``tokens != 0``.

    Attributes:
        name: ``digits``, a short name, a hub id, a folder, a file, or an import path.
        digest: SHA-256 over all inputs and labels as they were decoded.
        steps: What is done to it, in this order.
        other_task: What a network is trained to do with it, where that is not what data of this kind ask for.
        reading: How its columns are read, where that is said.
    """

    name: str
    digest: str
    steps: tuple[Step, ...] = ()
    other_task: Task | None = None
    reading: Reading = ()

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
        return self._content.kind

    @property
    def _content(self) -> Content:
        return _after(self.name, tuple((name, value) for name, value in self.reading), self.digest, self.steps)

    @property
    def task(self) -> Task:
        """What a network is trained to do with them."""
        return self.other_task or task_of(self._content)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height, width; features; or number of words or tokens."""
        return tuple(self.split("train").inputs.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes, of words, or of targets of a regression."""
        return self._content.classes

    @property
    def vocabulary(self) -> int:
        """How many numbers of words or tokens there are, padding included; 0 where inputs are no such numbers."""
        return self._content.vocabulary

    @property
    def outputs(self) -> int:
        """Number of outputs that a network needs for each answer."""
        return self.task.outputs(self.classes)

    def split(self, name: str) -> Split:
        """``"train"``, ``"test"``, or what is held out for ``"validation"``."""
        return self._content.splits[name]

    @property
    def sample(self) -> Tensor:
        """Inputs of two examples, to count operations with."""
        return self.split("train").batch(slice(0, 2))

    def constant(self, metric: Metric) -> float | None:
        """What the best prediction that does not look at the inputs reaches on the test split, if that is known.

        Args:
            metric: The task's, or the accuracy.
        """
        if metric == self.task.metric:
            return self._constant
        labels = self.split("test").labels
        return float(labels.flatten().bincount().max()) / labels.numel()

    @cached_property
    def _constant(self) -> float | None:
        train, test = (split.in_units(split.labels) for split in map(self.split, ("train", "test")))
        return self.task.constant(train, test, self.classes)

    def learned(self, metric: Metric, mean: float, half: float | None) -> bool:
        """Whether networks that reach ``mean ± half`` on the test split have learned anything.

        The whole interval has to be better than :meth:`constant`; of one network, which has none, its number.
        """
        constant = self.constant(metric)
        return constant is None or metric.beats(mean, half, constant)


def open_data(name: str, *steps: Step, task: Task | None = None, columns: Reading = ()) -> Data:
    """The data set of a name; decoded on its first use on this machine.

    A folder is looked through each time, so that files of another size or time are another data set.

    Args:
        name: ``digits`` (bundled with scikit-learn), ``mnist``, ``fashion_mnist``, ``cifar10``, an id on the Hugging
            Face hub, or a folder laid out as on the hub. Where the environment variable ``LETITGO_DATA`` names a folder
            that holds a folder of that short name, that is read. Or a table: a file, or a folder of files, in CSV, JSON
            lines or Parquet. Or a text: ``python-manual``, which comes with Python, or a text file. Or the import path
            ``package.module:make`` of a function that returns data: see :mod:`letitgo.recipes.made`.
        steps: What is done to it, in this order; see :mod:`letitgo.recipes.steps`. A text has :class:`Vocabulary`
            first if it is not among them; sequences of words have it and :class:`Length`.
        task: The task, where it is not what data of this kind ask for.
        columns: The names of the columns ``target`` and ``text``, where they are given.

    Raises:
        BadRequest: There is no such data set, it has no labels, or no test split, it has fewer training examples, or a
            step or the task is for other data.
    """
    shared = os.environ.get("LETITGO_DATA")
    is_short = Path(name).name == name != ".."
    if shared and is_short and Path(shared, name).is_dir():
        name = str(Path(shared, name).resolve())
    elif name not in (*HUB, PYTHON) and Path(name).exists():
        name = str(Path(name).resolve())
    elif name.startswith((".", "/", "~")) or (is_short and Path(name).suffix in TABLES):
        raise BadRequest(f"unknown data {name!r}: there is no such folder or file")
    reading = (*columns, *(() if task is None or task.labels is None else (("labels", task.labels),)))
    content = _content(name, reading)
    there = len(content.train)
    for step in steps:
        if not step.takes(content):
            raise BadRequest(f"{next(iter(step.identity()))} is for {step.kind}: {name!r} holds {content.kind}")
        there = step.left(there, name)
    if task is not None:
        task.check(name, content)
    changes = tuple(step for step in _with_defaults(content, steps) if step.changes(content))
    return Data(name, content.digest, changes, None if task == task_of(content) else task, reading)


def _with_defaults(content: Content, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps, with those that words need."""
    found, given = [*steps], {type(step) for step in steps}
    if content.words and content.kind == "tokens" and Length not in given:
        length = min(content.train.inputs.shape[1], LENGTH)
        found.insert(int(isinstance(next(iter(found), None), Vocabulary)), Length(length))
    return tuple(found) if not content.words or Vocabulary in given else (Vocabulary(), *found)


def _content(name: str, reading: Reading = ()) -> Content:
    if given := [what for what, _ in reading if what != "labels" and (name == "digits" or is_text(name))]:
        raise BadRequest(f"{given[0]} names a column: {name!r} has none")
    if is_own(name):
        content = _made(name, canonical(code_of(name, import_object(name, "data"))), reading)
    elif is_text(name):
        content = read_text(name)
    else:
        content = _decoded(name, reading, _cached(name, reading))
    return _with_amounts(content) if ("labels", "amounts") in reading else content


def is_own(name: str) -> bool:
    """Whether data of this name are the import path of a function that returns them."""
    return ":" in name and not Path(name).exists()


@lru_cache(maxsize=4)
def _decoded(name: str, reading: Reading, path: Path) -> Content:
    content = _read(path)
    if content is None:
        found = _digits() if name == "digits" else _from_hub(name, dict(reading))
        if _cached(name, reading) != path:
            raise BadRequest(f"the data folder {name} changed while it was read: start again")
        _write(path, _checked(name, found), found)
        content = _read(path)
        assert content is not None, f"{path} was written and cannot be read"
    return content


@lru_cache(maxsize=4)
def _made(name: str, code: str, reading: Reading) -> Content:
    """What a function of the user's own returns: called once in a process, and again where its code is another."""
    made = call_maker(name)
    if hasattr(made, "column_names"):
        found = _of_columns(name, made, dict(reading))
    elif given := [what for what, _ in reading if what != "labels"]:
        raise BadRequest(f"{given[0]} names a column: {name!r} gives none")
    else:
        found = decoded(name, made)
    tensors = _checked(name, found)
    return _content_of(tensors, _about(tensors, found))


@lru_cache(maxsize=16)
def _after(name: str, reading: Reading, digest: str, steps: tuple[Step, ...]) -> Content:
    if steps:
        return steps[-1].apply(_after(name, reading, digest, steps[:-1]))
    content = _content(name, reading)
    if content.digest != digest:
        raise BadRequest(f"the data {name!r} have changed since they were opened: start again")
    return content


def _cached(name: str, reading: Reading = ()) -> Path:
    """Where the decoded data lie: for a folder or a table, another place once it has changed."""
    return _cache() / f"{sha256(canonical([*_signature(name), *map(list, reading)]))[:32]}.safetensors"


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

    if os.path.isfile(folder):
        about = os.stat(folder)
        yield [folder, about.st_size, about.st_mtime_ns]
        return
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


def _about(tensors: dict[str, Tensor], found: Decoded) -> dict[str, Any]:
    """What is kept of decoded data besides the tensors."""
    about = {"kind": found.kind, "classes": found.classes, "vocabulary": found.vocabulary, "words": found.words}
    if found.kind in ("images", "features"):
        mean, deviation = moments(tensors["train_inputs"])
        about |= {"mean": mean.flatten().tolist(), "deviation": deviation.flatten().tolist()}
    return {**about, "digest": _digest(tensors)}


def _write(path: Path, tensors: dict[str, Tensor], found: Decoded) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial:
            save_file(tensors, partial, {"content": json.dumps(_about(tensors, found))})
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
    return _content_of(tensors, about) if _digest(tensors) == about["digest"] else None


def _content_of(tensors: dict[str, Tensor], about: dict[str, Any]) -> Content:
    shape = (-1, *(1 for _ in tensors["train_inputs"].shape[2:]))
    mean, deviation = (torch.tensor(about[name]).reshape(shape) if name in about else None for name in MOMENTS)
    splits = {
        name: Split(tensors[f"{name}_inputs"], tensors[f"{name}_labels"], mean, deviation) for name in ("train", "test")
    }
    kind, vocabulary, words = (about.get(name, default) for name, default in (*BEFORE.items(),))
    white = brightest(splits["train"].inputs) if kind == "images" else 1
    content = Content(kind, splits, about["classes"], about["digest"], white, vocabulary, words)
    return _standardised(content) if splits["train"].labels.is_floating_point() else content


def _standardised(content: Content) -> Content:
    """The targets of a regression less the training set's mean and divided by its standard deviation."""
    labels = content.train.labels
    mean, deviation = labels.mean(0), labels.std(0, correction=0).clamp(min=1e-6)
    splits = {
        name: replace(split, labels=(split.labels - mean) / deviation, label_mean=mean, label_deviation=deviation)
        for name, split in content.splits.items()
    }
    return replace(content, splits=splits)


def _with_amounts(content: Content) -> Content:
    """The same, with class numbers taken for amounts."""
    if content.train.labels.is_floating_point() or content.train.labels.ndim != 1:
        return content
    amounts = {name: replace(split, labels=split.labels.to(torch.float32)) for name, split in content.splits.items()}
    return _standardised(replace(content, splits=amounts, classes=1, digest=sha256(f"{content.digest} as amounts")))


_DECODER = 2
"""Raised when images are decoded in another way, so that none decoded before is read."""
MOMENTS = ("mean", "deviation")
BEFORE = {"kind": "images", "vocabulary": 0, "words": False}
"""What files of earlier versions do not say."""


def _digits() -> Decoded:
    """Scikit-learn's 1,797 handwritten digits of 8×8; every fifth is held out for testing."""
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    inputs = torch.tensor(bundle.images, dtype=torch.uint8).unsqueeze(1)
    labels = torch.tensor(bundle.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % 5 == 4
    splits = {"train": (inputs[~held_out], labels[~held_out]), "test": (inputs[held_out], labels[held_out])}
    return Decoded("images", splits, 10)


def _from_hub(name: str, reading: dict[str, str]) -> Decoded:
    """What a folder, a table or an id on the hub holds, by the library ``datasets``."""
    import datasets

    here, table = Path(name).is_dir(), is_table(name)
    if not (here or table) and name not in HUB and "/" not in name:
        raise BadRequest(
            f"unknown data {name!r}: {nearest(name, ('digits', *HUB, PYTHON))} (or give a folder, a text file, or a "
            "Hugging Face id, which has a slash)"
        )
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the outcome is told below
    try:
        if table:
            tabs: dict[str, Any] = {"sep": "\t"} if name.endswith(".tsv") else {}
            found: Any = datasets.load_dataset(TABLES[Path(name).suffix.lower()], data_files=name, **tabs)
        else:
            found = datasets.load_dataset(HUB.get(name, name), trust_remote_code=False)
    except Exception as error:
        if table and (Path(name).stat().st_size == 0 or "corresponds to no data" in str(error)):
            raise BadRequest(f"{name!r} has no rows") from error
        where = f"the {'file' if table else 'folder'} gave"
        where = where if here or table else "it is no folder, and the Hugging Face hub gave"
        raise BadRequest(f"the data set {name!r} cannot be read: {where} {named(error)}") from error
    return _of_columns(name, found, reading)


def _of_columns(name: str, found: Any, reading: dict[str, str]) -> Decoded:
    """Images and their labels, or a table."""
    import datasets

    if "train" in found and not any(isinstance(it, datasets.Image) for it in found["train"].features.values()):
        return read_table(name, found, reading)
    test = next((split for split in ("test", "validation") if split in found), None)
    if "train" not in found or test is None:
        raise BadRequest(f"the data set {name!r} needs a split 'train' and a split 'test': it has {', '.join(found)}")
    features = found["train"].features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [column for column in ("label", "labels") if column in features]
    labels = [column for column in features if column == reading["target"]] if "target" in reading else labels
    if "text" in reading:
        raise BadRequest(f"the data set {name!r} holds images: leave text out")
    if not images or not labels:
        raise BadRequest(
            f"the data set {name!r} needs a column of images and one of class labels: it has {', '.join(features)}"
        )
    dtype = str(getattr(features[labels[0]], "dtype", "no numbers"))
    if not dtype.startswith(("int", "uint", "float")):
        raise BadRequest(
            f"the labels of {name!r} are {dtype}: give class numbers, a ClassLabel or an integer column, or floats for "
            "a regression"
        )
    amounts = dtype.startswith("float") or reading.get("labels") == "amounts"
    splits = {
        split: _decode(name, found[source].select_columns([images[0], labels[0]]), images[0], labels[0], amounts)
        for split, source in (("train", "train"), ("test", test))
    }
    if amounts:
        return Decoded("images", splits, 1)
    names = getattr(features[labels[0]], "names", None)
    if names:
        return Decoded("images", splits, len(names))
    numbers = splits["train"][1].unique()
    if gaps := sorted(set(range(int(numbers.max()) + 1)) - set(numbers.tolist())):
        raise BadRequest(
            f"no training row of {name!r} has the label {gaps[0]}, but labels go up to {int(numbers.max())}: number "
            "the classes from 0 without gaps, or name them (ClassLabel)"
        )
    return Decoded("images", splits, int(numbers.max()) + 1)


def _decode(name: str, rows: Any, image: str, label: str, amounts: bool) -> tuple[Tensor, Tensor]:
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
        pixels[i] = np.asarray(picture if picture.mode == mode else picture.convert(mode)).reshape(pixels.shape[1:])
    if pixels is None:
        raise BadRequest(f"the data set {name!r} has a split without rows")
    labels = rows[label][:]
    if None in labels:
        raise BadRequest(f"row {labels.index(None)} of {name!r} has no label: leave it out")
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return inputs, torch.tensor(np.asarray(labels, dtype=np.float32 if amounts else np.int64))


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
            ImageOps.exif_transpose(found, in_place=True)
            if found.has_transparency_data and any(found.convert("RGBA").getchannel("A").histogram()[:255]):
                raise BadRequest(f"{where} is transparent in places: put the images on a background")
            return found.convert("L" if found.mode in ("1", "L") else "RGB")
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


def _checked(name: str, found: Decoded) -> dict[str, Tensor]:
    splits, classes = found.splits, found.classes
    for split, (inputs, labels) in splits.items():
        low, high = int(labels.min()), int(labels.max())
        if not labels.is_floating_point() and (low < 0 or high >= classes):
            raise BadRequest(
                f"labels of {name!r} out of range: split {split!r} has labels {low} to {high}, "
                f"{classes} classes are numbered 0 to {classes - 1}"
            )
        if split == "train" and (labels == labels[0]).all():
            raise BadRequest(f"all training examples of {name!r} have one label: there is nothing to learn")
        if found.vocabulary and int(inputs.min()) < 0:
            raise BadRequest(f"tokens of {name!r} go down to {int(inputs.min())}: number them from 0, which is padding")
        if inputs.shape[1:] != splits["train"][0].shape[1:]:
            raise BadRequest(f"the images of {name!r} have to be of one size and mode in all splits")
    return {
        f"{split}_{kind}": tensor
        for split, pair in splits.items()
        for kind, tensor in zip(("inputs", "labels"), pair, strict=True)
    }
