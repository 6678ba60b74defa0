"""Expected share of a training step's time with layers frozen, as ``cost`` tells it, against the measured share.

Goal: within 0.05 of the measured one for products of matrices and within 0.10 for convolutions, on average over the
choices of a network. What is not counted (norms, activations, pooling, the optimiser) is what they differ by. SGD with
momentum, random inputs, one thread; the choices take turns within a round. Takes about two minutes.
"""

import time
from collections.abc import Callable
from typing import Any

import hand
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import cost, freeze, layers, select, trainable
from letitgo.recipes.networks import fcn, lenet

torch.set_num_threads(1)
ROUNDS, SECONDS = 41, 0.05  # short turns and many of them: a busy moment then spoils few ratios


def norms() -> nn.Module:
    """Three convolutions with batch normalization on 32×32 pixels."""
    modules: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        modules += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        modules += [nn.MaxPool2d(2)]
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(64 * 16, 10))


def vit() -> nn.Module:
    """A small vision transformer on 32×32 pixels, 65 tokens."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=4, num_labels=10, **sizes))


def stepper(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Callable[[int], float]:
    """Gives the seconds that a step takes on average over so many."""
    optimizer = torch.optim.SGD(trainable(module), lr=1e-3, momentum=0.9)

    def steps(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            outputs: Any = module(inputs)
            cross_entropy(getattr(outputs, "logits", outputs), labels).backward()
            optimizer.step()
        return (time.perf_counter() - begin) / count

    steps(3)
    return steps


def compare(name: str, make: Callable[[], nn.Module], batch: tuple[int, ...], choices: list[list[str]]) -> None:
    """Prints a line for each choice of what is frozen."""
    inputs, labels = torch.randn(batch), torch.randint(10, batch[:1])
    turns = []
    for choice in [[], *choices]:
        module = make().train()
        if choice:
            freeze(module, select(module, *choice))
        turns.append(stepper(module, inputs, labels))
    count = max(1, round(SECONDS / min(turns[0](1) for _ in range(5))))
    rounds = [[turn(count) for turn in turns] for _ in range(ROUNDS)]
    whole = make()
    print(
        f"{name}, batch {'×'.join(map(str, batch))}: {1000 * hand.median([times[0] for times in rounds]):.1f} ms a step"
    )
    differences = []
    for i, choice in enumerate(choices, start=1):
        told = cost(whole, inputs[:2], select(whole, *choice)).share
        shares = [times[i] / times[0] for times in rounds]
        differences.append(told - hand.median(shares))
        spread = " to ".join(f"{sorted(shares)[len(shares) * quarter // 4]:.3f}" for quarter in (1, 3))
        print(f"  {'+'.join(choice):40} {told:8.3f} {hand.median(shares):8.3f} {differences[-1]:+8.3f}   {spread}")
    average = sum(map(abs, differences)) / len(differences)
    print(f"  average difference {average:.3f}, largest {max(map(abs, differences)):.3f}")


def each_and_prefixes(module: nn.Module) -> list[list[str]]:
    """Every layer alone, the last one among them, and the first half of them together."""
    names = list(layers(module))
    return [[name] for name in names] + [names[: len(names) // 2]]


print(f"share of a full step: expected, measured (median of {ROUNDS} rounds), difference, middle half of the rounds")
image = (1, 28, 28)
compare("FCN 3×256", lambda: fcn(image, 10), (128, *image), each_and_prefixes(fcn(image, 10)))
compare("LeNet", lambda: lenet(image, 10), (128, *image), each_and_prefixes(lenet(image, 10)))
blocks = [["0", "1"], ["4", "5"], ["8", "9"], ["0", "1", "4", "5"], ["13"]]
compare("convolutions with BatchNorm", norms, (64, 3, 32, 32), blocks)
try:
    import transformers  # noqa: F401
except ImportError:
    print("ViT: transformers is not installed")
else:
    depth = [[f"vit.layers.{i}"] for i in range(4)]
    prefix = ["vit.embeddings", "vit.layers.0", "vit.layers.1"]
    compare("ViT, 4 blocks", vit, (32, 3, 32, 32), [["vit.embeddings"], *depth, prefix, ["classifier"]])
