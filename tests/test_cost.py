"""Arithmetic, counted by hand: a product of matrices takes two operations for each weight and example."""

from __future__ import annotations

import pytest
import torch
from helpers import baseline, bits, freezing, small_recipe

from letitgo.recipes.networks import fcn, lenet
from letitgo.weights import copied, everything, freeze, layers, select, step_cost

SIZES = [(20, 7), (7, 5), (5, 3), (3, 4)]
FLOPS = [2 * inputs * outputs for inputs, outputs in SIZES]
LAYERS = ["fc1", "fc2", "fc3", "fc4"]


def counted(frozen: list[str]) -> tuple[int, int, int]:
    """Forward, backward and prefix of the network with some layers frozen."""
    module = fcn((20,), 4, (7, 5, 3))
    if frozen:
        freeze(module, select(module, *frozen))
    cost = step_cost(module, torch.randn(6, 20))
    return cost.forward, cost.backward, cost.prefix


def by_hand(frozen: list[str]) -> tuple[int, int, int]:
    trains = [i for i, layer in enumerate(LAYERS) if layer not in frozen]
    first = trains[0]
    return sum(FLOPS), sum(FLOPS[i] for i in trains) + sum(FLOPS[first + 1 :]), sum(FLOPS[:first])


@pytest.mark.parametrize(
    "frozen", [[], *([layer] for layer in LAYERS), *(LAYERS[:i] for i in (2, 3)), *(LAYERS[i:] for i in (1, 2, 3))]
)
def test_a_step_of_the_fcn_costs_what_is_counted_by_hand(frozen):
    assert counted(frozen) == by_hand(frozen)


def test_freezing_the_first_layers_saves_more_than_freezing_the_last():
    steps = {layer: forward + backward - prefix for layer in LAYERS for forward, backward, prefix in [counted([layer])]}
    assert steps["fc1"] == 3 * sum(FLOPS) - FLOPS[0] - FLOPS[0] - FLOPS[1] - FLOPS[0]
    assert steps["fc4"] == 3 * sum(FLOPS) - FLOPS[0] - FLOPS[3]


def test_nothing_trained_costs_no_backward_pass():
    module = fcn((20,), 4, (7, 5, 3))
    freeze(module, everything(module))
    cost = step_cost(module, torch.randn(6, 20))
    assert (cost.forward, cost.backward) == (sum(FLOPS), 0)


def test_convolutions_are_counted():
    module = lenet((1, 28, 28), 10)
    convolutions = [2 * 25 * 1 * 6 * 24 * 24, 2 * 25 * 6 * 16 * 8 * 8]
    linear = [2 * 256 * 120, 2 * 120 * 84, 2 * 84 * 10]
    cost = step_cost(module, torch.randn(2, 1, 28, 28))
    assert cost.forward == sum(convolutions) + sum(linear)
    assert cost.backward == 2 * cost.forward - convolutions[0]
    assert cost.prefix == 0
    assert cost.step == cost.forward + cost.backward


def test_counting_leaves_the_module_as_it_was():
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.Linear(4, 2)
    )
    state, random = bits(copied(module)), torch.get_rng_state()
    step_cost(module, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert bits(copied(module)) == state
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_run_costs_its_steps_and_a_prefix_once():
    run = baseline(small_recipe(widths="7x5"))
    flops = [2 * 64 * 7, 2 * 7 * 5, 2 * 5 * 10]
    assert list(layers(run.recipe.network())) == ["fc1", "fc2", "fc3"]
    examples = 1438
    full = 3 * sum(flops) - flops[0]
    assert run.cost() == 2 * examples * full
    first = freezing(run, "fc1")
    assert first.cost() == 2 * examples * (3 * sum(flops[1:]) - flops[1]) + examples * flops[0]
    late = freezing(run, "fc3", start=run.at_epoch(1), begin=23, resume=True)
    assert late.cost() == examples * (full - flops[2])
