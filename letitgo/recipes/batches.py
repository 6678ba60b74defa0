"""What a recipe trains on, step by step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from letitgo.recipes.recipe import Recipe
from letitgo.recipes.splits import noisy
from letitgo.value import derive


class Batches:
    """The batch of each step: a function of the recipe and the step alone.

    Args:
        recipe: What is trained on.
        device: Where batches are.

    Attributes:
        varies: Whether an example's input differs from one epoch to the next. It must be true of whatever augments
            inputs: what a frozen prefix makes of them is then no constant.
    """

    varies = False

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe, self._device = recipe, device
        split = recipe.dataset.split("train")
        labels = noisy(split.labels, recipe.dataset.classes, recipe.label_noise, recipe.seed)
        self._split = replace(split, labels=labels).to(device)
        self._inputs: Callable[[Tensor], Tensor] = self._split.batch
        self._epoch, self._order = -1, torch.empty(0)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a step; the last batch of an epoch may be smaller."""
        rows = self.rows(step).to(self._device)
        return self._inputs(rows), self._split.labels.index_select(0, rows)

    def rows(self, step: int) -> Tensor:
        """Numbers of the training examples of a step."""
        epoch, place = divmod(step, self.recipe.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self._order[place * self.recipe.batch_size : (place + 1) * self.recipe.batch_size]

    def order(self, epoch: int) -> Tensor:
        """The order of the training examples in an epoch, a function of (seed, epoch): row numbers, shape (N,)."""
        generator = torch.Generator().manual_seed(derive(self.recipe.seed, "order", epoch))
        return torch.randperm(len(self._split), generator=generator)

    def seed(self, step: int) -> int:
        """The seed of what is random within a step, such as dropout: a function of (seed, step)."""
        return derive(self.recipe.seed, "step", step)

    def after(self, prefix: Callable[[Tensor], Tensor], limit: int) -> Batches | None:
        """The same batches with a function's outputs for inputs, computed once, in batches of the recipe's size.

        Args:
            prefix: Deterministic, and a function of each example alone.
            limit: Bytes that the outputs may take.

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
        found._inputs = lambda rows: outputs.index_select(0, rows)
        return found
