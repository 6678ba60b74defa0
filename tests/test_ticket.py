"""Lottery tickets: mask arithmetic, what moves and what does not, controls, stability, files, and the report."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS
from torch import nn
from torch.nn.utils import prune

import letitgo
from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute.jobs import plan_jobs
from letitgo.execute.training import carry_out
from letitgo.papers import fc18, fdrc19
from letitgo.plan import Apart, Curve, Initial, Kept, Masked, Pruned, Run
from letitgo.plan.states import At
from letitgo.recipes.networks import find_network, lenet, lenet_300_100
from letitgo.report.pictures import Points
from letitgo.studies.compute import compute
from letitgo.studies.map.study import Map
from letitgo.studies.ticket.options import VARIANTS
from letitgo.studies.ticket.report import report
from letitgo.studies.ticket.study import DENSE, Ticket, Tickets, export_ticket
from letitgo.value import dump, load
from letitgo.weights import (
    copied,
    entries,
    hold,
    magnitude_masks,
    pack_masks,
    prunable,
    random_masks,
    seeded,
    torch_masks,
    unpack_masks,
)

RECIPE = small_recipe(widths="16", depth=2, batch_size=256, epochs=2, validation=100)
OPTIONS = shlex.split("--widths 16 --depth 2 --batch-size 256 --validation 100 --schedule constant --workers 0")
"""RECIPE on the command line, but for its epochs."""


def counts(masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


# masks


def test_the_shares_left_are_those_of_the_paper():
    """FC18: 20 % of each layer and 10 % of the last at each level, of LeNet-300-100."""
    module, masks, left = lenet_300_100((1, 28, 28), 10), None, []
    names = prunable(module)
    assert list(names) == ["fc1.weight", "fc2.weight", "fc3.weight"]
    rates = {"fc1.weight": 0.2, "fc2.weight": 0.2, "fc3.weight": 0.1}
    for _ in range(18):
        masks = magnitude_masks(module, rates, within=masks)
        left.append(sum(counts(masks).values()) / 266_200)
    paper = [80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1, 16.9, 13.5, 10.8, 8.7, 7.0, 5.6, 4.5, 3.6, 2.9, 2.3, 1.85]
    assert [round(100 * share, 1) for share in left[:-1]] == paper[:-1]
    assert round(100 * left[-1], 2) == paper[-1]


def test_a_global_rate_of_20_percent_leaves_the_shares_that_the_checklist_names():
    module, masks, left = lenet((1, 28, 28), 10), None, []
    for _ in range(17):
        masks = magnitude_masks(module, 0.2, "global", masks)
        left.append(round(100 * sum(counts(masks).values()) / 44_190, 1))
    assert left[:8] == [80.0, 64.0, 51.2, 41.0, 32.8, 26.2, 21.0, 16.8]
    assert left[-1] == pytest.approx(2.25, abs=0.05)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_masks_are_exact_nested_and_keep_the_largest(data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    module = nn.Linear(shape[1], shape[0], bias=False)
    values = data.draw(st.lists(st.integers(-3, 3), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    module.weight.data = torch.tensor(values, dtype=torch.float32).view(shape)
    masks = None
    for _ in range(3):
        rate = data.draw(st.floats(0, 0.99))
        before = torch.ones(shape, dtype=torch.bool) if masks is None else masks["weight"]
        masks = magnitude_masks(module, rate, within=masks)
        kept, there = masks["weight"], int(before.sum())
        assert int(kept.sum()) == there - round(rate * there)
        assert not (kept & ~before).any()
        gone = before & ~kept
        magnitudes = module.weight.abs()
        if gone.any() and kept.any():
            assert magnitudes[gone].max() <= magnitudes[kept].min()
            tied = magnitudes[gone].max() == magnitudes[kept].min()
            places = (magnitudes == magnitudes[gone].max()).flatten()
            if tied:  # of equals, those that come first are pruned
                last = (gone.flatten() & places).nonzero().max()
                assert last < (kept.flatten() & places).nonzero().min()


def test_norms_and_biases_are_never_pruned_and_rates_are_checked():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 6, 6]), nn.Flatten(), nn.Linear(72, 3))
    assert list(prunable(module)) == ["0.weight", "3.weight"]
    with pytest.raises(BadRequest, match="no weights to prune"):
        prunable(nn.BatchNorm1d(3))
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(BadRequest, match="at least 0 and less than 1"):
            magnitude_masks(module, rate)
    with pytest.raises(BadRequest, match=r"'3.wieght' is no parameter: did you mean 3.weight"):
        magnitude_masks(module, {"3.wieght": 0.5})
    with pytest.raises(BadRequest, match="the rates differ"):
        magnitude_masks(module, {"0.weight": 0.5, "3.weight": 0.2}, "global")
    with pytest.raises(BadRequest, match="it can be 'layer' or 'global'"):
        magnitude_masks(module, 0.5, "locally")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match=r"'3\.weight' has no mask"):
        magnitude_masks(module, 0.5, within={"0.weight": torch.ones(2, 1, 3, 3)})
    with pytest.raises(BadRequest, match="'a' has a mask, but no rate"):  # the same name in every process
        magnitude_masks(
            module, 0.5, within=dict.fromkeys(["0.weight", "3.weight", *"qwertyuiopasdfghjkl"], torch.ones(1))
        )
    with pytest.raises(BadRequest, match=r"the mask of 0.weight has shape \(2,\)"):
        magnitude_masks(module, {"0.weight": 0.5}, within={"0.weight": torch.ones(2)})


def test_global_pruning_takes_the_smallest_wherever_they_are():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(16.0).view(4, 4) + 100)
        module[1].weight.copy_(torch.arange(16.0).view(4, 4))
    masks = magnitude_masks(module, 0.5, "global")
    assert counts(masks) == {"0.weight": 16, "1.weight": 0}


@given(st.integers(0, 40), st.integers(0, 5))
@settings(deadline=None)
def test_random_masks_have_the_same_counts_and_packing_loses_nothing(kept, seed):
    mask = (torch.arange(40) < kept).view(5, 8)
    found = random_masks({"a": mask, "b": ~mask}, seed)
    assert counts(found) == {"a": kept, "b": 40 - kept}
    again = unpack_masks(json.loads(json.dumps(pack_masks(found))))
    assert all(torch.equal(again[name], found[name]) for name in found)
    assert all(torch.equal(random_masks({"b": ~mask}, seed)["b"], found["b"]) for _ in range(2))


def test_masks_of_torch_nn_utils_prune_carry_over():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    prune.l1_unstructured(module[0], "weight", 0.4)
    prune.l1_unstructured(module[2], "weight", 0.5)
    masks = torch_masks(module)
    assert counts(masks) == {"0.weight": 18, "2.weight": 5}
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert str(entries(plain, masks)) == "18 of 30 of 0.weight, 5 of 10 of 2.weight"
    with pytest.raises(BadRequest, match="has pruned nothing"):
        torch_masks(plain)
    with pytest.raises(BadRequest, match="prune holds it; take its masks with torch_masks"):
        entries(module, masks)
    for layer in (module[0], module[2]):
        prune.remove(layer, "weight")
    assert str(entries(module, masks)) == str(entries(plain, masks))


# runs


def tickets_in(study: Ticket) -> Tickets:
    [tickets] = study.tickets.values()
    return tickets


def tickets_of(recipe=RECIPE, **fields) -> Tickets:
    return tickets_in(Ticket(recipe, **{"seeds": 2, "levels": 2, "variants": VARIANTS, **fields}))


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "Muon"])
def test_pruned_weights_stay_at_every_step_and_the_kept_ones_move(optimizer, store):
    recipe = small_recipe(widths="8", depth=2, batch_size=512, epochs=1, optimizer=optimizer)
    tickets = tickets_of(recipe, levels=1, rate=0.5)
    compute(Ticket(recipe, seeds=1, levels=1, rate=0.5, variants=()), store)
    initial = Initial(recipe.network, recipe.seed).load(store)
    for variant in ("ticket", "fresh weights", "frozen", "complement"):
        training = tickets.run(1, variant, recipe)
        assert isinstance(training.trains, Kept)
        masks = training.trains.mask.load(store)
        assert counts(masks)["fc1.weight"] == 256
        steps = range(1, recipe.steps + 1)
        carry_out(training, store, steps)
        start = training.start.load(store)
        moved = dict.fromkeys(masks, False)
        for step in steps:
            state = training.at(step).load(store)
            for name, mask in masks.items():
                assert raw(state[name])[~mask].equal(raw(start[name])[~mask])
                still = initial[name] if variant in ("frozen", "complement") else torch.zeros_like(initial[name])
                assert torch.equal(state[name][~mask], still[~mask])
                moved[name] |= bool((state[name] != start[name])[mask].any())
        assert all(moved.values())
        if variant == "ticket":  # both signs of what is kept move, and begin where the whole network began
            for name, mask in masks.items():
                assert torch.equal(start[name][mask], initial[name][mask])
                changed = (state[name] != start[name]) & mask
                assert (changed & (start[name] > 0)).any()
                assert (changed & (start[name] < 0)).any()


def test_masks_nest_controls_have_the_same_counts_and_rewound_weights_are_the_checkpoints(store):
    study = Ticket(RECIPE, seeds=1, levels=3, variants=VARIANTS, rewind="1ep")
    assert not compute(study, store).failures
    tickets = tickets_in(study)
    step = RECIPE.steps_per_epoch
    checkpoint = tickets.of.baseline(RECIPE).at(step).load(store)
    before = None
    for level in (1, 2, 3):
        masks = tickets.mask(level, RECIPE).load(store)
        assert before is None or all(not (mask & ~before[name]).any() for name, mask in masks.items())
        before = masks
        for variant in ("ticket", *VARIANTS):
            training = tickets.run(level, variant, RECIPE)
            assert training.begin == (0 if variant.endswith("fresh weights") else step)
            own = training.trains.mask.load(store)  # type: ignore[union-attr]
            if variant == "complement":
                assert all(torch.equal(own[name], ~masks[name]) for name in masks)
            else:
                assert counts(own) == counts(masks)
            if variant == "ticket":
                start = training.start.load(store)
                for name, tensor in checkpoint.items():
                    kept = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
                    assert raw(start[name])[kept].equal(raw(tensor)[kept])
        fresh = tickets.run(level, "fresh weights", RECIPE).start.load(store)
        assert not torch.equal(fresh["fc2.weight"][masks["fc2.weight"]], checkpoint["fc2.weight"][masks["fc2.weight"]])
        random = tickets.run(level, "random mask", RECIPE).trains.mask.load(store)  # type: ignore[union-attr]
        assert not torch.equal(random["fc1.weight"], masks["fc1.weight"])


def test_one_shot_prunes_the_trained_network_to_each_levels_density(store):
    study = Ticket(RECIPE, seeds=1, levels=3, variants=(), one_shot=True)
    assert not compute(study, store).failures
    tickets = tickets_in(study)
    module = tickets.of.baseline(RECIPE).final.module(store)
    masks = tickets.mask(3, RECIPE).load(store)
    assert counts(masks)["fc1.weight"] == 1024 - round((1 - 0.8**3) * 1024)
    kept, gone = (module.fc1.weight.abs()[m] for m in (masks["fc1.weight"], ~masks["fc1.weight"]))
    assert gone.max() <= kept.min()


def test_the_baseline_is_the_one_of_the_map(store):
    recipe = small_recipe(widths="16", depth=2, batch_size=256, epochs=1)
    compute(Map(recipe, seeds=1, reinit_at=(0,), select="test"), store)
    takes = letitgo.estimate(Ticket(recipe, seeds=1, levels=1, variants=()), store, 0)
    assert (takes.runs, takes.runs_stored) == (2, 1)


def test_held_out_examples_train_nothing_and_the_least_loss_is_found(store):
    data = RECIPE.dataset
    whole = small_recipe(widths="16", depth=2).dataset
    train, held_out = data.split("train"), data.split("validation")
    assert (len(train), len(held_out)) == (len(whole.split("train")) - 100, 100)
    everything = torch.cat([train.inputs, held_out.inputs]).flatten(1).double()
    assert everything.sum(0).equal(whole.split("train").inputs.flatten(1).double().sum(0))
    assert data.split("test").inputs.equal(whole.split("test").inputs)

    training = tickets_of().of.baseline(RECIPE)
    carry_out(training, store, range(1, RECIPE.steps + 1))
    assert isinstance(training.final, At)
    curve = Curve(training.final).compute(store)
    every = RECIPE.steps_per_epoch
    assert curve["step"] == [every, 2 * every]
    for step, loss, accuracy in zip(curve["step"], curve["loss"], curve["accuracy"], strict=True):
        found = letitgo.Evaluation(training.at(step), data, "validation").compute(store)  # type: ignore[arg-type]
        assert (found["loss"], found["accuracy"]) == pytest.approx((loss, accuracy))
    assert curve["stop"] == curve["step"][curve["loss"].index(min(curve["loss"]))]
    best = letitgo.Evaluation(training.at(curve["stop"]), data, "test").compute(store)
    assert best["accuracy"] == curve["test_accuracy"]


def test_looking_at_held_out_examples_does_not_change_the_training_and_survives_a_stop(tmp_path):
    recipe = small_recipe(model="helpers:dropout_net", widths=None, batch_size=64, epochs=2, validation=100)
    stores = [letitgo.open_store(tmp_path / name) for name in "ab"]
    training = tickets_of(recipe).of.baseline(recipe)
    carry_out(training, stores[0], [recipe.steps])
    for step in (5, 17, recipe.steps):  # goes on from what is there
        carry_out(training, stores[1], [step])
    records = [training.final.record(store) for store in stores]  # type: ignore[attr-defined]
    assert records[0]["curve"] == records[1]["curve"]
    states = [training.final.load(store) for store in stores]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_halves_are_disjoint_and_together_everything():
    halves = [small_recipe(half=half).dataset.split("train") for half in ("a", "b")]
    whole = small_recipe().dataset.split("train")
    assert [len(half) for half in halves] == [719, 719]
    total = sum(half.inputs.flatten(1).double().sum(0) for half in halves)
    assert total.equal(whole.inputs.flatten(1).double().sum(0))  # type: ignore[union-attr]
    assert small_recipe(half="a").key != small_recipe(half="b").key != small_recipe().key


def test_stability_is_what_fdrc19_defines(store):
    study = Ticket(RECIPE, seeds=1, levels=1, variants=("random mask",), stability=True)
    outcome = compute(study, store)
    tickets = tickets_in(study)
    run_ = tickets.run(1, "ticket", RECIPE)
    mask = tickets.mask(1, RECIPE)
    whole, own = tickets.of.baseline(RECIPE).final.load(store), run_.final.load(store)
    masks = mask.load(store)
    a, b = (torch.cat([state[name][masks[name]] for name in masks]).double() for state in (whole, own))
    row = next(row for row in outcome.rows if row["variant"] == "ticket")
    assert row["pruning_l2_mean"] == pytest.approx(float((a - b).norm()))
    cosine = float(nn.functional.cosine_similarity(a, b, dim=0))
    assert row["pruning_angle_mean"] == pytest.approx(float(torch.rad2deg(torch.acos(torch.tensor(cosine)))), rel=1e-4)
    assert row["order_l2_mean"] > 0
    same = Apart(run_.final, run_.final, mask).compute(store)
    assert (same["l2"], same["angle"]) == (0, pytest.approx(0, abs=1e-4))


def test_a_level_with_an_empty_layer_is_named_and_goes_on(store):
    recipe = small_recipe(model="test_ticket:lopsided", widths=None, batch_size=512, epochs=1)
    study = Ticket(recipe, seeds=1, levels=2, rate=0.8, scope="global", output_rate=0.8, variants=())
    outcome = compute(study, store)
    assert not outcome.failures
    assert [row["empty"] for row in outcome.rows] == ["", "", "small.weight"]
    assert "Nothing is left of small.weight at level 2." in outcome.answers


def lopsided(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    module = nn.Sequential()
    module.add_module("flatten", nn.Flatten())
    module.add_module("small", nn.Linear(64, 8))
    module.add_module("large", nn.Linear(8, num_classes))
    nn.init.normal_(module.small.weight, std=1e-6)
    nn.init.normal_(module.large.weight, mean=5.0)
    return module


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 1.0}, "rate is 1.0: give less than 1"),
        ({"rate": 0.0}, "rate is 0.0: give more than 0"),
        ({"rates": (("fc1", 1.5),)}, "rates fc1 is 1.5: give less than 1"),
        ({"rates": (("*", 0.0),)}, "nothing of 'fcn' would be pruned: set output-rate, or rates above 0"),
        ({"rates": (("fc1.bias", 0.5),)}, "rates names 'fc1.bias', which nothing pruned matches: give fc1.weight"),
        ({"rates": (("fc9", 0.5),)}, "fc9"),
        ({"levels": 0}, "levels is 0: give at least 1"),
        ({"output_rate": 1.0}, "output-rate is 1.0: give less than 1"),
        ({"scope": "global", "rates": (("fc1", 0.5),)}, "one scope for all weights has one rate"),
        ({"rewind": "half"}, "rewind is 'half': give 0, or steps as in 500it"),
        ({"rewind": "9ep"}, "training ends at step"),
        ({"variants": ("fresh wieghts",)}, "did you mean fresh weights"),
        ({"variants": ("ticket",)}, "variants is 'ticket': choose from fresh weights, random mask"),
        ({"variants": ("frozen", "frozen")}, "variants has a value twice: frozen, frozen"),
        ({"at": (3,)}, "at names level 3: give levels of 1 to 2"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_bad_requests_are_one_clear_sentence(fields, message):
    with pytest.raises(BadRequest) as caught:
        Ticket(RECIPE, **{"levels": 2, **fields}).check()
    assert message in str(caught.value)


@pytest.mark.parametrize("field", [{"examples": 100}, {"label_noise": 0.1}])
def test_stability_is_refused_where_the_seed_of_the_order_would_change_the_data_too(field):
    recipe = small_recipe(**field)
    Ticket(recipe)
    with pytest.raises(BadRequest, match="stability compares two orders of the same data, but the seed of the order"):
        Ticket(recipe, stability=True)


def test_rates_by_pattern_and_an_output_layer_left_alone():
    tickets = tickets_of(rates=(("fc1", 0.5),), output_rate=0)
    assert tickets.rates == {"fc1.weight": 0.5, "fc2.weight": 0.2}
    assert tickets_of(rates=(("*", 0.5), ("fc2", 0))).rates == {"fc1.weight": 0.5, "fc3.weight": 0.5}
    assert tickets_of(scope="global", rates=(("fc1", 0.0),)).rates == {"fc2.weight": 0.2}
    assert tickets_of(scope="global").rates == {"fc1.weight": 0.2, "fc2.weight": 0.2}
    assert tickets_of().rates == {"fc1.weight": 0.2, "fc2.weight": 0.2, "fc3.weight": 0.1}


def test_a_killed_lottery_goes_on_and_ends_with_the_same_rows(tmp_path, capsys):
    options = shlex.split(
        "ticket --widths 64 --depth 2 --batch-size 8 --epochs 2 --validation 100 --seeds 1 --levels 2 --rate 0.5 "
        "--variants fresh-weights --report none --workers 0 --format csv --store"
    )
    assert run([*options, str(tmp_path / "a")]) == 0
    whole, store = capsys.readouterr().out, tmp_path / "b"
    program = [sys.executable, "-m", "letitgo", *options, str(store)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, start_new_session=True)
    while len(list(store.glob("pruneds/*/*.json"))) < 1 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in store.glob("*/*/**/*.json") if "partial" not in str(path)}
    assert finished
    assert run([*options, str(store)]) == 0
    assert capsys.readouterr().out == whole
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


# tickets as files


@pytest.fixture
def ticket_file(tmp_path, store) -> tuple[str, Ticket]:
    study = Ticket(RECIPE, seeds=1, levels=2, variants=())
    path = str(tmp_path / "fc.ticket")
    told = export_ticket(study, 2, path, store)
    assert str(told).startswith(f"{sum(counts(told.masks).values()):,} of ")
    return path, study


def test_a_ticket_is_a_small_file_and_comes_back(ticket_file, store):
    path, study = ticket_file
    ticket = letitgo.read_ticket(path)
    masks = tickets_in(study).mask(2, RECIPE).load(store)
    assert all(torch.equal(ticket.masks[name], masks[name]) for name in masks)
    assert ticket.start["seed"] == RECIPE.seed
    assert ticket.start["recipe"]["widths"] == "16"
    assert os.path.getsize(path) < 3000


def test_a_ticket_prunes_anybodys_module_and_says_what_trains(ticket_file):
    path, _ = ticket_file
    module = seeded(RECIPE.network, 5)
    before = copied(module)
    part = letitgo.load_ticket(module, path)
    masks = letitgo.read_ticket(path).masks
    with hold(module, part) as held:
        optimizer = torch.optim.AdamW(held.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.randn(8, 1, 8, 8)).square().mean().backward()
            optimizer.step()
    after = copied(module)
    for name, mask in masks.items():
        assert not after[name][~mask].any()
        assert (after[name] != before[name])[mask].any()
    assert (after["fc1.bias"] != before["fc1.bias"]).any()


def test_training_with_a_ticket_file_is_training_the_ticket(ticket_file, store, capsys):
    path, study = ticket_file
    compute(study, store)
    options = ["train", *OPTIONS, "--epochs", "2", "--format", "json"]
    assert run([*options, "--ticket", path, "--store", str(store.root)]) == 0
    [row] = json.loads(capsys.readouterr().out)["rows"]
    ticket = next(row for row in study.rows(store) if (row["level"], row["variant"]) == (2, "ticket"))
    assert row["accuracy"] == ticket["accuracy_mean"]
    assert row["ticket"] == path
    biases = 16 + 16 + 10
    assert row["trained"] == ticket["weights_left"] + biases
    assert run([*options, "--ticket", path, "--freeze", "fc1"]) == 2
    assert "give a ticket or freeze, not both" in capsys.readouterr().err
    assert run(["train", "--widths", "8", "--depth", "2", "--ticket", path]) == 2
    assert "is of another network: 'fc1.weight' has shape (16, 64) there and (8, 64) here" in capsys.readouterr().err


def test_a_rewound_ticket_asks_for_its_recipe(tmp_path, store, capsys):
    study = Ticket(RECIPE, seeds=1, levels=1, variants=(), rewind="2it")
    path = str(tmp_path / "t")
    export_ticket(study, 1, path, store)
    options = ["train", *OPTIONS]
    where = ["--ticket", path, "--store", str(store.root)]
    assert run([*options, "--epochs", "3", *where]) == 2
    assert "starts from step 2 of another recipe" in capsys.readouterr().err
    assert run([*options, "--epochs", "2", *where]) == 0


def test_a_damaged_or_foreign_ticket_is_refused(ticket_file, tmp_path):
    path, _ = ticket_file
    data = Path(path).read_bytes()
    bad = tmp_path / "bad"
    for place in range(0, len(data), max(1, len(data) // 60)):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with pytest.raises(BadRequest):
            letitgo.read_ticket(bad)
        bad.write_bytes(data[:place])
        with pytest.raises(BadRequest):
            letitgo.read_ticket(bad)
    module = nn.Linear(3, 3)
    before = copied(module)
    with pytest.raises(BadRequest, match=r"it prunes 'fc1\.weight'"):
        letitgo.load_ticket(module, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in copied(module).items())
    letitgo.save(module, bad, {name: torch.zeros_like(x) for name, x in before.items()})
    with pytest.raises(BadRequest, match=r"not one that letitgo\.save_ticket wrote"):
        letitgo.read_ticket(bad)
    with pytest.raises(BadRequest, match="there is no file"):
        letitgo.read_ticket(tmp_path / "nowhere")
    with pytest.raises(BadRequest, match="there is no mask to write"):
        letitgo.save_ticket(bad, {})
    with pytest.raises(BadRequest, match="values other than 0 and 1"):
        letitgo.save_ticket(bad, {"a": torch.tensor([0.5])})


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"step": 2, "recipe": "words"}, "starts from step 2 of another recipe (it does not say which)"),
        ({"step": 2, "recipe": {"lr": 3}}, "starts from step 2 of another recipe (lr 3)"),
        ({"step": 2, "recipe": {"epochs": None}}, "starts from step 2 of another recipe (epochs by default)"),
        ({"step": 10**9, "recipe_key": RECIPE.key}, "starts from step 1000000000, but training ends with step 12"),
        ({"step": -1}, "names no start that can be read"),
        ({"seed": "0"}, "names no start that can be read"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused_in_a_sentence(start, said, tmp_path, capsys):
    path = tmp_path / "a.ticket"
    letitgo.save_ticket(path, magnitude_masks(seeded(RECIPE.network, 0), 0.5), start)
    assert run(["train", *OPTIONS, "--epochs", "2", "--ticket", str(path), "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_a_ticket_that_declares_more_than_the_network_is_not_unpacked(tmp_path):
    """Shapes are held against the network before masks are inflated."""
    path = tmp_path / "huge"
    letitgo.save_ticket(path, {"weight": torch.zeros(4000, 4000, dtype=torch.bool)})
    assert os.path.getsize(path) < 10_000
    with pytest.raises(BadRequest, match=r"has shape \(4000, 4000\) there and \(3, 3\) here"):
        letitgo.load_ticket(nn.Linear(3, 3), path)


def test_the_export_command(tmp_path, store, capsys):
    options = [*OPTIONS, "--epochs", "1", "--levels", "1"]
    path = str(tmp_path / "a.ticket")
    assert run(["ticket", "export", path, *options, "--store", str(store.root)]) == 0
    assert "of 1,440 weights" in capsys.readouterr().err
    assert set(letitgo.read_ticket(path).masks) == {"fc1.weight", "fc2.weight", "fc3.weight"}
    for level in ("0", "9"):
        assert run(["ticket", "export", path, *options, "--level", level]) == 2
        assert f"level is {level}: give one of 1 to 1, or more levels" in capsys.readouterr().err
    assert run(["ticket", "export", str(tmp_path / "no" / "a"), *options]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run(["ticket", "export", path, *options, "--lr", "0.1,0.2"]) == 2
    assert "one ticket goes into one file" in capsys.readouterr().err


# the report


@pytest.mark.usefixtures("svg_only")
def test_the_report_keeps_the_controls_apart_and_answers(tmp_path, store):
    study = Ticket(RECIPE, seeds=2, levels=2, variants=VARIANTS, stability=True, at=(2,))
    outcome = compute(study, store)
    assert [(row["level"], row["variant"]) for row in outcome.rows] == [
        (0, DENSE),
        (1, "ticket"),
        *((2, variant) for variant in ("ticket", *VARIANTS)),
    ]
    assert all(row["n"] == 2 for row in outcome.rows)
    first, *rest = outcome.rows
    assert first["drop_mean"] == 0
    for row in rest:
        assert row["drop_mean"] == pytest.approx(first["accuracy_mean"] - row["accuracy_mean"])
    path = outcome.report(tmp_path / "report", "letitgo ticket")
    page = path.read_text()
    for name in ("same mask, fresh weights", "random mask, original weights", "random mask, fresh weights"):
        assert name in page
    assert {file.name for file in path.parent.glob("*.png")} == {
        f"ticket-{name}.png" for name in ("accuracy", "stop", "stop-accuracy", "stability")
    }
    assert "all 1,440 weights" in outcome.answers[0]
    assert any(sentence.startswith("Ticket: ") for sentence in outcome.answers)
    stable = [sentence for sentence in outcome.answers if sentence.startswith("Stability at ")]
    assert [sentence.split(", ")[1].partition(":")[0] for sentence in stable] == ["ticket", "random mask"]
    row = next(row for row in outcome.rows if (row["level"], row["variant"]) == (2, "ticket"))
    assert f"end {row['order_l2_mean']:.3g} apart" in stable[0]
    assert f"it is {row['pruning_l2_mean']:.3g} (" in stable[0]


def row_of(level, variant, drop=0.0, half=0.1, **fields):
    """A row of which nothing is known but what is given."""
    row = {f"{name}_{kind}": None for name in Ticket.quantities for kind in Ticket.summaries}
    row |= {"level": level, "variant": variant, "density": 0.8**level, "weights_left": 100, "layers": "", "empty": ""}
    row |= {"drop_mean": drop, "drop_ci95": half, "accuracy_mean": 0.9 - drop, "accuracy_ci95": half, "n": 3}
    return row | fields


def test_the_terminal_shows_what_is_left_of_each_layer():
    rows = [row_of(0, DENSE, 0.0, 0.0)]
    rows += [row_of(level, "ticket", layers=f"fc1.weight {0.8**level:.4g}, fc2.weight 1") for level in range(1, 9)]
    section = section_of(rows)
    *_, table = section.tables[: section.shown]
    assert [column.head for column in table.columns] == ["layer", "level 2", "level 4", "level 6", "level 8"]
    assert [[column.cell(row) for column in table.columns] for row in table.rows] == [
        ["fc1.weight", "64 %", "41 %", "26 %", "17 %"],
        ["fc2.weight", "100 %", "100 %", "100 %", "100 %"],
    ]


def section_of(rows):
    [section] = report(Ticket(RECIPE), rows).sections
    return section


def test_the_answer_names_the_last_level_without_a_clear_drop():
    rows = [
        row_of(0, DENSE, 0.0, 0.0),
        row_of(1, "ticket", -0.01, 0.005),
        row_of(2, "ticket", 0.001, 0.002),
        row_of(3, "ticket", 0.05, 0.01),
        row_of(4, "ticket", 0.001, 0.002),
        row_of(1, "fresh weights", 0.02, 0.01),
        row_of(1, "random mask", 0.02, 0.01),
        row_of(2, "random mask", 0.02, 0.03),
        row_of(3, "random mask", 0.06, 0.01),
    ]
    section = section_of(rows)
    assert section.answer.startswith(
        "Down to 64 % of the weights, trained alone, tickets are not clearly worse than all 100"
    )
    assert section.answer.endswith("the drop is 0.10 ± 0.20 points.")
    assert section.sentences == [
        "Ticket: clearly worse than all weights at 51.2 %, clearly better at 80 %.",
        "Same mask, fresh weights: clearly worse than all weights at every level.",
        "Random mask, original weights: clearly worse than all weights at 80 % and 51.2 %.",
    ]
    assert section_of(rows[:3]).answer.startswith("Down to 64 % of the weights, the last level, trained alone")
    assert section_of([rows[0], rows[3]]).answer.startswith("No ticket does as well as all 100 weights")
    assert section_of([rows[0], row_of(1, "ticket", 0.0, None)]).answer.startswith("One seed cannot say")


def test_the_table_marks_what_is_clearly_below_all_weights():
    section = section_of([row_of(0, DENSE), row_of(1, "ticket", 0.05, 0.01), row_of(1, "frozen", 0.05, 0.06)])
    table = section.tables[0]
    assert [column.head for column in table.columns] == ["level", "left", "ticket", "frozen"]
    assert [column.cell(table.rows[0]) for column in table.columns[2:]] == ["85.00 ± 1.00 ✗", "85.00 ± 6.00"]


def test_a_lottery_may_have_many_levels(store):
    tickets = tickets_of(levels=150, rate=0.05)
    value = tickets.mask(150, RECIPE)
    [again] = load(json.loads(json.dumps(dump([value]))))
    assert again == value
    assert len(plan_jobs([value], store)) == 2 * 150


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([(1.0, 0.0), (1.5, 0.2)], "At no level is the loss on the held-out examples least before"),
        ([(0.8, 0.1), (0.6, 0.3)], "after 0.60 ± 0.30 of the steps that all weights take, at 64 % of the weights; no"),
        (
            [(0.8, 0.3), (0.9, 0.0)],
            "0.80 ± 0.30 of the steps that all weights take, at 80 % of the weights, which is",
        ),
        ([(0.8, None)], "after 0.80 of the steps that all weights take, at 80 % of the weights, which is not clearly"),
    ],
)
def test_the_answer_says_how_surely_a_level_is_earlier(ratios, said):
    early = {"stop_mean": 100.0, "stop_accuracy_mean": 0.9}
    rows = [row_of(0, DENSE, **early)]
    for level, (ratio, half) in enumerate(ratios, start=1):
        rows.append(row_of(level, "ticket", stop_ratio_mean=ratio, stop_ratio_ci95=half, **early))
    assert said in section_of(rows).sentences[-1]


def test_the_figure_has_a_line_for_each_variant_and_reaches_the_rows_beyond_the_last_ticket():
    rows = [row_of(0, DENSE), row_of(1, "ticket"), row_of(1, "complement", density=0.2)]
    [[panel]] = section_of(rows).pictures["accuracy"].panels
    most, least = panel.xlim
    assert most > 100
    assert least < 20
    ticket, complement = (mark for mark in panel.marks if isinstance(mark, Points))
    assert (ticket.label, ticket.x, ticket.half) == ("ticket", [100, 80], [10, 10])
    assert (complement.label, complement.x) == ("complement", [20])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ticket --rates conv1=0.1,fc1=1.5", "rates fc1 is '1.5': give less than 1"),
        ("ticket --variants random_mask", "variants is 'random_mask': did you mean random-mask or"),
        ("ticket --variants none,frozen", "variants is 'none': "),
        ("ticket --data nothing --variants 'fresh-weights, frozen'", "unknown data 'nothing'"),
        ("ticket --stability --examples 100", "leave out examples and label-noise, or stability"),
        ("carry --data digits --half a,b --controls fresh-wieghts", "did you mean fresh-weights"),
        ("carry --data digits --half a,b --controls fresh-weights,fresh-weights", "controls has a value twice"),
    ],
)
def test_names_of_variants_on_the_command_line(command, said, capsys):
    assert run(shlex.split(command)) == 2
    assert said in capsys.readouterr().err


def test_claims_of_the_two_papers_hold_and_fail_with_the_rows():
    def row(level, variant, **fields):
        names = ("accuracy", "drop", "stop_ratio", "stop_ratio_ticket", "stop_drop", "stop_below_ticket")
        base = {f"{name}_{of}": 0.0 for name in names for of in ("mean", "ci95")}
        for kind in ("order", "pruning"):
            base |= {
                f"{kind}_{m}_{of}": fields.get("far", 1.0) for m in ("l2", "angle") for of in ("mean", "min", "max")
            }
        return {"level": level, "variant": variant, "density": 0.8**level, "n": 3} | base | fields

    def rows(better):
        sign = 1 if better else -1
        found = [
            row(level, "ticket", stop_ratio_mean=1 - 0.3 * sign, drop_mean=-0.003 * sign) for level in range(1, 19)
        ]
        for one in found:
            one |= {"stop_drop_mean": -0.003 * sign, "far": 1}
        found += [
            row(at, "fresh weights", stop_ratio_ticket_mean=1 + sign, stop_below_ticket_mean=sign, drop_mean=sign)
            for at in fc18.AT
        ]
        return found

    study = fc18.study(0.01, 1)
    assert study.recipes[0].epochs == 1
    assert fc18.study(1, 3).recipes[0].epochs == 55
    for better in (True, False):
        claims = [claim for claim in fc18.claims(study, rows(better)) if "weights left" not in claim.quantity]
        assert {claim.within for claim in claims} == {better}
    left = [claim for claim in fc18.claims(study, rows(True)) if "weights left" in claim.quantity]
    assert [claim.within for claim in left] == [True, True, True, True] or left[0].measured == pytest.approx(51.2)

    told = [row(10, "ticket", far=1.0, accuracy_mean=0.983), row(10, "random mask", far=2.0, accuracy_mean=0.9)]
    claims = fdrc19.claims(fdrc19.study(0.01, 1), told)
    assert [claim.within for claim in claims] == [True, None] * 4 + [True, False]


def test_a_ticket_of_a_network_with_norms_and_the_law_of_glorot():
    network = find_network("lenet", (1, 28, 28), 10, {"norm": True, "init": "glorot"})
    state = letitgo.initial_state(network, 0)
    fan = 16 * 4 * 4 + 120
    assert float(state["fc1.weight"].std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    assert not state["fc3.bias"].any()
    with pytest.raises(BadRequest, match="did you mean glorot"):
        find_network("fcn", (1, 8, 8), 10, {"init": "glorott"})()
    masked = Masked(Initial(network, 0), Pruned(Initial(network, 0), {"fc1.weight": 0.5}))
    assert masked.network is network
    assert isinstance(Run(masked, ("fc1.weight",), RECIPE).final, At)
