"""Text as data: windows of word numbers, each word labelled with the one that follows."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from letitgo.errors import BadRequest
from letitgo.recipes.splits import Content, Split
from letitgo.value import sha256

PYTHON = "python-manual"
"""The chapters of the Python manual that come with Python as ``pydoc_data``: about 114,000 words, a few more or less in
each version."""

LENGTH = 35
"""Words of a window."""

TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""Ends of the names of files that are tables and no texts, and what reads them in the library ``datasets``."""

TEST = 0.1
"""Share of the text, its end, that is for testing."""


def is_table(name: str) -> bool:
    """Whether data of this name, or at this path, are one table."""
    return Path(name).suffix.lower() in TABLES and Path(name).is_file()


def is_text(name: str) -> bool:
    """Whether data of this name, or at this absolute path, are a text."""
    return name == PYTHON or (Path(name).is_absolute() and Path(name).is_file() and not is_table(name))


def read_text(name: str) -> Content:
    """A text of words and punctuation marks, in lower case, cut into windows.

    Words are numbered from 1 by their frequency in the training part, the most frequent first. 0 stands for words that
    do not occur there. A rest shorter than a window is left out.

    Args:
        name: ``python-manual``, or a text file in UTF-8.

    Raises:
        BadRequest: The file cannot be read, or is too short.
    """
    words = _words(_read(name))
    cut = round((1 - TEST) * len(words))
    if len(words) - cut <= LENGTH:
        raise BadRequest(f"{name!r} has {len(words):,} words: at least {round((LENGTH + 1) / TEST):,} are needed")
    known = [word for word, _ in Counter(words[:cut]).most_common()]
    places = {word: number for number, word in enumerate(known, start=1)}
    numbers = torch.tensor([places.get(word, 0) for word in words])
    splits = {"train": _windows(numbers[:cut]), "test": _windows(numbers[cut:])}
    digest = sha256("\n".join(words))
    return Content("text", splits, len(known) + 1, digest, vocabulary=len(known) + 1, words=True)


def _windows(numbers: Tensor) -> Split:
    count = (len(numbers) - 1) // LENGTH
    given, following = (numbers[shift : shift + count * LENGTH].view(count, LENGTH) for shift in (0, 1))
    return Split(given, following)


def _read(name: str) -> str:
    if name == PYTHON:
        from pydoc_data.topics import topics

        return "\n".join(topics[topic] for topic in sorted(topics))
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"the text {name!r} cannot be read ({error}): give a text file in UTF-8, or {PYTHON}"
        ) from error


@lru_cache(maxsize=2)
def _words(text: str) -> tuple[str, ...]:
    return tuple(split_words(text))


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())
