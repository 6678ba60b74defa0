"""A trajectory is a function of its description."""

from __future__ import annotations

import json
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import baseline, bits, freezing, python, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

import letitgo.training.loop
from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute import Executor
from letitgo.execute.training import carry_out
from letitgo.plan import At, Fraction, Initial, Run
from letitgo.plan.cost import step_cost
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Augment, Batches
from letitgo.recipes.splits import noisy
from letitgo.store import Store, open_store
from letitgo.value import dump
from letitgo.weights import frozen_prefix, initial_state, load_state, named_trainable, seeded, trainable
from letitgo.weights.cut import Cut, find_prefix

RECIPES = {
    "sgd": {},
    "sgd, cosine": {"schedule": "cosine", "weight_decay": 0.01},
    "sgd, step": {"schedule": "step", "optimizer_args": {"nesterov": True}},
    "sgd, milestones after a warm-up": {"schedule": "0.1@1ep+40it", "warmup": "12it"},
    "schedule by import": {"schedule": "helpers:half_then_less"},
    "adam, dropout": {"model": "helpers:dropout_net", "widths": None, "optimizer": "adam"},
    "adamw, batch norm": {"model": "helpers:NormNet", "widths": None, "optimizer": "adamw"},
    "lbfgs": {"optimizer": "lbfgs", "lr": 0.1, "optimizer_args": {"max_iter": 3, "history_size": 5}},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5},
    "nadam": {"optimizer": "nadam"},
    "asgd": {"optimizer": "asgd"},
    "decay of weights alone": {"decay": "weights", "weight_decay": 0.1, "nesterov": True, "schedule": "cosine"},
    "several groups": {"optimizer": "helpers:Grouped", "lr": 0.01, "schedule": "cosine"},
    "label noise": {"label_noise": 0.5},
    "augmented": {"augment": "flip+crop"},
}
STEPS = 46


def run_of(name: str) -> Run:
    run = baseline(small_recipe(**RECIPES[name]))
    assert run.recipe.steps == STEPS
    return run


def point(state: At, store: Store) -> tuple[dict[str, bytes], dict[str, bytes], object]:
    """Weights and optimiser at a point of a run."""
    tensors, scalars = state.optimizer(store)
    return bits(state.load(store)), bits(tensors), scalars


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return lambda: Path(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(folders):
    """Each recipe trained at once."""
    done: dict[str, Store] = {}

    def of(name: str) -> Store:
        if name not in done:
            done[name] = Store(folders())
            carry_out(run_of(name), done[name], [STEPS])
        return done[name]

    return of


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=5)
@given(stops=st.sets(st.integers(1, STEPS - 1), min_size=1, max_size=2))
def test_stopping_and_resuming_changes_no_bit(name, stops, whole, folders):
    root = folders()
    for stop in [*sorted(stops), STEPS]:
        carry_out(run_of(name), Store(root), [stop])
    assert point(run_of(name).final, Store(root)) == point(run_of(name).final, whole(name))


@pytest.mark.parametrize("name", RECIPES)
def test_points_on_the_way_change_no_bit(name, whole, store):
    run = run_of(name)
    carry_out(run, store, [1, 22, 23, 24, STEPS])
    assert point(run.final, store) == point(run.final, whole(name))


def test_another_process_goes_on_to_the_same_bits(whole, store):
    runs = {name: run_of(name) for name in ("adam, dropout", "lbfgs", "augmented")}
    for run in runs.values():
        carry_out(run, store, [17])
    python(
        "import json, sys; from pathlib import Path; from letitgo.store import Store;"
        "from letitgo.execute.jobs import perform, revive;"
        "[perform(revive(json.loads(job)), Store(Path(sys.argv[1])), 30.0) for job in sys.argv[2:]]",
        str(store.root),
        *(json.dumps(dump([run.final])) for run in runs.values()),
    )
    for name, run in runs.items():
        assert point(run.final, Store(store.root)) == point(run.final, whole(name)), name


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=4)
@given(step=st.integers(1, STEPS - 1))
def test_a_run_that_resumes_with_everything_trainable_is_the_baseline(name, step, whole, folders):
    base, store = run_of(name), Store(folders())
    carry_out(base, store, [step])
    again = Run(base.at(step), base.trains, base.recipe, step, resume=True)
    carry_out(again, store, [STEPS])
    assert point(again.final, store) == point(base.final, whole(name))


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=3)
@given(stop=st.integers(11, STEPS - 1))
def test_a_run_that_freezes_on_the_way_can_stop_too(name, stop, folders):
    one, other = Store(folders()), Store(folders())
    base = run_of(name)
    layer = next(iter(base.recipe.network.layers))
    run = freezing(base, layer, start=base.at(10), begin=10, resume=True)
    for store, stops in ((one, [STEPS]), (other, [stop, STEPS])):
        carry_out(base, store, [10])
        for step in stops:
            carry_out(run, Store(store.root), [step])
    assert point(run.final, one) == point(run.final, other)
    ends, starts = bits(run.final.load(one)), bits(base.at(10).load(one))
    moved = {parameter for parameter in run.recipe.network().state_dict() if ends[parameter] != starts[parameter]}
    assert not moved & set(base.recipe.network.layers[layer])
    assert moved >= set(run.trains)


def by_hand(recipe: Recipe, factor, clip: float = inf) -> dict[str, Tensor]:
    """Plain PyTorch: stochastic gradient descent with momentum, the last batch of an epoch as small as it is."""
    module = seeded(recipe.network, 0)
    load_state(module, initial_state(recipe.network, recipe.seed))
    split = recipe.dataset.split("train")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    step = 0
    for epoch in range(recipe.epochs):
        for rows in Batches(recipe).order(epoch).split(recipe.batch_size):
            optimizer.param_groups[0]["lr"] = 0.05 * factor(step / recipe.steps)
            optimizer.zero_grad()
            cross_entropy(module(split.batch(rows)), split.labels[rows]).backward()
            norm = torch.sqrt(sum(p.grad.square().sum() for p in module.parameters()))
            if norm > clip:
                for p in module.parameters():
                    p.grad *= clip / norm
            optimizer.step()
            step += 1
    assert step == recipe.steps
    return module.state_dict()


@pytest.mark.parametrize("batch_size", [64, 1438, 2000, 719, 500])
def test_training_is_the_loop_anyone_would_write(batch_size, store):
    run = baseline(small_recipe(lr=0.05, momentum=0.9, batch_size=batch_size))
    carry_out(run, store, [run.recipe.steps])
    assert bits(run.final.load(store)) == bits(by_hand(run.recipe, lambda progress: 1.0))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("cosine", lambda progress: (1 + cos(pi * progress)) / 2),
        ("step", lambda progress: 0.2 ** sum(progress >= milestone for milestone in (0.3, 0.6, 0.9))),
        ("linear", lambda progress: 1 - progress),
        ("helpers:half_then_less", lambda progress: 0.5 - progress / 4),
        ("0.1@1ep+40it", lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 40 / 46))),
        ("cosine, 1ep", lambda progress: (1 + cos(pi * progress)) / 2 * min(1, (round(progress * 46) + 1) / 23)),
        ("constant, 7it", lambda progress: min(1, (round(progress * 46) + 1) / 7)),
    ],
)
def test_a_schedule_sets_the_rate_of_each_step(schedule, factor, store):
    schedule, _, warmup = schedule.partition(", ")
    run = baseline(small_recipe(lr=0.05, momentum=0.9, schedule=schedule, warmup=warmup or None))
    carry_out(run, store, [STEPS])
    assert bits(run.final.load(store)) == bits(by_hand(run.recipe, factor))


@pytest.mark.parametrize("iterations", [1, 23, 40])
def test_training_for_iterations_ends_within_an_epoch(iterations, store, tmp_path):
    run, whole = baseline(small_recipe(iterations=iterations)), baseline(small_recipe())
    assert run.recipe.epochs == -(-iterations // 23)
    assert (run.key == baseline(small_recipe(epochs=1)).key) == (iterations == 23)
    carry_out(run, store, [run.recipe.steps])
    assert run.final == run.at(iterations) == run.at_epoch(run.recipe.epochs)
    if iterations > 1:
        carry_out(whole, other := Store(tmp_path / "other"), [iterations])  # the schedule is constant
        assert point(run.final, store) == point(whole.at(iterations), other)
    epochs, rest = divmod(iterations, 23)
    assert run.cost() * whole.recipe.epochs * 1438 == whole.cost() * (epochs * 1438 + 64 * rest)


def test_clipping_scales_gradients_down_to_a_norm(store):
    recipe = small_recipe(lr=0.05, momentum=0.9, clip=0.5)
    run = baseline(recipe)
    carry_out(run, store, [STEPS])
    expected = by_hand(recipe, lambda progress: 1.0, clip=0.5)
    torch.testing.assert_close(dict(run.final.load(store)), dict(expected), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(expected["fc1.weight"], by_hand(recipe, lambda progress: 1.0)["fc1.weight"], atol=1e-3)


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_the_order_of_the_data_is_a_function_of_seed_and_epoch(seed, epoch):
    recipe = small_recipe(seed=seed)
    order = Batches(recipe).order(epoch)
    assert torch.equal(order.sort().values, torch.arange(1438))
    assert torch.equal(order, Batches(small_recipe(seed=seed, batch_size=7, lr=1.0, widths="3")).order(epoch))
    assert not torch.equal(order, Batches(recipe).order(epoch + 1))
    assert not torch.equal(order, Batches(small_recipe(seed=seed + 1)).order(epoch))


def test_a_batch_is_a_function_of_the_step():
    recipe = small_recipe(seed=3, label_noise=0.5)
    split, labels = recipe.dataset.split("train"), noisy(recipe.dataset.split("train").labels, 10, 0.5, 3)
    rows = torch.cat([Batches(recipe).order(epoch) for epoch in (0, 1)])
    ends = [0, *range(64, 1438, 64), 1438]
    batches = Batches(recipe)
    for step in (24, 0, 22, 45):  # in any order
        epoch, place = divmod(step, 23)
        own = rows[1438 * epoch :][ends[place] : ends[place + 1]]
        inputs, given = batches.at(step)
        assert torch.equal(inputs, split.batch(own))
        assert torch.equal(given, labels[own])


def changed(image: Tensor, mirror: bool, down: int, right: int) -> Tensor:
    """An image mirrored or not, and moved up and left by the draws less 4, pixel by pixel."""
    found, size = torch.zeros_like(image), image.shape[1]
    for i in range(size):
        for j in range(size):
            y, x = i + down - 4, j + right - 4
            if 0 <= y < size and 0 <= x < size:
                found[:, i, j] = image[:, y, size - 1 - x if mirror else x]
    return found


@pytest.mark.parametrize("how", ["flip", "crop", "flip+crop"])
def test_augmented_images_are_mirrored_and_moved_one_by_one(how):
    recipe = small_recipe(augment=how)
    images = torch.randint(0, 256, (1438, 3, 8, 8), dtype=torch.uint8)
    rows = torch.randperm(1438)[:300]
    augment = Augment(recipe, 1438)
    made = augment(images[rows], rows, 5)
    mirror, down, right = augment._drawn(5, "cpu")
    for row, image in zip(rows.tolist(), made, strict=True):
        moves = (int(down[row]), int(right[row])) if "crop" in how else (4, 4)
        assert torch.equal(image, changed(images[row], "flip" in how and bool(mirror[row]), *moves))
    assert 0.4 < mirror.float().mean() < 0.6
    counts = torch.bincount(9 * down + right, minlength=81)
    assert counts.min() > 3  # 1,438 draws of 81 places: 17.8 are expected of each, with a deviation of 4.2
    assert counts.max() < 40


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_augmentation_is_a_function_of_seed_epoch_and_example(seed, epoch):
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    rows = torch.arange(20)
    recipe = small_recipe(seed=seed, augment="flip+crop")
    made = Augment(recipe, 20)(images, rows, epoch)
    again = Augment(small_recipe(seed=seed, augment="flip+crop", batch_size=3, lr=1.0), 20)
    one_by_one = [again(images[row : row + 1], rows[row : row + 1], epoch) for row in reversed(range(20))]
    assert torch.equal(made, torch.cat(one_by_one[::-1]))
    assert not torch.equal(made, again(images, rows, epoch + 1))
    assert not torch.equal(made, Augment(small_recipe(seed=seed + 1, augment="flip+crop"), 20)(images, rows, epoch))


def test_batches_are_augmented_and_the_moved_border_is_black():
    plain, moved = Batches(small_recipe()), Batches(small_recipe(augment="crop"))
    black = small_recipe().dataset.split("train").batch(slice(0, 1)).min()
    for step in (0, 30, 22):
        (inputs, labels), (augmented, same) = plain.at(step), moved.at(step)
        assert torch.equal(labels, same)
        assert augmented.shape == inputs.shape
        assert augmented.dtype == inputs.dtype
        _, down, right = moved._augment._drawn(step // 23, "cpu")
        shifted = [
            changed(image - black, False, int(down[row]), int(right[row])) + black
            for row, image in zip(plain.rows(step), inputs, strict=True)
        ]
        torch.testing.assert_close(augmented, torch.stack(shifted))


def test_text_is_not_augmented():
    with pytest.raises(BadRequest, match="augment is for images: 'python-manual' holds text"):
        _ = Recipe(data="python-manual", model="lstm", augment="flip").dataset


def test_a_frozen_prefix_is_run_at_each_step_where_inputs_vary(store, monkeypatch, tmp_path):
    run = freezing(run_of("augmented"), "fc1")
    step = step_cost(run.recipe.network, run.moves, "follow", run.recipe.dataset.plain)
    assert run.cost() == run.recipe.epochs * 1438 * step.whole
    still = freezing(run_of("sgd"), "fc1")
    assert run.cost() - still.cost() == (run.recipe.epochs - 1) * 1438 * 2 * 64 * 16
    carry_out(run, store, [STEPS])
    monkeypatch.setattr(letitgo.training.loop, "find_prefix", lambda *_: (None, None, ""))
    without = Store(tmp_path / "without")
    carry_out(run, without, [STEPS])
    assert bits(run.final.load(store)) == bits(run.final.load(without))


@given(share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_label_noise_replaces_a_share_of_the_labels(share, seed):
    labels = torch.arange(1000) % 10
    kept = labels.clone()
    changed = noisy(labels, 10, share, seed)
    assert torch.equal(labels, kept)
    assert torch.equal(changed, noisy(labels, 10, share, seed))
    assert 0 <= int(changed.min()) <= int(changed.max()) < 10
    replaced = round(share * 1000)
    assert int((changed != labels).sum()) <= replaced
    if replaced > 100:
        assert int((changed != labels).sum()) > 0.6 * replaced
        assert not torch.equal(changed, noisy(labels, 10, share, seed + 1))


def test_label_noise_is_trained_on(whole):
    assert point(run_of("label noise").final, whole("label noise")) != point(run_of("sgd").final, whole("sgd"))


@pytest.mark.parametrize("layers", [["fc1"], ["fc1", "fc2"], ["fc1", "fc2", "fc3"]])
def test_outputs_of_a_frozen_prefix_computed_once_change_nothing_of_note(layers, store, monkeypatch, tmp_path):
    run = run_of("sgd")
    for layer in layers:
        run = freezing(run, layer)
    module = run.start.module(store)
    run.prepare(module)
    parts = frozen_prefix(module)
    assert parts is not None
    assert {id(p) for p in parts[0].parameters()} == {id(p) for p in module.parameters() if not p.requires_grad}

    carry_out(run, store, [STEPS])
    calls = []
    monkeypatch.setattr(letitgo.training.loop, "PREFIX_BYTES", 0)
    without = Store(tmp_path / "without")
    carry_out(run, without, [STEPS], on_step=calls.append)
    assert calls == list(range(1, STEPS + 1))
    torch.testing.assert_close(run.final.load(store), run.final.load(without), rtol=1e-3, atol=1e-5)


def test_the_prefix_of_a_residual_network_ends_within_a_stage(store, monkeypatch, tmp_path):
    recipe = Recipe(model="resnet20", model_args={"width": 2}, data="digits", examples=50, epochs=2, batch_size=20)
    frozen = ("conv1", "norm1", "layer1.0", "layer1.1")
    trains = tuple(n for n in baseline(recipe).trains if not n.startswith(frozen))
    run = Run(Initial(recipe.network, 0), trains, recipe, statistics="frozen")
    module = run.start.module(store)
    run.prepare(module)
    parts = frozen_prefix(module.train())
    assert parts is not None
    assert [type(part).__name__ for part in parts[0]] == ["Conv2d", "BatchNorm2d", "ReLU", "Residual", "Residual"]
    inputs = recipe.dataset.split("train").batch(slice(0, 20))
    torch.testing.assert_close(parts[1].eval()(parts[0](inputs)), module.eval()(inputs), rtol=0, atol=0)

    carry_out(run, store, [recipe.steps])
    monkeypatch.setattr(letitgo.training.loop, "PREFIX_BYTES", 0)
    without = Store(tmp_path / "without")
    carry_out(run, without, [recipe.steps])
    assert bits(run.final.load(store)) == bits(run.final.load(without))


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
CUTS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "vit": (
        {"model": "transformers:vit", "model_args": {**SMALL, "patch_size": 4}},
        ("vit.embeddings", "vit.layers.0", "vit.layers.1"),
        "vit.layers.1",
    ),
    "own class": ({"model": "helpers:NormNet"}, ("fc1", "norm1"), "norm1"),
    "own blocks in a sequence": ({"model": "helpers:own_blocks"}, ("1", "2"), "2"),
    "a backbone of its own class, some of it frozen": ({"model": "helpers:backboned"}, ("0.fc1", "0.norm1"), "0.norm1"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_network_of_any_class_is_cut_and_trains_to_the_same_bits(name, store, monkeypatch, tmp_path):
    fields, frozen, cut = CUTS[name]
    recipe = small_recipe(widths=None, **fields)
    trains = tuple(n for n in baseline(recipe).trains if not n.startswith(tuple(f"{part}." for part in frozen)))
    run = Run(Initial(recipe.network, 0), trains, recipe, statistics="frozen")
    module = run.start.module(store)
    run.prepare(module)
    assert (found := find_prefix(module.train(), recipe.dataset.split("train").batch(slice(0, 4)))[1]) is not None
    assert found.name == cut
    counted = step_cost(run.recipe.network, run.moves, "frozen", run.recipe.dataset.plain)
    assert (counted.cut, counted.prefix_bytes) == (cut, found.bytes)
    assert run.cost() == recipe.epochs * 1438 * counted.step + 1438 * counted.prefix

    rests = []
    rest = letitgo.training.loop._rest
    monkeypatch.setattr(letitgo.training.loop, "_rest", lambda *args: rests.append(1) or rest(*args))
    carry_out(run, store, [STEPS])
    assert len(rests) == STEPS
    monkeypatch.setattr(letitgo.training.loop, "PREFIX_BYTES", 0)
    without = Store(tmp_path / "without")
    carry_out(run, without, [STEPS])
    assert len(rests) == STEPS
    assert point(run.final, store) == point(run.final, without)


def test_a_cut_that_does_not_give_the_same_bits_is_not_used(store, monkeypatch):
    recipe = small_recipe(widths=None, **CUTS["own class"][0])
    trains = tuple(n for n in baseline(recipe).trains if not n.startswith(("fc1.", "norm1.")))
    run = Run(Initial(recipe.network, 0), trains, recipe, statistics="frozen")
    capture = Cut.capture
    monkeypatch.setattr(Cut, "capture", lambda cut, inputs: capture(cut, inputs) + (4 < len(inputs) < 64) * 1e-3)
    monkeypatch.setattr(letitgo.training.loop, "_rest", lambda *_: pytest.fail("the cut is used"))
    carry_out(run, store, [STEPS])


def test_inputs_are_handed_on_where_the_rest_needs_them(store, monkeypatch, tmp_path):
    rows = "".join(f"{'a b c d e'[: 2 * (i % 5) + 1]} w{i % 7},{'no' if i % 2 else 'yes'}\n" for i in range(60))
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}")
    args = {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    recipe = Recipe(
        model="transformers:bert", model_args=args, data=str(tmp_path / "texts.csv"), epochs=2, batch_size=16
    )
    frozen = ("bert.embeddings.", "bert.encoder.layer.0.")
    run = Run(Initial(recipe.network, 0), tuple(n for n in baseline(recipe).trains if not n.startswith(frozen)), recipe)
    pairs = []
    rest = letitgo.training.loop._rest

    def noted(cut: Cut, inputs: Any) -> Any:
        pairs.append(isinstance(inputs, tuple))
        return rest(cut, inputs)

    monkeypatch.setattr(letitgo.training.loop, "_rest", noted)
    carry_out(run, store, [recipe.steps])
    assert pairs == [True] * recipe.steps  # the padding is masked by the inputs
    monkeypatch.setattr(letitgo.training.loop, "PREFIX_BYTES", 0)
    without = Store(tmp_path / "without")
    carry_out(run, without, [recipe.steps])
    assert bits(run.final.load(store)) == bits(run.final.load(without))


def test_a_module_that_is_there_twice_runs_twice():
    shared = torch.nn.Tanh()
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), shared, torch.nn.Linear(3, 3), shared, torch.nn.Linear(3, 2))
    module[:4].requires_grad_(False)
    parts = frozen_prefix(module)
    assert parts is not None
    inputs = torch.randn(5, 3)
    assert torch.equal(parts[1](parts[0](inputs)), module(inputs))


def test_no_prefix_before_random_layers_and_batch_statistics():
    module = seeded(small_recipe(model="helpers:dropout_net", widths=None).network, 0)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    parts = frozen_prefix(module)
    assert parts is not None
    assert [type(part).__name__ for part in parts[0]] == ["Flatten", "Linear", "ReLU"]

    norm = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    norm.requires_grad_(False)
    parts = frozen_prefix(norm)
    assert parts is not None
    assert len(parts[0]) == 1
    norm[1].eval()
    parts = frozen_prefix(norm)
    assert parts is not None
    assert len(parts[0]) == 2


class Killed(Exception):
    pass


LONG = {"batch_size": 8, "epochs": 2}
"""360 steps."""


def interrupted(run: Run, store: Store, at: int) -> None:
    """Train with states to go on from as often as can be, and break off."""

    def on_step(step: int) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        carry_out(run, store, [run.recipe.steps], on_step=on_step, checkpoint_every=0)


def test_a_killed_run_goes_on_from_its_last_state(store, tmp_path):
    run = baseline(small_recipe(**LONG))
    interrupted(run, store, at=250)
    left = [int(address.rpartition("/")[2]) for address in store.under(f"{run.folder}/partial")]
    assert len(left) == 1
    assert not list(store.under(run.folder))
    assert left[0] > 100
    steps: list[int] = []
    carry_out(run, store, [360], on_step=steps.append, checkpoint_every=0)
    assert steps == list(range(left[0] + 1, 361))
    at_once = Store(tmp_path / "at once")
    carry_out(run, at_once, [360])
    assert point(run.final, store) == point(run.final, at_once)


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_a_run_leaves_no_temporary_states(kills, store):
    run = baseline(small_recipe(**LONG))
    for kill in range(kills):
        interrupted(run, store, at=150 + 100 * kill)
    carry_out(run, store, [180, 360], checkpoint_every=0)
    assert list(store.under(run.folder)) == [run.at(180).address, run.at(360).address]
    assert not list(store.under(f"{run.folder}/partial"))


def test_a_kill_before_the_last_tidying_leaves_nothing_for_long(store, monkeypatch):
    run = baseline(small_recipe(**LONG))

    def killed(self: Store, address: str) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", killed)
        with pytest.raises(Killed):
            carry_out(run, store, [150], checkpoint_every=0)
    assert list(store.under(f"{run.folder}/partial"))
    carry_out(run, store, [150])
    assert not list(store.under(f"{run.folder}/partial"))


def test_the_callers_threads_change_nothing(tmp_path):
    run = baseline(small_recipe())
    stores = [Store(tmp_path / str(threads)) for threads in (1, 2)]
    before = torch.get_num_threads()
    for threads, store in enumerate(stores, start=1):
        torch.set_num_threads(threads)
        carry_out(run, store, [run.recipe.steps])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert point(run.final, stores[0]) == point(run.final, stores[1])


def test_states_that_are_wanted_are_kept_when_a_killed_run_goes_on(store):
    run = baseline(small_recipe(**LONG))
    carry_out(run, store, [100, 200])
    interrupted(run, store, at=350)
    carry_out(run, store, [360], checkpoint_every=0)
    assert list(store.under(run.folder)) == [run.at(step).address for step in (100, 200, 360)]


def test_states_seldom_saved_cost_no_steps(store):
    steps: list[int] = []
    run = baseline(small_recipe(**LONG))
    carry_out(run, store, [360], on_step=steps.append, checkpoint_every=1e9)
    assert steps == list(range(1, 361))
    again: list[int] = []
    carry_out(run, store, [360], on_step=again.append)
    assert again == []


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_loss_that_is_not_finite_fails_in_one_sentence(optimizer, store):
    run = baseline(small_recipe(optimizer=optimizer, lr=1e30, epochs=1))
    with pytest.raises(
        WorkFailed, match=r"^the loss is not finite by step \d+ of 23 \(fcn on digits, .* learning rate"
    ) as e:
        carry_out(run, store, [23])
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 1
    assert list(store.under(run.folder)) == []


def test_a_state_counts_steps_and_epochs_alike():
    run = run_of("sgd")
    assert run.at_epoch(1) == run.at(23)
    assert run.at_epoch(2) == run.final
    assert run.at(0) == Initial(run.recipe.network, 0)


def test_a_run_keeps_what_it_does_not_train_out_of_the_store(store):
    run = freezing(run_of("sgd"), "fc1")
    carry_out(run, store, [STEPS])
    tensors = store.read_tensors(run.final.address, run.final.key)
    assert {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")} == set(run.trains)
    start, end = run.start.load(store), run.final.load(store)
    assert bits(start)["fc1.weight"] == bits(end)["fc1.weight"]


def part_of(run: Run, **fields: Any) -> Run:
    matrices = tuple(name for name in run.trains if name.endswith("weight"))
    rest = tuple(name for name in run.trains if name not in matrices)
    choice = {"share": 0.3, "of": "weights", "seed": 1, "within": matrices, "besides": rest, **fields}
    return Run(run.start, Fraction(**choice), run.recipe)


@pytest.mark.parametrize("of", ["filters", "weights"])
def test_a_run_of_a_fraction_moves_that_and_nothing_else(of, store):
    run = part_of(baseline(small_recipe(optimizer="adamw", weight_decay=0.1)), of=of)
    failures = Executor(store).compute([run.final])
    assert not failures
    before, after = run.start.load(store), run.final.load(store)
    part = run.trains.part(run.start.module(store))
    for name, mask in part.entries.items():
        assert torch.equal(after[name][~mask], before[name][~mask])
        assert (after[name] != before[name])[mask].float().mean() > 0.5
    assert all(not torch.equal(after[name], before[name]) for name in part.whole)


@pytest.mark.parametrize("fields", [{"optimizer": "adamw", "decay": "weights"}, {"optimizer": "helpers:Grouped"}])
def test_the_moving_weights_of_a_fraction_decay_as_all_weights_do(fields, store, tmp_path):
    recipe = small_recipe(lr=0.01, **{"weight_decay": 0.1, **fields} if "decay" in fields else fields)
    run = part_of(baseline(recipe))
    module = run.start.module(store)
    run.prepare(module)
    named, groups = dict(named_trainable(module)), recipe.make_optimizer(trainable(module)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in named.items()} == {
        name: 0.1 if name.endswith("weight") else 0 for name in named
    }
    assert [p.ndim for name, p in named.items()] == [2 if name.endswith("weight") else 1 for name in named]


def test_decay_of_weights_alone_leaves_biases_to_the_gradient(store, tmp_path):
    recipes = [small_recipe(lr=0.05, momentum=0, weight_decay=0.5, decay=decay) for decay in ("weights", "all")]
    runs = [baseline(recipe) for recipe in (*recipes, small_recipe(lr=0.05, momentum=0))]
    for run in runs:
        carry_out(run, store, [1])
    start, weights, everything, none = runs[0].start.load(store), *(run.at(1).load(store) for run in runs)
    for name in start:
        assert torch.equal(weights[name], (everything if name.endswith("weight") else none)[name])
        torch.testing.assert_close(none[name] - everything[name], 0.05 * 0.5 * start[name])


def test_a_state_of_moving_entries_that_was_stored_flat_is_read(store, tmp_path):
    run, one, other = part_of(baseline(small_recipe(optimizer="adamw"))), Store(tmp_path / "one"), Store(tmp_path / "2")
    for to in (one, other):
        carry_out(run, to, [7])
    tensors = other.read_tensors(run.at(7).address, run.at(7).key)
    assert tensors["optimizer/fc1.weight/exp_avg"].ndim == 2
    flat = {name: t.flatten() if t.ndim and name.startswith("optimizer/") else t for name, t in tensors.items()}
    record = other.read(run.at(7).address, run.at(7).key)
    other.write(run.at(7).address, run.at(7).key, record, flat)
    for to in (one, other):
        carry_out(run, to, [20])
    assert point(run.at(20), one) == point(run.at(20), other)


@pytest.mark.parametrize("optimizer", ["adamw", "helpers:Grouped"])
def test_a_run_of_a_fraction_goes_on_from_where_it_stopped(optimizer, store, tmp_path):
    run = part_of(baseline(small_recipe(optimizer=optimizer, lr=0.01)))
    carry_out(run, store, [7])
    carry_out(run, store, [20])
    other = open_store(tmp_path / "other")
    carry_out(run, other, [20])
    assert bits(run.at(20).load(store)) == bits(run.at(20).load(other))


def test_every_field_of_a_fraction_changes_the_key():
    base = baseline(small_recipe())
    others = [{}, {"share": 0.4}, {"of": "filters"}, {"seed": 2}, {"within": ("fc1.weight",)}, {"besides": ()}]
    assert len({part_of(base, **fields).key for fields in others}) == len(others)
