"""What is frozen stays, what is held trains, and whatever stands in the way of either is named."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import (
    BadRequest,
    WorkFailed,
    everything,
    fraction,
    freeze,
    hold,
    moved,
    select,
    status,
    subspace,
    thaw,
    train_only,
    trainable,
)
from letitgo.callbacks import Rotate, Schedule

GENERATOR = torch.Generator().manual_seed(3)
INPUTS, LABELS = torch.randn(12, 8, generator=GENERATOR), torch.arange(12) % 3
PARTS = {"fraction": lambda net: fraction(net, 0.5), "subspace": lambda net: subspace(net, 20)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def step(net, optimizer):
    optimizer.zero_grad()
    cross_entropy(net(INPUTS), LABELS).backward()
    optimizer.step()


def weights(net):
    return torch.cat([parameter.detach().flatten().clone() for parameter in net.parameters()])


# Held


@pytest.mark.parametrize("part", PARTS)
def test_a_loop_that_steps_through_data_moves_the_network(part):
    net = network()
    held, before = hold(net, PARTS[part](net)), weights(net)
    cross_entropy(net(INPUTS), LABELS).backward()
    for parameter in held.parameters():
        parameter.data.add_(parameter.grad, alpha=-0.1)
    net(INPUTS)
    assert not weights(net).equal(before)


@pytest.mark.parametrize("part", PARTS)
def test_weights_drawn_anew_through_data_are_where_training_goes_on(part):
    net = network()
    optimizer = torch.optim.SGD(hold(net, PARTS[part](net)).parameters(), lr=1e-6)
    step(net, optimizer)
    for parameter in net.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    drawn = weights(net)
    step(net, optimizer)
    assert (weights(net) - drawn).abs().max() < 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_a_forward_pass_that_touches_the_weights_is_trained_through(part):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 8, max_norm=1.0), nn.Flatten(), nn.Linear(16, 2))
    tokens, labels = torch.randint(10, (20, 2)), torch.arange(20) % 2
    net(tokens)
    optimizer = torch.optim.SGD(hold(net, PARTS[part](net)).parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(net(tokens), labels).backward()
        optimizer.step()
    assert not net[0].weight.equal(before)


@pytest.mark.parametrize("part", PARTS)
def test_a_replaced_parameter_is_named(part):
    net = network()
    hold(net, PARTS[part](net))
    net.load_state_dict(network().state_dict(), assign=True)
    with pytest.raises(WorkFailed, match=r"0.weight is another Parameter than when the module was held"):
        net(INPUTS)


@pytest.mark.parametrize("part", PARTS)
def test_an_optimiser_that_would_move_nothing_is_refused(part):
    net = network()
    held = hold(net, PARTS[part](net))
    with pytest.raises(WorkFailed, match=r"was given 0.weight itself"):
        step(net, torch.optim.SGD(net.parameters(), lr=0.1))
    stale = torch.optim.SGD(held.parameters(), lr=0.1)
    held.release()
    with pytest.raises(WorkFailed, match="until the module was released: make it anew"):
        step(net, stale)


def test_a_module_around_a_held_one_hands_out_what_moves():
    inner = network()
    held = hold(inner, subspace(inner, 20))
    outer = nn.Sequential(inner)
    assert [id(p) for p in trainable(outer)] == [id(p) for p in held.parameters()]
    assert status(outer).dimensions == 20


@pytest.mark.parametrize("part", PARTS)
def test_a_pickled_network_is_not_held_and_works(part):
    net = network()
    hold(net, PARTS[part](net))
    copied = pickle.loads(pickle.dumps(net))
    assert copied(INPUTS).equal(net(INPUTS))
    assert len(trainable(copied)) == 4


def test_a_function_that_gives_no_gradient_is_no_error():
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return None

    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    held = hold(nn.ModuleList([first, second]), fraction(nn.ModuleList([first, second]), 0.5))
    second(Stop.apply(first(torch.ones(2, 4)))).sum().backward()
    assert [p.grad is None for p in held.parameters()] == [True, True, False, False]


# Frozen


class Filling(torch.optim.SGD):
    """Gives every parameter a gradient, as optimisers do that expect one from each."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return super().step()


@pytest.mark.parametrize("rule", [None, {1: ["0"]}, {"1it": ["0"]}, {0.5: ["0"]}, Rotate(k=1, every=1, blocks="*")])
def test_an_optimiser_that_fills_in_gradients_does_not_move_what_is_frozen(rule):
    net = network()
    optimizer = Filling(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    schedule = Schedule(rule or {0: []})
    schedule.begin(net, [optimizer], steps_per_epoch=1, steps=2)
    step(net, optimizer)
    freeze(net, "0") if rule is None else schedule.enter(step=1)
    assert not net[0].weight.requires_grad
    assert net[2].weight.requires_grad
    before = copy.deepcopy(net)
    step(net, optimizer)
    assert net[0].weight.equal(before[0].weight)
    assert not net[2].weight.equal(before[2].weight)
    assert len(optimizer.param_groups[0]["params"]) == 4


class Decaying(torch.optim.SGD):
    """Steps as its parent does, then decays all that it has."""

    broken = False

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        if self.broken:
            raise RuntimeError("broken")
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)


def test_what_an_optimiser_does_after_its_parents_step_does_not_move_what_is_frozen():
    torch.optim.SGD(network().parameters())  # from now on the parent's step runs the hooks too
    net = network()
    optimizer = Decaying(net.parameters(), lr=0.1)
    freeze(net, "0")
    before = copy.deepcopy(net)
    step(net, optimizer)
    optimizer.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        step(net, optimizer)
    optimizer.broken = False
    step(net, optimizer)
    assert net[0].weight.equal(before[0].weight)
    assert not net[2].weight.equal(before[2].weight)
    assert len(optimizer.param_groups[0]["params"]) == 4


def test_an_optimiser_with_a_list_of_its_own_is_named():
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(INPUTS), LABELS)
        loss.backward()
        return loss

    optimizer.step(closure)
    freeze(net, "0")
    with pytest.raises(WorkFailed, match="LBFGS moved frozen parameters"):
        optimizer.step(closure)


def test_what_would_move_without_an_optimiser_is_refused():
    table = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Linear(4, 2))
    with pytest.raises(BadRequest, match=r"0.weight cannot be frozen: its max_norm"):
        freeze(table, "0")
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = nn.Parameter(shared[0].weight.data)
    with pytest.raises(BadRequest, match=r"0.weight cannot be frozen while 1.weight trains"):
        freeze(shared, "0")


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_a_frozen_layer_under_spectral_norm_computes_what_it_computed(wrap):
    torch.manual_seed(0)
    net = nn.Sequential(wrap(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3))
    freeze(net, "0", statistics="frozen")
    before = net.eval()(INPUTS)
    for _ in range(5):
        net.train()(INPUTS)
    assert net.eval()(INPUTS).equal(before)


def test_a_norm_without_weights_goes_with_the_layer_before_it_and_has_a_row():
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False), nn.ReLU(), nn.Linear(16, 3))
    train_only(net, "3", statistics="frozen")
    before = net[1].running_mean.clone()
    net.train()(INPUTS)
    assert net[1].running_mean.equal(before)
    assert [(row.layer, row.statistics) for row in status(net).rows] == [("0", "none"), ("1", "frozen"), ("3", "none")]


def test_train_only_trains_what_an_earlier_call_froze():
    net = network()
    net[0].bias.requires_grad_(False)
    train_only(net, "2")
    train_only(net, "0")
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["0.weight"]


def test_thawing_undoes_freeze_alone_through_any_module_around():
    encoder = network()
    encoder[0].bias.requires_grad_(False)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(3, 2)})
    for frozen_at, thawed_at in ((encoder, model), (model, encoder)):
        freeze(frozen_at, everything(frozen_at))
        thaw(thawed_at, everything(thawed_at))
        assert [p.requires_grad for p in encoder.parameters()] == [True, False, True, True]
        thaw(model)


# What happened


def test_moved_and_status_name_what_is_not_as_declared():
    net = network().to(torch.bfloat16)
    base = copy.deepcopy(net)
    freeze(net, select(net, "0"))
    net[0].weight.data[0, 0] += 1
    net[2].bias.data.add_(1e-12)
    net[2].weight.data.add_(1)
    found = {one.name: (one.declared, one.moved, one.surprise) for one in moved(net, base)}
    assert found == {
        "0.weight": ("frozen", True, "frozen but moved"),
        "0.bias": ("frozen", False, ""),
        "2.weight": ("trainable", True, ""),
        "2.bias": ("trainable", False, "trainable but did not move"),
    }
    assert [row.happened for row in status(net, base=base).rows] == [
        "frozen but moved: weight",
        "trainable but did not move: bias",
    ]
    assert "frozen but moved: weight" in str(status(net, base=base))


def test_moved_looks_inside_a_parameter_of_which_a_part_moves():
    net = network()
    base = copy.deepcopy(net)
    held = hold(net, fraction(net, 0.5))
    step(net, torch.optim.SGD(held.parameters(), lr=0.1))
    assert {(one.declared, one.surprise) for one in moved(net, base)} == {("partial", "")}
    net[0].weight.data.add_(1)
    assert next(one.surprise for one in moved(net, base)) == "frozen but moved"
