"""Networks that FSDP2 sharded, in one process and in two; networks of FSDP1 and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from helpers import bits, two_processes
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

from letitgo import (
    BadRequest,
    Held,
    Part,
    Subspace,
    biases,
    bisect,
    copied,
    cost,
    entries,
    freeze,
    frozen,
    hold,
    load,
    magnitude_masks,
    moved,
    robustness,
    save,
    select,
    status,
    step_cost,
    subspace,
    thaw,
    train_only,
    trainable,
    zero_out,
)
from letitgo.callbacks import Schedule, load_changed
from letitgo.callbacks.changed import Changed
from letitgo.weights import load_state
from letitgo.weights.freeze import HELD


class Branched(nn.Module):
    """A process may leave its branch out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, inputs: Tensor, branch: bool) -> Tensor:
        return self.b(self.a(inputs)) if branch else self.a(inputs)

    def part(self) -> Part:
        return entries(self, dict.fromkeys(("a.weight", "b.weight"), torch.eye(6)))


class Recurrent(nn.Module):
    """Keeps its parameters in a list beside the usual ones, has a tied weight and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.norm = nn.GRU(6, 8), nn.BatchNorm1d(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(self.norm(self.cells(inputs)[0].flatten(0, 1))).relu())


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def shard(module: nn.Module, policy: MixedPrecisionPolicy | None = None) -> nn.Module:
    """By layers, what is left by the root."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for part in [*(child for child in module.children() if list(child.parameters())), module]:
        if part is not list(module.children())[-1]:
            fully_shard(part, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    return module


def shard_whole(module: nn.Module) -> nn.Module:
    return fully_shard(module, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))


def whole(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: (x.full_tensor() if hasattr(x, "full_tensor") else x).clone() for name, x in state.items()}


def still(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The layers that did not move by a bit."""
    now = whole(module)
    return {name.partition(".")[0] for name in now if torch.equal(now[name], before[name])}


def step(module: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    outputs = module(inputs).float()
    mse_loss(outputs, torch.ones_like(outputs)).backward()
    optimizer.step()


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("before", [True, False], ids=["frozen before sharding", "frozen after"])
def test_freeze_and_thaw(before):
    module = net()
    if before:
        freeze(module, "0")
    shard(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    if not before:
        freeze(module, "0")
    start = whole(module)
    step(module, optimizer, X)
    step(module, optimizer, X)
    assert still(module, start) == {"0"}
    assert [row.status for row in status(module).rows] == ["frozen", "trainable", "trainable"]
    thaw(module)
    start = whole(module)
    step(module, optimizer, X)
    assert still(module, start) == set()


def test_a_freeze_after_a_validation_is_not_lost():
    """The root then holds gathered copies, on which a flag would do nothing."""
    module = shard(net())
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    step(module, optimizer, X)
    for change, stays in ((freeze, {"4"}), (thaw, set())):
        with torch.no_grad():
            module(X)
        change(module, "4")
        start = whole(module)
        step(module, optimizer, X)
        assert still(module, start) == stays


def test_what_fully_shard_ignores_is_not_thawed():
    module = net()
    freeze(module, ["0", "2"])
    ignored = {module.get_parameter(name) for name in ("0.weight", "0.bias")}
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)), ignored_params=ignored)
    with torch.no_grad():
        module(X)
    thaw(module, "2")
    for change in (lambda: thaw(module), lambda: train_only(module, "0"), lambda: hold(module, select(module, "0"))):
        with pytest.raises(BadRequest, match=r"0\.weight cannot be trained: fully_shard was told to ignore it"):
            change()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        f"{i}.{kind}" for i in (2, 4) for kind in ("weight", "bias")
    }


def test_what_was_frozen_when_ddp_wrapped_it_is_not_thawed():
    module = net()
    freeze(module, "0")
    wrapped = nn.parallel.DistributedDataParallel(module)
    freeze(wrapped, "2")
    thaw(wrapped, "2")
    for change in (lambda: thaw(wrapped), lambda: hold(wrapped, select(wrapped, "0", "2", "4"))):
        with pytest.raises(BadRequest, match=r"0\.weight cannot be trained: it was frozen when Distributed"):
            change()
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True, True, True]


@pytest.mark.parametrize("first", [["0"], ["0", "2"]])
def test_thawing_under_mixed_precision(first):
    module = shard(net(), MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    optimizer = torch.optim.SGD(trainable(module), lr=0.1)
    with frozen(module, first):
        step(module, optimizer, X)
    start = whole(module)
    step(module, optimizer, X)
    assert still(module, start) == set()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


def test_dtypes_that_a_group_cannot_mix_are_refused():
    module = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3).bfloat16())
    freeze(module, "1")
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    module(X)
    with pytest.raises(BadRequest, match=r"FSDP trains the parameters of a group in one dtype .* before fully_shard"):
        thaw(module)


def test_gradients_that_wait_to_be_reduced_do_not_move_what_is_frozen():
    module = shard(net(), MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.set_requires_gradient_sync(False)
    module(X).float().square().mean().backward()
    freeze(module, "0")
    module.set_requires_gradient_sync(True)
    start = whole(module)
    module(X).float().square().mean().backward()
    optimizer.step()
    assert still(module, start) == {"0"}


def test_hold_takes_whole_tensors_and_refuses_subspaces():
    module = shard(net())
    start = whole(module)
    with hold(module, biases(module)) as held:
        step(module, torch.optim.AdamW(held.parameters(), lr=0.1), X)
    now = whole(module)
    assert {name for name in now if torch.equal(now[name], start[name])} == {f"{i}.weight" for i in (0, 2, 4)}
    chosen = subspace(net(), 5)
    with pytest.raises(BadRequest, match=r"needs whole weights, and 0\.weight is spread over processes"):
        hold(module, chosen)
    with pytest.raises(BadRequest, match="a subspace needs whole weights"):
        subspace(module, 5)
    assert all(parameter.requires_grad for parameter in module.parameters())


def some(module: nn.Module) -> Part:
    """The last rows of one layer, single entries of others, and a bias."""
    masks = {name: torch.zeros(net().get_parameter(name).shape) for name in ("0.weight", "2.weight", "4.bias")}
    masks["0.weight"][6:] = masks["2.weight"][0, 3] = masks["2.weight"][5, 1:4] = masks["4.bias"][1] = 1
    return entries(module, masks) | select(module, "0.bias")


def held_steps(
    module: nn.Module, part: Part | Subspace, inputs: list[Tensor], wrap: Callable[[nn.Module], nn.Module] = lambda m: m
) -> tuple[dict[str, Tensor], list[float]]:
    """The state and the gradients' norms after steps of two batches each, clipped, with a validation in between."""
    norms = []
    with hold(module, part) as held:
        model = wrap(module)
        optimizer = torch.optim.AdamW(held.parameters(), lr=0.1, weight_decay=0.1)
        for i in range(3):
            optimizer.zero_grad()
            with model.no_sync() if i == 1 and hasattr(model, "no_sync") else nullcontext():
                sum(model(x - 1).float().square().mean() / len(inputs) for x in inputs).backward()
            sum(model(x + i).float().square().mean() / len(inputs) for x in inputs).backward()
            clipped = (module if i else held).parameters()
            norms.append(float(nn.utils.clip_grad_norm_(clipped, 0.1)))
            optimizer.step()
            with torch.no_grad():
                model(inputs[0])
    return whole(module), norms


@pytest.mark.parametrize("policy", [None, MixedPrecisionPolicy(reduce_dtype=torch.float32)])
def test_hold_takes_single_entries(policy, tmp_path):
    module, plain = shard(net(), policy), net()
    base = copied(module)
    state, norms = held_steps(module, some(module), [X])
    expected, expected_norms = held_steps(plain, some(plain), [X])
    assert norms == expected_norms
    assert bits(state) == bits(expected)
    changed = {name: int((state[name] != tensor).sum()) for name, tensor in net().state_dict().items()}
    assert changed == {"0.weight": 12, "0.bias": 8, "2.weight": 4, "2.bias": 0, "4.weight": 0, "4.bias": 1}
    save(module, tmp_path / "change", base=base)
    load(again := net(), tmp_path / "change")
    assert bits(whole(again)) == bits(state)


def norms_and_state(module: nn.Module, held: Held) -> tuple[list[float], dict[str, Tensor]]:
    """Norms of the gradients of the network and of what moves, and the state after a clipped step."""
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
    shown, own = (
        torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        for parameters in (module.parameters(), held.parameters())
    )
    nn.utils.clip_grad_norm_(module.parameters(), 0.01)
    optimizer.step()
    return [float(shown), float(own)], whole(module)


def validated(call: nn.Module, module: nn.Module) -> None:
    loss = call(X).square().mean()
    with torch.no_grad():
        module(X)
    loss.backward()
    with torch.no_grad():
        module(X)


def two_at_once(call: nn.Module, module: nn.Module) -> None:
    losses = [call(X).square().mean(), call(X + 1).square().mean()]
    for loss in losses:
        loss.backward()


def one_after_another(call: nn.Module, module: nn.Module) -> None:
    for inputs in (X, X + 1):
        call(inputs).square().mean().backward()
    call(X)  # with a graph that goes no way back


def compiled(call: nn.Module, module: nn.Module) -> None:
    if call is module:
        module.compile(backend="eager")
        optimizer = torch.optim.SGD(vars(module)[HELD].parameters(), lr=0.1)
        step(module, optimizer, X)
        optimizer.zero_grad()
    call(X).square().mean().backward()


def twice(call: nn.Module, module: nn.Module) -> None:
    loss = call(X).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()


BUCKETS = partial(nn.parallel.DistributedDataParallel, gradient_as_bucket_view=True)


@pytest.mark.parametrize("backward", [validated, one_after_another, two_at_once, twice, compiled])
@pytest.mark.parametrize("wrap", [shard, shard_whole, nn.parallel.DistributedDataParallel, BUCKETS])
def test_passes_in_any_order_give_the_gradients_of_one_process(wrap, backward):
    by_fsdp = wrap in (shard, shard_whole)
    if not by_fsdp and backward in (two_at_once, compiled):
        pytest.skip("not under DistributedDataParallel: it takes a pass back after each, and compiled blocks")
    found = []
    for wrapped in (False, True):
        module = net()
        if wrapped and by_fsdp:
            wrap(module)
        with hold(module, some(module)) as held:
            backward(wrap(module) if wrapped and not by_fsdp else module, module)
            found.append(norms_and_state(module, held))
    (alone, expected), (norms, state) = found
    assert norms == alone
    assert norms[0] == norms[1] > 0
    assert bits(state) == bits(expected)


class Recomputed(nn.Module):
    """Computed again on the way back."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body, self.reentrant = net(), reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(self.body, inputs.requires_grad_(), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_entries_are_held_under_ddp_with_activation_checkpointing(reentrant):
    found = []
    for wrap in (lambda m: m, nn.parallel.DistributedDataParallel):
        module = Recomputed(reentrant)
        with hold(module, entries(module, {"body.0.weight": torch.eye(8, 6)})) as held:
            wrap(module)(X.clone()).square().mean().backward()
            found.append(norms_and_state(module, held))
    assert found[0][0] == found[1][0]
    assert bits(found[0][1]) == bits(found[1][1])


def test_entries_held_in_bf16_leave_the_others_alone():
    module = shard(net(), MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    start = whole(module)
    state, _ = held_steps(module, some(module), [X])
    changed = {name: int((state[name] != tensor).sum()) for name, tensor in start.items()}
    assert changed == {"0.weight": 12, "0.bias": 8, "2.weight": 4, "2.bias": 0, "4.weight": 0, "4.bias": 1}


def test_weights_loaded_into_a_held_network_are_trained_on():
    module = shard(net())
    with hold(module, some(module)) as held:
        load_state(module, net(1).state_dict())
        step(module, torch.optim.SGD(held.parameters(), lr=0.1), X)
    plain = net(1)
    with hold(plain, some(plain)) as held:
        step(plain, torch.optim.SGD(held.parameters(), lr=0.1), X)
    assert bits(whole(module)) == bits(whole(plain))


def test_entries_that_are_kept_elsewhere_are_refused():
    """As under a policy that offloads to the CPU; here to the device without values."""
    module = shard(net().to("meta"))
    with pytest.raises(BadRequest, match=r"entries of 0\.weight cannot be held: its shards are on meta .* on cpu"):
        hold(module, some(module))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_masks_and_zeros():
    module, plain = shard(net()), net()
    masks = magnitude_masks(module, 0.5)
    assert all(torch.equal(mask, magnitude_masks(plain, 0.5)[name]) for name, mask in masks.items())
    for each in (module, plain):
        zero_out(each, ~entries(each, masks))
    assert bits(whole(module)) == bits(whole(plain))


def test_a_saved_change_is_that_of_the_whole_network(tmp_path):
    module, plain = shard(net()), net()
    base = copied(module)
    for each in (module, plain):
        train_only(each, "2")
        step(each, torch.optim.SGD(trainable(each), lr=0.1), X)
    save(module, tmp_path / "sharded", base=base)
    save(plain, tmp_path / "plain", base=net())
    assert (tmp_path / "sharded").read_bytes() == (tmp_path / "plain").read_bytes()
    for again in (net(), shard(net())):
        load(again, tmp_path / "sharded")
        assert bits(whole(again)) == bits(whole(module))
    assert [movement.name for movement in moved(module, net()) if movement.moved] == ["2.weight", "2.bias"]
    assert not any(movement.surprise for movement in moved(module, base))
    other = shard(net(1))
    with pytest.raises(BadRequest, match=r"they differ in '0\.bias', '0\.weight', '2\.bias' and 3 more"):
        load(other, tmp_path / "sharded")
    load_state(other, copied(module))
    assert bits(whole(other)) == bits(whole(module))
    with pytest.raises(BadRequest, match="the base is the model itself"):
        save(module, tmp_path / "own", base=module)
    with pytest.raises(BadRequest, match="cannot be written"):
        save(module, tmp_path / "none" / "own", base=base)


@pytest.mark.parametrize(("factory", "chosen"), [(net, "0"), (net, "2"), (Recurrent, "cells"), (Recurrent, "first")])
def test_cost_is_that_of_the_whole_network(factory, chosen):
    inputs = X if factory is net else X[None].transpose(0, 1)
    module = factory()
    on_meta = cost(factory().to("meta"), inputs, chosen)
    shard(module)
    before = bits(whole(module)), [id(p) for p in module.parameters()], trainable(module)
    counted = cost(module, inputs, chosen)
    assert counted.thawed.backward == on_meta.thawed.backward > counted.frozen.backward == on_meta.frozen.backward
    assert (counted.gradient_bytes, counted.optimizer_bytes) == (on_meta.gradient_bytes, on_meta.optimizer_bytes)
    assert step_cost(module, inputs).backward == counted.thawed.backward
    assert before == (bits(whole(module)), [id(p) for p in module.parameters()], trainable(module))


def test_the_network_trains_on_after_cost():
    module = shard(net())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        start = whole(module)
        step(module, optimizer, X)
        assert still(module, start) == set()
        cost(module, X, "0")


def test_what_is_not_carried_out_on_shards_is_refused(tmp_path):
    module = shard(net())
    with pytest.raises(BadRequest, match=r"robustness needs whole weights, and 0\.weight is spread"):
        robustness(module, lambda model: pytest.fail("evaluated"), draws=1)
    with pytest.raises(BadRequest, match="bisect needs whole weights"):
        bisect(module, lambda model: pytest.fail("evaluated"), net(), tolerance=0.1)
    with pytest.raises(BadRequest, match="ChangedWeights needs whole weights"):
        Changed().begin(module)
    with pytest.raises(BadRequest, match="load_changed needs whole weights"):
        load_changed(module, tmp_path)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_fsdp1_and_deepspeed_are_refused_where_what_trains_would_change(tmp_path):
    wrapped = FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu"))
    zero_3, zero_2, inside = net(), net(), net()
    for parameter, other in zip(zero_3.parameters(), inside.parameters(), strict=True):
        parameter.ds_id = 0
        other._hp_mapping = None
    engine = type("Engine", (nn.Sequential,), {"__module__": "deepspeed.runtime.engine"})(*zero_2)
    schedule = Schedule({0: ["0"], 1: []})
    for fixed, reason in ((wrapped, "FullyShardedDataParallel"), (zero_3, "DeepSpeed"), (engine, "DeepSpeed")):
        for change in (
            lambda fixed=fixed: thaw(fixed),
            lambda fixed=fixed: freeze(fixed, select(fixed, "2")),
            lambda fixed=fixed: hold(fixed, select(fixed, "2")),
            lambda fixed=fixed: schedule.begin(fixed, []),
            lambda fixed=fixed: cost(fixed, X, "2"),
            lambda fixed=fixed: save(fixed, tmp_path / "file", base=net()),
        ):
            with pytest.raises(BadRequest, match=rf"{reason} .*fixes what trains .*shard with fully_shard"):
                change()
    for change in (
        lambda: thaw(inside),
        lambda: schedule.begin(inside, []),
        lambda: load(inside, tmp_path / "file"),
        lambda: cost(inside, X, "2"),
    ):
        with pytest.raises(BadRequest, match="DeepSpeed fixes what trains, and copies weights"):
            change()
    save(inside, tmp_path / "change", base=net(1))  # ZeRO-2 leaves weights whole
    optimizer = type("Optimizer", (torch.optim.SGD,), {"__module__": "accelerate.utils.deepspeed"})(net().parameters())
    with pytest.raises(BadRequest, match="DeepSpeed fixes what trains"):
        schedule.begin(net(), [optimizer])


TWO = """
import json, sys
from pathlib import Path
import torch
from torch import distributed
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
from test_sharded import *

module = shard(net(), MixedPrecisionPolicy(torch.bfloat16, torch.float32))
optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
schedule = Schedule({0: ["0"], 1: [], 2: ["2", "4"]})
schedule.begin(module, [optimizer])
inputs, seen = X + rank, []
for epoch in range(3):
    schedule.enter(epoch)
    before = whole(module)
    step(module, optimizer, inputs)
    step(module, optimizer, inputs)
    seen.append(sorted(still(module, before)))
    with torch.no_grad():
        module(inputs)
schedule.end()
save(module, folder / "change", base=net())
again = shard(net())
load(again, folder / "change")
try:
    save(module, folder / "none" / "change", base=net())
except BadRequest as error:
    refused = str(error)

fixed = net()
freeze(fixed, "0")
flat = FullyShardedDataParallel(fixed, use_orig_params=True, device_id=torch.device("cpu"))
flat_optimizer = torch.optim.AdamW([p for p in flat.parameters() if p.requires_grad], lr=0.1)
step(flat, flat_optimizer, inputs)
step(flat, flat_optimizer, inputs)
with FullyShardedDataParallel.summon_full_params(flat):
    kept = [name for name, p in net().named_parameters() if torch.equal(p, fixed.get_parameter(name))]

both = [X, X + 1]
held = {
    "alone": held_steps(net(), some(net()), both),
    "FSDP2": held_steps(shard(net()), some(net()), [inputs]),
    "DDP": held_steps(net(), some(net()), [inputs], nn.parallel.DistributedDataParallel),
    "subspace alone": held_steps(net(), subspace(net(), 9), both),
    "subspace DDP": held_steps(net(), subspace(net(), 9), [inputs], nn.parallel.DistributedDataParallel),
}

branched = []
for many in (False, True):
    forked = Branched()
    with hold(forked, forked.part()) as entries_held:
        call = nn.parallel.DistributedDataParallel(forked, find_unused_parameters=True) if many else forked
        optimizer_held = torch.optim.SGD(entries_held.parameters(), lr=0.1)
        for took in ((0, 1), (0,), ()):  # the processes that take the branch
            for process in (rank,) if many else (0, 1):
                (call(X + process, process in took).square().mean() / (1 if many else 2)).backward()
        norm = float(nn.utils.clip_grad_norm_(forked.parameters(), 0.01))
        optimizer_held.step()
    branched.append([norm, {k: x.tolist() for k, x in whole(forked).items()}])

ends = []
for ignores in (False, True):
    base = net()
    freeze(base, "0")
    left_out = {base.get_parameter(name) for name in ("0.weight", "0.bias")} if ignores else None
    fully_shard(base, mesh=init_device_mesh("cpu", (2,)), ignored_params=left_out)
    base_optimizer = torch.optim.AdamW(trainable(base), lr=0.1)
    step(base, base_optimizer, inputs)
    step(base, base_optimizer, inputs)
    ends.append({k: x.tolist() for k, x in whole(base).items()})

found = {
    "branched": branched,
    "held": {how: [{k: x.tolist() for k, x in state.items()}, norms] for how, (state, norms) in held.items()},
    "sharded base": ends[0], "base that is not": ends[1],
    "kept by FSDP1": kept,
    "still": seen, "module": {k: x.tolist() for k, x in whole(module).items()},
    "again": {k: x.tolist() for k, x in whole(again).items()}, "refused": refused,
    "moved": [m.name for m in moved(module, net()) if m.moved], "share": cost(module, inputs, "2").share,
    "status": status(module).summary,
}
(folder / f"{rank}.json").write_text(json.dumps(found))
distributed.destroy_process_group()
"""


def test_two_processes_have_the_same_bits(tmp_path):
    one, other = two_processes(TWO, tmp_path)
    assert one == other
    assert one["sharded base"] == one["base that is not"]
    assert one["base that is not"]["0.weight"] == net()[0].weight.tolist()
    assert one["base that is not"]["2.weight"] != net()[2].weight.tolist()
    (norm, expected), (shared_norm, state) = one["branched"]
    assert np.isclose(norm, shared_norm)
    assert all(np.allclose(state[name], expected[name], atol=1e-7) for name in expected)
    assert state != {name: x.tolist() for name, x in Branched().state_dict().items()}
    held = one["held"]
    for how, alone in (("FSDP2", "alone"), ("DDP", "alone"), ("subspace DDP", "subspace alone")):
        for name, expected in held[alone][0].items():  # sums of two gradients may round differently
            assert np.allclose(held[how][0][name], expected, atol=1e-6, rtol=1e-6), (how, name)
        assert np.allclose(held[how][1], held[alone][1])
    for how in ("FSDP2", "DDP"):
        assert held[how][0]["4.weight"] == net()[4].weight.tolist()
        assert held[how][0]["0.weight"][:6] == net()[0].weight[:6].tolist()
        assert held[how][0]["0.weight"][6:] != net()[0].weight[6:].tolist()
    assert one["kept by FSDP1"] == ["0.weight", "0.bias"]
    assert one["still"] == [["0"], [], ["2", "4"]]
    assert one["module"] == one["again"]
    assert len(one["moved"]) == 6
    assert "cannot be written" in one["refused"]
    assert one["share"] == cost(net(), X, "2").share
    assert one["status"] == status(net()).summary
    plain = net()
    load(plain, tmp_path / "change")
    assert {name: x.tolist() for name, x in whole(plain).items()} == one["module"]
