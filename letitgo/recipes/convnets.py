"""The papers' convolutional networks, for images of the size of CIFAR's; grey and smaller ones too, down to a limit.

Every network is an ``nn.Sequential`` at its root, so that a frozen prefix can be computed once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from letitgo.errors import BadRequest, nearest
from letitgo.recipes.init import Init, drawn

Shortcut = Literal["pad", "projection"]
"""How a residual block's shortcut gains channels: with zeros (He et al.'s option A), or by a 1×1 convolution (B)."""

Shape = tuple[int, ...]


def images(name: str, input_shape: Shape, least: int = 1) -> Shape:
    """The channels, height and width that a network is built for.

    Raises:
        BadRequest: The data are no images, or smaller than ``least``.
    """
    if len(input_shape) != 3:
        raise BadRequest(f"{name} takes images (channels, height, width); the data has shape {input_shape}")
    if min(input_shape[1:]) < least:
        _, height, width = input_shape
        raise BadRequest(f"{name} takes images of at least {least}×{least} pixels; the data has {height}×{width}")
    return input_shape


def conv2(input_shape: Shape, num_classes: int, init: Init = "glorot") -> nn.Sequential:
    """Conv-2 of FC18 (arXiv:1803.03635): two convolutions, max-pooling, dense layers of 256 and 256 units.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        init: As in :func:`letitgo.recipes.init.drawn`; the paper's is Glorot's normal law, biases zero.
    """
    return _conv("conv2", input_shape, num_classes, (64,), init)


def conv4(input_shape: Shape, num_classes: int, init: Init = "glorot") -> nn.Sequential:
    """Conv-4 of FC18: :func:`conv2` with two more convolutions of 128 filters."""
    return _conv("conv4", input_shape, num_classes, (64, 128), init)


def conv6(input_shape: Shape, num_classes: int, init: Init = "glorot") -> nn.Sequential:
    """Conv-6 of FC18: :func:`conv4` with two more convolutions of 256 filters."""
    return _conv("conv6", input_shape, num_classes, (64, 128, 256), init)


def _conv(name: str, input_shape: Shape, num_classes: int, stages: Sequence[int], init: Init) -> nn.Sequential:
    _, height, width = images(name, input_shape, 2 ** len(stages))
    modules = _stages(input_shape[0], [(filters,) * 2 for filters in stages], norm=False)
    units = stages[-1] * (height >> len(stages)) * (width >> len(stages))
    modules |= {"flatten": nn.Flatten()}
    for i in (1, 2):
        modules |= {f"fc{i}": nn.Linear(units, 256), f"fc{i}_relu": nn.ReLU()}
        units = 256
    return drawn(nn.Sequential(OrderedDict(modules, fc3=nn.Linear(units, num_classes))), init)


def _stages(channels: int, stages: Sequence[Sequence[int]], norm: bool) -> dict[str, nn.Module]:
    """Convolutions of 3×3 with ReLU, numbered through, and max-pooling after each stage."""
    modules: dict[str, nn.Module] = {}
    i = 0
    for stage, widths in enumerate(stages, start=1):
        for filters in widths:
            i += 1
            modules[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1, bias=not norm)
            modules |= {f"norm{i}": nn.BatchNorm2d(filters)} if norm else {}
            modules[f"relu{i}"] = nn.ReLU()
            channels = filters
        modules[f"pool{stage}"] = nn.MaxPool2d(2)
    return modules


def vgg11(input_shape: Shape, num_classes: int, norm: bool = True, init: Init | None = None) -> nn.Sequential:
    """VGG-11 for CIFAR, as ZBS19 and FC18 use the family: convolutions, the mean over all places, one dense layer.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        norm: BatchNorm after each convolution, in the place of its bias.
        init: As in :func:`letitgo.recipes.init.drawn`. By default Glorot's normal law with norms, as FC18 and MYPT19
            have it; without norms He's, which keeps the size of signals in a deep network.
    """
    return _vgg("vgg11", input_shape, num_classes, (1, 1, 2, 2, 2), norm, init)


def vgg13(input_shape: Shape, num_classes: int, norm: bool = True, init: Init | None = None) -> nn.Sequential:
    """VGG-13 for CIFAR; all else as in :func:`vgg11`."""
    return _vgg("vgg13", input_shape, num_classes, (2, 2, 2, 2, 2), norm, init)


def vgg16(input_shape: Shape, num_classes: int, norm: bool = True, init: Init | None = None) -> nn.Sequential:
    """VGG-16 for CIFAR; all else as in :func:`vgg11`."""
    return _vgg("vgg16", input_shape, num_classes, (2, 2, 3, 3, 3), norm, init)


def vgg19(input_shape: Shape, num_classes: int, norm: bool = True, init: Init | None = None) -> nn.Sequential:
    """VGG-19 for CIFAR, that of FC18, FDRC19 and MYPT19; all else as in :func:`vgg11`."""
    return _vgg("vgg19", input_shape, num_classes, (2, 2, 4, 4, 4), norm, init)


def _vgg(
    name: str, input_shape: Shape, num_classes: int, counts: Sequence[int], norm: bool, init: Init | None
) -> nn.Sequential:
    channels = images(name, input_shape, 16)[0]
    widths = [(filters,) * count for filters, count in zip((64, 128, 256, 512, 512), counts, strict=True)]
    modules = _stages(channels, widths, norm)
    del modules["pool5"]
    network = nn.Sequential(OrderedDict(modules, **_head(512, num_classes)))
    return drawn(network, init or ("glorot" if norm else "he"))


def _head(channels: int, num_classes: int) -> dict[str, nn.Module]:
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, num_classes)}


class Residual(nn.Module):
    """A residual block of two convolutions, each with its norm (He et al., arXiv:1512.03385)."""

    def __init__(self, channels: int, filters: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.stride, self.more = stride, filters - channels
        if self.more and shortcut == "projection":
            conv = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(filters)))

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(inputs)))))
        return torch.relu(out + self._carried(inputs))

    def _carried(self, inputs: Tensor) -> Tensor:
        if hasattr(self, "shortcut"):
            return self.shortcut(inputs)
        kept = inputs[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, 0, self.more))


def resnet20(input_shape: Shape, num_classes: int, shortcut: Shortcut = "pad", width: int = 16) -> nn.Sequential:
    """ResNet-20 for CIFAR (He et al., arXiv:1512.03385): stages of 16, 32 and 64 filters, three blocks each.

    Weights are normal with variance 2 / inputs (arXiv:1502.01852), biases zero, scales of norms 1.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        shortcut: ``"pad"``, as He et al. on CIFAR; ``"projection"``, as FC18 and FDRC19, who call the network
            ResNet-18, and HHS18.
        width: Filters of the first stage; the others have twice and four times as many.
    """
    return _resnet("resnet20", input_shape, num_classes, _widths(width), 3, shortcut)


def resnet56(input_shape: Shape, num_classes: int, shortcut: Shortcut = "pad", width: int = 16) -> nn.Sequential:
    """ResNet-56 for CIFAR: nine blocks a stage; all else as in :func:`resnet20`. HHS18's has projections."""
    return _resnet("resnet56", input_shape, num_classes, _widths(width), 9, shortcut)


def _widths(width: int) -> tuple[int, int, int]:
    if type(width) is not int or width < 1:
        raise BadRequest(f"width is {width!r}: give a whole number from 1")
    return width, 2 * width, 4 * width


def resnet18(input_shape: Shape, num_classes: int) -> nn.Sequential:
    """ResNet-18 with a stem for CIFAR, 3×3 and no pooling: stages of 64 to 512 filters, two blocks each, projections.

    Initialized as :func:`resnet20`. What FC18 and FDRC19 call ResNet-18 is ``resnet20``.
    """
    return _resnet("resnet18", input_shape, num_classes, (64, 128, 256, 512), 2, "projection")


def _resnet(
    name: str, input_shape: Shape, num_classes: int, widths: Sequence[int], count: int, shortcut: Shortcut
) -> nn.Sequential:
    if shortcut not in ("pad", "projection"):
        raise BadRequest(f"shortcut is {shortcut!r}: {nearest(shortcut, ('pad', 'projection'))}")
    modules: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(images(name, input_shape)[0], widths[0], 3, padding=1, bias=False),
        "norm1": nn.BatchNorm2d(widths[0]),
        "relu1": nn.ReLU(),
    }
    before = widths[0]
    for stage, filters in enumerate(widths, start=1):
        ins, strides = [before, *[filters] * (count - 1)], [1 if stage == 1 else 2, *[1] * (count - 1)]
        blocks = [Residual(channels, filters, stride, shortcut) for channels, stride in zip(ins, strides, strict=True)]
        modules[f"layer{stage}"] = nn.Sequential(*blocks)
        before = filters
    return drawn(nn.Sequential(OrderedDict(modules, **_head(before, num_classes))), "he")


class Wide(nn.Module):
    """A residual block with norm and ReLU before each convolution (Zagoruyko and Komodakis, arXiv:1605.07146)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        same = channels == filters and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        first = torch.relu(self.norm1(inputs))
        out = self.conv2(torch.relu(self.norm2(self.conv1(first))))
        return out + (inputs if self.shortcut is None else self.shortcut(first))


def wrn28(input_shape: Shape, num_classes: int, k: int = 10) -> nn.Sequential:
    """Wide ResNet 28-k (arXiv:1605.07146): stages of 16k, 32k and 64k filters, four blocks each, no dropout.

    Weights are normal with variance 2 / outputs, as in the authors' code; biases zero, scales of norms 1.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        k: How many times as wide as a ResNet.
    """
    if type(k) is not int or k < 1:
        raise BadRequest(f"k is {k!r}: give a whole number from 1")
    channels = images("wrn28", input_shape)[0]
    modules: dict[str, nn.Module] = {"conv1": nn.Conv2d(channels, 16, 3, padding=1, bias=False)}
    before = 16
    for stage in (1, 2, 3):
        filters = 8 * k * 2**stage
        first = Wide(before, filters, 1 if stage == 1 else 2)
        modules[f"layer{stage}"] = nn.Sequential(first, *(Wide(filters, filters, 1) for _ in range(3)))
        before = filters
    modules |= {"norm": nn.BatchNorm2d(before), "relu": nn.ReLU(), **_head(before, num_classes)}
    return drawn(nn.Sequential(OrderedDict(modules)), "he", "fan_out")


class DenseLayer(nn.Module):
    """A bottleneck of 1×1 and a convolution of 3×3, whose outputs are put beside the inputs (arXiv:1608.06993)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(inputs))))))
        return torch.cat([inputs, out], 1)


class DenseBlock(nn.ModuleDict):
    """Dense layers, one after another."""

    def __init__(self, channels: int, growth: int, count: int) -> None:
        super().__init__({f"layer{i + 1}": DenseLayer(channels + i * growth, growth) for i in range(count)})

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.values():
            inputs = layer(inputs)
        return inputs


def densenet_bc(input_shape: Shape, num_classes: int, depth: int = 100, growth: int = 12) -> nn.Sequential:
    """DenseNet-BC (arXiv:1608.06993): three dense blocks with bottlenecks, and channels halved between them.

    Weights are normal with variance 2 / inputs (arXiv:1502.01852), biases zero, scales of norms 1.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        depth: Number of layers: 4 more than a multiple of 6.
        growth: Channels that each dense layer adds.
    """
    count, rest = divmod(depth - 4, 6)
    if rest or count < 1:
        raise BadRequest(f"depth is {depth}: densenet-bc takes 10, 16, 22 and so on, 4 more than a multiple of 6")
    channels = 2 * growth
    first = images("densenet-bc", input_shape, 4)[0]
    modules: dict[str, nn.Module] = {"conv1": nn.Conv2d(first, channels, 3, padding=1, bias=False)}
    for i in (1, 2, 3):
        modules[f"dense{i}"] = DenseBlock(channels, growth, count)
        channels += count * growth
        if i < 3:
            parts: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()}
            parts |= {"conv": nn.Conv2d(channels, channels // 2, 1, bias=False), "pool": nn.AvgPool2d(2)}
            modules[f"transition{i}"] = nn.Sequential(OrderedDict(parts))
            channels //= 2
    modules |= {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(), **_head(channels, num_classes)}
    return drawn(nn.Sequential(OrderedDict(modules)), "he")
