"""Evaluating a network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH = 1000
"""Examples evaluated at once."""


@torch.no_grad()
def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float | None]:
    """Accuracy and mean cross-entropy in evaluation mode.

    Args:
        module: Put into evaluation mode.
        batches: Inputs and class numbers.

    Returns:
        ``accuracy`` as a fraction, ``loss`` in nats (None where it is not finite, since JSON has no word for that), and
        ``n``, the number of examples.
    """
    module.eval()
    correct, loss, n = 0, torch.zeros((), dtype=torch.float64), 0
    for inputs, labels in batches:
        outputs = module(inputs)
        correct += int((outputs.argmax(1) == labels).sum())
        loss += cross_entropy(outputs, labels, reduction="sum")
        n += len(labels)
    mean = float(loss / n)
    return {"accuracy": correct / n, "loss": mean if mean - mean == 0 else None, "n": n}
