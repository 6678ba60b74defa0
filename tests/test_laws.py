"""The laws of freezing, choosing, grafting and drawing, over random networks and random choices."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from helpers import NormNet, bits, own_law
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS, behaviour, build, cases, inputs, portrait, step
from torch import nn

from letitgo.errors import BadRequest
from letitgo.recipes.networks import fcn
from letitgo.weights import (
    copied,
    distance,
    everything,
    freeze,
    frozen,
    graft,
    initial_state,
    layers,
    load_state,
    parameter_names,
    select,
    thaw,
    train_only,
    trainable,
)


def test_a_name_that_a_state_lacks_is_the_same_in_every_process():
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(BadRequest, match=r"'0\.bias' is only in the module"):
        load_state(module, {})
    with pytest.raises(BadRequest, match=r"'0\.bias' is only in it"):
        load_state(nn.Identity(), copied(module))


def test_every_optimizer_is_tried():
    kinds = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert kinds - {"Optimizer", "SparseAdam"} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=8)
@given(case=cases(), statistics=st.sampled_from(["follow", "frozen"]))
def test_frozen_bits_stay_under_an_optimizer_made_after(name, case, statistics):
    module = case.module()
    freeze(module, case.selection, statistics)
    free = trainable(module)
    assume(any(p.ndim == 2 for p in free))
    before = bits(copied(module))
    module.train()
    optimizer = OPTIMIZERS[name](free)
    for _ in range(3):
        step(module, optimizer)
    after = bits(copied(module))
    assert {n: after[n] for n in case.chosen} == {n: before[n] for n in case.chosen}
    assert after != before


# LBFGS moves all it was given at once, along directions of the past: nothing outside it can hold a weight there.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "LBFGS"])
@settings(max_examples=8)
@given(case=cases())
def test_frozen_bits_stay_under_an_optimizer_made_before(name, case):
    module = case.module()
    assume(len(case.chosen) < len(parameter_names(module)))
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    for _ in range(2):
        step(module, optimizer)
    freeze(module, case.selection)
    before = bits(copied(module))
    module.train()
    for _ in range(3):
        step(module, optimizer)
    after = bits(copied(module))
    assert {n: after[n] for n in case.chosen} == {n: before[n] for n in case.chosen}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("LBFGS", "Muon")])
def test_what_is_thawed_under_a_live_optimizer_trains_again(name):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6))
    chosen = select(module, "0", "1")
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    step(module, optimizer)
    freeze(module, chosen)
    held = bits({n: module.get_parameter(n) for n in chosen})
    step(module, optimizer)
    assert bits({n: module.get_parameter(n) for n in chosen}) == held
    thaw(module, chosen)
    for _ in range(2):
        step(module, optimizer)
    after = bits({n: module.get_parameter(n) for n in chosen})
    assert not {n for n in chosen if after[n] == held[n]}
    known = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert known == [id(p) for p in module.parameters()]


def test_frozen_bits_stay_under_sparse_adam():
    module = nn.ModuleList([nn.Embedding(5, 3, sparse=True), nn.Embedding(5, 3, sparse=True)])
    before = bits(copied(module))
    freeze(module, select(module, "0"))
    optimizer = torch.optim.SparseAdam(trainable(module), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (module[0](torch.arange(3)) * module[1](torch.arange(3))).sum().backward()
        optimizer.step()
    after = bits(copied(module))
    assert after["0.weight"] == before["0.weight"]
    assert after["1.weight"] != before["1.weight"]


def norms_of(module: nn.Module, chosen: tuple[str, ...]) -> set[str]:
    owners = {name.rpartition(".")[0] for name in chosen}
    return {name for name in owners if isinstance(module.get_submodule(name), nn.BatchNorm1d)}


@given(case=cases(), copying=st.booleans())
def test_frozen_statistics_stay_and_the_others_follow(case, copying):
    module = case.module()
    freeze(module, case.selection, statistics="frozen")
    if copying:
        module = copy.deepcopy(module)
    before = bits(dict(module.named_buffers()))
    module.eval()
    module.train()
    module(inputs())
    after = bits(dict(module.named_buffers()))
    held = norms_of(module, case.chosen)
    assert {name for name in before if after[name] == before[name]} == {
        name for name in before if name.rpartition(".")[0] in held
    }


@given(case=cases())
def test_statistics_follow_the_data_unless_asked(case):
    module = case.module()
    freeze(module, case.selection)
    before = bits(dict(module.named_buffers()))
    module.train()
    module(inputs())
    after = bits(dict(module.named_buffers()))
    assert not {name for name in before if after[name] == before[name]}


@given(case=cases())
def test_a_copy_with_frozen_statistics_is_its_own(case):
    module = case.module()
    freeze(module, case.selection, statistics="frozen")
    other = copy.deepcopy(module)
    thaw(other, case.selection)
    other.train()
    module.train()
    held = norms_of(module, case.chosen)
    assert not any(module.get_submodule(name).training for name in held)
    assert all(other.get_submodule(name).training for name in held)


@given(case=cases())
def test_a_choice_and_its_complement(case):
    chosen, rest = case.selection, ~case.selection
    assert len(chosen & rest) == 0
    assert chosen | rest == everything(case.module())
    assert ~rest == chosen
    assert everything(case.module()) - chosen == rest


@given(case=cases())
def test_layers_share_out_every_parameter_once(case):
    module = case.module()
    shared_out = [name for names in layers(module).values() for name in names]
    assert sorted(shared_out) == sorted(parameter_names(module))
    assert len(set(map(id, map(module.get_parameter, shared_out)))) == len(set(map(id, module.parameters())))


modes = {"statistics": st.sampled_from(["follow", "frozen"]), "dropout": st.sampled_from(["follow", "off"])}


@given(case=cases(), training=st.booleans(), data=st.data(), **modes)
def test_freeze_and_thaw_give_the_module_back(case, training, data, statistics, dropout):
    module = case.module().train(training)
    for parameter in module.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
    for part in module.children():
        part.train(data.draw(st.booleans()))
    before, behaved = portrait(module), behaviour(module)
    freeze(module, case.selection, statistics, dropout)
    freeze(module, case.selection, statistics, dropout)
    assert list(module.state_dict()) == before["keys"]
    assert [id(p) for _, p in module.named_parameters(remove_duplicate=False)] == [
        i for _, i, _ in before["parameters"]
    ]
    thaw(module, case.selection)
    assert portrait(module) == before
    assert behaviour(module) == behaved


@given(case=cases(), data=st.data(), **modes)
def test_thawing_bit_by_bit_is_thawing(case, data, statistics, dropout):
    module = case.module()
    before = portrait(module)
    freeze(module, everything(module), statistics, dropout)
    thaw(module, case.selection)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == list(case.chosen)
    thaw(module, ~case.selection)
    assert portrait(module) == before


@given(case=cases())
def test_dropout_is_off_where_all_around_it_is_frozen(case):
    module = nn.ModuleDict({"frozen": case.module(), "free": case.module()})
    module["free"].append(nn.Dropout(0.5))
    freeze(module, select(module, "frozen"), statistics="frozen", dropout="off")
    module.eval()
    module.train()
    assert not any(part.training for part in module["frozen"].modules())
    assert all(part.training for part in module["free"].modules())
    assert torch.equal(module["frozen"](inputs()), module["frozen"](inputs()))


def test_statistics_and_dropout_are_apart():
    module = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout()), nn.Linear(6, 2))
    backbone = select(module, "0")
    freeze(module, backbone, dropout="off")
    assert [part.training for part in module.train()[0]] == [False, True, False]
    thaw(module, backbone)
    freeze(module, backbone, statistics="frozen")
    assert [part.training for part in module.train()[0]] == [True, False, True]


def test_a_norm_without_weights_goes_with_what_is_around_it():
    module = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)), nn.Linear(6, 2))
    freeze(module, select(module, "0"), statistics="frozen")
    assert not module.train()[0][1].training
    thaw(module, select(module, "0"))
    assert module[0][1].training


def test_dropout_inside_of_attention_and_recurrence_is_turned_off():
    attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    module = nn.ModuleDict({"attention": attention, "rnn": nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)})
    freeze(module, everything(module), dropout="off")
    module.train()
    x = torch.randn(2, 3, 8)
    assert torch.equal(attention(x), attention(x))
    assert torch.equal(module["rnn"](x)[0], module["rnn"](x)[0])


@given(case=cases(), data=st.data(), **modes)
def test_leaving_frozen_gives_the_module_back(case, data, statistics, dropout):
    module = case.module()
    for parameter in module.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
    before, behaved = portrait(module), behaviour(module)
    with frozen(module, case.selection, statistics, dropout) as same:
        assert same is module
        assert not any(module.get_parameter(name).requires_grad for name in case.chosen)
    assert portrait(module) == before
    assert behaviour(module) == behaved


def test_leaving_frozen_gives_the_module_back_after_an_error():
    module = NormNet((4,), 2)
    before = portrait(module)
    with pytest.raises(KeyError), frozen(module, everything(module), "frozen"):
        raise KeyError
    assert portrait(module) == before


def test_leaving_frozen_restores_a_norm_that_was_in_evaluation_mode():
    module = NormNet((4,), 2).train()
    module.norm1.eval()
    before = portrait(module)
    with frozen(module, everything(module), "frozen"):
        pass
    assert portrait(module) == before


def test_leaving_the_inner_frozen_keeps_the_outer():
    module = NormNet((4,), 2)
    with frozen(module, everything(module), "frozen"):
        within = portrait(module)
        with frozen(module, everything(module), "frozen"):
            pass
        assert portrait(module) == within


@pytest.mark.parametrize("wrap", ["plain", "compile", "ddp"])
def test_freezing_survives_what_is_done_to_the_module(wrap, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    backbone = select(module, "0", "1")
    freeze(module, backbone, statistics="frozen")
    module = copy.deepcopy(module).double().float()
    module.load_state_dict(copied(module))
    before = bits({name: x for name, x in copied(module).items() if name[0] in "01"})
    call: nn.Module = module
    if wrap == "compile":
        call = torch.compile(module, backend="eager")
    if wrap == "ddp":
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        call = nn.parallel.DistributedDataParallel(module)
    try:
        optimizer = torch.optim.AdamW(trainable(module), lr=0.1)
        for _ in range(2):
            call.eval()
            call.train()
            step(call, optimizer)
    finally:
        del call  # before its process group, or the two may wait for one another for ever
        if wrap == "ddp":
            torch.distributed.destroy_process_group()
    assert bits({name: x for name, x in copied(module).items() if name[0] in "01"}) == before
    thaw(module, backbone)
    assert module[1].training
    assert all(p.requires_grad for p in module.parameters())


@given(case=cases())
def test_train_only_is_freezing_the_complement(case):
    one, other = case.module(), case.module()
    train_only(one, case.selection)
    freeze(other, ~case.selection)
    flags = [[p.requires_grad for p in module.parameters()] for module in (one, other)]
    assert flags[0] == flags[1]
    assert [p.requires_grad for _, p in one.named_parameters()] == [n in case.chosen for n in parameter_names(one)]


@given(case=cases())
def test_grafting_own_weights_changes_nothing(case):
    state = copied(case.module())
    assert bits(graft(state, state, case.chosen)) == bits(state)


@given(case=cases())
def test_grafting_all_of_a_donor_is_the_donor(case):
    base, donor = copied(case.module(1)), copied(case.module(2))
    names = parameter_names(case.module())
    kept = bits(base), bits(donor)
    grafted = graft(base, donor, names)
    assert bits({name: grafted[name] for name in names}) == bits({name: donor[name] for name in names})
    assert (bits(base), bits(donor)) == kept


@given(case=cases())
def test_grafting_takes_the_chosen_and_leaves_the_rest(case):
    base, donor = copied(case.module(1)), copied(case.module(2))
    for tensor in donor.values():
        tensor.add_(1)
    grafted = graft(base, donor, case.chosen)
    assert bits(grafted) == {name: bits(donor if name in case.chosen else base)[name] for name in base}


@given(case=cases())
def test_loading_a_copied_state_keeps_the_parameters(case):
    module, other = case.module(1), case.module(2)
    objects = [id(p) for p in module.parameters()]
    load_state(module, copied(other))
    assert bits(copied(module)) == bits(copied(other))
    assert [id(p) for p in module.parameters()] == objects


def test_distance_is_the_sum_and_the_largest():
    a, b = (
        {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([0.0])},
        {"w": torch.tensor([4.0, -2.0]), "v": torch.ones(1)},
    )
    assert distance(a, b, ["w"]) == {"squares": 25.0, "largest": 4.0, "count": 2}
    assert distance(a, b, ["w", "v"]) == {"squares": 26.0, "largest": 4.0, "count": 3}
    assert distance(a, a, ["w", "v"]) == {"squares": 0.0, "largest": 0.0, "count": 3}


def drawn(widths: list[int], seed: int = 0, inputs: int = 5) -> dict[str, bytes]:
    return bits(initial_state(lambda: fcn((inputs,), 3, tuple(widths)), seed))


@given(
    common=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    one=st.lists(st.integers(1, 9), max_size=2),
    other=st.lists(st.integers(1, 9), max_size=2),
)
def test_a_draw_does_not_depend_on_the_layers_after_it(common, one, other):
    a, b = drawn([*common, *one]), drawn([*common, *other])
    names = [f"fc{i}.{kind}" for i in range(1, len(common) + 1) for kind in ("weight", "bias")]
    assert {name: a[name] for name in names} == {name: b[name] for name in names}


@given(first=st.integers(1, 9), other=st.integers(1, 9), inputs=st.integers(1, 9))
def test_a_draw_does_not_depend_on_the_layers_before_it(first, other, inputs):
    a, b = drawn([first, 6, 7]), drawn([other, 6, 7], inputs=inputs)
    names = ["fc3.weight", "fc3.bias", "fc4.weight", "fc4.bias"]
    assert {name: a[name] for name in names} == {name: b[name] for name in names}


@given(seed=st.integers(0, 2**40), other=st.integers(0, 2**40))
def test_a_draw_is_a_function_of_the_seed(seed, other):
    assume(seed != other)
    a, again, b = drawn([4], seed), drawn([4], seed), drawn([4], other)
    assert a == again
    assert not {name for name in a if a[name] == b[name]}


def test_two_layers_of_one_shape_are_drawn_apart():
    state = drawn([7, 7, 7])
    assert state["fc2.weight"] != state["fc3.weight"]


@given(seed=st.integers(0, 2**40))
def test_a_draw_follows_the_factorys_own_law(seed):
    for name, tensor in initial_state(own_law, seed).items():
        if name.endswith("bias"):
            assert (tensor == 7).all()
        else:
            assert ((tensor >= 2) & (tensor <= 3)).all()
            assert tensor.std() > 0


@given(case=cases())
def test_drawing_leaves_the_random_state_alone(case):
    before = torch.get_rng_state()
    initial_state(case.module, 3)
    initial_state(lambda: build(case.tree), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_factory_draws_by_other_means_is_a_function_of_the_seed_too():
    def factory() -> nn.Module:
        module = nn.Linear(3, 3)
        module.weight.data.fill_(random.random())
        module.bias.data.fill_(float(np.random.rand()))
        return module

    states = random.getstate(), np.random.get_state()[1].tolist()
    one, again, other = (initial_state(factory, seed) for seed in (0, 0, 1))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert bits(one) == bits(again)
    assert not {name for name in one if torch.equal(one[name], other[name])}


def test_a_factory_that_cannot_be_repeated_is_refused():
    def factory() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.full((3,), float(next(counter))))
        return module

    counter = iter(range(9))
    with pytest.raises(BadRequest, match="'weight' other values each time"):
        initial_state(factory, 0)


@pytest.mark.parametrize("pattern", [["0", "1"], 1, None])
def test_patterns_that_are_no_strings(pattern):
    with pytest.raises(BadRequest, match="is no pattern: give strings"):
        select(nn.Linear(2, 2), pattern)
