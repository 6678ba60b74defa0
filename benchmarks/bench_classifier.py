"""A classifier of 10,000 classes on 512 features: a step and memory with a fixed matrix against a learned one.

A step is the classifier's own: logits, cross-entropy, gradients of the features and of what is learned, the optimiser.
Memory is what stays between steps (weights, matrix, gradients, the optimiser's state). Then steps of other sizes, the
logits transformed over the same multiplied out. One thread, batch 128, medians of paired rounds with neither always
first. Needs no data.
"""

import time
from collections.abc import Callable
from functools import partial

import hand
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from letitgo import FixedClassifier

torch.set_num_threads(1)
FEATURES, CLASSES, BATCH, STEPS, ROUNDS = 512, 10_000, 128, 5, 15
SIZES = ((256, 512), (256, 10_000), (512, 1000), (1024, 1000), (2048, 1000), (1024, 10_000))
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Multiplied(FixedClassifier):
    """With its product multiplied out, whatever is faster."""

    def _is_faster_transformed(self, x: torch.Tensor) -> bool:
        return False


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: nn.Linear(FEATURES, CLASSES),
    "hadamard": lambda: FixedClassifier(FEATURES, CLASSES, "hadamard"),
    "multiplied": lambda: Multiplied(FEATURES, CLASSES, "hadamard"),
    "orthogonal": lambda: FixedClassifier(FEATURES, CLASSES, "orthogonal"),
}
OPTIMIZERS: dict[str, Make] = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam": torch.optim.Adam,
}


def prepared(
    layer: Callable[[], nn.Module], make: Make, batch: int = BATCH
) -> tuple[Callable[[], None], Callable[[], int]]:
    """What takes a step, and what counts the bytes that stay after one."""
    torch.manual_seed(0)
    module = layer()
    optimizer = make(list(module.parameters()))
    features = torch.randn(batch, module.in_features).relu().requires_grad_()
    labels = torch.randint(module.out_features, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        features.grad = None
        cross_entropy(module(features), labels).backward()
        optimizer.step()

    def kept() -> int:
        gradients = [parameter.grad for parameter in module.parameters()]
        tensors = [*module.parameters(), *module.buffers(), *gradients, *tree_leaves(list(optimizer.state.values()))]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    return step, kept


def seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begin) / STEPS


def paired(steps: dict[str, Callable[[], None]]) -> list[dict[str, float]]:
    """Rounds in which each takes its steps."""
    for step in steps.values():
        step()
    turns = [list(steps) if turn % 2 else list(steps)[::-1] for turn in range(ROUNDS)]
    return [{kind: seconds(steps[kind]) for kind in order} for order in turns]


for name, make in OPTIMIZERS.items():
    cases = {kind: prepared(layer, make) for kind, layer in LAYERS.items()}
    rounds = paired({kind: step for kind, (step, _) in cases.items()})
    print(f"{name}: learned {1e3 * hand.median([took['learned'] for took in rounds]):.1f} ms a step")
    for kind, (_, kept) in cases.items():
        ratio = hand.median([took[kind] / took["learned"] for took in rounds])
        print(f"  {kind:10} time {ratio:.3f}, memory {kept() / 2**20:.1f} MiB, {kept() / cases['learned'][1]():.3f}")

print("transformed over multiplied out, SGD with momentum")
for size in SIZES:
    for batch in (16, BATCH):
        layers = {"fast": partial(FixedClassifier, *size), "multiplied": partial(Multiplied, *size)}
        sgd = OPTIMIZERS["SGD with momentum"]
        rounds = paired({kind: prepared(layer, sgd, batch)[0] for kind, layer in layers.items()})
        ratio = hand.median([took["fast"] / took["multiplied"] for took in rounds])
        print(f"  {size[0]:4} features, {size[1]:5} classes, batch {batch:3}: {ratio:.3f}")
