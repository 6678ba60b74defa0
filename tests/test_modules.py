"""Networks as people have them: wrapped, tied, lazy, with whole numbers, with state beside parameters."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass
from torch import nn

from letitgo import (
    BadRequest,
    FixedClassifier,
    alignment,
    copied,
    cost,
    distance,
    everything,
    fraction,
    freeze,
    graft,
    hold,
    initial_state,
    load,
    norms,
    re_estimate,
    save,
    select,
    status,
    step_cost,
    subspace,
    thaw,
    train_only,
    trainable,
)
from letitgo.callbacks import Schedule
from letitgo.checked import STRICT, checked
from letitgo.cli.options import json_object
from letitgo.imports import import_object
from letitgo.weights import load_state, read_weights


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def trains(module):
    return [parameter.requires_grad for parameter in module.parameters()]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


class Scaled(nn.Module):
    """State beside parameters and buffers, as layers of 8 bits have it."""

    def __init__(self, scale):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.ones(4)), scale

    def get_extra_state(self):
        return self.scale

    def set_extra_state(self, state):
        self.scale = state


WRAPPERS = {
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "data parallel": nn.DataParallel,
    "both": lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_seen_through(wrap, tmp_path):
    module, base = net(), net()
    wrapped = wrap(module)
    freeze(wrapped, "0")
    freeze(wrapped, select(module, "1"))
    assert trains(module) == [False] * 4 + [True] * 2
    assert [row.layer for row in status(wrapped).rows] == ["0", "1", "3"]
    with torch.no_grad():
        module[3].weight.add_(1)
    save(wrapped, tmp_path / "plain.safetensors", base=base)
    load(base, tmp_path / "plain.safetensors")
    assert torch.equal(base[3].weight, module[3].weight)
    again = wrap(net())
    load(again, tmp_path / "plain.safetensors", base=copied(wrap(net())))
    assert torch.equal(copied(again).popitem()[1], copied(module).popitem()[1])
    load_state(again, initial_state(net, 3))


def test_a_compiled_layer_inside_keeps_its_name():
    module = net()
    module[3] = torch.compile(module[3], backend="eager")
    assert set(select(module, "3")) == {"3._orig_mod.weight", "3._orig_mod.bias"}


def test_patterns_are_taken_where_selections_are():
    module = net()
    freeze(module, ["0", "1"])
    assert trains(module) == [False] * 4 + [True] * 2
    thaw(module)
    assert all(trains(module))
    train_only(module, "3")
    assert trains(module) == [False] * 4 + [True] * 2
    assert cost(net(), torch.ones(2, 4), "0").frozen == cost(net(), torch.ones(2, 4), select(net(), "0")).frozen
    for nothing in ([], 3, [0]):
        with pytest.raises(BadRequest, match="no selection"):
            freeze(module, nothing)


def test_a_copied_state_goes_back():
    tied = Tied()
    tied.load_state_dict(copied(tied))
    tied.load_state_dict(initial_state(Tied, 0))
    taken = graft(copied(tied), initial_state(Tied, 1), ["embed.weight"])
    load_state(tied, taken)
    assert torch.equal(tied.head.weight, initial_state(Tied, 1)["embed.weight"])
    with pytest.raises(BadRequest, match=r"'head\.weight' is tied to 'embed\.weight'"):
        load_state(tied, {**taken, "head.weight": torch.zeros(5, 3)})


def test_extra_state_comes_back_or_is_refused_by_name(tmp_path):
    module, base = Scaled(torch.full((2,), 5.0)), Scaled(torch.ones(2))
    save(module, tmp_path / "tensor.safetensors", base=base)
    load(base, tmp_path / "tensor.safetensors")
    assert torch.equal(base.scale, module.scale)
    with pytest.raises(BadRequest, match="'_extra_state' is extra state of type dict"):
        save(Scaled({"scale": 5}), tmp_path / "dict.safetensors", base=base)
    with pytest.raises(BadRequest, match="'_extra_state' is extra state of type dict"):
        initial_state(lambda: Scaled({"scale": 5}), 0)
    copy = copied(Scaled({"scale": 5}))
    other = Scaled({})
    other.load_state_dict(copy)
    assert other.scale == {"scale": 5}


def test_whole_numbers_stay_and_the_rest_trains():
    module = net()
    module[0].register_parameter("mask", nn.Parameter(torch.ones(3, dtype=torch.bool), requires_grad=False))
    freeze(module, everything(module))
    thaw(module, everything(module))
    assert trains(module) == [True, True, False, True, True, True, True]
    with hold(module, everything(module)) as held:
        assert len(held.parameters()) == 6
    with hold(module, fraction(module, 0.5) | everything(module)):
        assert len(trainable(module)) == 6


LAZY = {
    "copied": copied,
    "status": status,
    "alignment": alignment,
    "step_cost": lambda module: step_cost(module, torch.ones(2, 8)),
    "re_estimate": lambda module: re_estimate(module, [torch.ones(2, 8)]),
    "initial_state": lambda module: initial_state(lambda: module, 0),
}


@pytest.mark.parametrize("call", LAZY.values(), ids=LAZY)
def test_lazy_networks_are_refused_and_left_alone(call):
    module = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(BadRequest, match="lazy and has no shape yet"):
        call(module)
    assert isinstance(module[0], nn.LazyLinear)


def test_complex_weights_are_as_far_apart_as_they_are():
    assert distance({"w": torch.tensor([1 + 1j])}, {"w": torch.tensor([1 - 1j])}, ["w"])["largest"] == 2
    with pytest.raises(BadRequest, match="shape"):
        distance({"w": torch.zeros(4, 1)}, {"w": torch.zeros(4)}, ["w"])
    with pytest.raises(BadRequest, match="complex"):
        alignment([torch.eye(2) * 1j])


def test_numbers_of_numpy_and_lists_are_taken():
    module = net()
    one: Any = np.int64(1)
    half: Any = [np.float32(0.5)]
    assert subspace(module, one).d == 1
    assert select(module, index=one) == select(module, index=1)
    assert select(module, index=[0, -1]) == select(module, "0", "3")
    assert select(module, types=[nn.Linear]) == select(module, types=nn.Linear)
    assert FixedClassifier(4, 2, seed=one).seed == 1
    Schedule({one: ["0"]})

    @checked
    @dataclass(frozen=True, config=STRICT)
    class Options:
        seeds: int
        rates: tuple[float, ...]

    assert Options(one, half) == Options(1, (0.5,))


@pytest.mark.parametrize("wrong", [{"types": "Linear"}, {"types": [1]}, {"index": 1.0}, {"index": [5]}, {"index": []}])
def test_what_is_no_type_and_no_place_is_refused(wrong):
    with pytest.raises(BadRequest, match=r"types is|index"):
        select(net(), **wrong)


@pytest.mark.parametrize("name", ["block[0]", "a*b", "!last"])
def test_a_layer_is_chosen_by_its_name_whatever_is_in_it(name):
    module = nn.ModuleDict({other: nn.Linear(2, 2) for other in ("block[0]", "a*b", "axb", "!last")})
    assert set(select(module, name)) == {f"{name}.weight", f"{name}.bias"}
    assert select(module, f"!{name}") == ~select(module, name)


def test_a_selection_and_a_part_unite_in_either_order():
    module = net()
    part: Any = fraction(module, 0.5)
    assert str(norms(module) | part) == str(part | norms(module))
    with pytest.raises(BadRequest, match="single weights"):
        _ = norms(module) & part


@pytest.mark.parametrize("batches", [[], iter(()), [torch.ones(2, 7)]], ids=["none", "read before", "failing"])
def test_statistics_stay_where_none_can_be_taken(batches):
    module = net()
    module(torch.randn(8, 4))
    before = copied(module)
    with pytest.raises((BadRequest, RuntimeError)):
        re_estimate(module, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copied(module).items())


FORMS = {
    "x.pt": lambda state: state,
    "x.pth": lambda state: {"state_dict": {f"module.{name}": x for name, x in state.items()}, "epoch": 3},
    "x.bin": lambda state: {"model": {f"_orig_mod.{name}": x for name, x in state.items()}},
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_read_from_what_torch_saved(name, tmp_path):
    base = net()
    torch.save(FORMS[name](base.state_dict()), tmp_path / name)
    assert read_weights(tmp_path / name).keys() == base.state_dict().keys()
    save(net(), tmp_path / "change.safetensors", base=tmp_path / name)
    load(base, tmp_path / "change.safetensors", base=tmp_path / name)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(BadRequest, match="holds no weights"):
        read_weights(tmp_path / "x.pt")
    torch.save(net(), tmp_path / "pickle.pt")
    with pytest.raises(BadRequest, match="cannot be read"):
        read_weights(tmp_path / "pickle.pt")


class Running(nn.Module):
    """A normalization layer that is not torch's own, under a name that does not say so."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.running_mean.lerp_(x.mean(0).detach(), 0.1)
        return (x - self.running_mean) * self.weight


def test_running_statistics_of_other_norms_are_frozen():
    module = nn.Sequential(Running(), nn.Linear(4, 2))
    freeze(module, "0", statistics="frozen")
    module.train()(torch.ones(8, 4))
    assert not module[0].running_mean.any()
    assert status(module).rows[0].statistics == "frozen"


def from_meta(module):
    with torch.device("meta"):
        return FixedClassifier(4, 2, "orthogonal").to_empty(device="cpu")


def assigned(module):
    with torch.device("meta"):
        other = FixedClassifier(4, 2, "orthogonal")
    other.load_state_dict(module.state_dict(), assign=True)
    return other


@pytest.mark.parametrize("way", [from_meta, assigned, lambda module: module.to("meta").to_empty(device="cpu")])
def test_a_fixed_classifier_has_its_matrix_however_it_came_to_be(way):
    module = FixedClassifier(4, 2, "orthogonal")
    matrix, state = module.matrix.clone(), copied(module)
    other = way(module)
    other.load_state_dict(state)
    assert torch.equal(other.matrix, matrix)
    assert "matrix" not in " ".join(other.state_dict())


def test_a_name_twice_in_json_and_a_module_that_exits_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadRequest, match="a name stands there twice"):
        json_object("model-args", '{"width": 8, "width": 9}')
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadRequest, match="exits raises SystemExit: 7"):
        import_object("exits:make", "network")
