"""Holding a part: what is outside stays to the bit, what is inside trains as ever, and letting go leaves no trace."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import partial

import pytest
import torch
from helpers import bits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS, Case, behaviour, cases, inputs, portrait, step
from torch import Tensor, nn
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    register_optimizer_step_pre_hook,
)

from letitgo.errors import BadRequest, WorkFailed
from letitgo.weights import (
    Part,
    Selection,
    biases,
    copied,
    entries,
    everything,
    fraction,
    freeze,
    frozen,
    hold,
    norms,
    parameter_names,
    robustness,
    select,
    step_cost,
    subspace,
    thaw,
    trainable,
    zero_out,
)
from letitgo.weights.gradients import has_gradient


@st.composite
def parts(draw: st.DrawFn) -> tuple[Case, Part]:
    """A network, and for each of its parameters: all of it, none of it, some rows or some entries."""
    case = draw(cases())
    whole, masks = [], {}
    for name, parameter in case.module().named_parameters():
        kind = draw(st.sampled_from(["whole", "none", "rows", "entries"]))
        if kind == "whole":
            whole.append(name)
        elif kind != "none":
            count = len(parameter) if kind == "rows" else parameter.numel()
            flags = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
            shape = (-1, *[1] * (parameter.ndim - 1)) if kind == "rows" else parameter.shape
            masks[name] = flags.view(shape).expand(parameter.shape).contiguous()
    return case, Part(Selection(tuple(whole), parameter_names(case.module())), masks)


def masks_of(module: nn.Module, part: Part) -> dict[str, torch.Tensor]:
    """The part as a mask of every parameter."""
    return {
        name: torch.ones_like(p, dtype=torch.bool)
        if name in part.whole
        else part.entries.get(name, torch.zeros_like(p, dtype=torch.bool))
        for name, p in module.named_parameters()
    }


def outside(module: nn.Module, part: Part) -> dict[str, bytes]:
    return bits({name: module.get_parameter(name)[~mask] for name, mask in masks_of(module, part).items()})


def inside(module: nn.Module, part: Part) -> dict[str, torch.Tensor]:
    return {name: module.get_parameter(name)[mask].detach().clone() for name, mask in masks_of(module, part).items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=8)
@given(drawn=parts(), set_to_none=st.booleans())
def test_what_is_outside_stays_under_every_optimizer(name, drawn, set_to_none):
    case, part = drawn
    module = case.module()
    objects, keys = [id(p) for p in module.parameters()], list(module.state_dict())
    with hold(module, part) as held:
        assume(any(p.ndim == 2 for p in held.parameters()))
        before, moving = outside(module, part), inside(module, part)
        optimizer = OPTIMIZERS[name](held.parameters())
        for _ in range(3):
            module.train()
            step(module, optimizer, set_to_none)
        assert outside(module, part) == before
        assert [id(p) for p in module.parameters()] == objects
        assert list(module.state_dict()) == keys
        for moved, entry in held.moving.items():
            assert torch.equal(entry.values.flatten(), inside(module, part)[moved])
    assert outside(module, part) == before
    assert any(not torch.equal(moving[n], x) for n, x in inside(module, part).items())


@given(drawn=parts(), training=st.booleans(), data=st.data())
def test_letting_go_gives_the_module_back(drawn, training, data):
    case, part = drawn
    module = case.module().train(training)
    for parameter in module.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
    before, behaved = portrait(module), behaviour(module)
    hold(small(), some(small())).release()  # torch keeps two hooks once anything was held, and no more
    hooks = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    held = hold(module, part, statistics="frozen", dropout="off")
    held.release()
    held.release()
    assert portrait(module) == before
    assert behaviour(module) == behaved
    assert not module._forward_pre_hooks
    assert not module._state_dict_pre_hooks
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == hooks
    (module(inputs()) - 1).square().mean().backward() if any(p.requires_grad for p in module.parameters()) else None
    for parameter in module.parameters():
        assert parameter.requires_grad or parameter.grad is None


@given(drawn=parts(), other=st.data())
def test_a_part_and_its_complement(drawn, other):
    case, part = drawn
    module = case.module()
    ours, rest = masks_of(module, part), masks_of(module, ~part)
    for name in ours:
        assert torch.equal(ours[name], ~rest[name])
    both = masks_of(module, part | ~part)
    assert all(mask.all() for mask in both.values())
    again = masks_of(module, ~~part)
    assert all(torch.equal(again[name], ours[name]) for name in ours)


@given(drawn=parts())
def test_moving_entries_go_where_they_would_go_with_the_rest_let_alone(drawn):
    """Plain SGD moves each weight by its own gradient: as where the others' gradients are set to zero."""
    case, part = drawn
    ours, plain = case.module(), case.module()
    masks = masks_of(plain, part)
    held = hold(ours, part)
    assume(held.parameters())
    ours_optimizer = torch.optim.SGD(held.parameters(), lr=0.1, momentum=0.9)
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for turn in range(3):
        for module, optimizer in ((ours, ours_optimizer), (plain, plain_optimizer)):
            torch.manual_seed(turn)  # for dropout
            optimizer.zero_grad()
            (module(inputs()) - 1).square().mean().backward()
            if module is plain:
                for name, parameter in module.named_parameters():
                    if parameter.grad is not None:
                        parameter.grad *= masks[name]
            optimizer.step()
    assert bits(copied(ours)) == bits(copied(plain))


def test_gradient_masks_do_not_hold_what_holding_holds():
    """The naive way, so that the test above is known to be able to fail: decay moves what has no gradient."""
    module = nn.Linear(6, 6)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0] = True
    before = module.weight.detach().clone()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(inputs()).square().mean().backward()
    module.weight.grad *= mask
    optimizer.step()
    assert not torch.equal(module.weight[~mask], before[~mask])

    module.load_state_dict({"weight": before, "bias": module.bias.detach()})
    module.zero_grad()
    with hold(module, entries(module, {"weight": mask})) as held:
        step(module, torch.optim.AdamW(held.parameters(), lr=0.1))
    assert torch.equal(module.weight[~mask], before[~mask])
    assert not torch.equal(module.weight[mask], before[mask])


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))


def some(module: nn.Module, share: float = 0.3, of: str = "weights") -> Part:
    return fraction(module, share, of) | biases(module)


def test_momentum_and_zeros_for_gradients_move_nothing_outside():
    module = small()
    part = some(module)
    with hold(module, part) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1, momentum=0.9)
        step(module, optimizer, set_to_none=False)
        before = outside(module, part)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()
        assert outside(module, part) == before


def test_the_optimizers_state_is_as_small_as_the_part():
    module = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 50, 3))
    with hold(module, fraction(module, 0.1)) as held:
        optimizer = torch.optim.Adam(held.parameters())
        module(torch.randn(2, 3, 8, 8)).square().mean().backward()
        with torch._C.DisableTorchFunctionSubclass():  # a stand-in holds one number
            assert sum(p.grad.untyped_storage().nbytes() for p in module.parameters()) == 4 * 4
        optimizer.step()
        assert not any(map(has_gradient, module.parameters()))
        kept = sum(x.numel() for state in optimizer.state.values() for x in state.values() if x.ndim)
        assert kept == 2 * sum(p.numel() for p in held.parameters())
        assert kept == 2 * (4 * (3 * 9 + 1) + 5 * (40 * 9 + 1))


@pytest.mark.parametrize("early", [True, False])
def test_an_optimizer_given_everything_by_mistake_is_told(early):
    module = small()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    with hold(module, some(module)):
        before = bits(copied(module))
        with pytest.raises(WorkFailed, match=r"given 0\.weight itself, .* make it of letitgo\.trainable"):
            step(module, optimizer if early else torch.optim.AdamW(module.parameters(), lr=0.1))
        assert bits(copied(module)) == before


def test_freezing_what_is_held_is_refused():
    module = small()
    with hold(module, some(module)):
        for call in (freeze, thaw, lambda *args: frozen(*args).__enter__()):
            with pytest.raises(BadRequest, match="the module is held"):
                call(module, select(module, "0"))


def test_counting_what_is_held_counts_whole_gradients():
    module = small()
    full = step_cost(module, inputs())
    with hold(module, some(module)):
        assert step_cost(module, inputs()) == full


def test_trainable_gives_what_is_held():
    module = small()
    with hold(module, fraction(module, 0.5)) as held:
        assert [id(p) for p in trainable(module)] == [id(p) for p in held.parameters()]
        assert dict(held.named_parameters())["0.weight"].shape == (4, 6)
    assert [id(p) for p in trainable(module)] == [id(p) for p in module.parameters()]


@pytest.mark.parametrize("by", ["optimizer", "module"])
def test_gradients_add_up_and_are_cleared(by):
    module = small()
    with hold(module, some(module)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        for times in (1, 2):
            module(inputs()).square().mean().backward()
            once = [p.grad.clone() / times for p in held.parameters()]
        for p, gradient in zip(held.parameters(), once, strict=True):
            torch.testing.assert_close(p.grad, 2 * gradient)
        optimizer.zero_grad() if by == "optimizer" else module.zero_grad()
        assert all(p.grad is None for p in held.parameters())
        module(inputs()).square().mean().backward()
        module.zero_grad(set_to_none=False)
        assert all(not p.grad.any() for p in held.parameters())


@pytest.mark.parametrize(
    "part", [some, lambda module: subspace(module, 12), lambda module: subspace(module, 12, said=True)]
)
@pytest.mark.parametrize(
    "clip", [partial(nn.utils.clip_grad_norm_, max_norm=0.01), partial(nn.utils.clip_grad_value_, clip_value=0.01)]
)
def test_clipping_the_networks_gradients_clips_those_of_what_moves(part, clip):
    """As the Hugging Face Trainer does, which knows the network and not what moves of it."""
    gradients = []
    for parameters_of in (lambda module, held: module.parameters(), lambda module, held: held.parameters()):
        module = small()
        with hold(module, part(module)) as held:
            for _ in range(2):  # gradients add up beside the stand-ins of the pass before
                module(inputs()).square().mean().backward()
            norm = clip(parameters_of(module, held))
            gradients.append([norm, *(p.grad for p in held.parameters())])
        assert all(type(p.grad) in (Tensor, type(None)) for p in module.parameters())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient.abs().max() <= 0.01 for gradient in gradients[0][1:])


@pytest.mark.parametrize("part", [some, lambda module: subspace(module, 12)])
def test_a_network_is_converted_between_a_backward_pass_and_its_step(part):
    module = small()
    with hold(module, part(module)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        module(inputs()).square().mean().backward()
        module.double()
        before = copied(module)
        optimizer.step()
        assert bits(copied(module)) != bits(before)
        assert all(p.dtype == torch.float64 for p in module.parameters())


def test_two_forward_passes_before_a_backward_pass():
    module = small()
    with hold(module, some(module)) as held:
        step(module, torch.optim.SGD(held.parameters(), lr=0.1))
        (module(inputs()).mean() + module(inputs() + 1).mean()).backward()


def test_the_module_is_up_to_date_after_a_step_and_after_values_are_set():
    module = small()
    with hold(module, fraction(module, 0.5)) as held:
        step(module, torch.optim.SGD(held.parameters(), lr=0.1))
        moving = held.moving["0.weight"]
        assert torch.equal(module[0].weight[moving._index], moving.values)
        with torch.no_grad():
            moving.values.fill_(3.0)
        assert (module.state_dict()["0.weight"][moving._index] == 3).all()
        with torch.no_grad():
            moving.values.fill_(4.0)
        module(inputs())
        assert (module[0].weight[moving._index] == 4).all()


def test_weights_loaded_into_a_held_module_are_kept():
    module, other = small(), small()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    with hold(module, some(module)) as held:
        module.load_state_dict(other.state_dict())
        module(inputs())
        assert bits(copied(module)) == bits(copied(other))
        optimizer = torch.optim.SGD(held.parameters(), lr=0.0)
        step(module, optimizer)
        assert bits(copied(module)) == bits(copied(other))


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped():
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = small()
        held = hold(module, some(module))
        return module, torch.optim.AdamW(held.parameters(), lr=0.05)

    module, optimizer = start()
    for _ in range(2):
        step(module, optimizer)
    checkpoint = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    for _ in range(2):
        step(module, optimizer)
    other, other_optimizer = start()
    other.load_state_dict(checkpoint[0])
    other_optimizer.load_state_dict(checkpoint[1])
    for _ in range(2):
        step(other, other_optimizer)
    assert bits(copied(other)) == bits(copied(module))


def test_a_copy_is_a_plain_module():
    module = small()
    part = some(module)
    with hold(module, part) as held:
        step(module, torch.optim.SGD(held.parameters(), lr=0.1))
        other = copy.deepcopy(module)
        assert bits(copied(other)) == bits(copied(module))
        before = bits(copied(module))
        other.zero_grad()
        other(inputs()).square().mean().backward()
        torch.optim.SGD(trainable(other), lr=0.1).step()
        assert bits(copied(module)) == before
        assert bits(copied(other)) != before
        with hold(other, part) as again:
            step(other, torch.optim.SGD(again.parameters(), lr=0.1))


def test_another_type_and_back():
    module = small()
    part = some(module)
    with hold(module, part) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        step(module, optimizer)
        module.double()
        before = outside(module, part)
        module(inputs().double()).square().mean().backward()
        assert all(p.grad.dtype == torch.float64 for p in held.parameters())
        optimizer.step()
        assert outside(module, part) == before
        module.float()
        step(module, optimizer)


def test_a_held_network_is_let_go_with_its_last_reference():
    gc.collect()
    hold(small(), some(small())).release()
    hooks = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    module = small()
    ghosts = weakref.ref(module), weakref.ref(hold(module, some(module)))
    del module
    gc.collect()
    assert [ghost() for ghost in ghosts] == [None, None]
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == hooks


def test_a_held_network_may_be_collected_in_the_middle_of_a_step():
    """Whatever happens then must not change what the optimiser goes through."""
    module = small()

    def collect(*_: object) -> None:
        gc.collect()

    with hold(module, some(module)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        handle = optimizer.register_step_pre_hook(collect)
        for _ in range(3):
            forgotten = small()
            hold(forgotten, some(forgotten))
            del forgotten
            step(module, optimizer)
        handle.remove()


def test_two_held_networks_step_apart():
    one, other = small(), small()
    with hold(one, some(one)) as first, hold(other, some(other)) as second:
        before = bits(copied(other))
        step(one, torch.optim.SGD(first.parameters(), lr=0.1))
        assert bits(copied(other)) == before
        step(other, torch.optim.SGD(second.parameters(), lr=0.1))
        assert bits(copied(other)) == bits(copied(one))


def test_a_gradient_that_comes_late_is_refused():
    """What DistributedDataParallel does: it puts the averaged gradient back after the backward pass."""
    module = small()
    with hold(module, fraction(module, 0.5)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        module(inputs()).square().mean().backward()
        module[0].weight.grad = torch.zeros_like(module[0].weight)
        with pytest.raises(WorkFailed, match=r"gradient of 0\.weight came after .* DistributedDataParallel"):
            optimizer.step()


def test_under_compile():
    module = small()
    plain = copy.deepcopy(module)
    part = some(module)
    results = []
    for net, call in ((module, torch.compile(module, backend="eager")), (plain, plain)):
        with hold(net, part) as held:
            optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                (call(inputs()) - 1).square().mean().backward()
                optimizer.step()
        results.append(bits(copied(net)))
    assert results[0] == results[1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x[:, None], x[:, None], x[:, None])[0][:, 0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(6, 6, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x[:, None])[0][:, 0]


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(2)])

    def forward(self, x):
        return x @ self.inner[0] @ self.inner[1]


class Embedded(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.inner = nn.Embedding(9, 6, sparse=sparse)

    def forward(self, x):
        return self.inner((x.abs() * 2).long().clamp(max=8)).sum(1)


def channels_last() -> nn.Module:
    convolutions = nn.Sequential(nn.Unflatten(1, (3, 1, 2)), nn.Conv2d(3, 6, 3, padding=1), nn.Flatten())
    return convolutions.to(memory_format=torch.channels_last)


def transposed() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 1, 2)), nn.ConvTranspose2d(3, 4, 3, padding=1), nn.Flatten())


KINDS = {
    "attention": Attention,
    "recurrent": Recurrent,
    "parameter list": Listed,
    "embedding": lambda: Embedded(False),
    "sparse embedding": lambda: Embedded(True),
    "channels last": channels_last,
    "transposed convolution": transposed,
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["filters", "weights"])
def test_modules_of_every_kind(kind, of):
    torch.manual_seed(0)
    module = KINDS[kind]()
    part = fraction(module, 0.4, of)
    before, moving = outside(module, part), inside(module, part)
    with hold(module, part) as held:
        optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
        for _ in range(2):
            step(module, optimizer)
    assert outside(module, part) == before
    assert any(not torch.equal(moving[name], x) for name, x in inside(module, part).items())


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "sparse embedding"]
)  # AdamW takes no sparse gradient
def test_modules_of_every_kind_are_frozen_whole(kind):
    torch.manual_seed(0)
    module = nn.ModuleDict({"frozen": KINDS[kind](), "free": KINDS[kind]()})
    before = bits(copied(module))
    freeze(module, select(module, "frozen"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        (module["frozen"](inputs()).sum() + module["free"](inputs()).square().sum()).backward()
        optimizer.step()
    after = bits(copied(module))
    assert {name for name in after if name.startswith("frozen") and after[name] != before[name]} == set()
    assert any(after[name] != before[name] for name in after if name.startswith("free."))


@given(case=cases(), share=st.floats(0.01, 1), of=st.sampled_from(["filters", "weights"]), seed=st.integers(0, 99))
def test_a_fraction_is_as_large_as_asked_and_repeatable(case, share, of, seed):
    module = case.module()
    part = fraction(module, share, of, seed)
    again = fraction(case.module(7), share, of, seed)
    assert {n: m.tolist() for n, m in part.entries.items()} == {n: m.tolist() for n, m in again.entries.items()}
    for name, mask in part.entries.items():
        parameter = module.get_parameter(name)
        count = len(parameter) if of == "filters" else parameter.numel()
        wanted = max(1, round(share * count))
        assert int(mask.sum()) == wanted * (parameter.numel() // count)
        assert of == "filters" or parameter.ndim > 1
    matrices = {n for n, p in module.named_parameters() if p.ndim > 1 and "token" not in n}
    assert matrices == {n for n in part.entries if module.get_parameter(n).ndim > 1}


def test_a_bias_goes_with_its_filter():
    module = nn.Conv2d(2, 10, 3)
    part = fraction(module, 0.3)
    assert torch.equal(part.entries["weight"].flatten(1).all(1), part.entries["bias"])
    transposed = fraction(nn.ConvTranspose2d(4, 10, 3), 0.3)
    assert torch.equal(transposed.entries["weight"].transpose(0, 1).flatten(1).all(1), transposed.entries["bias"])


def test_norms_and_biases():
    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.LayerNorm(6), RMSNorm(), nn.GroupNorm(2, 6))
    assert set(norms(module)) == {"1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "4.weight", "4.bias"}
    assert set(biases(module)) == {"0.bias"}
    assert set(biases(small())) == {"0.bias", "2.bias"}
    unbiased = nn.ModuleDict({"debias": nn.Linear(2, 2, bias=False), "out": nn.Linear(2, 2)})
    assert set(biases(unbiased)) == {"out.bias"}
    assert repr(Part(biases(unbiased), {})) == "Part(out.bias)"
    with pytest.raises(BadRequest):
        norms(small())


def test_pruned_weights_stay_zero_or_at_their_values():
    module = small()
    kept = entries(module, {"0.weight": torch.arange(48).view(8, 6) % 2, "2.weight": torch.ones(6, 8)})
    pruned = copy.deepcopy(module)
    zero_out(pruned, ~(kept | biases(module)))
    for network, gone in ((pruned, True), (module, False)):
        initial = network[0].weight.detach().clone()
        with hold(network, kept | biases(network)) as held:
            optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
            for _ in range(3):
                step(network, optimizer)
        rest = network[0].weight[~kept.entries["0.weight"]]
        assert torch.equal(rest, initial[~kept.entries["0.weight"]])
        assert bool((rest == 0).all()) is gone


def test_both_signs_of_the_kept_weights_move():
    module = small()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    part = fraction(module, 0.5, of="weights")
    with hold(module, part) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        for _ in range(2):
            step(module, optimizer)
    for name, mask in part.entries.items():
        moved = (module.get_parameter(name) != before[name])[mask]
        for sign in (before[name][mask] > 0, before[name][mask] < 0):
            assert moved[sign].float().mean() > 0.5


def test_holding_a_selection_is_training_only_that():
    module = small()
    freeze(module, everything(module))
    with hold(module, select(module, "2")) as held:
        assert [name for name, _ in held.named_parameters()] == ["2.weight", "2.bias"]
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: hold(m, "2"), "is no part: choose with"),
        (lambda m: hold(m, fraction(nn.Linear(2, 2), 0.5)), "the part is of another network"),
        (lambda m: (hold(m, fraction(m, 0.5)), hold(m, fraction(m, 0.5))), "held already: release"),
        (lambda m: fraction(m, 0.0), "above 0 and at most 1"),
        (lambda m: fraction(m, 1.5), "above 0 and at most 1"),
        (lambda m: fraction(m, "a"), "the share is 'a': give a number above 0 and at most 1"),
        (lambda m: fraction(m, 0.5, of="layers"), "it can be 'filters' or 'weights'"),
        (lambda m: fraction(nn.BatchNorm1d(3), 0.5), "nothing there has filters"),
        (lambda m: entries(m, {"0.wieght": torch.ones(8, 6)}), r"did you mean 0\.weight"),
        (lambda m: entries(m, {"0.weight": torch.ones(6, 8)}), r"shape \(6, 8\): the parameter has \(8, 6\)"),
        (lambda m: entries(m, {"0.weight": torch.full((8, 6), 0.5)}), "values other than 0 and 1"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(BadRequest, match=message):
        call(small())


def test_a_part_in_words():
    module = small()
    part = entries(module, {"0.weight": torch.eye(8, 6)}) | select(module, "2.bias")
    assert str(part) == "2.bias, 6 of 48 of 0.weight"
    assert str(Part(select(module, "2.bias") - select(module, "2.bias"), {})) == "nothing"


def test_a_network_collected_in_the_middle_of_a_step_breaks_none():
    """Torch goes through its hooks at each step, and collecting can come at any time, as in the midst of those."""
    module, other = small(), [small()]
    hold(other[0], some(other[0]))

    def collect(*_: object) -> None:
        other.clear()
        gc.collect()

    handle = register_optimizer_step_pre_hook(collect)
    last = register_optimizer_step_pre_hook(lambda *_: None)
    try:
        with hold(module, some(module)) as held:
            step(module, torch.optim.SGD(held.parameters(), lr=0.1))
    finally:
        handle.remove()
        last.remove()
    assert not other


@pytest.mark.filterwarnings("error")  # what a finalizer raises is a warning of pytest's
def test_a_network_that_is_let_go_while_held_is_only_forgotten():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    hold(module, select(module, "1"))
    weight = module[0].weight
    del module
    gc.collect()
    assert not weight.requires_grad  # no finalizer thawed it


# ---- gradients that others clear, read and add to


@pytest.mark.parametrize("clear", ["outer", "by hand", "optimizer", "held"])
def test_whoever_clears_the_gradients_clears_those_of_what_moves(clear):
    outer = nn.Sequential(nn.Linear(4, 4))
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    with hold(outer[0], entries(outer[0], {"weight": mask})) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        for _ in range(3):
            if clear == "by hand":
                for parameter in outer.parameters():
                    parameter.grad = None
            else:
                {"outer": outer, "optimizer": optimizer, "held": outer[0]}[clear].zero_grad()
            outer(torch.ones(1, 4)).sum().backward()
            assert held.parameters()[0].grad.equal(torch.ones(1, 4))
            optimizer.step()


def test_gradients_that_nobody_clears_add_up():
    module = nn.Linear(4, 4)
    mask = torch.eye(4, dtype=torch.bool)
    with hold(module, entries(module, {"weight": mask})) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        for count in range(1, 4):
            module(torch.ones(1, 4)).sum().backward()
            assert held.parameters()[0].grad.equal(torch.full((4, 1), float(count)))
            optimizer.step()


def test_the_stand_in_shows_what_moves_to_those_who_read_it():
    module = small().bfloat16()
    with hold(module, fraction(module, 0.5, of="weights")) as held:
        module(inputs().bfloat16()).square().mean().backward()
        shown, own = module[0].weight.grad, held.moving["0.weight"].values.grad
        for read in (
            lambda grad: grad.norm(),
            lambda grad: grad.data.norm(),
            lambda grad: grad.float().norm(),
            lambda grad: grad.double().norm(),
            lambda grad: grad.to(torch.float64).norm(),
            lambda grad: grad.detach().float().norm(),
        ):
            assert read(shown).equal(read(own))
        assert own.any()
        shown.data.mul_(2)
        shown.data = shown.data * 2
        assert shown.norm().equal(own.norm())
        assert shown.shape == module[0].weight.shape


@pytest.mark.parametrize("part", [partial(fraction, share=0.5), partial(subspace, d=5)])
def test_robustness_measured_between_steps_changes_no_step(part):
    def trained(measured: bool) -> list[Tensor]:
        module = small()
        with hold(module, part(module)) as held:
            optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
            for _ in range(3):
                if measured:
                    robustness(module, lambda m: m(inputs()).square().mean().item())
                optimizer.zero_grad()
                module(inputs()).square().mean().backward()
                if measured:
                    robustness(module, lambda m: m(inputs()).square().mean().item())
                optimizer.step()
        return [parameter.detach() for parameter in module.parameters()]

    assert all(map(torch.equal, trained(False), trained(True)))


def test_robustness_is_that_of_what_the_optimisers_parameters_were_given():
    module = small()
    with hold(module, fraction(module, 0.5)) as held:
        own = held.parameters()[0]
        with torch.no_grad():
            own.add_(1)
        given, seen = own.detach().clone(), []
        robustness(module, lambda m: seen.append(m[0].weight.detach().clone()) or 0.0)
        assert torch.equal(held.parameters()[0], given)
        assert torch.equal(seen[0], module[0].weight)
        assert torch.equal(held.moving["0.weight"].values, given)
        module(inputs())
        assert torch.equal(own, given)


def test_a_part_of_a_network_of_other_shapes_is_refused():
    part = entries(nn.Linear(4, 3), {"weight": torch.eye(3, 4)})
    module = nn.Linear(8, 3)
    with pytest.raises(BadRequest, match="the part is of another network: choose one of this network"):
        hold(module, part)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("mask", [None, [[1, 0], [0, 1]]])
def test_a_mask_that_is_no_tensor_is_refused(mask):
    with pytest.raises(BadRequest, match="the mask of weight is no tensor"):
        entries(nn.Linear(2, 2), {"weight": mask})
