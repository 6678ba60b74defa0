"""Arithmetic, counted by hand: a product of matrices takes two operations for each weight and example."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers import NormNet, baseline, bits, freezing, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import behaviour, build, cases, inputs, portrait
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from letitgo import plan, weights
from letitgo.errors import BadRequest
from letitgo.recipes.networks import fcn, lenet
from letitgo.weights import (
    Selection,
    copied,
    cost,
    everything,
    freeze,
    frozen,
    layers,
    select,
    step_cost,
    trainable,
)
from letitgo.weights.cost import spared_by_each
from letitgo.weights.layers import parameter_names

SIZES = [(20, 7), (7, 5), (5, 3), (3, 4)]
FLOPS = [2 * inputs * outputs for inputs, outputs in SIZES]
LAYERS = ["fc1", "fc2", "fc3", "fc4"]


def counted(frozen: list[str]) -> tuple[int, int, int]:
    """Forward, backward and prefix of the network with some layers frozen."""
    module = fcn((20,), 4, (7, 5, 3))
    if frozen:
        freeze(module, select(module, *frozen))
    counts = step_cost(module, torch.randn(6, 20))
    return counts.forward, counts.backward, counts.prefix


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
    counts = step_cost(module, torch.randn(6, 20))
    assert (counts.forward, counts.backward) == (sum(FLOPS), 0)


def test_convolutions_are_counted():
    module = lenet((1, 28, 28), 10)
    convolutions = [2 * 25 * 1 * 6 * 24 * 24, 2 * 25 * 6 * 16 * 8 * 8]
    linear = [2 * 256 * 120, 2 * 120 * 84, 2 * 84 * 10]
    counts = step_cost(module, torch.randn(2, 1, 28, 28))
    assert counts.forward == sum(convolutions) + sum(linear)
    assert counts.backward == 2 * counts.forward - convolutions[0]
    assert counts.prefix == 0
    assert counts.step == counts.whole == counts.forward + counts.backward


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


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.into, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.into(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_counted(device):
    tokens, width = 10, 16
    module = Attention(width, 2).to(device)
    counts = step_cost(module, torch.randn(3, tokens, width, device=device))
    scores = 2 * tokens * tokens * width
    assert counts.forward == 2 * tokens * 4 * width * width + 2 * scores
    # Three products of matrices to go back through each layer but the first, which has no inputs to train.
    linear = 2 * tokens * 4 * width * width + 2 * tokens * width * width
    again = scores if device == "cpu" else 0
    assert counts.backward == linear + 4 * scores + again


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions_are_counted(groups):
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=groups))
    first, second = 2 * 36 * 16, 2 * 36 * 9 * 32 // groups
    counts = step_cost(module, torch.randn(2, 4, 6, 6))
    assert (counts.forward, counts.backward) == (first + second, first + 2 * second)


def test_transposed_convolutions_are_counted():
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 8, 3))
    first, second = 2 * 36 * 16, 2 * 36 * 9 * 32
    counts = step_cost(module, torch.randn(2, 4, 6, 6))
    assert (counts.forward, counts.backward) == (first + second, first + 2 * second)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_lstm_is_counted(device):
    module = nn.LSTM(16, 8, batch_first=True).to(device)
    counts = step_cost(module, torch.randn(2, 10, 16, device=device))
    assert counts.forward == 2 * 10 * (16 + 8) * 32
    assert counts.forward < counts.backward <= 2 * counts.forward


@pytest.mark.skipif(not hasattr(torch.ops.aten, "_grouped_mm"), reason="this version of torch has no grouped product")
def test_products_of_groups_are_counted():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.randn(3, 16, 8))

        def forward(self, tokens: Tensor) -> Tensor:
            return torch._grouped_mm(tokens, self.weights, offs=torch.tensor([4, 4, 12], dtype=torch.int32))

    try:
        counts = step_cost(Experts(), torch.randn(12, 16))
    except BadRequest as error:
        pytest.skip(f"no grouped product on this machine: {error}")
    assert (counts.forward, counts.backward) == (2 * 16 * 8, 2 * 16 * 8)


@given(case=cases(), statistics=st.sampled_from(["follow", "frozen"]), training=st.booleans(), data=st.data())
def test_telling_the_cost_leaves_everything_as_it_was(case, statistics, training, data):
    module = case.module().train(training)
    for parameter in module.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
        parameter.grad = data.draw(st.sampled_from([None, torch.full_like(parameter, 3.0)]))
    before, behaved, random = portrait(module), behaviour(module), torch.get_rng_state()
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in module.parameters()]
    objects = [id(buffer) for buffer in module.buffers()]
    cost(module, inputs(), case.selection, statistics)
    assert portrait(module) == before
    assert behaviour(module) == behaved
    assert torch.equal(torch.get_rng_state(), random)
    assert [id(buffer) for buffer in module.buffers()] == objects
    for parameter, (gradient, values) in zip(module.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, values)


def test_everything_is_as_it_was_after_an_error():
    module = NormNet((4,), 2).eval()
    before, random = portrait(module), torch.get_rng_state()
    for wrong in (torch.ones(1, 4), torch.ones(6, 5)):
        with pytest.raises(BadRequest, match="the network does not take the example"):
            cost(module, wrong, select(module, "fc1"))
    assert portrait(module) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_what_hangs_on_gradients_is_not_set_off():
    module = nn.Linear(4, 2)
    stepped = []
    module.weight.register_post_accumulate_grad_hook(stepped.append)
    cost(module, torch.randn(2, 4), select(module, "bias"))
    step_cost(module, torch.randn(2, 4))
    assert not stepped


@given(case=cases())
def test_the_cost_is_that_of_the_step_before_and_after_freezing(case):
    module = case.module()
    told = cost(module, inputs(), case.selection)
    assert told.thawed == step_cost(module, inputs())
    weights = sum(4 * p.numel() for p in module.parameters())
    freeze(module, case.selection)
    assert told.frozen == step_cost(module, inputs())
    assert told.gradient_bytes.thawed == weights
    assert told.gradient_bytes.frozen == sum(4 * p.numel() for p in trainable(module))
    counters = 4 * len(trainable(module))
    assert told.optimizer_bytes.frozen == 2 * told.gradient_bytes.frozen + counters
    assert 0 < told.share <= 1
    assert 0 <= told.share_at_hand <= told.share + 1e-12
    assert cost(module, inputs(), case.selection) == told  # what is frozen already is told of like the rest


@given(case=cases(), data=st.data())
def test_freezing_more_never_costs_more(case, data):
    module = case.module()
    fewer = data.draw(st.sets(st.sampled_from(case.chosen)) if case.chosen else st.just(set()))
    less = case.selection._keep(fewer)
    assert cost(module, inputs(), case.selection).share <= cost(module, inputs(), less).share


@given(case=cases())
def test_counting_needs_no_arithmetic(case):
    module = case.module()
    told = cost(module, inputs(), case.selection)
    with torch.device("meta"):
        module = build([*case.tree, "linear"])
    assert cost(module, inputs().to("meta"), case.selection) == told


def test_optimiser_state_is_that_of_the_optimiser():
    module = fcn((20,), 4, (7,), depth=1).half()
    momentum = partial(torch.optim.SGD, momentum=0.9)
    told = cost(module, torch.randn(2, 20).half(), select(module, "fc1"), optimizer=momentum)
    weights = 20 * 7 + 7 + 7 * 4 + 4
    assert told.gradient_bytes.thawed == told.optimizer_bytes.thawed == 2 * weights
    assert told.optimizer_bytes.frozen == 2 * (7 * 4 + 4)


def test_the_rest_stays_as_it_is():
    module = fcn((20,), 4, (7, 5, 3))
    freeze(module, select(module, "fc1"))
    told = cost(module, torch.randn(2, 20), select(module, "fc2"))
    assert (told.thawed.backward, told.frozen.backward) == (by_hand(["fc1"])[1], by_hand(["fc1", "fc2"])[1])
    assert told.thawed.prefix == FLOPS[0]


class Dropped(nn.Module):
    """Drops inputs before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(20, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(nn.functional.dropout(x, 0.5, self.training)))


class Several(nn.Module):
    """Takes and returns more than one tensor, in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.one, self.two = way, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, first: Tensor, second: Tensor | None = None, scale: float = 1.0) -> Any:
        a, b = self.one(first * scale), self.two(first if second is None else second)
        count = torch.tensor([3])
        return {"tuple": (a, b), "dict": {"a": a, "b": [b, count]}, "nested": ((a, None), {"b": b})}[self.way]


@pytest.mark.parametrize("way", ["tuple", "dict", "nested"])
@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 4),
        (torch.ones(2, 4), torch.ones(2, 4)),
        {"first": torch.ones(2, 4), "scale": 2.0},
        OrderedDict(scale=2.0, second=torch.ones(2, 4), first=torch.ones(2, 4)),
    ],
)
def test_inputs_and_outputs_of_all_kinds(way, example):
    told = cost(Several(way), example, select(Several(way), "one"))
    assert told.thawed.forward == told.thawed.backward == 2 * (16 + 12)
    assert told.frozen.backward == 2 * 12


def test_one_example_is_enough_where_no_norm_needs_two():
    module = fcn((20,), 4, (7,))
    one, nine = (cost(module, torch.randn(n, 20), select(module, "fc1")) for n in (1, 9))
    assert (one.thawed, one.frozen, one.why) == (nine.thawed, nine.frozen, nine.why)


def test_a_network_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.AutoConfig.for_model(
        "bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    module = transformers.AutoModel.from_config(config, add_pooling_layer=False)
    tokens = torch.ones(2, 5, dtype=torch.int64)
    told = cost(module, {"input_ids": tokens}, select(module, "encoder.layer.1"))
    linear, attention = 2 * 5 * (4 * 16 * 16 + 2 * 16 * 32), 2 * 2 * 5 * 5 * 16
    assert told.thawed.forward == 2 * (linear + attention)
    assert told.frozen.backward == told.thawed.backward - linear
    assert "embeddings.word_embeddings still trains" in told.why


def why(module: nn.Module, *patterns: str, example: Tensor | None = None, **options: Any) -> str:
    shape = torch.randn(6, 20) if example is None else example
    return cost(module, shape, select(module, *patterns), **options).why


def test_a_frozen_last_layer_saves_little_and_why_says_so():
    told = why(fcn((20,), 4, (7, 5, 3)), "fc4")
    share = 100 * FLOPS[3] / (3 * sum(FLOPS) - FLOPS[0])
    assert told == (
        "fc1 still trains, so the backward pass goes through fc4 all the same: only the gradients of the frozen "
        f"weights are saved, {share:.1f} % of a step."
    )


def test_a_frozen_prefix_ends_the_backward_pass_and_is_computed_once():
    told = cost(fcn((20,), 4, (7, 5, 3)), torch.randn(6, 20), select(fcn((20,), 4, (7, 5, 3)), "fc1", "fc2"))
    assert told.why == (
        "Nothing that trains lies before fc1, fc2, so the backward pass never gets there: this saves "
        f"{100 - 100 * told.share:.1f} % of a step. The outputs of the frozen prefix can be computed once, which "
        f"leaves {100 * told.share_at_hand:.1f} % of a step; studies do so for up to {2**30 // (4 * 5):,} examples."
    )
    assert told.share_at_hand == pytest.approx((3 * sum(FLOPS[2:]) - FLOPS[2]) / (3 * sum(FLOPS) - FLOPS[0]))


def test_a_prefix_with_batch_statistics_is_computed_once_only_where_they_are_frozen():
    module = nn.Sequential(nn.Linear(20, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    told = cost(module, torch.randn(6, 20), select(module, "0", "1"))
    assert told.frozen.prefix == 2 * 20 * 5  # the linear layer before the norm
    assert cost(module, torch.randn(6, 20), select(module, "0", "1"), "frozen").frozen.prefix == 2 * 20 * 5
    norm_first = nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 5), nn.Linear(5, 3))
    assert "No cache: its outputs change from step to step, by dropout, statistics" in why(norm_first, "0", "1")
    assert "can be computed once, which leaves" in why(norm_first, "0", "1", statistics="frozen")


def test_a_prefix_that_does_not_fit_is_computed_and_counted_at_each_step(monkeypatch):
    run = freezing(baseline(small_recipe(widths="7x5")), "fc1")
    kept = run.cost()
    monkeypatch.setattr(weights, "PREFIX_BYTES", 4 * 7 * 1438 - 1)
    assert run.cost() - kept == (2 - 1) * 1438 * 2 * 64 * 7


def test_why_names_what_is_crossed_and_what_is_not():
    module = fcn((20,), 4, (7, 5, 3))
    assert (
        "fc2 still trains, so the backward pass goes through fc3 all the same, but it ends at fc2 and never reaches fc1"
        in why(module, "fc1", "fc3")
    )
    assert why(module, "*").startswith("Nothing trains then: there is no backward pass, which saves")
    assert "goes through fc1, fc2 and 2 more all the same" in why(module, "*.bias")
    assert "The outputs of fc1 can be computed once, which leaves" in why(NormNet((20,), 3), "fc1", "norm1")
    assert "No cache: the network draws random numbers." in why(Dropped(), "first")
    empty = cost(module, torch.randn(2, 20), everything(module) - everything(module))
    assert (empty.share, empty.why) == (1.0, "Nothing is frozen, so nothing is saved.")
    norm = nn.Sequential(nn.BatchNorm1d(20))
    assert (cost(norm, torch.randn(2, 20), everything(norm)).share, why(norm, "*")[:22]) == (
        1.0,
        "Nothing can be told: n",
    )


def test_why_goes_by_what_depends_on_what_not_by_the_order_of_layers():
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(20, 3), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) * self.right(x)

    for tower in ("left", "right"):
        assert f"Nothing that trains lies before {tower}" in why(Towers(), tower)


def test_why_knows_where_a_tied_weight_works():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.body = nn.Embedding(9, 20), nn.Linear(20, 20)
            self.head = nn.Linear(20, 9, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.body(self.wte(ids)))

    assert "body still trains, so the backward pass goes through wte" in why(
        Model(), "wte", example=torch.ones(2, 3).long()
    )


def test_a_frozen_part_that_is_never_called_works_in_its_parent():
    class Model(nn.MultiheadAttention):
        def forward(self, tokens: Tensor) -> Any:  # type: ignore[override]
            return super().forward(tokens, tokens, tokens)

    module, tokens = Model(20, 2, batch_first=True), torch.randn(2, 5, 20)
    assert "in_proj_weight still trains, so the backward pass goes through out_proj" in why(
        module, "out_proj", example=tokens
    )
    assert "Nothing that trains lies before in_proj_weight" in why(module, "in_proj*", example=tokens)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.randn(0, 20), "the example is empty"),
        (torch.randn(2, 3), "does not take the example: RuntimeError"),
        ({"nothing": torch.randn(2, 20)}, "does not take the example: TypeError"),
        ((), "does not take the example: TypeError"),
    ],
)
def test_an_example_the_network_does_not_take(example, message):
    module = fcn((20,), 4, (7,))
    for call in (lambda: cost(module, example, select(module, "fc1")), lambda: step_cost(module, example)):
        with pytest.raises(BadRequest, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_inputs_are_taken_as_data():
    module, example = fcn((20,), 4, (7,)), torch.randn(2, 20, requires_grad=True)
    told = cost(module, example, select(module, "fc1"))
    assert told == cost(module, example.detach(), select(module, "fc1"))
    assert example.grad is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_are_counted_or_refused(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.third = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.third(checkpoint(self.second, self.first(x), use_reentrant=reentrant))

    if reentrant:
        with pytest.raises(BadRequest, match="use_reentrant=False"):
            step_cost(Checkpointed(), torch.randn(2, 4))
    else:  # the second layer is computed once more on the way back
        assert step_cost(Checkpointed(), torch.randn(2, 4)).backward == (1 + 2 + 1 + 2) * 2 * 16


def test_outputs_that_cannot_be_trained_on():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).argmax(1)

    with pytest.raises(BadRequest, match="returns no floating-point tensor"):
        cost(Counts(), torch.randn(2, 20), everything(Counts()))


def test_a_selection_of_another_network_or_none():
    module = fcn((20,), 4, (7,))
    with pytest.raises(BadRequest, match="of another network"):
        cost(module, torch.randn(2, 20), everything(fcn((20,), 4, (7, 5))))
    with pytest.raises(BadRequest, match="choose with select"):
        cost(module, torch.randn(2, 20), None)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match=r"^a Tensor is no selection: give patterns"):
        cost(module, torch.randn(2, 20), torch.randn(2, 20))  # type: ignore[arg-type]
    for choice in ("fc1", everything(module)):
        with pytest.raises(BadRequest, match=r"the order is cost\(module, example_input, selection\)$"):
            cost(module, choice, torch.randn(2, 20))  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="statistics is 'froze'"):
        cost(module, torch.randn(2, 20), everything(module), "froze")  # type: ignore[arg-type]


def one_by_one(module: nn.Module, examples: Tensor, statistics: Any = "follow") -> int:
    """Check what each part spares against a count of the network with that part frozen; how many there were."""
    whole, spared = step_cost(module, examples), spared_by_each(module, examples)
    for name, operations in spared.items():
        alone = Selection(layers(module)[name], parameter_names(module))
        with frozen(module, alone, statistics):
            assert step_cost(module, examples) == replace(whole, backward=whole.backward - operations), name
    return len(spared)


class Twice(nn.Module):
    """Calls a layer twice, uses the weight of another without calling it, and skips a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.used, self.skipped, self.last = (nn.Linear(6, 6) for _ in range(5))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.again(self.again(self.first(inputs)))
        hidden = self.used(hidden) + hidden @ self.used.weight
        return self.last(hidden + self.skipped(inputs))


@given(case=cases(), statistics=st.sampled_from(["follow", "frozen"]))
@settings(max_examples=40)
def test_what_each_layer_spares_is_what_a_count_with_it_frozen_gives(case, statistics):
    one_by_one(case.module(), inputs(), statistics)


def test_layers_of_which_more_hangs_on_than_their_own_gradient_are_left_out():
    assert spared_by_each(Twice(), torch.randn(2, 6)).keys() == {"last"}
    assert one_by_one(lenet((1, 28, 28), 10, norm=True), torch.randn(2, 1, 28, 28)) == 8
    strided = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.ConvTranspose2d(8, 4, 3))
    assert one_by_one(strided, torch.randn(2, 4, 9, 9)) == 2


def test_freezing_the_layers_one_by_one_takes_as_many_counts_however_many_there_are(monkeypatch):
    counts: list[int] = []
    monkeypatch.setattr(plan.cost.weights, "step_cost", lambda *args: counts.append(1) or step_cost(*args))
    for depth in (5, 20):
        run = baseline(small_recipe(depth=depth, widths="7"))
        before = len(counts)
        for layer in run.recipe.network.layers:
            freezing(run, layer).cost()
        assert len(counts) - before == 2  # the network as it is, and without its first layer


@torch.library.custom_op("letitgo_tests::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


product.register_fake(lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
product.register_autograd(
    lambda ctx, g: (g @ ctx.saved_tensors[1].T, ctx.saved_tensors[0].T @ g),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class Calls(nn.Module):
    def __init__(self, own, call):
        super().__init__()
        self.own, self.call = own, call

    def forward(self, x):
        return self.call(self.own, x)


def test_products_of_other_kinds_are_counted_or_named():
    bilinear = Calls(nn.Bilinear(8, 8, 16), lambda layer, x: layer(x, x))
    assert step_cost(bilinear, torch.ones(4, 8)).forward == 2 * 16 * 8 * 8
    vector = Calls(nn.Linear(8, 1), lambda layer, x: x @ layer.weight[0])
    assert step_cost(vector, torch.ones(4, 8)).forward == 2 * 8
    own = nn.Sequential(Calls(nn.Linear(8, 16), lambda layer, x: product(x, layer.weight.T)), nn.Linear(16, 3))
    found = cost(own, torch.ones(4, 8), select(own, "0.own"))
    assert found.thawed.uncounted == ("letitgo_tests.product",)
    assert "Not counted, for want of a formula: letitgo_tests.product." in found.why
