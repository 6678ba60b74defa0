"""Text as word numbers, and a small language model to train on it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.value import Value, sha256
from letitgo.weights import fix_classifier

Output = Literal["tied", "learned", "hadamard", "orthogonal"]

PYTHON = "python-manual"
"""The chapters of the Python manual that come with Python as ``pydoc_data``: about 114,000 words, a few more or less in
each version."""

TEST = 0.1
"""Share of the text, its end, that is for testing."""


@dataclass(frozen=True, eq=False)
class Text(Value):
    """A text: what it holds is in its key, where it lies is not.

    Attributes:
        name: ``python-manual`` or a file.
        digest: SHA-256 of its words.
    """

    name: str
    digest: str

    def identity(self) -> dict[str, Any]:
        return {"digest": self.digest}

    def numbers(self, vocabulary: int) -> tuple[Tensor, Tensor]:
        """The words as numbers below ``vocabulary``, int64: those for training and those for testing.

        The most frequent words of the training part are numbered from 1 on; 0 stands for all others.

        Raises:
            BadRequest: The file cannot be read any more, or holds other words.
        """
        words = _words(_read(self.name))
        if _digest(words) != self.digest:
            raise BadRequest(f"the text {self.name!r} has changed since it was opened: start again")
        cut = round((1 - TEST) * len(words))
        known = [word for word, _ in Counter(words[:cut]).most_common(vocabulary - 1)]
        places = {word: i for i, word in enumerate(known, start=1)}
        numbers = torch.tensor([places.get(word, 0) for word in words])
        return numbers[:cut], numbers[cut:]


def open_text(name: str) -> Text:
    """A text of words and punctuation marks, in lower case.

    Args:
        name: ``python-manual``, or a text file in UTF-8.

    Raises:
        BadRequest: The file cannot be read.
    """
    return Text(name if name == PYTHON else str(Path(name).resolve()), _digest(_words(_read(name))))


def _read(name: str) -> str:
    if name == PYTHON:
        from pydoc_data.topics import topics

        return "\n".join(topics[topic] for topic in sorted(topics))
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the text {name!r} cannot be read ({error}): give a text file, or {PYTHON}") from error


@lru_cache(maxsize=2)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


def _digest(words: tuple[str, ...]) -> str:
    return sha256("\n".join(words))


class LanguageModel(nn.Module):
    """Embedding, one LSTM layer, and a classifier over the next word.

    Args:
        vocabulary: Number of words.
        width: Of the embedding and of the hidden state.
        output: The classifier: a linear layer, learned and of its own or ``"tied"`` to the embedding, or fixed.
    """

    def __init__(self, vocabulary: int, width: int, output: Output) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.classifier: nn.Module = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if output == "tied":
            self.classifier.weight = self.embedding.weight
        elif output != "learned":
            fix_classifier(self, "classifier", output)

    def forward(
        self, words: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of shape (N, L, vocabulary) from words of shape (N, L), and the memory to go on with."""
        hidden, later = self.lstm(self.embedding(words), memory)
        return self.classifier(hidden), later
