"""The library on the networks people have: small ones of the packages they come from."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import bits
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights import (
    biases,
    copied,
    everything,
    fraction,
    freeze,
    hold,
    initial_state,
    layers,
    norms,
    select,
    thaw,
    ties,
    trainable,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Loss = Callable[[nn.Module], Tensor]


def of_transformers(auto: str, kind: str, **config: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **config))

    return build


def of_timm(name: str, **args: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        try:
            import timm
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"timm does not import here: {error}")
        return timm.create_model(name, **args)

    return build


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGES = {"image_size": 16, "patch_size": 8, "num_channels": 3}
WORDS = {"vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def pixels(module: nn.Module) -> Tensor:
    outputs = module(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return (getattr(outputs, "logits", outputs) - 1).square().mean()


def words(module: nn.Module) -> Tensor:
    tokens = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    return (module(input_ids=tokens).logits - 1).square().mean()


resnet = of_transformers(
    "AutoModelForImageClassification",
    "resnet",
    embedding_size=8,
    hidden_sizes=[8, 16],
    depths=[1, 1],
    layer_type="basic",
    num_labels=3,
)
vit = of_transformers("AutoModelForImageClassification", "vit", **SMALL, **IMAGES, num_labels=3)
bert = of_transformers("AutoModelForMaskedLM", "bert", **SMALL, **WORDS)
llama = of_transformers("AutoModelForCausalLM", "llama", **SMALL, **WORDS, num_key_value_heads=1)
gpt2 = of_transformers("AutoModelForCausalLM", "gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=50)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Loss, tuple[str, ...]]] = {
    "ResNet": (resnet, pixels, ("resnet.*",)),
    "ViT": (vit, pixels, ("vit.*",)),
    "BERT": (bert, words, ("bert.encoder.*",)),
    "Llama": (llama, words, ("model.layers.*",)),
    "GPT-2": (gpt2, words, ("transformer.h.*",)),
    "timm ResNet": (of_timm("resnet10t", num_classes=3), pixels, ("layer1", "layer2")),
    "timm ViT": (
        of_timm("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_classes=3),
        pixels,
        ("blocks", "cls_token", "pos_embed"),
    ),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Loss, tuple[str, ...]]:
    build, loss, backbone = NETWORKS[request.param]
    torch.manual_seed(0)
    return build().train(), loss, backbone


def train(module: nn.Module, loss: Loss, parameters: list[nn.Parameter], steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        module.eval()
        module.train()
        optimizer.zero_grad(set_to_none=False)
        loss(module).backward()
        optimizer.step()


def test_a_frozen_backbone_stays_to_the_bit(case):
    module, loss, patterns = case
    backbone = select(module, *patterns)
    before = copied(module)
    parents = {name.rpartition(".")[0] for name in backbone}
    freeze(module, backbone, statistics="frozen", dropout="off")
    train(module, loss, list(module.parameters()))
    after = copied(module)
    stay = {name for name in before if name in backbone or name.rpartition(".")[0] in parents}
    assert bits({n: after[n] for n in stay}) == bits({n: before[n] for n in stay})
    assert any(not torch.equal(after[n], before[n]) for n in trainable_names(module))
    thaw(module, backbone)
    train(module, loss, trainable(module), steps=1)
    assert any(not torch.equal(module.get_parameter(n), before[n]) for n in backbone)


def trainable_names(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.requires_grad]


def test_a_tenth_of_the_filters_trains_and_nothing_else(case):
    module, loss, _ = case
    part = fraction(module, 0.1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    keys = list(module.state_dict())
    with hold(module, part) as held:
        train(module, loss, held.parameters())
        assert list(module.state_dict()) == keys
    moved = 0
    for name, parameter in module.named_parameters():
        mask = part.entries.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter[~mask], before[name][~mask])
        moved += int((parameter != before[name]).sum())
    assert moved > 0.5 * sum(int(mask.sum()) for mask in part.entries.values())


@pytest.mark.parametrize("choose", [norms, biases])
def test_norms_alone_and_biases_alone(case, choose):
    module, loss, _ = case
    try:
        part = choose(module)
    except BadRequest:
        assert choose is biases
        return  # a network without biases
    if not len(part):
        return
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with hold(module, part) as held:
        train(module, loss, held.parameters())
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= set(part)


def test_every_parameter_belongs_to_one_layer(case):
    module, _, _ = case
    owned = [name for names in layers(module).values() for name in names]
    assert sorted(owned) == sorted(name for name, _ in module.named_parameters())


def test_a_copy_and_a_state_dict_come_through_freezing(case):
    module, loss, patterns = case
    backbone = select(module, *patterns)
    freeze(module, backbone, statistics="frozen")
    other = copy.deepcopy(module)
    other.load_state_dict(module.state_dict())
    train(other, loss, trainable(other))
    assert bits({n: other.get_parameter(n) for n in backbone}) == bits({n: module.get_parameter(n) for n in backbone})


@pytest.mark.parametrize("name", ["ResNet", "ViT", "BERT", "Llama"])
def test_initial_weights_are_a_function_of_the_seed(name):
    build = NETWORKS[name][0]
    one, again, other = (initial_state(build, seed) for seed in (0, 0, 1))
    assert bits(one) == bits(again)
    drawn = [n for n in one if one[n].is_floating_point() and one[n].std() > 0 and one[n].numel() > 1]
    differing = [n for n in drawn if not torch.equal(one[n], other[n])]
    assert any("weight" in n for n in differing)


def test_tied_weights_are_named_where_they_are_chosen():
    module = gpt2()
    assert ties(module) == {"lm_head.weight": "transformer.wte.weight"}
    with pytest.raises(BadRequest, match=r"lm_head\.weight is tied to transformer\.wte\.weight.*choose"):
        select(module, "lm_head")
    freeze(module, select(module, "transformer.wte"))
    before = module.lm_head.weight.detach().clone()
    train(module, words, trainable(module))
    assert torch.equal(module.lm_head.weight, before)


def test_a_class_token_is_not_left_trainable():
    module = vit()
    freeze(module, select(module, "vit"))
    assert not module.vit.embeddings.cls_token.requires_grad
    assert "vit.embeddings.cls_token" in layers(module)


def test_a_norm_with_equal_values_in_two_places_trains_in_both():
    """Membership by value would take one of two BatchNorm layers at their initialization for the other."""
    module = resnet()
    part = norms(module)
    freeze(module, ~part)
    before = {name: module.get_parameter(name).detach().clone() for name in part}
    train(module, pixels, trainable(module))
    assert all(not torch.equal(module.get_parameter(name), before[name]) for name in part)


def test_on_the_meta_device():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    freeze(module, select(module, "0", "1"), statistics="frozen")
    assert trainable_names(module) == ["2.weight", "2.bias"]
    thaw(module, everything(module))
    assert len(trainable(module)) == 6


def test_a_lazy_layer_is_a_clear_error():
    with pytest.raises(BadRequest, match="is lazy and has no shape yet: call the network on one batch first"):
        select(nn.Sequential(nn.LazyLinear(3)), "0")


def test_a_shared_module_is_one_layer():
    layer = nn.Linear(6, 6)
    module = nn.Sequential(layer, nn.ReLU(), layer)
    assert layers(module) == {"0": ("0.weight", "0.bias")}
    with pytest.raises(BadRequest, match=r"2\.weight is tied to 0\.weight"):
        select(module, "2")
