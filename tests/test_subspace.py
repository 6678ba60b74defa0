"""Random subspaces: the projection is what it claims to be, only z moves, and a file of z gives the weights back."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from helpers import bits, python
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS, behaviour, cases, inputs, portrait, step
from torch import Tensor, nn

from letitgo import (
    BadRequest,
    WorkFailed,
    biases,
    freeze,
    hold,
    load_subspace,
    named_trainable,
    save_subspace,
    select,
    status,
    subspace,
    trainable,
)
from letitgo.weights import copied, everything
from letitgo.weights.delta import summary
from letitgo.weights.gradients import has_gradient
from letitgo.weights.projections import Projection, draw

KINDS = ("dense", "sparse", "fastfood")


def matrix(projection: Projection, d: int) -> Tensor:
    return torch.stack([projection.image(row) for row in torch.eye(d, dtype=torch.float64)], 1)


def digest(projection: Projection) -> str:
    return summary(projection.arrays)["digest"]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


# ---- the projection


@pytest.mark.parametrize("kind", KINDS)
@given(size=st.integers(1, 400), share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_columns_have_unit_norm_and_the_pull_back_is_the_transpose(kind, size, share, seed):
    d = max(1, round(share * size))
    projection = draw(kind, size, d, seed)
    dense = matrix(projection, d)
    assert dense.shape == (size, d)
    torch.testing.assert_close(dense.norm(dim=0), torch.ones(d, dtype=torch.float64), atol=1e-6, rtol=0)
    gradient = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(projection.pull_back(gradient), dense.T @ gradient, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "d"), [(20_000, 48), (1300, 520), (1000, 700)])
def test_columns_are_nearly_orthogonal(kind, size, d):
    dense = matrix(draw(kind, size, d, 1), d)
    inner = dense.T @ dense - torch.eye(d, dtype=torch.float64)
    # Independent normal columns have 1 / D; squares of normal numbers vary by 2, and Fastfood has 2 / D.
    assert inner.square().sum() / (d * (d - 1)) < (2.3 if kind == "fastfood" else 1.3) / size
    assert inner.abs().max() < 8 / size**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_kept_on_average(kind):
    z = torch.randn(40, generator=torch.Generator().manual_seed(3))
    ratios = [float(draw(kind, 3000, 40, seed).image(z).square().sum() / z.square().sum()) for seed in range(60)]
    assert abs(sum(ratios) / len(ratios) - 1) < 0.02
    assert max(abs(ratio - 1) for ratio in ratios) < 0.2


def test_fastfood_is_the_product_of_its_matrices():
    """S H G Π H B, block by block, built the plain way from what was drawn."""
    from scipy.linalg import hadamard

    size, d, length = 300, 20, 64
    projection = draw("fastfood", size, d, 5)
    signs, order, normals = (projection.arrays[name].double() for name in ("signs", "order", "normals"))
    h = torch.from_numpy(hadamard(length)).double() / length**0.5
    rows = []
    for block in range(5):
        mixed = (h @ torch.diag(signs[block]))[(order[block] % length).long()]
        rows.append(h @ torch.diag(normals[block]) @ mixed if block < 4 else mixed * (length / size) ** 0.5)
    wanted = torch.cat(rows)[:size, :d]
    torch.testing.assert_close(matrix(projection, d), wanted, atol=1e-12, rtol=0)
    assert sorted(order[0].tolist()) == list(range(length))
    torch.testing.assert_close(normals.square().sum(1), torch.full((4,), length**2 / size).double(), rtol=1e-6, atol=0)


def test_draws_are_written_down():
    """Digests of what seeds stand for: another version of anything that draws another P makes this fail."""
    found = {kind: digest(draw(kind, 1000, 12, 7))[:16] for kind in KINDS}
    assert found == DIGESTS
    script = (
        "import sys, torch\nfrom letitgo.weights.delta import summary\nfrom letitgo.weights.projections import draw\n"
        "torch.manual_seed(5)\n"
        "print([summary(draw(k, 1000, 12, 7).arrays)['digest'][:16] for k in ('dense', 'sparse', 'fastfood')])"
    )
    assert python(script).stdout.strip() == str(list(DIGESTS.values()))


DIGESTS = {"dense": "417f1ef086746cbf", "sparse": "fde794fd7fe7c1e1", "fastfood": "b9febc9fc5a2febb"}


@given(seeds=st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)), kind=st.sampled_from(KINDS))
def test_another_seed_is_another_projection(seeds, kind):
    assume(seeds[0] != seeds[1])
    assert digest(draw(kind, 300, 9, seeds[0])) != digest(draw(kind, 300, 9, seeds[1]))


# ---- the network


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Muon"])  # Muon is for matrices
@settings(max_examples=5)
@given(case=cases(), kind=st.sampled_from(KINDS), said=st.booleans(), set_to_none=st.booleans(), data=st.data())
def test_the_weights_are_those_of_z_under_every_optimizer(name, case, kind, said, set_to_none, data):
    module = case.module()
    freeze(module, case.selection)
    assume(any(p.requires_grad for p in module.parameters()))
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    least = 1 + said * len({n.rpartition(".")[0] for n, p in module.named_parameters() if p.requires_grad})
    assume(size >= least)
    d = data.draw(st.integers(least, size))
    before, objects = copied(module), [id(p) for p in module.parameters()]
    still = bits({n: p for n, p in module.named_parameters() if not p.requires_grad})
    with hold(module, subspace(module, d, kind, seed=3, said=said)) as held:
        assert bits(copied(module)) == bits(before)
        assert not held.projected.z.any()
        assert sum(p.numel() for p in held.parameters()) == d
        optimizer = OPTIMIZERS[name](held.parameters())
        for _ in range(3):
            step(module, optimizer, set_to_none)
            assert not any(map(has_gradient, module.parameters()))
        image = held.projected.projection.image(held.projected.z.detach())
        if said:
            image = image * held.projected._spread()
        moved = torch.cat([module.get_parameter(n).flatten() for n in held.projected.origin])
        start = torch.cat([before[n].flatten() for n in held.projected.origin])
        torch.testing.assert_close(moved, start + image)
        after = bits(copied(module))
    assert bits(copied(module)) == after
    assert [id(p) for p in module.parameters()] == objects
    assert bits({n: p for n, p in module.named_parameters() if not p.requires_grad}) == still


@given(case=cases(), training=st.booleans(), kind=st.sampled_from(KINDS))
def test_letting_go_gives_the_module_back(case, training, kind):
    module = case.module().train(training)
    before, behaved = portrait(module), behaviour(module)
    hold(module, subspace(module, 5, kind)).release()
    assert portrait(module) == before
    assert behaviour(module) == behaved
    assert not module._forward_pre_hooks
    assert not module._state_dict_pre_hooks
    module(inputs()).square().mean().backward()
    assert any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [False, True])
def test_the_gradient_is_that_of_the_composed_function(kind, said):
    """θ₀ + λ P z written out as one differentiable function, against what holding gives, away from z = 0."""
    module = small().double()
    with hold(module, subspace(module, 20, kind, said=said)) as held:
        projected = held.projected
        with torch.no_grad():
            for own in projected.own:
                own.add_(torch.randn(own.shape, dtype=torch.float64) * 0.3)
        z = projected.z.detach().clone().requires_grad_()
        scales = projected.scales.detach().clone().requires_grad_() if said else None
        theta = matrix(projected.projection, len(z)) @ z
        pieces = dict(zip(projected.origin, theta.split(projected._sizes), strict=True))
        layer = {"0": 0, "1": 1, "3": 2}
        weights = {
            name: projected.origin[name]
            + piece.view(projected.origin[name].shape) * (scales[layer[name[0]]] if said else 1)
            for name, piece in pieces.items()
        }
        x = inputs().double()
        torch.func.functional_call(copy.deepcopy(module), weights, x).pow(3).mean().backward()
        module(x).pow(3).mean().backward()
        torch.testing.assert_close(projected.z.grad, z.grad)
        if said:
            torch.testing.assert_close(projected.scales.grad, scales.grad)


def test_all_dimensions_of_an_orthonormal_projection_train_like_the_plain_network():
    class Orthonormal(Projection):
        def image(self, z):
            return self.arrays["q"] @ z

        def pull_back(self, gradient):
            return self.arrays["q"].T @ gradient

    module, plain = small().double(), small().double()
    size = sum(p.numel() for p in module.parameters())
    with hold(module, subspace(module, size, "dense")) as held:
        held.projected.projection = Orthonormal({"q": torch.linalg.qr(torch.randn(size, size).double()).Q})
        steps = [torch.optim.SGD(p, lr=0.1, momentum=0.9) for p in (held.parameters(), list(plain.parameters()))]
        for _ in range(10):
            for network, optimizer in zip((module, plain), steps, strict=True):
                optimizer.zero_grad()
                (network(inputs().double()) - 1).square().mean().backward()
                optimizer.step()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p, plain.get_parameter(name))


class Sums(nn.Module):
    """The toy problem of the paper: a hundred weights each are to sum to 1, 2, … 10; ten dimensions are enough."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.1)

    def forward(self):
        return (self.weight.view(10, 100).sum(1) - torch.arange(1.0, 11.0)).square().sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "solved"), [(9, False), (10, True)])
def test_the_toy_problem_is_solved_in_ten_dimensions_and_not_in_nine(kind, d, solved):
    module = Sums().double()
    with hold(module, subspace(module, d, kind)) as held:
        optimizer = torch.optim.LBFGS(held.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = module()
            loss.backward()
            return loss

        optimizer.step(closure)
    loss = module().item()
    assert loss < 1e-6 if solved else loss > 1e-2


def test_what_is_excluded_trains_by_itself_and_what_is_frozen_stays():
    module = small()
    freeze(module, select(module, "1"))
    held = hold(module, subspace(module, 7, exclude=biases(module)))
    names = [name for name, _ in named_trainable(module)]
    assert names == ["subspace.z", "0.bias", "3.bias"]
    assert [id(p) for p in trainable(module)] == [id(p) for p in held.parameters()]
    assert "in a subspace: 7 numbers are learned there" in str(status(module))
    assert [row.status for row in status(module).rows] == ["trainable", "frozen", "trainable"]
    norm, bias = bits(copied(module[1])), module[3].bias.clone()
    del norm["running_mean"], norm["running_var"], norm["num_batches_tracked"]
    step(module, torch.optim.SGD(held.parameters(), lr=0.1))
    assert all(bits(copied(module[1]))[name] == was for name, was in norm.items())
    assert not torch.equal(module[3].bias, bias)


def test_gradients_add_up_and_are_cleared():
    module = small()
    with hold(module, subspace(module, 12, said=True)) as held:
        for times in (1, 2):
            module(inputs()).square().mean().backward()
            once = [p.grad.clone() / times for p in held.parameters()]
        for p, gradient in zip(held.parameters(), once, strict=True):
            torch.testing.assert_close(p.grad, 2 * gradient)
        module.zero_grad(set_to_none=False)
        assert all(not p.grad.any() for p in held.parameters())
        module.zero_grad()
        assert all(p.grad is None for p in held.parameters())


def test_layers_without_a_gradient_count_as_zero():
    module = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    with hold(module, subspace(module, 10, "dense")) as held:
        module[0](inputs()).square().mean().backward()
        gradient = held.projected.z.grad
        full = torch.autograd.grad(module[0](inputs()).square().mean(), list(module[0].parameters()))
        whole = torch.cat([*(g.flatten() for g in full), torch.zeros(42)])
        torch.testing.assert_close(gradient, held.projected.projection.pull_back(whole))


def test_other_weights_become_the_origin():
    module, other = small(), small()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    with hold(module, subspace(module, 9)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        step(module, optimizer)
        module.load_state_dict(other.state_dict())
        module.eval()
        module(inputs())
        assert bits(copied(module)) == bits(copied(other))
        assert not held.projected.z.any()
        step(module, optimizer)
        assert held.projected.z.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_type_and_back(dtype):
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
    with hold(module, subspace(module, 9)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        step(module, optimizer)
        before = copied(module)
        module.to(dtype)
        module(inputs().to(dtype)).square().mean().backward()
        optimizer.step()
        assert all(p.dtype == dtype for p in module.parameters())
        assert held.projected.z.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        optimizer = torch.optim.SGD(held.parameters(), lr=0.0)
        module.float()
        step(module, optimizer)
        start = {name: tensor + 0 for name, tensor in held.projected.origin.items()}
        image = held.projected.projection.image(held.projected.z.detach()).split(held.projected._sizes)
        for (name, p), piece in zip(module.named_parameters(), image, strict=True):
            torch.testing.assert_close(p, start[name] + piece.view(p.shape))
        assert any(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_a_copy_is_a_plain_module():
    module = small()
    with hold(module, subspace(module, 9)) as held:
        step(module, torch.optim.SGD(held.parameters(), lr=0.1))
        other = copy.deepcopy(module)
        assert bits(copied(other)) == bits(copied(module))
        assert len(trainable(other)) == len(list(other.parameters()))
        before = bits(copied(module))
        step(other, torch.optim.SGD(trainable(other), lr=0.1))
        assert bits(copied(module)) == before
        hold(other, subspace(other, 3)).release()


def test_under_compile_and_checkpointing():
    results = []
    for how in ("plain", "compile", "checkpoint"):
        module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        torch.manual_seed(0)
        for p in module.parameters():
            nn.init.normal_(p)
        call = torch.compile(module, backend="eager") if how == "compile" else module
        with hold(module, subspace(module, 9)) as held:
            optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                if how == "checkpoint":
                    y = torch.utils.checkpoint.checkpoint(module, inputs(), use_reentrant=False)
                else:
                    y = call(inputs())
                (y - 1).square().mean().backward()
                optimizer.step()
        results.append(bits(copied(module)))
    assert results[0] == results[1] == results[2]


def test_autocast_costs_the_weights_no_digits():
    module = small()
    with hold(module, subspace(module, 9, "dense")) as held:
        with torch.no_grad():
            held.projected.z.normal_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(inputs())
        found = torch.cat([p.flatten() for p in module.parameters()])
        image = held.projected.projection.image(held.projected.z.detach())
        start = torch.cat([p.flatten() for p in held.projected.origin.values()])
        assert torch.equal(found, start + image)


def test_a_gradient_that_comes_late_is_refused():
    module = small()
    with hold(module, subspace(module, 9)) as held:
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        module(inputs()).square().mean().backward()
        module[0].weight.grad = torch.zeros_like(module[0].weight)
        with pytest.raises(WorkFailed, match=r"gradient of 0\.weight came after .* DistributedDataParallel"):
            optimizer.step()


# ---- the file


def trained(kind: str = "fastfood", said: bool = False, steps: int = 3) -> nn.Module:
    module = small()
    held = hold(module, subspace(module, 11, kind, 5, select(module, "3.bias"), said))
    optimizer = torch.optim.Adam(held.parameters(), lr=0.05)
    for _ in range(steps):
        step(module, optimizer)
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [False, True])
def test_what_was_saved_loads_elsewhere_bit_for_bit(kind, said, tmp_path):
    module = trained(kind, said)
    save_subspace(module, tmp_path / "z")
    other = small()
    held = load_subspace(other, tmp_path / "z")
    assert bits(copied(other)) == bits(copied(module))
    assert [n for n, _ in held.named_parameters()] == [n for n, _ in named_trainable(module)]
    for network in (module, other):
        step(network, torch.optim.SGD(trainable(network), lr=0.1))
    assert bits(copied(other)) == bits(copied(module))
    held.release()
    assert bits(copied(other)) == bits(copied(module))


def test_the_file_is_as_small_as_what_was_learned(tmp_path):
    module = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    hold(module, subspace(module, 50))
    save_subspace(module, tmp_path / "z")
    assert (tmp_path / "z").stat().st_size < 2000


def test_another_process_gives_the_same_weights(tmp_path):
    module = trained()
    save_subspace(module, tmp_path / "z")
    script = (
        "import sys, torch\nfrom torch import nn\nfrom letitgo import load_subspace\n"
        "from letitgo.weights import copied\nfrom letitgo.weights.delta import summary\ntorch.set_num_threads(1)\n"
        "torch.manual_seed(0)\n"
        "module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))\n"
        "load_subspace(module, sys.argv[1]).release()\nprint(summary(copied(module))['digest'])"
    )
    found = python(script, str(tmp_path / "z")).stdout.strip()
    assert found == summary(copied(module))["digest"]


def test_a_held_network_is_saved_whole_by_its_state(tmp_path):
    module = trained()
    plain = small()
    plain.load_state_dict(module.state_dict())
    assert bits(copied(plain)) == bits(copied(module))


def nudged() -> nn.Module:
    module = small()
    with torch.no_grad():
        module[0].weight[0, 0] += 1e-6
    return module


def test_refusals_leave_the_module_as_it_was(tmp_path, monkeypatch):
    save_subspace(trained(), tmp_path / "z")
    wider = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 6))
    for module, message in (
        (nudged(), r"they differ in '0\.weight'"),
        (nn.Linear(6, 6), "is of another network: '0.weight' is not in the module"),
        (small().double(), "they differ in"),
        (wider, "they differ in"),
    ):
        before = portrait(module)
        with pytest.raises(BadRequest, match=message):
            load_subspace(module, tmp_path / "z")
        assert portrait(module) == before
    held = small()
    load_subspace(held, tmp_path / "z")
    with pytest.raises(BadRequest, match=r"the base is not the one|held already"):
        load_subspace(held, tmp_path / "z")
    module = small()
    before = portrait(module)
    monkeypatch.setattr("letitgo.weights.projections._quantiles", lambda: torch.linspace(-2, 2, 2**16).numpy())
    with pytest.raises(BadRequest, match=r"the projection drawn here is not the one .* torch"):
        load_subspace(module, tmp_path / "z")
    assert portrait(module) == before


def test_damaged_files(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "z"
    save_subspace(trained(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BadRequest):
            load_subspace(small(), path)
    path.write_bytes(whole)
    save_file(load_file(path), path, {"letitgo-subspace": json.dumps([{"format": 2}, ""])})
    with pytest.raises(BadRequest, match="newer letitgo"):
        load_subspace(small(), path)
    save_file({"z": torch.zeros(3)}, path)
    with pytest.raises(BadRequest, match=r"not one that letitgo\.save_subspace wrote"):
        load_subspace(small(), path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: subspace(m, 0), "d is 0: give a whole number from 1 to 126"),
        (lambda m: subspace(m, 127), "d is 127: give a whole number from 1 to 126"),
        (lambda m: subspace(m, 2.5), "d is 2.5: give a whole number"),
        (lambda m: subspace(m, 3, said=True), "the 3 layers take a scale each, so give 4 or more"),
        (lambda m: subspace(m, 3, "fourier"), "'fourier': it can be 'dense', 'sparse', 'fastfood'"),
        (lambda m: subspace(m, 3, exclude=["9"]), "the pattern '9' matches no layer"),
        (lambda m: subspace(m, 3, exclude=everything(nn.Linear(2, 2))), "the selection is of another network"),
        (lambda m: subspace(m, 3, exclude=everything(m)), "no weights that train are left"),
        (lambda m: (freeze(m, everything(m)), subspace(m, 3)), "no weights that train are left"),
        (lambda m: subspace(nn.ReLU(), 3), "no weights that train are left"),
        (
            lambda m: subspace(nn.ParameterList([torch.zeros(3) * 1j]), 3),
            "holds torch.complex64, and only real numbers",
        ),
        (lambda m: hold(m, subspace(nn.Linear(3, 3), 3)), "the part is of another network"),
        (lambda m: (hold(m, subspace(m, 3)), hold(m, subspace(m, 3))), "held already: release"),
        (lambda m: save_subspace(m, "z"), "not held in a subspace: hold"),
        (lambda m: load_subspace(m, "nowhere"), "there is no file nowhere"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(BadRequest, match=message):
        call(small())
