"""What holding costs: whole layers frozen against plain flags, and 10 % of the filters of a convolutional net.

Goals: frozen whole layers at most 1.01 of plain ``requires_grad_(False)``; holding 10 % of the filters at most 1.05 of
the plain step, with at most 12 % of the optimiser's state. One thread, medians of paired rounds. Needs no data.
"""

import time
from collections.abc import Callable

import hand
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import biases, entries, fraction, freeze, hold, norms, select, trainable

torch.set_num_threads(1)
ROUNDS = 21


def convolutional() -> nn.Sequential:
    """Three convolutions with BatchNorm and a classifier, on 32×32 images."""
    torch.manual_seed(0)
    widths = (3, 32, 64, 128)
    parts: list[nn.Module] = []
    for i in range(3):
        convolution = nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False)
        parts += [convolution, nn.BatchNorm2d(widths[i + 1]), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(128 * 16, 10))


def perceptron() -> nn.Sequential:
    """LeNet-300-100."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


IMAGES = (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))
PIXELS = (torch.randn(128, 784), torch.randint(10, (128,)))
Prepare = Callable[[nn.Module], list[nn.Parameter]]


def steps(factory: Callable[[], nn.Module], prepare: Prepare, data: tuple[torch.Tensor, torch.Tensor], n: int) -> float:
    """Seconds for a training step with Adam."""
    module = factory().train()
    optimizer = torch.optim.Adam(prepare(module))
    begin = 0.0
    for step in range(n + 3):
        if step == 3:
            begin = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(module(data[0]), data[1]).backward()
        optimizer.step()
    return (time.perf_counter() - begin) / n


def ratio(factory: Callable[[], nn.Module], ours: Prepare, plain: Prepare, data: tuple, n: int) -> str:
    """Median and quartiles of ours over plain, neither always first."""
    ratios = []
    for turn in range(ROUNDS):
        order = (ours, plain) if turn % 2 else (plain, ours)
        took = {prepare: steps(factory, prepare, data, n) for prepare in order}
        ratios.append(took[ours] / took[plain])
    ratios.sort()
    return f"{hand.median(ratios):.3f} (quartiles {ratios[ROUNDS // 4]:.3f} to {ratios[-ROUNDS // 4]:.3f})"


def everything(module: nn.Module) -> list[nn.Parameter]:
    """All parameters, nothing frozen."""
    return list(module.parameters())


def frozen(module: nn.Module) -> list[nn.Parameter]:
    """The first two blocks frozen by letitgo."""
    freeze(module, select(module, "0", "1", "4", "5"))
    return trainable(module)


def flagged(module: nn.Module) -> list[nn.Parameter]:
    """The same by plain flags."""
    for part in module[:8]:
        part.requires_grad_(False)
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def tenth(module: nn.Module) -> list[nn.Parameter]:
    """10 % of the filters and units of each layer."""
    return hold(module, fraction(module, 0.1)).parameters()


def tenth_and_norms(module: nn.Module) -> list[nn.Parameter]:
    """10 % of the filters and units of each layer, and all norms."""
    return hold(module, fraction(module, 0.1) | norms(module)).parameters()


def masked(density: float) -> Prepare:
    """A random mask over single weights, as a pruning mask keeps them, with all biases."""

    def prepare(module: nn.Module) -> list[nn.Parameter]:
        masks = {name: torch.rand_like(p) < density for name, p in module.named_parameters() if p.ndim > 1}
        return hold(module, entries(module, masks) | biases(module)).parameters()

    return prepare


def state(prepare: Prepare) -> int:
    """Numbers that Adam keeps after a step."""
    module = convolutional()
    optimizer = torch.optim.Adam(prepare(module))
    cross_entropy(module(IMAGES[0]), IMAGES[1]).backward()
    optimizer.step()
    return sum(x.numel() for kept in optimizer.state.values() for x in kept.values() if x.ndim)


print(f"frozen whole layers / plain flags: {ratio(convolutional, frozen, flagged, IMAGES, 10)}")
for name, prepare in (("10 % of the filters", tenth), ("the same and all norms", tenth_and_norms)):
    print(f"{name} / everything: {ratio(convolutional, prepare, everything, IMAGES, 10)}")
    print(f"  the optimiser's state: {state(prepare) / state(everything):.3f}")
for density in (0.9, 0.5, 0.2, 0.05):
    measured = ratio(perceptron, masked(density), everything, PIXELS, 60)
    print(f"LeNet-300-100, {density:.0%} of the weights / dense: {measured}")
