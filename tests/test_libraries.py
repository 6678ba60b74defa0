"""Networks of timm, torchvision and transformers in studies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import bits, small_recipe
from test_inspect import needs
from torch import nn

from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute.training import carry_out
from letitgo.plan import Graft, Initial, Run, adapted, open_weights
from letitgo.recipes import Recipe
from letitgo.recipes.networks import find_network
from letitgo.store import Store, open_store
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.check import check_recipe
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.subject import Subject
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.weights import head, layers, seeded, units

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TINY = {**SMALL, "patch_size": 4}
TIMM_VIT = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
TEXT = {"data": "python-manual", "vocabulary": 60, "examples": 40, "batch_size": 16}

RECIPES: dict[str, dict[str, Any]] = {
    "timm ResNet": {"model": "timm:resnet18", "model_args": {"channels": [4, 4, 8, 8]}},
    "timm ViT": {"model": "timm:vit_tiny_patch16_224", "model_args": TIMM_VIT},
    "torchvision ResNet": {"model": "torchvision:resnet18", "model_args": {"width_per_group": 64}, "fit": "3x32x32"},
    "ViT": {"model": "transformers:vit", "model_args": TINY},
    "BERT": {"model": "transformers:bert", "model_args": SMALL, **TEXT},
    "BERT on sequences": {"model": "transformers:bert", "model_args": SMALL, "data": "helpers:sequences"},
    "GPT-2 on sequences": {
        "model": "transformers:gpt2",
        "model_args": {"n_embd": 16, "n_layer": 2, "n_head": 2},
        "data": "helpers:sequences",
    },
    "GPT-2": {"model": "transformers:gpt2", "model_args": {"n_embd": 16, "n_layer": 2, "n_head": 2}, **TEXT},
}
LAWS = [
    name for name in RECIPES if name not in ("torchvision ResNet", "GPT-2 on sequences")
]  # the first has 11 million weights


def recipe(name: str, **fields: Any) -> Recipe:
    needs(RECIPES[name]["model"].partition(":")[0])
    given = {"widths": None, "examples": 40, "batch_size": 16, "epochs": 2, "lr": 0.01, "momentum": 0.9}
    return small_recipe(**given | RECIPES[name] | fields)


@pytest.mark.parametrize("name", RECIPES)
def test_they_get_the_shape_and_the_classes_of_the_data(name):
    found = recipe(name)
    check_recipe(found)
    module = seeded(found.network, 0)
    inputs = found.dataset.sample
    with torch.no_grad():
        outputs = module.eval()(inputs)
    labels = found.dataset.split("train").labels[:2]
    assert outputs.shape == (*labels.shape, found.dataset.outputs)


@pytest.mark.parametrize("name", LAWS)
def test_the_laws(name, store, tmp_path):
    """Frozen to the bit; the same seed, the same bits; resumed as if never stopped; grafted its own, unchanged."""
    found = recipe(name)
    of = Subject(found)
    unit = of.units(by="block")[-2]
    frozen = Run(Initial(found.network, 0), of.but(unit.parameters), found)
    carry_out(frozen, store, [frozen.recipe.steps])
    start, end = frozen.start.load(store), frozen.final.load(store)
    assert bits({n: end[n] for n in unit.parameters}) == bits({n: start[n] for n in unit.parameters})
    assert sum(not torch.equal(start[n], end[n]) for n in frozen.trains) > len(frozen.trains) / 2

    other = Store(tmp_path / "other")
    for stop in (2, found.steps):
        carry_out(frozen, other, [stop])
    assert bits(frozen.final.load(other)) == bits(end)
    assert bits(frozen.final.optimizer(other)[0]) == bits(frozen.final.optimizer(store)[0])

    another = Initial(found.network, 1)
    names = tuple(n for n in start if n in of.trainable)
    assert bits(Graft(frozen.final, unit.parameters, frozen.final).load(store)) == bits(end)
    grafted, donor = Graft(frozen.start, names, another).load(store), another.load(store)
    assert bits({n: grafted[n] for n in names}) == bits({n: donor[n] for n in names})
    assert any(not torch.equal(start[n], donor[n]) for n in unit.parameters)


@pytest.mark.parametrize("name", ["BERT", "GPT-2"])
def test_the_next_word_is_not_seen(name):
    module = seeded(recipe(name).network, 0).eval()
    words = torch.arange(10).view(1, 10)
    changed = words.clone()
    changed[0, 6:] = 11
    with torch.no_grad():
        assert torch.equal(module(words)[:, :6], module(changed)[:, :6])


@pytest.mark.parametrize("name", ["BERT on sequences", "GPT-2 on sequences"])
def test_padding_changes_nothing(name):
    found = recipe(name)
    module = seeded(found.network, 0).eval()
    tokens = torch.randint(1, 30, (3, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(module(tokens), module(torch.nn.functional.pad(tokens, (0, 4))))
    assert module.config.vocab_size == found.dataset.vocabulary


def test_output_layers():
    assert recipe("GPT-2").network.head == "transformer.wte"  # tied to lm_head
    assert recipe("ViT").network.head == "classifier"
    assert recipe("BERT").network.head == "bert.embeddings.word_embeddings"  # tied to the decoder


@pytest.mark.parametrize(("name", "output"), [("timm ResNet", "fc"), ("timm ViT", "head")])
def test_units_of_timm(name, output):
    module = seeded(recipe(name).network, 0)
    assert head(module) == output
    found = units(module, layers(module), "block")
    assert [unit for unit in found if unit in ("layer1.0", "layer4.1", "blocks.0", "blocks.1")]
    assert all(len(group) == 1 or "." in unit or unit == "conv1" for unit, group in found.items())


def test_parameters_keep_the_names_of_the_library():
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("vit", **TINY, image_size=8, num_channels=1, num_labels=10)
    plain = transformers.AutoModelForImageClassification.from_config(config)
    assert list(recipe("ViT").network().state_dict()) == list(plain.state_dict())


def test_the_key_has_the_version_and_the_configuration_and_no_path(tmp_path):
    transformers = pytest.importorskip("transformers")
    keys = []
    for folder, size in (("a", 24), ("b", 24), ("c", 32)):
        config = transformers.ViTConfig(**SMALL | {"intermediate_size": size}, patch_size=4)
        config.save_pretrained(tmp_path / folder)
        keys.append(recipe("ViT", model=f"transformers:{tmp_path / folder}", model_args={}))
    assert keys[0].key == keys[1].key != keys[2].key
    assert keys[0].key == recipe("ViT").key
    assert keys[0].covered == [f"transformers {transformers.__version__}"]
    assert str(tmp_path) not in json.dumps(keys[0].network.args)


def test_a_classifier_of_theirs_is_fixed():
    fixed = recipe("ViT", model="fixed-classifier", model_args={"network": "transformers:vit", **TINY})
    check_recipe(fixed)
    assert fixed.network.args["network"] == "transformers:vit"
    assert fixed.network.code
    assert "classifier.weight" not in dict(fixed.network().named_parameters())


WRONG = {
    "weights of the library's": (
        "ViT",
        {"model_args": {"pretrained": True}},
        "pretrained does not apply: initial weights are drawn under a seed, and pretrained ones are what letitgo "
        "finetune --pretrained takes",
    ),
    "a field that is none": ("ViT", {"model_args": {"hiden_size": 3}}, "has no 'hiden_size': did you mean hidden_size"),
    "images for words": ("ViT", TEXT, "transformers has no network of type 'vit' for text (AutoModelForCausalLM)"),
    "words for images": ("BERT", {"data": "digits", "vocabulary": None}, "no network of type 'bert' for images"),
    "patches that do not fit": ("ViT", {"model_args": {**SMALL, "patch_size": 16}}, "the network 'transformers:vit'"),
    "text for timm": ("timm ResNet", TEXT, "'resnet18' takes images"),
    "timm's weights": ("timm ResNet", {"model_args": {"pretrained": True}}, "pretrained does not apply"),
    "a name that timm lacks": ("timm ResNet", {"model": "timm:resnt18"}, "timm has no model 'resnt18': did you mean"),
    "grey images for torchvision": ("torchvision ResNet", {"fit": "1x32x32"}, "takes 3 channels, the images have 1"),
    "boxes": ("torchvision ResNet", {"model": "torchvision:ssd300_vgg16"}, "does not classify images"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_gets_one_sentence(what):
    name, fields, sentence = WRONG[what]
    with pytest.raises(BadRequest) as raised:
        check_recipe(recipe(name, **fields))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


STAND_IN = """
from torch import nn

def is_model(name):
    return name in list_models()

def list_models():
    return ["tiny", "tiny_fixed"]

class get_pretrained_cfg:
    def __init__(self, name):
        self.fixed_input_size = name == "tiny_fixed"

def create_model(name, num_classes, in_chans, img_size=None, width=4):
    sizes = img_size or (8, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * sizes[0] * sizes[1], width), nn.Linear(width, num_classes))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A library under timm's name, for where timm does not import."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "stand_in" / "timm").mkdir(parents=True)
    (tmp_path / "stand_in" / "timm" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "stand_in")
    yield
    sys.modules.pop("timm", None)


@pytest.mark.parametrize("name", ["tiny", "tiny_fixed"])
def test_what_timm_is_called_with(name, stand_in):
    network = find_network(f"timm:{name}", (3, 8, 8), 7, {"width": 5})
    module = network()
    assert isinstance(module, nn.Sequential)
    assert (module[1].weight.shape, module[2].weight.shape) == ((5, 192), (7, 5))
    assert list(network.source) == ["timm"]
    if name == "tiny_fixed":
        assert find_network("timm:tiny_fixed", (1, 4, 6), 7, {})()[1].in_features == 24


STUDIES: dict[str, Callable[[Recipe], Any]] = {
    "map": lambda recipe: Map(recipe, seeds=1, reinit_at=(0,), layers=("classifier",)),
    "advisers": lambda recipe: Advisers(recipe, seeds=2, layers=("vit.layers.*",)),
    "finetune": lambda recipe: Finetune(recipe, {"shift": "invert"}, seeds=1, layers=("classifier",)),
    "fraction": lambda recipe: Fraction(recipe, seeds=1, shares=(0.5,), only=()),
    "classifier": lambda recipe: Classifier(recipe, seeds=1, kinds=("hadamard",)),
    "dimension": lambda recipe: Dimension(recipe, seeds=1, grid=(20,)),
    "ticket": lambda recipe: Ticket(recipe, seeds=1, levels=1),
    "carry": lambda recipe: Carry([recipe, replace(recipe, shift="invert")], seeds=1, levels=1, rewind="1it"),
    "align": lambda recipe: Align(recipe, seeds=1),
    "train": lambda recipe: Train(recipe, freeze=("vit.layers.0",)),
}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_takes_them(study, store):
    small = {**SMALL, "num_hidden_layers": 1, "patch_size": 4}
    found = recipe("ViT", model_args=small, epochs=1, examples=200, batch_size=64, test_examples=50)
    outcome = compute(STUDIES[study](found), store)
    assert outcome.failures == []
    assert len(outcome.rows)


def saved(folder: Path, kind: str = "ViTForImageClassification", shards: str = "1GB") -> Any:
    """A network of transformers for 5 classes, written to a folder as it does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    module = getattr(transformers, kind)(transformers.ViTConfig(**TINY, image_size=8, num_channels=1, num_labels=5))
    module.save_pretrained(folder, max_shard_size=shards)
    return module


def started(path: str) -> tuple[Any, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The start from pretrained weights, its tensors, and those drawn under the seed."""
    network = recipe("ViT").network
    start = adapted(open_weights(path, network), network, 3)
    return start, start.load(open_store()), Initial(network, 3).load(open_store())


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_weights_from_a_folder_whole_in_parts_and_from_the_cache_of_the_hub(kind, tmp_path, monkeypatch):
    own = saved(tmp_path / "whole", kind).state_dict()
    saved(tmp_path / "parts", kind, "6KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    cached = tmp_path / "cache" / "models--timm--vit" / "snapshots" / ("0" * 40)
    cached.parent.mkdir(parents=True)
    (tmp_path / "whole").rename(cached)
    (cached.parents[1] / "refs").mkdir()
    (cached.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    keys = []
    for path in (str(cached), str(tmp_path / "parts"), "timm:vit", "transformers:timm/vit"):
        start, state, fresh = started(path)
        keys.append(start.key)
        for name, tensor in state.items():
            theirs = own.get(name if kind != "ViTModel" else name.removeprefix("vit."))
            new = name.startswith("classifier")
            assert torch.equal(tensor, fresh[name] if new else theirs), name  # drawn anew for 10 classes
    assert keys[0] == keys[2] == keys[3] != keys[1]


def test_pickled_weights_in_a_folder(tmp_path):
    own = saved(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(own, tmp_path / "pytorch_model.bin")
    _, state, _ = started(str(tmp_path))
    assert torch.equal(state["vit.layers.0.mlp.fc1.weight"], own["vit.layers.0.mlp.fc1.weight"])


def test_fine_tuning_from_a_folder(tmp_path, store):
    saved(tmp_path / "weights")
    found = recipe("ViT", epochs=1, examples=200, batch_size=64, test_examples=50)
    study = Finetune(found, str(tmp_path / "weights"), seeds=1, layers=("classifier",))
    outcome = compute(study, store)
    assert outcome.failures == []
    assert study.new_head(study.subjects[0]) == "classifier"


@pytest.mark.parametrize("what", ["nothing", "no index", "elsewhere", "other sizes", "not in the cache"])
def test_weights_that_are_none_get_one_sentence(what, tmp_path):
    sentence, path = {
        "nothing": ("holds no weights: they are in model.safetensors or pytorch_model.bin", str(tmp_path)),
        "no index": ("is no index of weights in parts", str(tmp_path)),
        "elsewhere": ("names '../x': the parts lie beside it", str(tmp_path)),
        "other sizes": ("has shape (24, 16)", str(tmp_path)),
        "not in the cache": ("'no/such' is no folder here, and the hub cannot be reached", "transformers:no/such"),
    }[what]
    index = {"no index": "[]", "elsewhere": '{"weight_map": {"a": "../x"}}'}.get(what)
    if index:
        (tmp_path / "model.safetensors.index.json").write_text(index)
    network = recipe("ViT").network
    if what == "other sizes":
        saved(tmp_path)
        network = recipe("ViT", model_args={**TINY, "intermediate_size": 32}).network
    with pytest.raises((BadRequest, WorkFailed)) as raised:
        adapted(open_weights(path, network), network, 0)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_a_language_model_becomes_a_classifier_of_sequences(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    module = getattr(transformers, kind)(transformers.BertConfig(**SMALL, vocab_size=50))
    module.save_pretrained(tmp_path)
    found = recipe("BERT on sequences", model=f"transformers:{tmp_path}", model_args={})
    assert found.network().config.vocab_size == 50  # more than the data have
    start = adapted(open_weights(str(tmp_path), found.network), found.network, 0)
    state, own = start.load(open_store()), module.state_dict()
    assert all(torch.equal(state[name], own[name]) for name in state if name in own)
    new = {name.rpartition(".")[0] for name in state if name not in own}
    assert new == {"classifier"} | ({"bert.pooler.dense"} if kind == "BertForMaskedLM" else set())
    check_recipe(found)
