"""What a recipe trains on, step by step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from letitgo.recipes.recipe import Recipe
from letitgo.recipes.splits import noisy
from letitgo.value import derive

BORDER = 4
"""Pixels of black around an image before a crop of its size, as for the residual networks of arXiv:1512.03385."""


class Augment:
    """Images mirrored or moved at random: a function of (seed, epoch, number of the training example).

    Args:
        recipe: Says what is done, under which seed.
        count: Number of training examples.
    """

    def __init__(self, recipe: Recipe, count: int) -> None:
        self._what, self._seed, self._count = recipe.augment.split("+"), recipe.seed, count
        self._epoch, self._draws = -1, (torch.empty(0),) * 3

    def __call__(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """The images of some rows as they are in an epoch.

        Args:
            images: Pixels, shape (B, C, H, W).
            rows: Their numbers, shape (B,), on the same device.
            epoch: Another one has other draws.
        """
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self._drawn(epoch, str(images.device))
        mirrored, down, right = (draw.index_select(0, rows) for draw in self._draws)
        if "flip" in self._what:
            images = images.flip(-1).where(mirrored.view(-1, 1, 1, 1), images)
        if "crop" in self._what:
            windows = pad(images, (BORDER,) * 4).unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
            images = windows[torch.arange(len(images), device=images.device), :, down, right]
        return images

    def _drawn(self, epoch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derive(self._seed, "augment", epoch))
        mirrored = torch.rand(self._count, generator=generator) < 0.5
        down, right = torch.randint(2 * BORDER + 1, (2, self._count), generator=generator)
        return mirrored.to(device), down.to(device), right.to(device)


class Batches:
    """The batch of each step: a function of the recipe and the step alone.

    Args:
        recipe: What is trained on.
        device: Where batches are.

    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe, self._device = recipe, device
        split = recipe.dataset.split("train")
        labels = noisy(split.labels, recipe.dataset.classes, recipe.label_noise, recipe.seed)
        self._split = replace(split, labels=labels).to(device)
        self._augment = Augment(recipe, len(self._split))
        self._inputs: Callable[[Tensor], Any] = self._split.batch if recipe.augment == "none" else self._augmented
        self._epoch, self._order = -1, torch.empty(0)

    @property
    def varies(self) -> bool:
        """Whether an example's input differs from one epoch to the next: what a frozen prefix gives is no constant."""
        return self.recipe.augment != "none"

    def at(self, step: int) -> tuple[Any, Tensor]:
        """Inputs and labels of a step; the last batch of an epoch may be smaller."""
        rows = self.rows(step)
        return self._inputs(rows), self._split.labels.index_select(0, rows)

    def few(self) -> Tensor | None:
        """Inputs of a few training examples; None where there are not two."""
        return self._split.batch(slice(0, 4)) if len(self._split) > 1 else None

    def rows(self, step: int) -> Tensor:
        """Numbers of the training examples of a step, on the device."""
        epoch, place = divmod(step, self.recipe.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch).to(self._device)
        return self._order[place * self.recipe.batch_size : (place + 1) * self.recipe.batch_size]

    def order(self, epoch: int) -> Tensor:
        """The order of the training examples in an epoch, a function of (seed, epoch): row numbers, shape (N,)."""
        generator = torch.Generator().manual_seed(derive(self.recipe.seed, "order", epoch))
        return torch.randperm(len(self._split), generator=generator)

    def _augmented(self, rows: Tensor) -> Tensor:
        images = self._augment(self._split.inputs.index_select(0, rows), rows, self._epoch)
        return replace(self._split, inputs=images).batch(slice(None))

    def seed(self, step: int) -> int:
        """The seed of what is random within a step, such as dropout: a function of (seed, step)."""
        return derive(self.recipe.seed, "step", step)

    def after(self, prefix: Callable[[Tensor], Tensor], limit: int, beside: bool = False) -> Batches | None:
        """The same batches with a function's outputs for inputs, computed once, in batches of the recipe's size.

        Args:
            prefix: Deterministic, and a function of each example alone.
            limit: Bytes that the outputs may take.
            beside: Whether inputs are pairs then, of outputs and what the inputs were.

        Returns:
            None where the outputs would take more.
        """
        split, size = self._split, self.recipe.batch_size
        with torch.no_grad():
            sample = prefix(split.batch(slice(0, 1)))
            if sample.nbytes * len(split) > limit:
                return None
            outputs = sample.new_empty((len(split), *sample.shape[1:]))
            for begin in range(0, len(split), size):
                rows = slice(begin, begin + size)
                outputs[rows] = prefix(split.batch(rows))
        found = copy(self)
        before = self._inputs
        found._inputs = lambda rows: outputs.index_select(0, rows)
        if beside:
            found._inputs = lambda rows: (outputs.index_select(0, rows), before(rows))
        return found
