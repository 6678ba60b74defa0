"""Features at the cut, computed once: any network trains on them to the same bits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import bits
from hypothesis import given, settings
from networks import Case, cases
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from letitgo import BadRequest, cache_features, freeze, select, trainable
from letitgo.errors import WorkFailed
from letitgo.weights import seeded
from letitgo.weights.cut import find_cut

COUNT, BATCH = 22, 8


class Residual(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.linear(self.norm(x)))


class Own(nn.Module):
    """Blocks that are handed angles, which a part without weights makes of the inputs' shape; one block runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(12))
        self.stem, self.blocks, self.head = (
            nn.Linear(12, 12),
            nn.ModuleList(Residual() for _ in range(3)),
            nn.Linear(12, 3),
        )
        self.angles, self.dropout = Angles(), nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        angles = self.angles(inputs)
        x = self.stem(inputs) + self.position
        for block in (self.blocks[0], *self.blocks):
            x = block(x) if block is self.blocks[0] else block(x * angles)
        return self.head(self.dropout(x))


class Angles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[1]).cos().to(x.dtype)


def own() -> nn.Module:
    return Own()


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **sizes))


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], str]] = {
    "own": (own, ["position", "stem", "blocks.0", "blocks.1"], "blocks.1"),
    "vit": (vit, ["vit.embeddings", "vit.layers.0", "vit.layers.1"], "vit.layers.1"),
    "bert": (bert, ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"], "bert.encoder.layer.1"),
    "resnet": (resnet, ["resnet.embedder", "resnet.encoder.stages.0"], "resnet.encoder.stages.0"),
    "llama": (llama, ["model.embed_tokens", "model.layers.0"], "model.layers.0"),
}


class Tokens(Dataset):
    """Sequences, some of them padded, as mappings."""

    def __init__(self, words: bool = False) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids, self.lengths = torch.randint(1, 50, (COUNT, 6), generator=draw), torch.arange(COUNT) % 4 + 3
        self.labels = self.ids if words else torch.arange(COUNT) % 3

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        mask = (torch.arange(6) < self.lengths[i]).long()
        return {"input_ids": self.ids[i], "attention_mask": mask, "labels": self.labels[i]}


def data(name: str) -> Dataset:
    if name in ("bert", "llama"):
        return Tokens(words=name == "llama")
    draw = torch.Generator().manual_seed(0)
    shape = (COUNT, 12) if name == "own" else (COUNT, 3, 32, 32) if name == "resnet" else (COUNT, 3, 8, 8)
    return TensorDataset(torch.randn(shape, generator=draw), torch.arange(COUNT) % 3)


def frozen(name: str) -> nn.Module:
    make, patterns, _ = NETWORKS[name]
    module = seeded(make, 0)
    freeze(module, select(module, *patterns), statistics="frozen", dropout="off")
    return module


def loss_of(module: nn.Module, batch: Any) -> Tensor:
    if isinstance(batch, Mapping):
        return module(**batch).loss
    inputs, labels = batch
    outputs: Any = module(inputs)
    return nn.functional.cross_entropy(getattr(outputs, "logits", outputs), labels)


def fit(module: nn.Module, examples: Any, epochs: int = 2) -> dict[str, bytes]:
    optimizer = torch.optim.AdamW(trainable(module), 1e-2)
    torch.manual_seed(0)
    for epoch in range(epochs):
        module.train()
        order = torch.Generator().manual_seed(epoch)
        for batch in DataLoader(examples, BATCH, shuffle=True, generator=order):
            optimizer.zero_grad()
            loss_of(module, batch).backward()
            optimizer.step()
    return bits(module.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_on_cached_features_to_the_same_bits(name, tmp_path):
    whole, cached = frozen(name), frozen(name)
    features = cache_features(cached, DataLoader(data(name), BATCH), tmp_path / "features.safetensors")
    assert features.cut == NETWORKS[name][2]
    calls = []
    first = cached.get_submodule(features.cut)
    hook = next(iter(first.children())).register_forward_hook(lambda *_: calls.append(1))
    assert fit(cached, features) == fit(whole, data(name))
    assert not calls  # nothing before the cut was run
    hook.remove()
    batch = next(iter(DataLoader(data(name), BATCH)))
    assert torch.equal(loss_of(cached.eval(), batch), loss_of(whole.eval(), batch))  # the data themselves, too
    features.release()
    assert not any("forward" in vars(part) or part._forward_hooks for part in cached.modules())


def test_inputs_are_kept_where_the_rest_uses_them():
    features = cache_features(frozen("bert"), data("bert"))
    assert sorted(features[0]) == ["attention_mask", "cached_features", "labels"]
    inputs, label = cache_features(frozen("vit"), data("vit"))[5]
    assert (list(inputs), int(label)) == (["cached_features"], 2)


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_a_replay_gives_the_bits_of_the_whole_or_is_refused(case: Case):
    module = case.module()
    freeze(module, select(module, *case.chosen) if case.chosen else case.selection, statistics="frozen", dropout="off")
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    before = bits(module.state_dict())
    cut, _ = find_cut(module.train(), inputs)
    assert bits(module.state_dict()) == before
    if cut is None:
        return
    assert not any(parameter.requires_grad for name, parameter in module.named_parameters() if name in cut.used)
    torch.manual_seed(0)
    whole = copy.deepcopy(module)(inputs)
    cut.install()
    kept = cut.capture(inputs)
    torch.manual_seed(0)
    assert torch.equal(cut.rest(kept, dict.fromkeys(cut.needed, inputs)), whole)


def test_a_file_is_used_again_where_weights_and_inputs_are_the_same(tmp_path):
    file = tmp_path / "features.safetensors"

    def cached(module: nn.Module, examples: Any) -> float:
        cache_features(module, examples, file).release()
        return file.stat().st_mtime_ns

    first = cached(frozen("vit"), data("vit"))
    module = frozen("vit")
    with torch.no_grad():
        module.get_parameter("classifier.bias").add_(1)  # beyond the cut
    assert cached(module, data("vit")) == first
    with torch.no_grad():
        module = frozen("vit")
        module.get_parameter("vit.layers.0.mlp.fc1.bias").add_(1)
    second = cached(module, data("vit"))
    assert second != first
    images, labels = data("vit").tensors  # type: ignore[attr-defined]
    assert cached(module, TensorDataset(images + 1, labels)) != second
    file.write_bytes(b"{}")
    with pytest.raises(BadRequest, match="is not a whole safetensors file"):
        cache_features(module, data("vit"), file)


def test_what_draws_or_depends_on_the_batch_is_refused_by_name():
    module = seeded(bert, 0)
    freeze(module, select(module, "bert.embeddings", "bert.encoder.layer.0"))
    with pytest.raises(BadRequest, match=r"bert\.embeddings\.dropout draws random numbers, so the .* dropout='off'"):
        cache_features(module, data("bert"))
    module = seeded(resnet, 0)
    freeze(module, select(module, "resnet.embedder", "resnet.encoder.stages.0"))
    norm = r"resnet\.embedder\.embedder\.normalization takes statistics of the batch, .* statistics='frozen'"
    with pytest.raises(BadRequest, match=norm):
        cache_features(module, data("resnet"))
    module = frozen("vit")
    module.get_submodule("vit.layers.0").register_forward_hook(lambda *_: None)
    with pytest.raises(BadRequest, match=r"vit\.layers\.0 has hooks or a forward pass of its own"):
        cache_features(module, data("vit"))


class Noisy(TensorDataset):
    transform = "RandomNoise()"

    def __getitem__(self, i: Any) -> Any:
        image, label = super().__getitem__(i)
        return image + torch.randn(image.shape), label


def test_augmentation_is_refused_by_name():
    with pytest.raises(BadRequest, match=r"augmented at random by RandomNoise\(\)"):
        cache_features(frozen("vit"), Noisy(*data("vit").tensors))  # type: ignore[attr-defined]


class Mixed(nn.Module):
    """Examples are held against the mean of their batch, by hand; or the output differs from call to call."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.first, self.head, self.counts, self.calls = nn.Linear(12, 12), nn.Linear(12, 3), counts, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += self.counts
        return self.head(self.first(inputs + self.calls if self.counts else inputs - inputs.mean(0)))


@pytest.mark.parametrize("counts", [False, True])
def test_outputs_that_depend_on_more_than_the_example_are_refused(counts):
    module = Mixed(counts)
    freeze(module, select(module, "first"))
    with pytest.raises(BadRequest, match=r"for an example change with|nothing frozen can be computed once"):
        cache_features(module, data("own"))


def test_nothing_frozen_and_what_flows_past_every_block_are_refused():
    with pytest.raises(BadRequest, match=r"position trains: freeze the first parts|stem\.weight trains: freeze"):
        cache_features(seeded(own, 0), data("own"))

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.head(torch.cat([a, self.b(a)], 1))

    module = Dense()
    freeze(module, select(module, "a", "b"))
    assert cache_features(module, data("own")).cut == "a"  # that of b is not all that flows on


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ([1, 2], "inputs is an int: a batch has to be of tensors"),
        ([torch.zeros(12)], "two examples are needed"),
        (iter([torch.zeros(12)]), "no data set with a length"),
        ([(torch.zeros(12), "cat"), (torch.zeros(12), "dog")], "part 1 of a batch is a"),
        ([torch.zeros(5), torch.zeros(5)], "the network does not take the example: RuntimeError"),
    ],
)
def test_data_that_cannot_be_read_are_refused(batch, match):
    def collate(items: Any) -> Any:
        return items[0] if isinstance(items[0], int) else torch.utils.data.default_collate(items)

    examples = DataLoader(batch, 2, collate_fn=collate) if isinstance(batch, list) else batch
    with pytest.raises(BadRequest, match=match):
        cache_features(frozen("own"), examples)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None])
def test_a_batch_size_is_a_whole_number(size):
    with pytest.raises(BadRequest, match=f"batch_size is {size!r}: give a whole number from 1 on"):
        cache_features(frozen("own"), data("own"), batch_size=size)


def test_more_than_a_gibibyte_needs_a_file(monkeypatch):
    monkeypatch.setattr("letitgo.weights.features.PREFIX_BYTES", 100)
    with pytest.raises(BadRequest, match=r"the outputs of blocks\.1 take 0\.0 GB: give a file"):
        cache_features(frozen("own"), data("own"))


def test_a_change_before_the_cut_is_noticed():
    module = seeded(vit, 0).train()
    freeze(module, select(module, *NETWORKS["vit"][1]))
    features = cache_features(module, data("vit"))
    with pytest.raises(BadRequest, match="takes cached features already"):
        cache_features(module, data("vit"))
    batch = next(iter(DataLoader(features, BATCH)))
    weight = module.get_parameter("vit.layers.0.mlp.fc1.weight")
    with torch.no_grad():
        weight.mul_(1)
    loss_of(module, batch)  # the same bits: nothing changed
    module.vit.layers[0].eval()  # type: ignore[index, union-attr]
    with pytest.raises(WorkFailed, match="another mode"):
        loss_of(module, batch)
    module.train()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(WorkFailed, match="another autocast"):
        loss_of(module, batch)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(WorkFailed, match=r"weights up to vit\.layers\.1 changed"):
        loss_of(module, batch)
    weight.requires_grad_(True)
    with pytest.raises(WorkFailed, match=r"fc1\.weight trains, and its outputs are cached"):
        loss_of(module, batch)


def test_copies_and_workers_take_features_too():
    module = frozen("vit").train()
    features = cache_features(module, data("vit"))
    batch = next(iter(DataLoader(features, BATCH)))
    expected = loss_of(module, batch)
    copied = copy.deepcopy(module)
    assert torch.equal(loss_of(copied, batch), expected)
    with torch.no_grad():
        copied.get_parameter("classifier.bias").add_(torch.tensor([1.0, 0, 0]))
    assert not torch.equal(loss_of(copied, batch), expected)  # it runs on weights of its own
    assert torch.equal(pickle.loads(pickle.dumps(features))[3][0]["cached_features"], features.features[3])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo asks for it
def test_a_network_that_is_compiled_afterwards_takes_features():
    module = frozen("own").train()
    module.get_submodule("dropout").p = 0.0  # type: ignore[assignment]
    features = cache_features(module, data("own"))
    cached, whole = (next(iter(DataLoader(examples, BATCH))) for examples in (features, data("own")))
    expected = loss_of(module, whole)
    compiled: Any = torch.compile(module, backend="eager")
    for _ in range(2):
        assert torch.equal(loss_of(compiled, cached), expected)
        assert torch.equal(loss_of(compiled, whole), expected)
    with pytest.raises(BadRequest, match="compiled: give the module"):
        cache_features(compiled, data("own"))


def test_a_part_that_is_frozen_whole_gives_its_own_outputs():
    module = nn.Sequential(nn.Linear(12, 8), nn.ReLU())
    freeze(module, select(module, "0"))
    with cache_features(module, data("own")) as features:
        assert features.cut == ""
        inputs, _ = next(iter(DataLoader(features, 5)))
        assert torch.equal(module(inputs), features.features[:5])
