"""The papers' convolutional networks: as many parameters as published, and sizes they take or refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from letitgo.errors import BadRequest
from letitgo.recipes.convnets import conv2, conv4, conv6, vgg11
from letitgo.recipes.data import open_data
from letitgo.recipes.networks import NETWORKS, find_network
from letitgo.recipes.recipe import BUILT_IN
from letitgo.weights import seeded

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def built(name: str, shape: tuple[int, ...] = CIFAR, classes: int = 10, **args) -> nn.Module:
    return find_network(name, shape, classes, args)()


def numbers(module: nn.Module, least: int = 1) -> int:
    """How many numbers its parameters of at least so many dimensions have."""
    return sum(p.numel() for p in module.parameters() if p.ndim >= least)


@pytest.mark.parametrize(
    ("name", "all", "conv"),
    [  # from the architecture that FC18 states (3 × 3, two convolutions a stage, 256, 256, 10), on 32 × 32
        ("conv2", 4_300_992, 38_592),  # FC18: 4.3M / 38K
        ("conv4", 2_425_024, 259_776),  # FC18: 2.4M / 260K
        ("conv6", 2_261_184, 1_144_512),  # FC18 prints 1.7M / 1.1M, which its stated architecture cannot give
    ],
)
def test_conv_networks_have_the_weights_of_fc18(name, all, conv):
    assert (numbers(built(name), 2), numbers(built(name), 4)) == (all, conv)


@pytest.mark.parametrize(
    ("name", "args", "count"),
    [
        ("vgg19", {}, 20_035_018),  # FC18 and FDRC19: 20.0M; a replication of MYPT19: 20.03M
        ("vgg11", {}, 9_228_362),  # written out by hand from the stages, with norms and without
        ("vgg11", {"norm": False}, 9_225_610),
        ("resnet20", {}, 269_722),  # He et al.: 0.27M
        ("resnet20", {"shortcut": "projection"}, 267_696 + 2_560 + 650 + 2 * 784),  # FC18: convolutions, shortcuts, fc
        ("resnet56", {}, 853_018),  # He et al.: 0.85M
        ("resnet56", {"shortcut": "projection"}, 855_770),  # HHS18
        ("resnet18", {}, 11_689_512 - 513_000 + 5_130 - 9_408 + 1_728),  # torchvision's, with another head and stem
        ("wrn28", {}, 36_479_194),  # Zagoruyko and Komodakis: 36.5M
        ("densenet-bc", {}, 800_032 - 34_300 + 3_430),  # HHS18's with 10 classes; Huang et al.: 0.8M
    ],
)
def test_parameters_are_as_many_as_published(name, args, count):
    assert numbers(built(name, **args)) == count


def test_densenet_has_the_parameters_of_hhs18_on_cifar_100():
    assert numbers(built("densenet-bc", classes=100)) == 800_032


def test_wrn_of_width_4_is_that_of_rt18():
    assert 5.8e6 < numbers(built("wrn28", k=4)) < 5.9e6


@pytest.mark.parametrize("name", [name for name in BUILT_IN.split(", ") if name[0] in "cvrwd"])
@pytest.mark.parametrize("shape", [CIFAR, MNIST])
def test_colour_and_grey_images_are_taken(name, shape):
    module = built(name, shape, 7, **({"k": 1} if name == "wrn28" else {})).eval()
    assert module(torch.ones(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vgg16", "vgg16 takes images of at least 16×16 pixels; the data has 8×8"),
        ("densenet-bc", "densenet-bc takes images of at least 4×4 pixels; the data has 2×2"),
        ("conv6", "conv6 takes images of at least 8×8 pixels; the data has 2×2"),
        ("resnet20", "resnet20 takes images (channels, height, width); the data has shape (35,)"),
    ],
)
def test_data_that_do_not_fit_are_refused(name, sentence):
    shape = (35,) if "shape" in sentence else (1, 8, 8) if "8×8" in sentence.split(";")[1] else (1, 2, 2)
    with pytest.raises(BadRequest) as error:
        built(name, shape)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("resnet20", {"shortcut": "B"}, "shortcut is 'B': choose from pad, projection"),
        ("wrn28", {"k": 0}, "k is 0: give a whole number from 1"),
        ("densenet-bc", {"depth": 99}, "depth is 99: densenet-bc takes 10, 16, 22 and so on, 4 more than a multiple"),
    ],
)
def test_wrong_arguments_are_refused(name, args, sentence):
    with pytest.raises(BadRequest) as error:
        built(name, **args)
    assert str(error.value).startswith(sentence)


def test_layers_have_readable_names():
    names = list(find_network("resnet20", CIFAR, 10, {"shortcut": "projection"}).layers)
    assert names[:4] == ["conv1", "norm1", "layer1.0.conv1", "layer1.0.norm1"]
    assert "layer2.0.shortcut.conv" in names
    assert names[-1] == "fc"
    assert list(find_network("vgg11", CIFAR, 10, {"norm": False}).layers) == [*(f"conv{i}" for i in range(1, 9)), "fc"]
    assert list(find_network("conv2", CIFAR, 10, {}).layers) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert "dense3.layer16.conv2" in find_network("densenet-bc", CIFAR, 10, {}).layers


def test_initial_weights_have_the_law_of_the_papers():
    weight = seeded(lambda: conv4(CIFAR, 10), 0).get_parameter("conv4.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 128 + 9 * 128)) ** 0.5, rel=0.02)  # Glorot's
    weight = seeded(find_network("resnet18", CIFAR, 10, {}), 0).get_parameter("layer2.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)  # He's, inputs
    weight = seeded(find_network("wrn28", CIFAR, 10, {"k": 2}), 0).get_parameter("layer2.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)  # He's, outputs
    biases = [p for p in seeded(lambda: conv6(CIFAR, 10), 0).parameters() if p.ndim == 1]
    assert all((bias == 0).all() for bias in biases)


def test_signals_keep_their_size_in_a_vgg_without_norms():
    images = torch.randn(8, *CIFAR, generator=torch.Generator().manual_seed(0))
    logits = {init: seeded(lambda init=init: vgg11(CIFAR, 10, False, init), 0)(images) for init in (None, "glorot")}
    assert 0.2 < logits[None].std() < 5
    assert logits["glorot"].std() < 0.1


def test_padded_shortcuts_carry_the_inputs():
    block = built("resnet20").get_submodule("layer2.0")
    for norm in ("norm1", "norm2"):
        nn.init.zeros_(block.get_submodule(norm).weight)
    inputs = torch.rand(2, 16, 8, 8)
    out = block(inputs)
    assert torch.equal(out[:, :16], inputs[:, :, ::2, ::2])
    assert not out[:, 16:].any()


@pytest.mark.parametrize(("name", "sizes"), [("conv2", [128, 128, 103]), ("fcn", [359])])
def test_convolutions_are_evaluated_in_small_batches(name, sizes):
    data, module, seen = open_data("digits"), built(name, DIGITS), []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    split = data.split("test")
    found = data.task.evaluate(module, split)
    assert seen == sizes
    assert found["n"] == 359
    with torch.no_grad():
        right = module(split.batch(slice(None))).argmax(1) == split.labels
    assert found["accuracy"] == right.double().mean()


def test_help_names_every_network():
    assert {name.partition(" (")[0] for name in BUILT_IN.split(", ")} == NETWORKS.keys() - {"fixed-classifier"}


def test_conv2_learns_digits_by_heart():
    module, generator = seeded(lambda: conv2(DIGITS, 10), 0), torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, *DIGITS, generator=generator), torch.arange(40) % 10
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    assert (module(images).argmax(1) == labels).all()
