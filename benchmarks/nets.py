"""Small networks whose every subset of layers can be trained."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn


class Residual(nn.Module):
    """Adds its input to what a body makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.body(inputs)


def residual(input_shape: tuple[int, ...], num_classes: int, width: int = 48, depth: int = 4) -> nn.Sequential:
    """A linear layer, residual blocks of two layers each behind a norm, and a linear layer."""
    blocks = [
        Residual(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))
        for _ in range(depth)
    ]
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), width), *blocks, nn.Linear(width, num_classes))


def convolutions(input_shape: tuple[int, ...], num_classes: int, channels: int = 8) -> nn.Sequential:
    """Four convolutions, two after each halving of the image, and a linear layer."""
    sizes = [input_shape[0], channels, channels, 2 * channels, 2 * channels]
    modules: list[nn.Module] = []
    for i in range(4):
        convolution = nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        modules += [convolution, nn.ReLU(), *([nn.MaxPool2d(2)] if i % 2 else [])]
    side = input_shape[1] // 4
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(2 * channels * side * side, num_classes))
