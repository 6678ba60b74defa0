"""Studies of live objects: a network, loaders, a loss and a metric."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.recipes.loaders import Loaders, Loss, accuracy
from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.map.study import Map
from letitgo.studies.outcome import Outcome
from letitgo.training import CPU, Place

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
"""The optimiser of recipes by default."""


def map(
    model_fn: Callable[[], nn.Module],
    train_loader: Any,
    test_loader: Any,
    *,
    loss: Loss = cross_entropy,
    metric: Callable[[Any, Any], Any] = accuracy,
    more_is_better: bool = True,
    share: bool | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] = SGD,
    epochs: int = 10,
    seed: int = 0,
    store: Store | str | Path | None = None,
    place: Place = CPU,
    **options: Any,
) -> Outcome:
    """Which layers need training? Of a network and loaders as they are, in this process.

    Args:
        model_fn: Builds the network; draws its weights from torch's generator, which is seeded before.
        train_loader: Gives batches (inputs, labels): a ``DataLoader``, or what else can be iterated over again.
        test_loader: Likewise, to judge by.
        loss: Of the outputs and labels of a batch, a scalar.
        metric: Of all outputs and labels of ``test_loader``, a number; its name is the function's.
        more_is_better: Whether more of it is better.
        share: Whether the metric lies between 0 and 1, so that drops and the tolerance are in points; otherwise they
            are in per cent of the baseline's. By default only an accuracy does.
        optimizer: Called with the network's parameters.
        epochs: Passes over ``train_loader``.
        seed: The first seed.
        store: As for :func:`letitgo.compute`.
        place: Likewise; batches follow the network there.
        options: Of :class:`letitgo.Map`.

    Raises:
        BadRequest: An argument does not fit, or something holds what cannot be read for a key.
    """
    name = getattr(metric, "__name__", "")
    if not name.isidentifier():
        raise BadRequest("metric has no name: give a function that is defined with def")
    if not callable(model_fn) or isinstance(model_fn, nn.Module):
        raise BadRequest("model_fn builds the network each time it is called: give a function, not a network")
    if not callable(optimizer):
        raise BadRequest("optimizer is called with the parameters: give a class of torch.optim, or a partial of one")
    is_share = name == "accuracy" if share is None else share
    task = Loaders(model_fn, train_loader, test_loader, loss, metric, name, more_is_better, is_share, optimizer, epochs)
    if metric is accuracy:
        labels = torch.cat([labels.flatten() for _, labels in test_loader])
        task.constant = float(labels.bincount().max()) / labels.numel()
    return compute(Map(Recipe(task=task, seed=seed), **options), store, place=place)  # type: ignore[arg-type]
