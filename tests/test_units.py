"""What is one unit: modules, layers with their norms, blocks; on our networks and on those of others."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from helpers import NormNet, small_recipe
from test_architectures import bert, gpt2, llama, vit
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan.cost import step_cost
from letitgo.recipes.networks import find_network
from letitgo.studies.subject import Subject
from letitgo.weights import By, layers, select, units, with_norms

CIFAR = (3, 32, 32)


def of(module: nn.Module, by: By = "layer", *patterns: str) -> dict[str, list[str]]:
    return units(module, layers(module), by, patterns)


def built(name: str, **args) -> nn.Module:
    return find_network(name, CIFAR, 10, args)()


def encoder(norm_first: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(OrderedDict(embed=nn.Embedding(5, 8), encoder=inner, fc=nn.Linear(8, 2)))


class ViTBlock(nn.Module):
    """As timm's: norms first, a scale for each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(8)
        self.attn = nn.Sequential(OrderedDict(qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8)))
        self.norm2 = nn.LayerNorm(8)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(8, 16), fc2=nn.Linear(16, 8)))
        self.gamma = nn.Parameter(torch.ones(8))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(ViTBlock(), ViTBlock())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)


BLOCKS = {
    "resnet20": (lambda: built("resnet20"), ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)), "fc"]),
    "wrn28": (lambda: built("wrn28", k=1), ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(4)), "fc"]),
    "vgg11": (lambda: built("vgg11"), [*(f"conv{i}" for i in range(1, 9)), "fc"]),
    "densenet-bc": (
        lambda: built("densenet-bc", depth=16),
        ["conv1", "dense1", "transition1.conv", "dense2", "transition2.conv", "dense3", "fc"],
    ),
    "TransformerEncoder": (encoder, ["embed", "encoder.layers.0", "encoder.layers.1", "fc"]),
    "ViT": (ViT, ["cls_token", "patch_embed", "blocks.0", "blocks.1", "head"]),
    "transformers' ViT": (vit, ["vit.embeddings", "vit.layers.0", "vit.layers.1", "classifier"]),
    "transformers' BERT": (
        bert,
        ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "cls.predictions"],
    ),
    "transformers' GPT-2": (gpt2, ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1"]),
    "transformers' Llama": (
        llama,
        ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"],
    ),
    "in a wrapper": (lambda: nn.DataParallel(encoder()), ["embed", "encoder.layers.0", "encoder.layers.1", "fc"]),
    "no lists": (NormNet, ["fc1", "fc2", "head"]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_by_structure(name):
    build, expected = BLOCKS[name]
    module = build((1, 8, 8), 10) if build is NormNet else build()
    found = of(module, "block")
    if "transformers'" in name:  # whose versions differ in the names of what is in no block
        assert [unit for unit in expected if "." in unit and unit not in found] in ([], ["cls.predictions"])
        assert len(found) <= len(expected) + 2
    else:
        assert list(found) == expected
    assert sorted(layer for group in found.values() for layer in group) == sorted(layers(module))


def test_a_norm_goes_with_the_layer_before_it():
    found = of(built("resnet20", shortcut="projection"))
    assert found["conv1"] == ["conv1", "norm1"]
    assert found["layer2.0.shortcut.conv"] == ["layer2.0.shortcut.conv", "layer2.0.shortcut.norm"]
    assert found["fc"] == ["fc"]
    assert len(found) == 22


def test_a_norm_that_comes_first_goes_with_the_layer_after_it():
    found = of(built("wrn28", k=1))
    assert found["layer2.0.conv1"] == ["layer2.0.norm1", "layer2.0.conv1"]
    assert found["layer3.3.conv2"] == ["layer3.3.norm2", "layer3.3.conv2", "norm"]
    found = of(ViT())
    assert found["blocks.1.attn.qkv"] == ["blocks.1.norm1", "blocks.1.attn.qkv"]
    assert found["blocks.1.mlp.fc1"] == ["blocks.1.norm2", "blocks.1.mlp.fc1"]
    assert found["blocks.1.mlp.fc2"] == ["blocks.1.mlp.fc2", "norm"]
    assert found["blocks.1.gamma"] == ["blocks.1.gamma"]


@pytest.mark.parametrize("norm_first", [False, True])
def test_norms_side_by_side_stay_alone(norm_first):
    found = of(encoder(norm_first))
    assert found["encoder.layers.0.norm1"] == ["encoder.layers.0.norm1"]
    assert found["encoder.layers.0.linear2"] == ["encoder.layers.0.linear2"]


def test_modules_are_all_by_themselves():
    module = built("vgg11")
    assert of(module, "module") == {layer: [layer] for layer in layers(module)}


def test_networks_without_norms_have_the_same_units_by_layer_and_by_module():
    for name in ("conv4", "lenet", "fcn"):
        assert of(built(name)) == of(built(name), "module")


def test_patterns_win_over_blocks():
    found = of(built("resnet20"), "block", "layer1", "layer3.*")
    assert list(found)[:3] == ["conv1", "layer1", "layer2.0"]
    assert len(found["layer1"]) == 12
    with pytest.raises(BadRequest, match="matches no block"):
        of(built("resnet20"), "layer", "stage*")


def test_norms_are_selected_with_their_layers():
    module = built("vgg11")
    assert with_norms(module, select(module, "conv2")).parameters == ("conv2.weight", "norm2.weight", "norm2.bias")
    assert with_norms(module, select(module, "norm2")).parameters == ("norm2.weight", "norm2.bias")


def test_studies_act_on_a_layer_with_its_norm():
    subject = Subject(small_recipe(model="helpers:NormNet", widths=None))
    by_layer = {unit.name: unit.parameters for unit in subject.units()}
    assert list(by_layer) == ["fc1", "fc2", "head"]
    assert by_layer["fc1"] == ("fc1.weight", "fc1.bias", "norm1.weight", "norm1.bias")
    assert [unit.name for unit in subject.units(by="module")] == ["fc1", "norm1", "fc2", "norm2", "head"]
    assert subject.units(["fc1"])[0].parameters == by_layer["fc1"]
    assert [unit.name for unit in subject.units(["norm1"])] == ["norm1"]
    assert [u.name for u in subject.units(by="module", leave_out=subject.norms)] == ["fc1", "fc2", "head"]


@pytest.mark.parametrize("by", ["layer", "block"])
def test_what_units_spare_is_counted_as_if_each_was_counted_anew(by):
    recipe = small_recipe(model="resnet20", widths=None, fit="1x8x8")
    subject, plain = Subject(recipe), recipe.dataset.plain
    for unit in subject.units(by=by)[:6:2]:
        trains = subject.but(unit.parameters)
        module = recipe.network()
        weights.train_only(module, weights.Selection(trains, weights.parameter_names(module)))
        anew = weights.step_cost(module, plain.split("train").batch(slice(0, 2)))
        assert step_cost(recipe.network, trains, "follow", plain) == anew, unit.name
