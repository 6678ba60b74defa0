"""Memory of a training step, counted by hand, and held against what PyTorch's allocator held."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import bits
from hypothesis import given
from networks import cases, inputs
from test_inspect import told_of
from torch import Tensor, nn

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.recipes.networks import fcn
from letitgo.weights import (
    copied,
    cost,
    entries,
    fitting,
    freeze,
    hold,
    lora_cost,
    memory,
    parameter_names,
    select,
    step_cost,
    training_blocks,
)

N, SIZES = 6, (20, 7, 5, 3, 4)
WEIGHTS = 4 * sum((a + 1) * b for a, b in pairwise(SIZES))


def net() -> nn.Module:
    return fcn((20,), 4, (7, 5, 3))


def of(module: nn.Module, **options: Any) -> Any:
    return memory(module, torch.randn(N, 20), **options)


def test_a_step_of_the_fcn_holds_what_is_counted_by_hand():
    found = of(net(), optimizer=partial(torch.optim.SGD, momentum=0.9))
    assert (found.weights, found.gradients, found.optimizer) == (WEIGHTS, WEIGHTS, WEIGHTS)
    assert found.blocks == {"fc1": 4 * N * 7, "fc2": 4 * N * 5, "fc3": 4 * N * 3, "fc4": 0}
    assert (found.activations, found.trainable) == (4 * N * 15, WEIGHTS // 4)


@pytest.mark.parametrize(
    ("frozen", "saved"), [("fc1", 5 + 3 + 7), ("fc4", 7 + 5 + 3), ("fc2", 7 + 5 + 3), ("fc[123]", 3), ("fc[234]", 15)]
)
def test_what_the_backward_pass_does_not_reach_saves_nothing(frozen, saved):
    module = net()
    freeze(module, select(module, frozen))
    assert of(module).activations == 4 * N * saved


def test_cost_tells_memory_before_and_after_freezing():
    module = net()
    told = cost(module, torch.randn(N, 20), select(module, "fc[12]"))
    assert told.thawed_memory == of(module)
    freeze(module, select(module, "fc[12]"))
    assert told.frozen_memory == of(module)
    assert told.gradient_bytes.frozen == told.frozen_memory.gradients


@given(case=cases())
def test_counting_leaves_everything_as_it_was_and_goes_by_what_trains(case):
    module = case.module()
    state, random = bits(copied(module)), torch.get_rng_state()
    whole = memory(module, inputs())
    freeze(module, case.selection)
    part = memory(module, inputs())
    assert bits(copied(module)) == state
    assert torch.equal(torch.get_rng_state(), random)
    assert all(type(own) is nn.Parameter and own.grad is None for own in module.parameters())
    assert part.weights == whole.weights
    assert (part.peak, part.activations, part.trainable) <= (whole.peak, whole.activations, whole.trainable)


def held_by_training(module: nn.Module, example: dict[str, Tensor]) -> int:
    """The most bytes that PyTorch's allocator holds in three steps, the network and the example included."""
    before = sum(own.nbytes for own in [*module.parameters(), *module.buffers(), *example.values()])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer = torch.optim.AdamW([own for own in module.parameters() if own.requires_grad])
        for _ in range(3):
            loss = module(**example).loss
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
    now, peak = before, before
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


def of_transformers(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if kind == "llama":
        module = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **TRANSFORMER))
        tokens = torch.randint(50, (4, 32))
        return module, {"input_ids": tokens, "labels": tokens}
    pictures, labels = torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    if kind == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, **TRANSFORMER)
        return transformers.ViTForImageClassification(config), {"pixel_values": pictures, "labels": labels}
    # 16 channels or more: kernels that take 16 at a time fill up fewer with zeros, in memory of their own
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
    return transformers.ResNetForImageClassification(config), {"pixel_values": pictures, "labels": labels}


@pytest.mark.parametrize("kind", ["vit", "resnet", "llama"])
@pytest.mark.parametrize("first", [0, 3])
def test_the_peak_is_what_the_allocator_holds(kind, first):
    module, example = of_transformers(kind)
    for block in list(training_blocks(module).values())[:first]:
        for name in block:
            module.get_parameter(name).requires_grad_(False)
    counted = memory(module, example).peak
    assert counted == pytest.approx(held_by_training(module, example), rel=0.05)


OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adafactor, torch.optim.NAdam]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_the_state_of_an_optimiser_is_what_it_has_after_a_step(optimizer):
    module = net()
    made = optimizer(module.parameters())
    module(torch.randn(N, 20)).sum().backward()
    made.step()
    tensors = [value for state in made.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert of(net(), optimizer=optimizer).optimizer == sum(tensor.nbytes for tensor in tensors)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


def blocks() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 8), Block(), Block(), Block(), nn.Linear(8, 4))


def test_checkpointed_blocks_save_what_they_are_given():
    assert of(blocks()).blocks == {"0": 0, "1": 4 * N * 24, "2": 4 * N * 24, "3": 4 * N * 24, "4": 4 * N * 8}
    found = of(blocks(), checkpoint=True)
    assert found.activations == 4 * N * 4 * 8
    many = torch.randn(300, 20)
    assert memory(blocks(), many, checkpoint=True).peak < memory(blocks(), many).peak
    with pytest.raises(BadRequest, match="no blocks"):
        of(net(), checkpoint=True)


def test_precision():
    whole, half, mixed = (of(net(), precision=precision) for precision in (None, "bf16-true", "bf16-mixed"))
    assert (half.weights, half.gradients, half.activations) == tuple(
        size // 2 for size in (whole.weights, whole.gradients, whole.activations)
    )
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (whole.weights, whole.gradients, whole.optimizer)


def test_adapters_of_low_rank_are_counted_by_hand():
    found, frozen = lora_cost(net(), torch.randn(N, 20), 2), step_cost(net(), torch.randn(N, 20)).forward
    adapted = list(pairwise(SIZES))[:-1]  # not the output layer
    assert found.memory.trainable == sum(2 * (a + b) for a, b in adapted)
    assert found.memory.gradients == 4 * found.memory.trainable
    assert found.memory.weights == WEIGHTS + found.memory.gradients
    assert found.step.forward == frozen + sum(2 * 2 * (a + b) for a, b in adapted)
    with pytest.raises(BadRequest, match="rank is 0"):
        lora_cost(net(), torch.randn(N, 20), 0)


def test_adapters_behind_a_frozen_beginning_are_counted():
    """No linear layer, so nothing adapts it: there its outputs could be cached."""

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 8), nn.Linear(8, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(self.conv(inputs).flatten(1)).relu())

    found = lora_cost(Images(), torch.randn(N, 1, 8, 8), 2)
    assert found.memory.trainable == 2 * (72 + 8)
    assert found.step.forward == step_cost(Images(), torch.randn(N, 1, 8, 8)).forward + 2 * 2 * (72 + 8)


@pytest.mark.parametrize("share", [0.999, 0.8, 0.6, 0.5])
def test_the_largest_set_that_fits_has_no_larger_one(share):
    example, names = torch.randn(300, 20), parameter_names(blocks())
    limit = int(share * memory(blocks(), example).peak)
    chosen, module = fitting(blocks(), example, limit), blocks()
    units = list(training_blocks(module).values())
    prefixes = [[name for unit in units[:i] for name in unit] for i in range(len(units))]
    assert list(chosen) in prefixes[1:]
    freeze(module, chosen)
    assert memory(module, example).peak <= limit
    assert list(chosen.of) == list(names)
    one_fewer, module = prefixes[prefixes.index(list(chosen)) - 1], blocks()
    if one_fewer:
        freeze(module, select(module, *one_fewer))
    assert memory(module, example).peak > limit


def test_what_fits_is_left_alone_and_what_cannot_is_refused():
    assert not fitting(blocks(), torch.randn(N, 20), 10**9)
    with pytest.raises(BadRequest, match="1,000 bytes are too few"):
        fitting(blocks(), torch.randn(N, 20), 1000)


class Looks(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * float(input.sum())


def test_what_cannot_be_counted_is_refused_and_cost_goes_on_without():
    with pytest.raises(BadRequest, match="goes by what it computes"):
        memory(Looks(20, 3), torch.randn(N, 20))
    told = cost(Looks(20, 3), torch.randn(N, 20), ["bias"])
    assert told.thawed_memory is None
    assert told.gradient_bytes.thawed == 4 * 21 * 3
    assert "No memory of a step: memory cannot be counted without numbers" in told.why
    with pytest.raises(BadRequest, match="LBFGS"):
        of(net(), optimizer=torch.optim.LBFGS)
    module = net()
    hold(module, entries(module, {"fc1.weight": torch.rand(7, 20) > 0.5}))
    with pytest.raises(BadRequest, match="single weights are held"):
        of(module)


def test_the_command_tells_adapters_and_what_fits(capsys):
    told = told_of(capsys, "fcn", "--input", "500x1x28x28", "--lora", "4", "--fit", "6MB")
    module = fcn((1, 28, 28), 10)
    chosen = fitting(module, torch.ones(500, 1, 28, 28), 6_000_000)
    assert told["fit"]["frozen"] == list(dict.fromkeys(name.partition(".")[0] for name in chosen))
    assert told["fit"]["peak"] <= told["fit"]["limit"] == 6_000_000
    assert told["lora"]["memory"] == json.loads(
        json.dumps(vars(lora_cost(module, torch.ones(500, 1, 28, 28), 4).memory))
    )
    assert told["cost"]["thawed_memory"]["peak"] == memory(module, torch.ones(500, 1, 28, 28)).peak
    for wrong in (["--fit", "24"], ["--optimizer", "adamq"]):
        assert run(["inspect", "fcn", *wrong]) == 2
        assert wrong[1] in capsys.readouterr().err
