"""Tables as data: a column of text, or columns of numbers, and a column that is to be predicted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from letitgo.errors import BadRequest, nearest
from letitgo.recipes.splits import UNKNOWN, Decoded
from letitgo.recipes.text import split_words
from letitgo.value import derive

TARGETS = ("label", "labels", "target", "y")
"""Names of columns that are predicted where none is given; a column of class labels goes before."""
TEXTS = ("text", "sentence")
"""Names of columns of words that are read where there are several columns and none is given."""
TEST = 5
"""Where there is no test split, one row in so many is for testing."""
MOST = 512
"""Words of a text that are read."""
CLASSES = 20
"""Whole numbers with more values, and gaps, are taken for classes only where that is said."""


def read_table(name: str, found: Any, reading: dict[str, str]) -> Decoded:
    """The columns of a table as tensors.

    Args:
        name: The data set's, for errors.
        found: Split → rows, of the library ``datasets``: ``train``, and ``test`` or ``validation``. Without these a
            fifth of the rows, drawn at random and the same for everyone, is for testing.
        reading: ``target`` and ``text``: names of columns. ``labels``: ``classes`` or ``amounts``, where the task says
            what the target holds. Else fractions are amounts, and all else is classes.

    Raises:
        BadRequest: There is no such column, it is not clear which is meant, a value is missing, or it is none of these.
    """
    features = found["train"].features
    target = _target(name, features, reading.get("target"))
    inputs = _inputs(name, features, target, reading.get("text"))
    test = next((split for split in ("test", "validation") if split in found), None)
    frames = {split: _frame(name, found[split], [*inputs, target]) for split in ("train", *filter(None, [test]))}
    train = frames["train"]
    if test is None:
        generator = torch.Generator().manual_seed(derive("test split"))
        order = torch.randperm(len(train), generator=generator).numpy()
        rows = np.zeros(len(train), dtype=bool)
        rows[order[: len(train) // TEST]] = True
        train, held_out = train[~rows], train[rows]
    else:
        held_out = frames[test]
    if min(len(train), len(held_out)) < 2:
        raise BadRequest(f"{name!r} has {len(train)} rows for training and {len(held_out)} for testing: give more")
    both = {"train": train, "test": held_out}
    labels, classes = _labels(name, features[target], {split: rows[target] for split, rows in both.items()}, reading)
    if _holds(features[inputs[0]]) == "words":
        tokens, vocabulary = _tokens({split: rows[inputs[0]] for split, rows in both.items()})
        pairs = {split: (tokens[split], labels[split]) for split in both}
        return Decoded("tokens", pairs, classes, vocabulary, words=True)
    return Decoded("features", {split: (_floats(rows[inputs]), labels[split]) for split, rows in both.items()}, classes)


def _floats(columns: Any) -> Tensor:
    return torch.from_numpy(np.array(columns, dtype=np.float32, order="C"))


def _holds(feature: Any) -> str:
    """What a column holds: ``words``, ``fractions``, ``whole numbers``, or something else."""
    kind = str(getattr(feature, "dtype", ""))
    if kind.endswith("string"):
        return "words"
    if kind.startswith(("float", "double")):
        return "fractions"
    return "whole numbers" if kind.startswith(("int", "uint", "bool")) else f"a column of {feature}"


def _target(name: str, features: Any, asked: str | None) -> str:
    if asked is not None:
        if asked not in features:
            raise BadRequest(f"{name!r} has no column {asked!r} to predict: {nearest(asked, [*features])}")
        return asked
    labelled = [column for column, feature in features.items() if hasattr(feature, "names")]
    likely = [column for column in TARGETS if column in features]
    if len(labelled) != 1 and len(likely) != 1:
        raise BadRequest(
            f"it is not clear which column of {name!r} is to be predicted: name it with target (--target), one of "
            f"{', '.join(map(repr, features))}"
        )
    return labelled[0] if len(labelled) == 1 else likely[0]


def _inputs(name: str, features: Any, target: str, asked: str | None) -> list[str]:
    """The column of text, or those of numbers."""
    if asked is not None:
        if asked not in features or _holds(features[asked]) != "words" or asked == target:
            raise BadRequest(f"{name!r} has no column {asked!r} of text: it has {', '.join(features)}")
        return [asked]
    kinds = {column: _holds(feature) for column, feature in features.items() if column != target}
    words = [column for column, kind in kinds.items() if kind == "words"]
    numbers = [column for column, kind in kinds.items() if kind in ("fractions", "whole numbers")]
    known = [column for column in TEXTS if column in words]
    if len(known) == 1 or (len(words) == 1 and not numbers):
        return known or words
    if other := [column for column in kinds if column not in numbers]:
        raise BadRequest(
            f"{name!r} has columns that hold no numbers ({', '.join(map(repr, other))}): leave them out, write them as "
            "numbers, or say which is the text (--text)"
        )
    if not numbers:
        raise BadRequest(f"{name!r} has no column besides {target!r} to learn from")
    return numbers


def _frame(name: str, rows: Any, columns: list[str]) -> Any:
    """Some columns of a split.

    Raises:
        BadRequest: One is missing, or a value is.
    """
    if absent := [column for column in columns if column not in rows.column_names]:
        raise BadRequest(f"a split of {name!r} has no column {absent[0]!r}: it has {', '.join(rows.column_names)}")
    frame = rows.select_columns(columns).to_pandas()
    for column in columns:
        if (missing := frame[column].isna()).any():
            row = int(missing.argmax()) + 1
            raise BadRequest(
                f"data row {row} of {name!r}, the first being 1, has no number or text in the column {column!r}: fill "
                "it in, or leave the row out"
            )
        if frame[column].dtype.kind == "f" and not np.isfinite(frame[column]).all():
            raise BadRequest(f"the column {column!r} of {name!r} holds infinite numbers: leave those rows out")
    return frame


def _labels(name: str, feature: Any, columns: dict[str, Any], reading: dict[str, str]) -> tuple[dict[str, Tensor], int]:
    """Class numbers and how many classes there are; or amounts, and 1."""
    train, holds = columns["train"], _holds(feature)
    asked = reading.get("labels") or ("amounts" if holds == "fractions" else "classes")
    if asked == "amounts":
        if holds not in ("fractions", "whole numbers"):
            raise BadRequest(f"the column {train.name!r} of {name!r} holds {holds}: a regression needs numbers")
        return {split: _floats(column) for split, column in columns.items()}, 1
    if holds not in ("words", "whole numbers"):
        raise BadRequest(f"the column {train.name!r} of {name!r} holds {holds}: classes are words or whole numbers")
    if (names := getattr(feature, "names", None)) is not None:
        return {split: torch.tensor(column.to_numpy(dtype=np.int64)) for split, column in columns.items()}, len(names)
    classes = sorted(train.unique().tolist())
    if holds != "words" and len(classes) > CLASSES and classes != [*range(len(classes))] and "labels" not in reading:
        raise BadRequest(
            f"the column {train.name!r} of {name!r} has {len(classes):,} different whole numbers: say with task "
            "(--task) whether it is a regression or a classification"
        )
    number = {label: i for i, label in enumerate(classes)}
    if unknown := sorted(set(columns["test"].unique().tolist()) - number.keys()):
        raise BadRequest(
            f"the label {str(unknown[0])[:40]!r} of {name!r} is among the rows for testing and not for training: is "
            f"{train.name!r}, with {len(classes):,} different labels, the column to predict (--target)?"
        )
    return {split: torch.tensor([number[label] for label in column]) for split, column in columns.items()}, len(classes)


def _tokens(texts: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Numbers of words, filled up with padding at the end; and how many numbers there are.

    Words are numbered by their frequency among the rows for training, the most frequent first.
    """
    words = {split: [split_words(text)[:MOST] or [""] for text in column] for split, column in texts.items()}
    known = [word for word, _ in Counter(word for text in words["train"] for word in text if word).most_common()]
    places = {word: number for number, word in enumerate(known, start=UNKNOWN + 1)}
    longest = max(len(text) for split in words.values() for text in split)
    found = {}
    for split, each in words.items():
        numbered = [torch.tensor([places.get(word, UNKNOWN) for word in text]) for text in each]
        rows = pad_sequence(numbered, batch_first=True)
        found[split] = pad(rows, (0, longest - rows.shape[1]))
    return found, len(known) + UNKNOWN + 1
