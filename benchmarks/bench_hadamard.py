"""The Walsh-Hadamard transform against the textbook butterfly and a copy, one thread.

Goal: at least 4 × faster than the butterfly at 2²⁰ and 2²³ floats. Timed in turns, medians. The butterfly is written
the usual way, each level stacked from sums and differences; the careful one into a tensor made for the level.
Give a device to run on, the CPU where none is given.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from letitgo import walsh_hadamard

torch.set_num_threads(1)
DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")


def butterfly(x: Tensor) -> Tensor:
    n, half = len(x), 1
    while half < n:
        pairs = x.view(-1, 2, half)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), 1)
        half *= 2
    return x.view(-1) / n**0.5


def careful(x: Tensor) -> Tensor:
    n, half = len(x), 1
    while half < n:
        pairs = x.view(-1, 2, half)
        out = torch.empty_like(pairs)
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, half = out, half * 2
    return x.view(-1) / n**0.5


def seconds(work: Callable[[Tensor], Tensor], x: Tensor) -> float:
    begin = time.perf_counter()
    work(x)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


for bits, rounds in ((10, 301), (16, 101), (20, 41), (23, 9)):
    x = torch.randn(2**bits, device=DEVICE)
    ways = {"ours": walsh_hadamard, "butterfly": butterfly, "careful": careful, "copy": torch.clone}
    torch.testing.assert_close(walsh_hadamard(x), butterfly(x), atol=1e-3, rtol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work, x))
    took = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    least = {name: 1e3 * min(values) for name, values in times.items()}
    speed = {name: 8e-6 * len(x) / took[name] for name in ways}
    print(f"2^{bits}: {took['ours']:.3f} ms (least {least['ours']:.3f})")
    for name in ("butterfly", "careful"):
        print(f"  {name}: {took[name] / took['ours']:.1f} × as long (of the least {least[name] / least['ours']:.1f})")
    print(f"  {speed['ours']:.1f} GB/s read and written, against {speed['copy']:.1f} of a copy")
