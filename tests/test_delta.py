"""Saving what changed: loading gives it back to the bit, and what does not fit is refused with the module as it was."""

from __future__ import annotations

import json
import os
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import python
from hub_stub import hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from letitgo import BadRequest, WorkFailed, from_pretrained, initial_state, load, push_to_hub, save
from letitgo.recipes.networks import fcn
from letitgo.weights import coding, copied, load_state, sealed

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
INTEGERS = [torch.int64, torch.int32, torch.uint8, torch.bool]


def raw(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous tensor, one row for each element; writing to them writes to the tensor."""
    flat = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return flat.reshape(tensor.numel(), tensor.element_size())


def bits(state: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (t.dtype, t.shape, raw(t.contiguous()).tobytes()) for name, t in state.items()}


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, generator: np.random.Generator) -> Tensor:
    """NaN of every payload, infinities, subnormal numbers and -0.0 among them."""
    tensor = torch.empty(shape, dtype=dtype)
    view = raw(tensor)
    view[:] = generator.integers(0, 2 if dtype == torch.bool else 256, view.shape, dtype=np.uint8)
    return tensor


class Node(nn.Module):
    """A module that owns tensors and modules."""

    def __init__(self, tensors: list[Tensor], children: list[nn.Module]) -> None:
        super().__init__()
        for place, tensor in enumerate(tensors):
            if tensor.is_floating_point():
                self.register_parameter(f"p{place}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"b{place}", tensor)
        for place, child in enumerate(children):
            self.add_module(f"m{place}", child)


shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
owned = st.lists(st.tuples(shapes, st.sampled_from(FLOATS + INTEGERS)), max_size=4)
trees = st.recursive(st.tuples(owned, st.just(())), lambda inner: st.tuples(owned, st.lists(inner, max_size=3)))
seeds = st.integers(0, 2**32)


def build(tree: Any, generator: np.random.Generator, tied: bool = False) -> nn.Module:
    own, children = tree
    tensors = [any_bits(shape, dtype, generator) for shape, dtype in own]
    module = Node(tensors, [build(child, generator) for child in children])
    if tied:
        share(module)
    return module


def share(module: nn.Module) -> None:
    """Parameters of one shape and type become one."""
    seen: dict[Any, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters()):
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, seen.setdefault((parameter.shape, parameter.dtype), parameter))


def disturb(module: nn.Module, generator: np.random.Generator) -> None:
    """Some of the tensors get other bits: in some rows, in single values, or everywhere."""
    for tensor in module.state_dict().values():
        chosen = np.zeros(tuple(tensor.shape), bool)
        kind = generator.choice(["none", "rows", "values", "all"])
        if kind == "rows" and tensor.ndim:
            chosen[generator.random(len(tensor)) < generator.random()] = True
        elif kind != "none":
            chosen = generator.random(tuple(tensor.shape)) < (1 if kind == "all" else generator.random())
        other = any_bits(tuple(tensor.shape), tensor.dtype, generator)
        raw(tensor)[np.reshape(chosen, -1)] = raw(other)[np.reshape(chosen, -1)]


def net(seed: int = 0) -> nn.Module:
    """A small network with statistics, its weights a function of the seed."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 3))

    module = make()
    load_state(module, initial_state(make, seed))
    return module


def tuned(base: nn.Module) -> nn.Module:
    """A copy with some rows, some values, a whole tensor and the statistics changed."""
    module = net()
    load_state(module, copied(base))
    with torch.no_grad():
        module[0].weight[::4] += 1
        module[3].weight.view(-1)[::90] = torch.nan
        module[4].weight += 1
    module.train()(torch.randn(8, 6, generator=torch.Generator().manual_seed(1)))
    return module


def portrait(module: nn.Module) -> Any:
    return bits(copied(module)), [id(parameter) for parameter in module.parameters()]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tuned(net()), tmp_path / "delta.safetensors", base=net())
    return tmp_path / "delta.safetensors"


def refusal(module: nn.Module, path: Any, base: Any = None) -> str:
    """What loading says when it refuses; the module must be as it was."""
    before = portrait(module)
    with pytest.raises(BadRequest) as refused:
        load(module, path, base)
    assert portrait(module) == before
    return str(refused.value)


@settings(max_examples=150)
@given(tree=trees, seed=seeds, tied=st.booleans(), kind=st.sampled_from(["model", "mapping", "module", "file"]))
def test_loading_what_was_saved_is_the_identity(tree, seed, tied, kind, tmp_path):
    generator = np.random.default_rng(seed)
    base = build(tree, np.random.default_rng(seed), tied)
    state = copied(base)
    model, other = build(tree, np.random.default_rng(seed), tied), build(tree, generator, tied)
    if kind == "model":
        load_state(other, state)
    disturb(model, generator)
    save_model(base, str(tmp_path / "base"))
    given_base = {"model": None, "mapping": state, "module": base, "file": tmp_path / "base"}[kind]

    save(model, tmp_path / "delta", base=state if given_base is None else given_base)
    objects = [id(parameter) for parameter in other.parameters()]
    load(other, tmp_path / "delta", base=given_base)
    assert bits(other.state_dict()) == bits(model.state_dict())
    assert [id(parameter) for parameter in other.parameters()] == objects
    assert bits(copied(base)) == bits(state)


@given(seed=seeds, drawn=st.integers(-(2**70), 2**70))
def test_a_base_can_be_a_seed_and_a_factory(seed, drawn, tmp_path):
    def factory() -> nn.Module:
        return fcn((5,), 3, (7, 4))

    model, other = factory(), factory()
    load_state(model, initial_state(factory, drawn))
    disturb(model, np.random.default_rng(seed))
    save(model, tmp_path / "delta", base=(factory, drawn))
    load(other, tmp_path / "delta", base=factory)
    assert bits(copied(other)) == bits(copied(model))
    load(factory(), tmp_path / "delta", base=(factory, drawn))


def test_tensors_that_do_not_lie_in_order_are_saved_and_loaded(tmp_path):
    def conv() -> nn.Module:
        return nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)

    base, model, other = conv(), conv(), conv()
    save(model, tmp_path / "delta", base=base)
    load(other, tmp_path / "delta", base=base)
    assert torch.equal(model.weight, other.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        save(tuned(net()), tmp_path / name, base=net())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def about(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as opened:
        return json.loads(opened.metadata()["letitgo"])[0]


def test_the_file_tells_what_changed(saved):
    told = about(saved)
    assert told["changed"] == {
        "0.weight": "rows.mask",
        "1.running_mean": "whole",
        "1.running_var": "xor",
        "1.num_batches_tracked": "whole",
        "3.weight": "values.gaps",
        "4.weight": "whole",
    }
    assert told["versions"]["torch"] == torch.__version__
    stored = load_file(saved)
    assert stored["0.weight"].shape == (10, 6)
    assert np.flatnonzero(np.unpackbits(stored["0.weight.mask"].numpy())).tolist() == list(range(0, 40, 4))
    assert stored["3.weight.gaps"].tolist() == [0] + 17 * [89]


@given(data=st.data(), units=st.integers(1, 300_000))
def test_an_index_unpacks_to_what_was_packed(data, units):
    chosen = np.zeros(units, bool)
    chosen[data.draw(st.lists(st.integers(0, units - 1), min_size=1, max_size=40))] = True
    chosen[: data.draw(st.integers(0, units))] |= data.draw(st.booleans())
    kind, index = coding.pack(chosen, np.flatnonzero(chosen))
    unpacked = coding.unpack(index, f"values.{kind}", units, int(chosen.sum()))
    assert np.array_equal(unpacked, np.flatnonzero(chosen))
    assert index.nbytes <= -(-units // 8)


@pytest.mark.parametrize(
    ("share", "unit", "dtype", "limit"),
    [
        (0.05, "rows", torch.float32, 0.052),
        (0.05, "layer", torch.float32, 0.052),
        (0.05, "values", torch.float32, 0.064),
        (0.05, "values", torch.bfloat16, 0.078),
        (0.5, "values", torch.float32, 0.5 + 1 / 32 + 0.001),
        (1.0, "rows", torch.float32, 1.002),
    ],
)
def test_the_size_follows_what_was_trained(share, unit, dtype, limit, tmp_path):
    model = nn.Sequential(*(nn.Linear(200, 200, bias=False) for _ in range(20))).to(dtype)
    state = copied(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place, part in enumerate(model):
            if unit == "values":
                part.weight[torch.rand(200, 200, generator=generator) < share] += 1
            elif unit == "rows":
                part.weight[torch.randperm(200, generator=generator)[: int(200 * share)]] += 1
            elif place < 20 * share:
                part.weight += 1
    save(model, tmp_path / "delta", base=state)
    save_file(copied(model), tmp_path / "full")
    assert (tmp_path / "delta").stat().st_size <= limit * (tmp_path / "full").stat().st_size


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 0.68), (torch.float16, 0.56), (torch.bfloat16, 0.36)])
def test_a_full_fine_tune_is_smaller_than_a_checkpoint(dtype, limit, tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = {"weight": (torch.randn(400, 400, generator=generator) / 50).to(dtype)}
    module = nn.Linear(400, 400, bias=False).to(dtype)
    load_state(module, base)
    with torch.no_grad():
        module.weight += 1e-4 * torch.randn(400, 400, generator=generator).to(dtype)
    save(module, tmp_path / "delta", base=base)
    assert (tmp_path / "delta").stat().st_size <= limit * 400 * 400 * dtype.itemsize
    other = nn.Linear(400, 400, bias=False).to(dtype)
    load(other, tmp_path / "delta", base=base)
    assert bits(copied(other)) == bits(copied(module))


def test_nothing_changed_is_a_file_too(tmp_path):
    save(net(), tmp_path / "delta", base=net())
    module = net()
    load(module, tmp_path / "delta")
    assert bits(copied(module)) == bits(copied(net()))
    assert (tmp_path / "delta").stat().st_size < 1000


def test_a_new_head_is_stored_whole_and_asks_nothing_of_the_receivers(tmp_path):
    base = {name: tensor for name, tensor in copied(net()).items() if not name.startswith("4.")}
    model, other = tuned(net()), net()
    for extra in ({}, {"4.weight": torch.zeros(1000, 40)}):
        save(model, tmp_path / "delta", base={**base, **extra})
        nn.init.zeros_(other[4].weight)
        load(other, tmp_path / "delta", base=base)
        assert bits(copied(other)) == bits(copied(model))
    load_state(other, {**copied(net(1)), **base})
    load(other, tmp_path / "delta")
    assert bits(copied(other)) == bits(copied(model))


def test_another_base_is_refused_and_what_differs_is_named(saved, tmp_path):
    other = net()
    with torch.no_grad():
        other[3].bias[0] += 1
    said = "the base is not the one .*delta.safetensors was saved against: they differ in '3.bias'$"
    with pytest.raises(BadRequest, match=said):
        load(other, saved)
    refusal(other, saved)
    refusal(net(), saved, base=other)
    assert " and 3 more" in refusal(net(1), saved)
    lacking = copied(net())
    del lacking["3.bias"]
    assert refusal(net(), saved, base=lacking).endswith("it has no '3.bias'")
    assert "saved against given weights" in refusal(net(), saved, base=net)


def test_minus_zero_and_the_payload_of_nan_make_another_base(tmp_path):
    base = nn.Linear(1, 2, bias=False)
    for before, after in ((0x00000000, -0x80000000), (0x7FC00000, 0x7FC00001)):
        for bits_of, step in ((before, save), (after, None)):
            base.weight.data = torch.full((2, 1), bits_of, dtype=torch.int32).view(torch.float32)
            if step:
                step(base, tmp_path / "delta", base=copied(base))
        assert "they differ in 'weight'" in refusal(base, tmp_path / "delta")


def test_a_regenerated_base_that_comes_out_otherwise_is_refused(tmp_path):
    def narrow() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))

    def otherwise() -> nn.Module:
        module = narrow()
        nn.init.normal_(module[1].weight)
        return module

    model = narrow()
    save(model, tmp_path / "delta", base=(narrow, 7))
    said = refusal(model, tmp_path / "delta", base=otherwise)
    assert f"they differ in '1.weight' (saved for seed 7 under letitgo 0.1.0, torch {torch.__version__}" in said
    assert "they differ in" in refusal(model, tmp_path / "delta", base=(narrow, 8))


def test_another_network_is_refused(saved):
    assert "'4.weight' does not fit: " in refusal(nn.Sequential(*net()[:4], nn.Linear(40, 9)), saved)
    assert "'4.weight' is not in the model" in refusal(nn.Sequential(*net()[:4]), saved)
    assert "had 11 tensors of the model, this one has 13" in refusal(nn.Sequential(*net(), nn.Linear(3, 3)), saved)
    assert "is float32 in" in refusal(net().half(), saved)
    module = net()
    module[3].bias.data = module[3].bias.data.half()
    assert "'3.bias' is float32 in the base and float16 in the model" in refusal(module, saved, base=net())


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (nn.Linear(6, 40), "the base shares no tensor with the model: it has no '0.weight' of the same shape"),
        (net().half(), "'0.weight' is float16 in the base and float32 in the model: convert one of them"),
        (net, "the base is function: it can be a module, a state dict, a safetensors file or a pair (factory, seed)"),
        ((net, 0.5), "the base is tuple: it can be"),
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
        (__file__, "it is no safetensors file"),
    ],
)
def test_a_base_that_is_none_is_refused_on_saving(base, said, tmp_path):
    with pytest.raises(BadRequest) as refused:
        save(net(), tmp_path / "delta", base=base)
    assert said in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_models_own_memory_is_no_base(tmp_path):
    model = net()
    with pytest.raises(BadRequest, match=r"the base is the model itself: keep a copied"):
        save(model, tmp_path / "delta", base=model.state_dict())


def test_a_delta_is_no_base(saved, tmp_path):
    with pytest.raises(BadRequest, match="holds only what changed"):
        save(net(), tmp_path / "again", base=saved)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.LazyLinear(3), "weight is lazy and has no shape yet"),
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is no plain tensor .*float32, meta"),
        (lambda: nn.Linear(3, 3, dtype=torch.complex128), "'weight' is no plain tensor .*complex128, cpu"),
    ],
)
def test_a_model_without_plain_values_is_refused(make, said, saved, tmp_path):
    for work in (lambda: save(make(), tmp_path / "x", base=nn.Linear(3, 3)), lambda: load(make(), saved)):
        with pytest.raises(BadRequest, match=said):
            work()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(saved, monkeypatch):
    nowhere = saved.parent / "nowhere"
    with pytest.raises(BadRequest, match=r"delta cannot be written \(there is no folder .*nowhere\): name") as refused:
        save(net(1), nowhere / "delta", base=net())
    assert "partial" not in str(refused.value)
    before = saved.read_bytes()

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(BadRequest, match="No space left on device"):
        save(net(1), saved, base=net())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_others_can_read_the_file_where_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        save(net(1), tmp_path / "delta", base=net())
    finally:
        os.umask(before)
    assert (tmp_path / "delta").stat().st_mode & 0o777 == 0o644


def loads_or_refuses(path: Path) -> None:
    """A damaged file is refused with the model as it was, unless what is damaged bears nothing."""
    module = net()
    before = portrait(module)
    refused = ""
    try:
        load(module, path)
    except BadRequest as error:
        refused = str(error)
    if refused:
        assert str(path) in refused
        assert portrait(module) == before
    else:
        assert bits(copied(module)) == bits(copied(tuned(net())))


@settings(max_examples=300)
@given(data=st.data())
def test_damage_anywhere_is_refused(data, saved):
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    content = bytearray(whole)
    kind = data.draw(st.sampled_from(["cut", "length", "header", "anywhere", "insert", "noise"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "length":
        content[:8] = data.draw(st.one_of(st.integers(0, 2 * len(whole)), st.integers(0, 2**64 - 1))).to_bytes(
            8, "little"
        )
    elif kind == "noise":
        content = bytearray(data.draw(st.binary(max_size=400)))
    else:
        place = data.draw(st.integers(0, (header if kind == "header" else len(whole)) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=4))
        content[place : place + (0 if kind == "insert" else len(patch))] = patch
    damaged = saved.with_name("damaged")
    damaged.write_bytes(content)
    loads_or_refuses(damaged)


def forged(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> Path:
    """A file with other contents, as a stranger could make it: the digest of what is stored is right."""
    told, stored = about(path), load_file(path)
    change(told, stored)
    made = path.with_name("forged")
    save_file(stored, made, metadata={"letitgo": json.dumps([told, sealed.seal(told, stored)])})
    return made


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(get_args(coding.Code)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(data=st.data())
def test_forged_contents_are_refused_or_fit(data, saved):
    def change(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
        part = told
        if data.draw(st.booleans()):
            while True:
                key = data.draw(st.sampled_from([*part, "more"]))
                if not isinstance(part.get(key), dict) or data.draw(st.booleans()):
                    break
                part = part[key]
            part[key] = data.draw(anything)
        else:
            name = data.draw(st.sampled_from([*stored, "3.bias", "5.weight"]))
            shape = data.draw(st.one_of(shapes, st.just(tuple(stored.get(name, torch.empty(0)).shape))))
            dtype = data.draw(st.sampled_from([*FLOATS, *INTEGERS, torch.uint16]))
            stored[name] = any_bits(shape, dtype, np.random.default_rng(data.draw(seeds)))

    path = forged(saved, change)
    module = net()
    before = portrait(module)
    try:
        load(module, path)
    except BadRequest:
        assert portrait(module) == before


def retyped(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    stored["4.weight"] = stored["4.weight"].half()


def unlisted(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    del told["changed"]["4.weight"]


def unstored(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    del stored["4.weight"]


def cut(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    stored["1.running_var"] = stored["1.running_var"][:-3].clone()


def long(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    planes = pa.Codec("zstd").compress(b"\0" * 2**20)
    stored["1.running_var"] = torch.frombuffer(bytearray(planes), dtype=torch.uint8)


def beyond(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    stored["3.weight.gaps"][-1] = 250
    stored["3.weight.gaps"][-2] = 250


def fewer(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    stored["0.weight.mask"][0] = 0


def renamed(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    told["changed"]["4.wieght"] = told["changed"].pop("4.weight")
    stored["4.wieght"] = stored.pop("4.weight")


def newer(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    told["format"] = 99


def not_new(told: dict[str, Any], stored: dict[str, Tensor]) -> None:
    told["new"] = ["0.weight"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (retyped, "'4.weight' is float16 in .* and float32 in the model: convert the model"),
        (unlisted, "'4.weight' is stored but not listed"),
        (unstored, "'4.weight' is listed but not stored"),
        (cut, "'1.running_var' cannot be decoded: its bytes cannot be decompressed"),
        (long, "'1.running_var' cannot be decoded: its bytes cannot be decompressed"),
        (beyond, "'3.weight' cannot be decoded: it should name 18 of 1600$"),
        (fewer, "'0.weight' cannot be decoded: it should name 10 of 40$"),
        (renamed, "of another network: '4.wieght' is not in the model; did you mean 4.weight"),
        (newer, r"written by a newer letitgo \(format 99\): update letitgo"),
        (not_new, "its metadata cannot be read"),
    ],
)
def test_each_forgery_has_its_sentence(change, said, saved):
    assert re.search(said, refusal(net(), forged(saved, change)))


def test_files_of_other_kinds_are_refused(saved, tmp_path):
    save_file(copied(net()), tmp_path / "full")
    assert "not one that letitgo.save wrote" in refusal(net(), tmp_path / "full")
    assert "there is no file" in refusal(net(), tmp_path)
    assert "there is no file" in refusal(net(), tmp_path / "nowhere")


class Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "pickle").write_bytes(pickle.dumps(Trap(marker)))
    torch.save({"weight": Trap(marker)}, tmp_path / "torch")
    for name in ("pickle", "torch"):
        assert "is not a whole safetensors file" in refusal(net(), tmp_path / name) or not marker.exists()
    assert not marker.exists()


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python and numpy held at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huge_header_is_refused_unread(saved):
    with saved.open("r+b") as file:
        file.write((1 << 29).to_bytes(8, "little"))
        file.truncate(1 << 30)
    assert peak(lambda: refusal(net(), saved)) < 1 << 20
    assert "declares a header of 536870912 bytes, too many for this model" in refusal(net(), saved)


def test_declared_sizes_beyond_the_file_are_refused(tmp_path):
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "delta").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is not a whole safetensors file" in refusal(net(), tmp_path / "delta")


@pytest.mark.parametrize("entry", ["3.weight.gaps", "0.weight.mask", "3.weight"])
def test_large_tensors_do_not_unpack_into_more_memory(entry, saved):
    path = forged(saved, lambda _, stored: stored.update({entry: torch.ones(1 << 24, dtype=stored[entry].dtype)}))
    assert peak(lambda: refusal(net(), path)) < 1 << 20


def test_a_local_folder_stands_for_a_repository(tmp_path):
    save(tuned(net()), tmp_path / "letitgo.safetensors", base=net())
    module = net()
    from_pretrained(module, tmp_path)
    assert bits(copied(module)) == bits(copied(tuned(net())))
    module = net(1)
    from_pretrained(module, str(tmp_path), base=net())
    assert bits(copied(module)) == bits(copied(tuned(net())))


@pytest.mark.parametrize(
    ("place", "revision", "kind", "said"),
    [
        ("empty", None, BadRequest, "there is no file .*letitgo.safetensors"),
        ("empty", "v1", BadRequest, "is a folder and has no revision 'v1'"),
        ("a.safetensors", None, BadRequest, "is a file: load it with letitgo.load"),
        ("no/such/folder", None, BadRequest, "neither a folder nor a repository's id such as 'owner/name'"),
        ("owner/name", None, WorkFailed, "'owner/name' is no folder here, and the hub cannot be reached: go online"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_a_sentence(place, revision, kind, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(kind, match=said):
        from_pretrained(net(), place, revision=revision)


def test_pushing_offline_or_nonsense_is_said_in_a_sentence(saved, tmp_path):
    with pytest.raises(WorkFailed, match="could not be uploaded to 'owner/name' on the hub"):
        push_to_hub(saved, "owner/name")
    with pytest.raises(BadRequest, match="is no id of a repository: it has the form 'owner/name'"):
        push_to_hub(saved, "not/an/id")
    save_file(copied(net()), tmp_path / "full")
    with pytest.raises(BadRequest, match=r"not one that letitgo.save wrote"):
        push_to_hub(tmp_path / "full", "owner/name")


PUSH_AND_PULL = """
import sys
from letitgo import BadRequest, from_pretrained, push_to_hub
from letitgo.weights import copied
from test_delta import bits, net, tuned

print(push_to_hub(sys.argv[1], "owner/name", private=True))
module = net()
from_pretrained(module, "owner/name", revision="main")
assert bits(copied(module)) == bits(copied(tuned(net())))
for place, revision in (("owner/other", None), ("owner/name", "v9"), ("owner/empty", None)):
    try:
        from_pretrained(module, place, revision=revision)
    except BadRequest as error:
        print(error)
"""


def test_a_file_goes_to_the_hub_and_comes_back(saved, tmp_path):
    with hub(tmp_path / "hub") as address:
        surroundings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment = {**os.environ, **surroundings, "HF_TOKEN": "hf_test", "NO_PROXY": "127.0.0.1"}
        told = python(PUSH_AND_PULL, str(saved), env=environment).stdout.splitlines()
    assert (tmp_path / "hub/owner/name/letitgo.safetensors").read_bytes() == saved.read_bytes()
    assert told == [
        f"{address}/owner/name/commit/1",
        "'owner/other' is no folder here and no repository on the hub, or a private one: log in to see those",
        "the repository 'owner/name' has no revision 'v9'",
        "the repository 'owner/empty' holds no letitgo.safetensors",
    ]
