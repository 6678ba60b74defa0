"""Does the output of a language model need training? HHS18 (arXiv:1801.04540) finds that there it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Stored
from letitgo.plan.language import LENGTH, ROWS, Perplexity
from letitgo.recipes import Recipe
from letitgo.recipes.text import PYTHON, TEST, Output, open_text
from letitgo.store import Store
from letitgo.studies.statistics import ci95, mean

OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class LanguageClassifier:
    """The study, as a value: an LSTM of one layer on words, with its output learned or fixed, all else the same.

    Args:
        text: ``python-manual`` or a text file.
        seeds: Number of seeds, counted up from 0.
        epochs: Passes over the text.
        vocabulary: Number of words; rarer ones are taken for one.
        width: Of the embedding and of the hidden state.
        lr: Learning rate of Adam.

    Raises:
        BadRequest: A number is out of range.
    """

    text: str = PYTHON
    seeds: int = 5
    epochs: int = 6
    vocabulary: int = 1000
    width: int = 128
    lr: float = 0.005

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "width"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}: at least 1 is needed")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """None: a recipe has images and classes."""
        return ()

    def check(self) -> None:
        """Make sure that there is text enough.

        Raises:
            BadRequest: There is not, or the file cannot be read.
        """
        train, test = open_text(self.text).numbers(self.vocabulary)
        if len(test) <= ROWS * LENGTH:
            least = round(ROWS * LENGTH / TEST)
            raise BadRequest(f"{self.text} has {len(train) + len(test):,} words: more than {least:,} are needed")

    def perplexity(self, output: Output, seed: int) -> Perplexity:
        """One model, trained and measured."""
        text = open_text(self.text)
        return Perplexity(text, output, seed, self.epochs, self.vocabulary, self.width, self.lr)

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [self.perplexity(output, seed) for seed in range(self.seeds) for output in OUTPUTS]

    def rows(self, store: Store) -> list[dict[str, Any]]:
        """One row per output. Ratios are paired: perplexity over that of the same seed with a learned output."""
        return [self._row(output, store) for output in OUTPUTS]

    def _row(self, output: Output, store: Store) -> dict[str, Any]:
        tests, trains, ratios, scales, curves = [], [], [], [], []
        for seed in range(self.seeds):
            try:
                result = self.perplexity(output, seed).result(store)
                base = self.perplexity("learned", seed).result(store)
            except Absent:
                continue
            tests.append(result["test"][-1])
            curves.append(result["test"])
            trains.append(result["train"][-1])
            ratios.append(result["test"][-1] / base["test"][-1])
            scales += [result["scale"]] if result["scale"] else []
        module = weights.seeded(self.perplexity(output, 0).factory, 0)
        return {
            "output": output,
            "parameters": sum(weight.numel() for weight in module.parameters()),
            "perplexity_mean": mean(tests),
            "perplexity_ci95": ci95(tests),
            "train_perplexity_mean": mean(trains),
            "train_perplexity_ci95": ci95(trains),
            "ratio_mean": mean(ratios),
            "ratio_ci95": ci95(ratios),
            "perplexities": [mean(at) for at in zip(*curves, strict=True)],
            "scale": [mean(at) for at in zip(*scales, strict=True)] if scales else None,
            "n": len(tests),
        }
