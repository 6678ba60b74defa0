"""What is done to a data set before a network sees it: a chain of small steps, each a value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from letitgo.errors import BadRequest
from letitgo.recipes.splits import UNKNOWN, Content, Kind, Split
from letitgo.value import Value, derive

NOISE = 0.6
"""Standard deviation of the noise, as a share of the range of pixels: small networks lose 25 to 35 points on MNIST."""


class Step(Value):
    """One change of a data set.

    Attributes:
        kind: What data it is for; None for any.
        reshapes: Whether the shape of inputs or the number of classes depends on it, and the network with them.
    """

    kind: ClassVar[Kind | None] = None
    reshapes: ClassVar[bool] = False

    def apply(self, content: Content) -> Content:
        """The data set after this step; the given one is left as it is."""
        raise NotImplementedError

    def changes(self, content: Content) -> bool:
        """Whether it does anything to the data set as decoded."""
        return True

    def takes(self, content: Content) -> bool:
        """Whether it is for data of this kind."""
        return self.kind in (None, content.kind)

    def left(self, there: int, name: str) -> int:
        """Number of training examples that it leaves.

        Args:
            there: Number of training examples before it.
            name: The data set's, for the error.

        Raises:
            BadRequest: There are too few.
        """
        return there


@dataclass(frozen=True, eq=False)
class Vocabulary(Step):
    """The most frequent words of the training part by their numbers.

    0 stands for all others; in sequences of words, where 0 is padding, 1 does.

    Attributes:
        vocabulary: Number of words, those others counted as one, and padding as another.
    """

    vocabulary: int = 1000
    kind = "text"
    reshapes = True

    def takes(self, content: Content) -> bool:
        return content.words

    def changes(self, content: Content) -> bool:
        return content.kind == "text" or self.vocabulary < content.vocabulary

    def apply(self, content: Content) -> Content:
        if content.kind == "tokens":
            splits = {
                name: replace(split, inputs=split.inputs.where(split.inputs < self.vocabulary, UNKNOWN))
                for name, split in content.splits.items()
            }
            return replace(content, splits=splits, vocabulary=self.vocabulary)

        def known(words: Tensor) -> Tensor:
            return words.where(words < self.vocabulary, 0)

        splits = {
            name: replace(split, inputs=known(split.inputs), labels=known(split.labels))
            for name, split in content.splits.items()
        }
        return replace(content, splits=splits, classes=self.vocabulary, vocabulary=self.vocabulary)


@dataclass(frozen=True, eq=False)
class Length(Step):
    """Sequences cut, or filled up with padding, at their end.

    Attributes:
        length: Tokens of each.
    """

    length: int
    kind = "tokens"
    reshapes = True

    def changes(self, content: Content) -> bool:
        return self.length != content.train.inputs.shape[1]

    def apply(self, content: Content) -> Content:
        def fit(tokens: Tensor) -> Tensor:
            return pad(tokens[:, : self.length], (0, max(0, self.length - tokens.shape[1])))

        splits = {name: replace(split, inputs=fit(split.inputs)) for name, split in content.splits.items()}
        return replace(content, splits=splits)


@dataclass(frozen=True, eq=False)
class Fit(Step):
    """Images brought to a shape, as :func:`fitted` does.

    Attributes:
        fit: Channels, height and width, as in ``1x28x28``.
    """

    fit: str
    kind = "images"
    reshapes = True

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(int(side) for side in self.fit.split("x"))

    def changes(self, content: Content) -> bool:
        return self._shape != tuple(content.train.inputs.shape[1:])

    def apply(self, content: Content) -> Content:
        inputs = {name: fitted(split.inputs, self._shape) for name, split in content.splits.items()}
        mean, deviation = moments(inputs["train"])
        splits = {
            name: replace(split, inputs=inputs[name], mean=mean, deviation=deviation)
            for name, split in content.splits.items()
        }
        return replace(content, splits=splits, white=brightest(inputs["train"]))


@dataclass(frozen=True, eq=False)
class Shift(Step):
    """A shift of the inputs or of the labels of all splits: another data set, the same for everyone.

    Attributes:
        shift: ``invert``: black becomes white; ``noise``: Gaussian noise of standard deviation ``NOISE`` on every
            pixel, clipped; ``permute-labels``: the classes change their numbers, in one cycle, so that none keeps its
            own; ``permute-pixels``: the pixels of each image in another order, the same for all.
    """

    shift: Literal["invert", "noise", "permute-labels", "permute-pixels"]
    kind = "images"

    def apply(self, content: Content) -> Content:
        splits = content.splits.items()
        if self.shift == "permute-labels":
            order = torch.randperm(content.classes, generator=_generator("shift", "permute-labels"))
            number = torch.empty_like(order)
            number[order] = order.roll(1)
            return content.having(**{name: replace(split, labels=number[split.labels]) for name, split in splits})
        return content.having(
            **{name: replace(split, inputs=self._inputs(split.inputs, content.white, name)) for name, split in splits}
        )

    def _inputs(self, inputs: Tensor, white: int, split: str) -> Tensor:
        if self.shift == "invert":
            return white - inputs.clamp(max=white)
        if self.shift == "noise":
            generator = _generator("shift", "noise", split)
            parts = [
                (part + white * NOISE * torch.randn(part.shape, generator=generator)).round_().clamp_(0, white).byte()
                for part in inputs.split(10_000)
            ]
            return torch.cat(parts)
        pixels, generator = inputs.flatten(2), _generator("shift", "permute-pixels")
        return pixels[:, :, torch.randperm(pixels.shape[2], generator=generator)].view(inputs.shape)


@dataclass(frozen=True, eq=False)
class Half(Step):
    """Only one half of the training examples; the halves are the same for everyone.

    Attributes:
        half: ``a`` or ``b``.
    """

    half: Literal["a", "b"]

    def left(self, there: int, name: str) -> int:
        return (there + (self.half == "a")) // 2

    def apply(self, content: Content) -> Content:
        order = torch.randperm(len(content.train), generator=_generator("halves"))
        return content.having(train=content.train.only(order[self.half == "b" :: 2].sort().values))


@dataclass(frozen=True, eq=False)
class HoldOut(Step):
    """Training examples moved to a split of their own, the same for everyone.

    Attributes:
        validation: How many.
    """

    validation: int

    def left(self, there: int, name: str) -> int:
        if self.validation >= there:
            raise BadRequest(
                f"validation is {self.validation:,}: {name!r} has {there:,} for training, and some have to be left"
            )
        return there - self.validation

    def apply(self, content: Content) -> Content:
        order = torch.randperm(len(content.train), generator=_generator("validation"))
        rows = order[: self.validation].sort().values, order[self.validation :].sort().values
        held_out, train = map(content.train.only, rows)
        return content.having(train=train, validation=held_out)


@dataclass(frozen=True, eq=False)
class Examples(Step):
    """Some of the training examples, chosen at random.

    Attributes:
        examples: How many.
        seed: Chooses them.
    """

    examples: int
    seed: int = 0

    def left(self, there: int, name: str) -> int:
        if self.examples > there:
            raise BadRequest(f"examples is {self.examples:,}: {name!r} has {there:,} for training")
        return self.examples

    def apply(self, content: Content) -> Content:
        order = torch.randperm(len(content.train), generator=_generator(self.seed, "examples"))
        return content.having(train=content.train.only(order[: self.examples]))


@dataclass(frozen=True, eq=False)
class Pixels(Step):
    """How pixels reach the network where they are not standardised.

    Attributes:
        pixels: ``unit``: from 0 to the brightest training pixel's 1.
    """

    pixels: Literal["unit"] = "unit"
    kind = "images"

    def apply(self, content: Content) -> Content:
        def unit(split: Split) -> Split:
            return replace(
                split,
                mean=torch.zeros(split.inputs.shape[1], 1, 1),
                deviation=torch.full((split.inputs.shape[1], 1, 1), float(content.white)),
            )

        return content.having(**{name: unit(split) for name, split in content.splits.items()})


@dataclass(frozen=True, eq=False)
class TestExamples(Step):
    """Some of the test examples, chosen at random, the same for everyone.

    Attributes:
        test_examples: How many.
    """

    test_examples: int

    def apply(self, content: Content) -> Content:
        test = content.splits["test"]
        if self.test_examples > len(test):
            raise BadRequest(f"test-examples is {self.test_examples:,}: there are {len(test):,} for testing")
        order = torch.randperm(len(test), generator=_generator("test examples"))
        return content.having(test=test.only(order[: self.test_examples].sort().values))


ORDER = (Vocabulary, Length, Fit, Shift, Half, HoldOut, Examples, Pixels, TestExamples)
"""The order in which a recipe takes its steps."""


def described(steps: tuple[Step, ...]) -> dict[str, Any]:
    """A chain as it stands in a data set's key."""
    places = [ORDER.index(type(step)) if type(step) in ORDER else -1 for step in steps]
    if places != sorted({*places} - {-1}):
        return {"steps": steps}
    # A recipe's own chain is spelled flat, without the names of its steps: keys from before there were steps hold.
    return {name: item for step in steps for name, item in step.identity().items()}


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


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel or feature: inputs of shape (N, C, ...) give (C, 1, ...)."""
    values = inputs.to(torch.float32)
    over = tuple(side for side in range(values.ndim) if side != 1)
    shape = (-1, *(1 for _ in over[1:]))
    return values.mean(over).view(shape), values.std(over, correction=0).clamp(min=1e-6).view(shape)


def brightest(inputs: Tensor) -> int:
    """The brightest pixel, at least 1."""
    return max(1, int(inputs.max()))


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive(*parts))
