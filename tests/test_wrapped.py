"""What was named before a network was wrapped is meant after it, and the other way round."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from helpers import bits
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from letitgo import (
    BadRequest,
    copied,
    entries,
    fraction,
    freeze,
    hold,
    initial_state,
    load_subspace,
    load_ticket,
    magnitude_masks,
    robustness,
    save_subspace,
    save_ticket,
    select,
    subspace,
    thaw,
    zero_out,
)
from letitgo.callbacks import Schedule, load_changed
from letitgo.callbacks.changed import Changed
from letitgo.weights import compiled as compiled_graphs
from letitgo.weights.layers import plain

INPUTS = torch.linspace(-1, 1, 20).view(5, 4)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def checkpointed(module: nn.Sequential) -> nn.Module:
    return nn.Sequential(checkpoint_wrapper(module[0]), *module[1:])


def within(module: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.DataParallel(compiled(module[0])), *module[1:])


WRAPPERS = [compiled, nn.DataParallel, checkpointed, within]
into = pytest.mark.parametrize("wrap", WRAPPERS)
across = pytest.mark.parametrize(  # of a name with ``module`` in its middle nobody can tell whether it is a wrapper's
    ("wrap", "other"), [*((wrap, nn.Identity) for wrap in WRAPPERS), *((nn.Identity, wrap) for wrap in WRAPPERS[:3])]
)


def made(wrap, seed=0):
    return net(seed) if wrap is nn.Identity else wrap(net(seed))


def weights(module: nn.Module) -> dict[str, bytes]:
    return bits({plain(module, name): tensor for name, tensor in copied(module).items()})


def step(module: nn.Module, parameters: list[nn.Parameter]) -> None:
    module(INPUTS).square().mean().backward()
    torch.optim.SGD(parameters, lr=0.1).step()


@across
def test_selections_and_parts(wrap, other):
    here, there = made(wrap), made(other)
    chosen = select(there, "0")
    freeze(here, chosen)
    assert [p.requires_grad for p in here.parameters()] == [False, False, True, True]
    assert list(fraction(made(wrap), 0.5, within=chosen).entries) == list(select(here, "0"))
    schedule, module = Schedule({0: chosen}), made(wrap)
    schedule.begin(module, [torch.optim.SGD(module.parameters())])
    schedule.enter(0)
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    schedule.end()
    with hold(module, fraction(there, 0.5)) as held:
        step(module, held.parameters())
    expected = net()
    with hold(expected, fraction(net(), 0.5)) as held:
        step(expected, held.parameters())
    assert weights(module) == weights(expected) != weights(net())
    with pytest.raises(BadRequest, match="the part is of another network"):
        hold(module, fraction(nn.Sequential(nn.Linear(4, 8)), 0.5))


@across
def test_masks_and_tickets(wrap, other, tmp_path):
    here, expected = made(wrap), net()
    masks = magnitude_masks(made(other), 0.5)
    save_ticket(tmp_path / "ticket", masks)
    part = load_ticket(here, tmp_path / "ticket")
    load_ticket(expected, tmp_path / "ticket")
    assert weights(here) == weights(expected) != weights(net())
    assert list(part.entries) == list(select(here, "*.weight"))
    again = made(wrap)
    zero_out(again, entries(made(other), {name: ~mask for name, mask in masks.items()}))
    assert weights(again) == weights(here)
    rates = dict.fromkeys(masks, 0.5)
    further = magnitude_masks(here, rates, within=masks)
    assert sorted(map(int, map(torch.sum, further.values()))) == [4, 8]


@across
def test_subspaces(wrap, other, tmp_path):
    here, there = made(wrap), made(other)
    part = subspace(there, 5, exclude=select(net(), "2.bias") if other is not nn.Identity else select(there, "2.bias"))
    with hold(here, part) as held:
        step(here, held.parameters())
        save_subspace(here, tmp_path / "file")
        with load_subspace(there, tmp_path / "file"):
            assert weights(there) == weights(here) != weights(net())


@across
def test_donors(wrap, other):
    def rows(model, donor, layers):
        return robustness(model, score, donor, layers, progress=False).to_dict("records")

    expected = rows(net(), copied(net(1)), "0")
    assert rows(made(wrap), copied(made(other, 1)), select(made(other), "0")) == expected
    if other is nn.Identity:
        assert rows(made(wrap), drawn, None) == rows(net(), drawn, None)


def score(module):
    return float(module(INPUTS).detach().sum())


def drawn():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@across
def test_checkpoints_of_what_changed(wrap, other, tmp_path):
    trained = made(other)
    changed = Changed()
    changed.begin(trained)
    freeze(trained, "0")
    step(trained, list(trained.parameters()))
    torch.save({"state_dict": changed.leave_out(trained.state_dict())}, tmp_path / "last.ckpt")
    here = made(wrap)
    load_changed(here, tmp_path / "last.ckpt")
    assert weights(here) == weights(trained) != weights(net())
    with pytest.raises(BadRequest, match=r"leaves out .*which did not change in training"):
        load_changed(made(wrap, 1), tmp_path / "last.ckpt")


@into
def test_a_state_fits_wherever_it_was_drawn(wrap):
    assert weights(wrap(net())) == bits(copied(net()))
    assert set(initial_state(net, 0)) == set(copied(net()))


needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_a_compiler)])
@pytest.mark.parametrize("part", ["whole", "blocks"])
def test_compiled_networks_follow_what_is_frozen(backend, part):
    """The first graph is made with something frozen, which is where torch before 2.13 goes on with it."""
    torch._dynamo.reset()
    module = net()
    call: nn.Module = torch.compile(module, backend=backend) if part == "whole" else module  # type: ignore[assignment]
    for layer in module if part == "blocks" else ():
        layer.compile(backend=backend)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for change, stays in ((freeze, {"0"}), (thaw, set()), (freeze, {"0"})):
        change(call, "0")
        before = weights(module)
        optimizer.zero_grad()
        call(INPUTS).square().mean().backward()
        optimizer.step()
        after = weights(module)
        assert {name[0] for name in after if after[name] == before[name]} == stays
        assert {name[0] for name, p in module.named_parameters() if p.grad is None} == stays


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.linear(inputs).relu()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("needed", "graphs"), [(False, 2), (True, 1)])
def test_equal_blocks_share_a_graph_where_the_input_of_the_first_needs_a_gradient(needed, graphs):
    torch._dynamo.reset()
    embedding, blocks, made = nn.Embedding(10, 4), nn.Sequential(Block(), Block(), Block()), []
    freeze(embedding, "weight")
    if needed:
        embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        made.append(graph)
        return graph.forward

    for block in blocks:
        block.compile(backend=backend)
    for _ in range(2):
        blocks(embedding(torch.arange(5))).sum().backward()
    assert len(made) == graphs
    assert embedding.weight.grad is None


def test_graphs_are_made_anew_where_torch_keeps_stale_ones(monkeypatch):
    def graphs_made() -> int:
        made = []
        torch._dynamo.reset()
        module = net()
        call = torch.compile(module, backend=lambda graph, inputs: made.append(graph) or graph.forward)
        freeze(module, "0")
        call(INPUTS)
        call(INPUTS)
        freeze(module, "0")
        thaw(module, "2")
        call(INPUTS)
        return len(made)

    counts = []
    for guarded in ((0, 0), (99, 0)):
        monkeypatch.setattr(compiled_graphs, "_GUARDED", guarded)
        counts.append(graphs_made())
    assert counts == [1, 2]
