"""The simplest task of one's own: a network, loaders, a loss and a metric, and letitgo's plain loop over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from letitgo.errors import BadRequest, typed

Loss = Callable[[Any, Any], Tensor]


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share of labels, shape (N, ...), that the largest of the outputs, shape (N, ..., classes), names."""
    return (outputs.argmax(-1) == labels).float().mean()


@dataclass
class Loaders:
    """A task made of live objects. Batches are pairs of inputs and labels.

    Attributes:
        model_fn: Builds the network.
        train_loader: Batches to train on.
        test_loader: Batches to judge by.
        loss: Of the outputs and labels of a batch, a scalar.
        judge: Of all outputs and labels of ``test_loader``, a number.
        metric: What it is called.
        more_is_better: Whether more of it is better.
        share: Whether it is a share, so that a drop is in points; else a drop is in per cent.
        optimizer: Called with the parameters to train.
        epochs: Passes over ``train_loader``.
        constant: What the best prediction that ignores the inputs reaches; None where it is not known.
    """

    model_fn: Callable[[], nn.Module]
    train_loader: Any
    test_loader: Any
    loss: Loss
    judge: Callable[[Any, Any], Any]
    metric: str
    more_is_better: bool
    share: bool
    optimizer: Callable[[Any], torch.optim.Optimizer]
    epochs: int
    constant: float | None = None

    def __post_init__(self) -> None:
        for name in ("train_loader", "test_loader"):
            batch = next(iter(getattr(self, name)), None)
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise BadRequest(f"{name} gives {typed(batch)}: its batches have to be pairs (inputs, labels)")

    def model(self) -> nn.Module:
        """The network."""
        return self.model_fn()

    def train(self, model: nn.Module, seed: int, resume: Any = None) -> Iterator[dict[str, Any]]:
        """A plain loop, which goes on from what it yielded."""
        optimizer = self.optimizer(model.parameters())
        done = 0
        if resume is not None:
            optimizer.load_state_dict(resume["optimizer"])
            done = resume["epoch"]
        for epoch in range(done, self.epochs):
            model.train()
            for inputs, labels in self._batches(self.train_loader, model):
                optimizer.zero_grad()
                loss = self.loss(_called(model, inputs), labels)
                if loss.requires_grad:
                    loss.backward()
                optimizer.step()
            yield {"optimizer": optimizer.state_dict(), "epoch": epoch + 1}

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metric over all test batches, their mean loss, and the number of labels."""
        batches = self._batches(self.test_loader, model)
        outputs, labels = zip(*((_called(model, inputs), labels) for inputs, labels in batches), strict=True)
        all_outputs, all_labels = torch.cat(outputs), torch.cat(labels)
        found = {"loss": float(self.loss(all_outputs, all_labels)), "n": all_labels.numel()}
        return found | {self.metric: float(self.judge(all_outputs, all_labels))}

    def _batches(self, loader: Any, model: nn.Module) -> Iterator[Any]:
        """The batches, brought to the network, in an order that torch's seed alone decides."""
        device = next(model.parameters()).device
        for owner in (loader, getattr(loader, "sampler", None)):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(int(torch.randint(2**31, ())))
        for batch in loader:
            yield tree_map(lambda item: item.to(device) if hasattr(item, "to") else item, batch)


def _called(model: nn.Module, inputs: Any) -> Tensor:
    """The outputs; of a mapping such as transformers give, its logits."""
    outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    found = logits if logits is not None else next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
    return found
