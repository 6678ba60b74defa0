"""A training step in a random subspace against the plain step, and larger D against the floor; one thread.

Goals on LeNet-300-100, d = 750, batch 128: fastfood at most 4 × the plain step, sparse at most 2.5 ×. The floor of a
projection is to read each array that was drawn once, and to read and write D numbers, at the speed of a copy.
"""

import time
from collections.abc import Callable

import hand
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import hold, subspace
from letitgo.weights.projections import draw

torch.set_num_threads(1)
ROUNDS, STEPS = 15, 8


def perceptron() -> nn.Sequential:
    """LeNet-300-100."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


PIXELS, LABELS = torch.randn(128, 784), torch.randint(10, (128,))


def trainer(kind: str, said: bool = False) -> Callable[[], None]:
    """What takes a step with Adam."""
    module = perceptron()
    parameters = list(module.parameters())
    if kind != "plain":
        parameters = hold(module, subspace(module, 750, kind, said=said)).parameters()
    optimizer = torch.optim.Adam(parameters)

    def work() -> None:
        optimizer.zero_grad()
        cross_entropy(module(PIXELS), LABELS).backward()
        optimizer.step()

    for _ in range(3):
        work()
    return work


def milliseconds(work: Callable[[], object], n: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(n):
        work()
    return 1e3 * (time.perf_counter() - begin) / n


ways = {
    "plain": trainer("plain"),
    "fastfood": trainer("fastfood"),
    "fastfood, SAID": trainer("fastfood", said=True),
    "sparse": trainer("sparse"),
}
times: dict[str, list[float]] = {name: [] for name in ways}
for _ in range(ROUNDS):
    for name, work in ways.items():
        times[name].append(milliseconds(work, STEPS))
print(f"LeNet-300-100, d = 750, batch 128: plain {hand.median(times['plain']):.2f} ms")
for name, took in times.items():
    ratio = hand.median([ours / plain for ours, plain in zip(took, times["plain"], strict=True)])
    print(
        f"  {name}: {hand.median(took):.2f} ms, {ratio:.2f} × plain; of the least {min(took) / min(times['plain']):.2f}"
    )
del ways
took = []
for _ in range(5):
    plain, dense = (milliseconds(trainer(kind), 3) for kind in ("plain", "dense"))
    took.append(dense / plain)
print(f"  dense: {hand.median(took):.1f} × plain")


def projecting(kind: str, size: int, d: int = 1000) -> str:
    """Time of P z and of Pᵀ g, and memory."""
    begin = time.perf_counter()
    projection = draw(kind, size, d, 0)
    drawn = time.perf_counter() - begin
    z, gradient, source, target = torch.randn(d), torch.randn(size), torch.randn(2**24), torch.empty(2**24)
    works = (lambda: projection.image(z), lambda: projection.pull_back(gradient), lambda: target.copy_(source))
    turns = [[milliseconds(work) for work in works] for _ in range(9)]
    there, back, copy = (hand.median([turn[i] for turn in turns]) for i in range(3))
    arrays = sum(array.numel() * array.element_size() for array in projection.arrays.values())
    speed = 8 * 2**24 / copy  # bytes in a millisecond, read and written
    floor = (arrays + 4 * size) / speed
    return (
        f"D = {size:,}, d = {d}, {kind}: P z {there:.1f} ms, Pᵀ g {back:.1f} ms; floor {floor:.1f} ms each at "
        f"{speed / 1e6:.0f} GB/s; drawn in {drawn:.1f} s; {arrays / size:.1f} bytes a weight, and 4 for θ₀"
    )


for size in (10**6, 10**7):
    for kind in ("fastfood", "sparse"):
        print(projecting(kind, size))
