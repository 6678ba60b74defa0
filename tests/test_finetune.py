"""Fine-tuning from a start: shifts of data, starts from files and runs, what is recommended, and on what grounds."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from math import sqrt
from statistics import fmean

import pytest
import torch
from helpers import baseline, bits, pictures, small_recipe, write_dataset
from rich.console import Console
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from letitgo.cli.main import run
from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute import plan_jobs
from letitgo.execute.training import carry_out
from letitgo.papers import lee23
from letitgo.plan import Gradients, Graft, Initial, Run, adapted, open_weights
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Batches
from letitgo.recipes.data import open_data
from letitgo.recipes.steps import Examples, Shift
from letitgo.report.terminal import to_rich
from letitgo.store import Store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.map.study import Map
from letitgo.weights import copied, initial_state

pytestmark = pytest.mark.usefixtures("all_learned")

TARGET = small_recipe(widths="8", depth=2, batch_size=32, epochs=2, shift="permute-labels", examples=200)
DEEPER = replace(TARGET, depth=3)
START = {"epochs": 3, "batch_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def study():
    return Finetune(DEEPER, START, seeds=2, together=True, budget=0.9, select="test")


@pytest.fixture(scope="module")
def cells(study, folder):
    [cells] = study.cells(study.subjects[0], folder)
    return cells


def state(cell, recipe):
    return cell.measures(recipe)["test"].state


@pytest.fixture(scope="module")
def rows(study, folder):
    outcome = compute(study, folder)
    assert outcome.failures == []
    return outcome.rows


def row_of(rows, kind, layer="all", start="pretrained"):
    [row] = [r for r in rows if (r["intervention"], r["layer"], r["start"]) == (kind, layer, start)]
    return row


# Data


def test_inverting_is_undone_by_inverting_and_spares_labels():
    plain, shifted = open_data("digits").split("test"), open_data("digits", Shift("invert")).split("test")
    assert (16 - shifted.inputs).equal(plain.inputs)
    assert shifted.labels.equal(plain.labels)
    assert shifted.mean.equal(plain.mean)


def test_noise_stays_in_the_range_of_the_data_and_differs_between_splits():
    plain, shifted = open_data("digits"), open_data("digits", Shift("noise"))
    for split in ("train", "test"):
        assert shifted.split(split).inputs.max() <= plain.split(split).inputs.max()
        assert shifted.split(split).labels.equal(plain.split(split).labels)
    difference = [shifted.split(s).inputs[0].int() - plain.split(s).inputs[0].int() for s in ("train", "test")]
    assert not difference[0].equal(difference[1])


def test_permuted_labels_are_a_renaming_that_leaves_no_class_its_number():
    plain, shifted = open_data("digits"), open_data("digits", Shift("permute-labels"))
    pairs = {
        (int(a), int(b))
        for split in ("train", "test")
        for a, b in zip(plain.split(split).labels, shifted.split(split).labels, strict=True)
    }
    assert len(pairs) == 10  # one new number for each old one, the same in both splits
    assert {a for a, _ in pairs} == {b for _, b in pairs} == set(range(10))
    assert all(a != b for a, b in pairs)


def test_examples_are_a_subset_that_the_seed_chooses():
    all_of, some, others = (open_data("digits", *steps) for steps in ((), (Examples(50),), (Examples(50, 1),)))
    assert len(some.split("train")) == 50
    assert len(some.split("test")) == len(all_of.split("test"))
    rows = {picture.numpy().tobytes() for picture in all_of.split("train").inputs}
    assert {picture.numpy().tobytes() for picture in some.split("train").inputs} <= rows
    assert not some.split("train").inputs.equal(others.split("train").inputs)
    assert len({all_of.key, some.key, others.key}) == 3
    with pytest.raises(BadRequest, match="examples is 5,000: 'digits' has 1,438 for training"):
        open_data("digits", Examples(5000))


def test_a_recipe_without_shift_has_the_key_it_has_always_had():
    assert Recipe().dataset.description == {"kind": "Data", "digest": Recipe().dataset.digest}
    assert Recipe(shift="none") == Recipe()


# Starts


def test_weights_from_a_file_are_what_was_written_wherever_it_lies(tmp_path, store):
    network = TARGET.network
    state = initial_state(network, 5)
    for name in ("a", "b"):
        save_file(state, tmp_path / f"{name}.safetensors")
    a, b = (open_weights(str(tmp_path / f"{name}.safetensors"), network) for name in ("a", "b"))
    assert a == b
    assert bits(a.load(store)) == bits(state)
    save_file(initial_state(network, 6), tmp_path / "a.safetensors")
    other = open_weights(str(tmp_path / "a.safetensors"), network)
    assert other != b
    with pytest.raises(WorkFailed, match="not those that the study was started with"):
        type(b)(network, str(tmp_path / "a.safetensors"), "00").load(store)


def test_weights_of_another_precision_are_taken_in_the_networks_own(tmp_path, store):
    half = {name: tensor.half() for name, tensor in initial_state(TARGET.network, 0).items()}
    save_file(half, tmp_path / "half.safetensors")
    state = adapted(open_weights(str(tmp_path / "half.safetensors"), TARGET.network), TARGET.network, 0)
    assert {tensor.dtype for tensor in state.load(store).values()} == {torch.float32}
    run_of = Run(state, ("fc3.weight", "fc3.bias"), TARGET)
    carry_out(run_of, store, [1])
    assert run_of.at(1).load(store)["fc1.weight"].equal(half["fc1.weight"].float())


def test_a_head_for_other_classes_is_drawn_anew_and_nothing_else(tmp_path, store):
    network = TARGET.network
    own, donor = initial_state(network, 0), initial_state(network, 7)
    wider = {**donor, "fc3.weight": torch.zeros(12, 8), "fc3.bias": torch.zeros(12)}
    headless = {name: tensor for name, tensor in donor.items() if not name.startswith("fc3")}
    for name, tensors in (("wider", wider), ("headless", headless)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        state = adapted(open_weights(str(tmp_path / f"{name}.safetensors"), network), network, 0)
        assert isinstance(state, Graft)
        expected = {n: (own if n.startswith("fc3") else donor)[n] for n in own}
        assert bits(copied(state.module(store))) == bits(expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("fc1.bias"), "the start lacks 'fc1.bias' of 'fcn': it may lack the output layer, fc3"),
        (lambda s: s.update({"fc1.wieght": s["fc1.bias"].clone()}), "has 'fc1.wieght', which 'fcn' has not: did you"),
        (lambda s: s.update({"fc1.bias": torch.zeros(9)}), r"'fc1.bias' has shape \(9,\), that of 'fcn' here \(8,\)"),
    ],
)
def test_a_file_for_another_network_is_refused(change, sentence, tmp_path):
    state = dict(initial_state(TARGET.network, 0))
    change(state)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(BadRequest, match=sentence):
        Finetune(TARGET, str(tmp_path / "x.safetensors"), select="test").check()


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_text("no weights")
    for name in ("x.safetensors", "absent.safetensors"):
        with pytest.raises(BadRequest, match="cannot be read"):
            Finetune(TARGET, str(tmp_path / name), select="test").check()


def test_a_start_for_other_classes_says_that_its_head_is_new(tmp_path, store):
    images = {
        "train": (pictures(40, (8, 8)), [0, 1, 2, 3] * 10),
        "test": (pictures(8, (8, 8), seed=1), [0, 1, 2, 3] * 2),
    }
    path = str(write_dataset(tmp_path / "four", images, classes=4))
    study = Finetune((small_recipe(widths="16", epochs=4),), {"data": path}, seeds=1, select="test")
    outcome = compute(study, store)
    assert outcome.failures == []
    assert study.new_head(study.subjects[0]) == "fc4"
    assert "The output layer, fc4, is drawn anew: the pretrained one is for other classes." in outcome.answers
    assert not any(sentence.startswith("Old task") for sentence in outcome.answers)
    assert {row["old_accuracy_mean"] for row in outcome.rows} == {None}
    with pytest.raises(BadRequest, match="the output layer, fc4, is drawn anew, and a new one cannot answer the old"):
        replace(study, keep=path).check()


# The study


def test_the_start_is_the_baseline_of_a_map_of_its_data(study, folder, rows):
    of = study.subjects[0]
    source = study.source(of)
    assert (source.shift, source.examples, source.epochs, source.widths) == ("none", None, 3, "8")
    assert study.start(of, DEEPER) == baseline(source).final
    mapped = Map(source, seeds=2, select="test").subjects[0]
    assert plan_jobs([mapped.baseline(recipe).final for recipe in mapped.seeds], folder) == []
    assert estimate(study, folder, 1).operations == 0


def test_an_optimiser_named_in_pretraining_comes_with_its_own_rate():
    recipe = small_recipe(optimizer="adam", lr=0.003, shift="invert")
    rates = []
    for pretrained in ({"optimizer": "sgd"}, "digits"):
        study = Finetune(recipe, pretrained, select="test")
        rates.append(study.source(study.subjects[0]).all_optimizer_args["lr"])
    assert rates == [0.05, 0.003]


def test_ways_to_fine_tune_move_what_they_say(cells, folder, rows):
    layers = DEEPER.network.layers
    everything = {name for names in layers.values() for name in names}
    sets = {"fc1…fc2": ("fc1", "fc2"), "fc3…fc4": ("fc3", "fc4")}
    assert len(cells) == len(rows) == 2 * (2 + 2 * 4 + 2)
    for cell in cells:
        labels = cell.labels
        start = [c for c in cells if (c.labels["intervention"], c.labels["start"]) == ("none", labels["start"])]
        before, after = (state(c, DEEPER).load(folder) for c in (start[0], cell))
        moved = {name for name in before if not before[name].equal(after[name])}
        inside = {name for layer in sets.get(labels["layer"], (labels["layer"],)) for name in layers.get(layer, ())}
        expected = {"none": set(), "all": everything, "only": inside}.get(labels["intervention"], everything - inside)
        assert moved == expected


def test_accuracies_and_pairs_are_those_of_the_networks(study, cells, folder, rows):
    found = {}
    for cell in cells:
        for recipe in study.subjects[0].seeds:
            data = recipe.dataset.split("test")
            module = state(cell, recipe).module(folder).eval()
            hits = (module(data.batch(slice(None))).argmax(1) == data.labels).double()
            key = tuple(cell.labels[name] for name in ("intervention", "layer", "start"))
            found.setdefault(key, []).append(float(hits.mean()))
    full = found["all", "all", "pretrained"]
    best = next(row for row in rows if row["recommended"])
    top = found[best["intervention"], best["layer"], "pretrained"]
    for (kind, layer, origin), own in found.items():
        row = row_of(rows, kind, layer, origin)
        assert row["accuracy_mean"] == pytest.approx(fmean(own))
        if origin == "pretrained":
            assert row["drop_mean"] == pytest.approx(fmean(full) - fmean(own))
            assert row["behind_mean"] == pytest.approx(fmean(top) - fmean(own))
            assert row["gain_mean"] == pytest.approx(fmean(own) - fmean(found[kind, layer, "initialization"]))
    alone = {layer: row_of(rows, "only", layer)["accuracy_mean"] for layer in ("fc1", "fc2", "fc3", "fc4")}
    for layer, own in alone.items():
        rest = max(value for name, value in alone.items() if name != layer)
        assert row_of(rows, "only", layer)["lead_mean"] == pytest.approx(own - rest)


def test_what_is_recommended_is_the_best_that_meets_the_budget(study, rows):
    inside = [row for row in rows if row["meets"]]
    assert inside
    assert all(row["share"] <= 0.9 and row["start"] == "pretrained" and row["intervention"] != "none" for row in inside)
    outside = [r for r in rows if r["start"] == "pretrained" and r["intervention"] != "none" and not r["meets"]]
    assert all(row["share"] > 0.9 for row in outside)
    assert any(row["intervention"] == "all" for row in outside)
    [best] = [row for row in rows if row["recommended"]]
    assert best in inside
    assert best["accuracy_mean"] == max(row["accuracy_mean"] for row in inside)
    # Two names may stand for one run; its rounds are counted once.
    assert sum(row["steady"] for row in inside) == pytest.approx(1)


def test_the_adviser_chooses_by_the_gradients_of_the_first_batches(study, folder, rows):
    of = study.subjects[0]
    expected = {}
    for layer, names in DEEPER.network.layers.items():
        ratios = []
        for recipe in of.seeds:
            split, order = recipe.dataset.split("train"), Batches(recipe).order(0)
            for step in range(5):
                module = study.start(of, recipe).module(folder)
                chosen = order[32 * step : 32 * (step + 1)]
                cross_entropy(module(split.batch(chosen)), split.labels[chosen]).backward()
                own = [p for name, p in module.named_parameters() if name in names]
                sizes = [sqrt(sum(float((x**2).sum().detach()) for x in xs)) for xs in ([p.grad for p in own], own)]
                ratios.append(sizes[0] / sizes[1])
        expected[layer] = fmean(ratios)
        assert row_of(rows, "only", layer)["gradient_mean"] == pytest.approx(expected[layer], rel=1e-4)
    [advised] = [row for row in rows if row["advised"]]
    singles = {layer for layer in expected if row_of(rows, "only", layer)["meets"]}
    assert expected[advised["layer"]] == max(expected[layer] for layer in singles)


def test_gradients_leave_the_state_alone_and_stop_at_the_epochs_end(folder, study, rows):
    few = small_recipe(widths="8", depth=2, examples=50, batch_size=32)
    measure = Gradients(Initial(few.network, 0), few)
    before = bits(initial_state(few.network, 0))
    found = measure.compute(folder)
    assert {len(part["gradients"]) for part in found.values()} == {2}
    assert bits(measure.state.load(folder)) == before


def test_a_label_shift_is_answered_by_the_last_layer_and_an_untrained_start_is_below_chance(rows):
    assert row_of(rows, "none")["accuracy_mean"] < 0.1
    assert row_of(rows, "none")["gain_mean"] == pytest.approx(
        row_of(rows, "none")["accuracy_mean"] - row_of(rows, "none", start="initialization")["accuracy_mean"]
    )
    assert row_of(rows, "only", "fc4")["accuracy_mean"] > row_of(rows, "only", "fc4", "initialization")["accuracy_mean"]


def test_the_answer_says_what_it_saves_and_costs_and_how_sure_it_is(study, rows):
    [section] = study.report(rows).sections
    [best] = [row for row in rows if row["recommended"]]
    start = "So far, within" if best["verdict"] == "undecided" else "Within"
    assert section.answer.startswith(f"{start} 90 % of the arithmetic, ")
    assert best["layer"] in section.answer
    assert f"saves {100 * (1 - best['share']):.0f} % of the training arithmetic" in section.answer
    effect = "gains" if best["drop_mean"] < 0 else "costs"
    assert f"{effect} {abs(100 * best['drop_mean']):.2f} ± {100 * best['drop_ci95']:.2f} points" in section.answer
    said = " ".join(section.sentences)
    assert f"in {round(2 * best['steady'])} of 2 rounds" in said
    assert f"Everything trained: {100 * row_of(rows, 'all')['accuracy_mean']:.2f}" in said
    assert "The relative gradient norm (Auto-RGN) chooses to train only" in said


@pytest.mark.parametrize(
    ("drop", "verdict", "start", "end"),
    [
        (0.001, "robust", "Within", "costs 0.10 ± 0.50 points (robust)."),
        (-0.001, "robust", "Within", "gains 0.10 ± 0.50 points (robust)."),
        (0.03, "critical", "Within", "costs 3.00 ± 0.50 points, surely more than 1 point (critical)."),
        (
            0.008,
            "undecided",
            "So far, within",
            "costs 0.80 ± 0.50 points, not shown to be within 1 point of training everything (undecided).",
        ),
    ],
)
def test_the_answer_says_whether_the_advice_is_shown_to_be_within_the_tolerance(study, rows, drop, verdict, start, end):
    of_best = {"drop_mean": drop, "drop_ci95": 0.005, "verdict": verdict}
    [section] = study.report([row | of_best if row["recommended"] else row for row in rows]).sections
    assert section.answer.startswith(f"{start} 90 % of the arithmetic, ")
    assert section.answer.endswith(end)


def test_what_is_behind_by_less_than_nothing_is_ahead(study, rows):
    chosen = replace(study, select="validation")
    numbers = {"accuracy_mean": 0.5, "validation_accuracy_mean": 0.5, "validation_drop_mean": 0.0}
    ahead = {"behind_mean": -0.0056, "behind_ci95": 0.002, "lead_mean": -0.01, "lead_ci95": 0.002}
    others = [row | numbers | ({} if row["recommended"] else ahead) for row in rows]
    said = " ".join(chosen.report(others).sections[0].sentences)
    assert "0.56 ± 0.20 points ahead on the test set; the two differ." in said
    assert "points behind the next." in said
    assert "On average training nothing is no worse than the recommended way, which reaches 50.00" in said
    assert "chooses to train only fc1: 0.56 ± 0.20 points ahead of the recommendation on the test set." in said
    assert not re.search(r"-\d", said)


def test_a_folder_without_weights_or_data_is_told_as_one(tmp_path):
    study = Finetune(TARGET, str(tmp_path), select="test")
    with pytest.raises(BadRequest, match=r"a folder without weights \(no model\.safetensors or .*\), and the data set"):
        study.check()


def test_one_seed_decides_nothing(study, rows):
    single = [row | {"n": 1, "drop_ci95": None, "behind_ci95": None, "steady": None} for row in rows]
    [section] = study.report(single).sections
    assert section.answer.startswith("Nothing is decided at one seed. So far: within 90 % of the arithmetic, ")
    assert not any("rounds" in sentence for sentence in section.sentences)


def test_figures_show_every_way_and_mark_the_recommended_one(study, rows):
    pictures = study.report(rows).pictures
    assert list(pictures) == ["finetune-layers", "finetune-sets", "finetune-cost", "finetune-forgetting"]
    [[norms, alone, frozen]] = pictures["finetune-layers"].panels
    assert list(norms.places) == ["fc1", "fc2", "fc3", "fc4"]
    for panel, kind in ((alone, "only"), (frozen, "frozen")):
        for start in ("pretrained", "from initialization"):
            [points] = [mark for mark in panel.marks if getattr(mark, "shape", "") and mark.label == start]
            own = [row_of(rows, kind, layer, start.split()[-1]) for layer in norms.places]
            assert points.x == [100 * row["accuracy_mean"] for row in own]
    [[panel]] = pictures["finetune-sets"].panels
    lines = {mark.label: (mark.x, mark.y) for mark in panel.marks if hasattr(mark, "shape")}
    for label, layer in (("the first layers", "fc1…fc2"), ("the last layers", "fc3…fc4")):
        assert lines[label] == ([2], [100 * row_of(rows, "only", layer)["accuracy_mean"]])
    [[panel]] = pictures["finetune-cost"].panels
    points = [mark for mark in panel.marks if hasattr(mark, "shape")]
    assert sum(len(mark.x) for mark in points) == len(rows) // 2
    [best] = [row for row in rows if row["recommended"]]
    [[x]] = [mark.x for mark in points if mark.label == "recommended"]
    assert x == 100 * best["share"]


# The old task


def test_the_old_accuracy_is_that_of_the_same_networks_on_the_data_of_pretraining(study, cells, folder, rows):
    of = study.subjects[0]
    for cell, row in zip(cells, rows, strict=True):
        if cell.labels["start"] == "initialization":
            assert row["old_accuracy_mean"] is row["forgotten_mean"] is None
            continue
        before, after = [], []
        for recipe in of.seeds:
            data = study.source(of).dataset.split("test")
            for found, one in ((before, study.start(of, recipe)), (after, state(cell, recipe))):
                guesses = one.module(folder).eval()(data.batch(slice(None))).argmax(1)
                found.append(float((guesses == data.labels).double().mean()))
        assert row["old_accuracy_mean"] == pytest.approx(fmean(after))
        assert row["forgotten_mean"] == pytest.approx(fmean(before) - fmean(after))
    assert row_of(rows, "none")["forgotten_mean"] == 0 < row_of(rows, "all")["forgotten_mean"]


def test_the_old_task_takes_evaluations_alone_and_moves_no_key(study, folder, rows, store):
    without = replace(study, keep="none")
    kept, plain = (estimate(one, store, 1) for one in (study, without))
    assert kept.runs == plain.runs
    assert kept.measures > plain.measures
    assert estimate(without, folder, 1).operations == 0
    assert all(row["old_accuracy_mean"] is None for row in without.rows(folder))
    assert "finetune-forgetting" not in without.report(without.rows(folder)).pictures
    [cells] = study.cells(study.subjects[0], folder)
    source = replace(study.source(study.subjects[0]), seed=DEEPER.seed)
    judged = Map(source, seeds=1, select="test").subjects[0].evaluation(source, baseline(source).final, "test")
    assert cells[0].measures(DEEPER)["old"] == judged  # a map of the old task has it already


def test_the_old_task_of_a_file_is_what_keep_names(tmp_path, store):
    save_file(initial_state(TARGET.network, 5), tmp_path / "x.safetensors")
    plain = Finetune(TARGET, str(tmp_path / "x.safetensors"), seeds=1, select="test", layers=("fc2",))
    assert plain.old_task(plain.subjects[0]) is None
    study = replace(plain, keep="digits")
    outcome = compute(study, store)
    assert outcome.failures == []
    data = open_data("digits").split("test")
    module = open_weights(str(tmp_path / "x.safetensors"), TARGET.network).module(store)
    right = float((module(data.batch(slice(None))).argmax(1) == data.labels).double().mean())
    assert row_of(outcome.rows, "none")["old_accuracy_mean"] == pytest.approx(right)
    assert any(f"Old task, digits: {100 * right:.2f} % test accuracy" in sentence for sentence in outcome.answers)


@pytest.mark.parametrize(
    ("size", "classes", "sentence"),
    [
        ((8, 8), 4, "it needs 4 outputs, and the network has 10"),
        ((6, 5), 10, r"'fcn' does not take its inputs of shape \(1, 6, 5\): "),
        (None, 10, "the network is fine-tuned on that"),
    ],
)
def test_an_old_task_that_the_network_cannot_answer_is_refused(size, classes, sentence, tmp_path):
    save_file(initial_state(TARGET.network, 5), tmp_path / "x.safetensors")
    path = "digits"
    if size:
        images = {split: (pictures(40, size), [i % classes for i in range(40)]) for split in ("train", "test")}
        path = str(write_dataset(tmp_path / "data", images, classes=classes))
    recipe = TARGET if size else replace(TARGET, shift="none")
    with pytest.raises(BadRequest, match=f"keep is '{path}': {sentence}"):
        Finetune(recipe, str(tmp_path / "x.safetensors"), keep=path, select="test").check()


def test_the_old_task_is_another_than_the_new_one_and_read_as_in_pretraining():
    same = Finetune(small_recipe(examples=200), {"epochs": 1}, select="test")
    shifted = Finetune(small_recipe(examples=200), {"epochs": 1, "shift": "invert"}, select="test")
    assert same.old_task(same.subjects[0]) is None  # more of the same data: nothing to forget
    old = shifted.old_task(shifted.subjects[0])
    assert old.shift == "invert"
    assert replace(shifted, keep="digits").old_task(shifted.subjects[0]) == old


def test_the_old_task_is_in_the_table_of_80_columns_the_sentences_and_the_figure(study, rows):
    [section] = study.report(rows).sections
    none, full, best = row_of(rows, "none"), row_of(rows, "all"), next(row for row in rows if row["recommended"])
    [sentence] = [one for one in section.sentences if one.startswith("Old task, digits: ")]
    for row, where in ((none, "without any training"), (full, "with everything trained"), (best, "as recommended")):
        mean, half = 100 * row["old_accuracy_mean"], 100 * row["old_accuracy_ci95"]
        assert f"{mean:.2f} ± {half:.2f} % {'test accuracy ' if row is none else ''}{where}" in sentence
    assert sentence.endswith(
        f"a drop of {100 * best['forgotten_mean']:.2f} ± {100 * best['forgotten_ci95']:.2f} points."
    )
    wide = [row | {"drop_mean": -0.1234, "drop_ci95": 0.2345, "old_accuracy_mean": 1.0, "share": 0.99} for row in rows]
    [section] = study.report(wide).sections
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(to_rich(section.tables[0]))
    assert console.export_text().count("100 %") == 8  # trained alone and frozen, of four layers, on one line each
    assert len(console.export_text().splitlines()) <= 2 + 1 + 4
    [[panel]] = study.report(rows).pictures["finetune-forgetting"].panels
    drawn = {
        (x, y, half, other, area)
        for mark in panel.marks
        for x, y, half, other, area in zip(mark.x, mark.y, mark.half, mark.across, mark.areas, strict=True)
    }
    stems = ("accuracy_mean", "old_accuracy_mean", "old_accuracy_ci95", "accuracy_ci95")
    own = [row for row in rows if row["start"] == "pretrained"]
    assert drawn == {(*(100 * row[stem] for stem in stems), row["share"]) for row in own}


WRONG = {
    "budget that nothing meets": (
        ("--budget", "0.01"),
        "nothing meets a budget of 1 % of full fine-tuning in 'fcn': the cheapest, training only fc4, takes",
    ),
    "budget out of range": (("--budget", "30"), "budget is 30.0: give at most 1"),
    "an option of map": (("--freeze-at", "1"), "Unknown option: --freeze-at"),
    "pattern": (("--layers", "conv*"), "the pattern 'conv*' matches no layer"),
    "shift": (("--shift", "inverted"), "shift is 'inverted': "),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_requests_get_one_sentence(what, capsys):
    options, sentence = WRONG[what]
    shift = () if what == "shift" else ("--shift", "invert")
    assert run(["finetune", "--pretrained", "digits", *shift, *options, "--report", "none"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--pretrained", "digits"), "pretraining and fine-tuning are the same, on 'digits': give other data"),
        (("--pretrained", "dgits"), "unknown data 'dgits': did you mean digits?"),
        (("--pretrained", "{"), "pretrained is '{': give a JSON object"),
        (("--pretrained", '{"seed": 1}'), "pretrained names a seed"),
        (("--pretrained", '{"epohcs": 1}'), "a recipe has no field 'epohcs': did you mean epochs"),
        ((), "pretrained is missing: name a data set, recipe fields as a JSON object, or a file of weights"),
    ],
)
def test_bad_starts_get_one_sentence(options, sentence, capsys):
    assert run(["finetune", *options, "--report", "none"]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


@pytest.mark.usefixtures("svg_only")
def test_the_command_tells_plans_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "finetune",
        "--pretrained",
        '{"epochs": 2}',
        "--shift",
        "invert,permute-labels",
        "--examples",
        "1000",
        "--seeds",
        "2",
    ]
    options += ["--epochs", "3", "--widths", "16", "--depth", "1", "--workers", "0", "--budget", "0.9"]
    assert run([*options, "--dry-run", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)["dry_run"]
    # For each seed the network before, and for each shift and start all, and either layer trained alone.
    assert (plan["runs"], plan["runs_stored"]) == (2 * (1 + 2 * 2 * 3), 0)
    assert not list(tmp_path.rglob("*.json"))
    assert run([*options, "--format", "json", "--report", "out"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["shift"] for row in rows} == {"invert", "permute-labels"}
    page = (tmp_path / "out" / "finetune.html").read_text()
    assert page.count("<svg") == 6
    assert 'src="http' not in page
    for name in ("layers-1", "cost-1", "forgetting-1", "layers-2", "cost-2", "forgetting-2"):
        assert (tmp_path / "out" / f"finetune-{name}.png").is_file()
    assert run([*options, "--report", "none"]) == 0
    assert capsys.readouterr().out.count("Within 90 % of the arithmetic, ") == 2


def test_a_file_that_train_saved_is_a_start(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = ["--widths", "8", "--depth", "1", "--workers", "0"]
    assert run(["train", *network, "--epochs", "1", "--save", "net.safetensors"]) == 0
    options = [*network, "--epochs", "1", "--shift", "invert", "--seeds", "1", "--format", "json", "--report", "none"]
    capsys.readouterr()
    assert run(["finetune", "--pretrained", "net.safetensors", *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["n"] for row in rows} == {1}


def claim_row(shift, kind, layer, accuracy, lr=0.001):
    return {
        **{"shift": shift, "layer": layer, "start": "pretrained", "intervention": kind, "n": 5, "lr": lr},
        **{"accuracy_mean": accuracy, "accuracy_ci95": 0.01},
    }


def test_claims_of_lee23_take_the_better_rate_of_each_way():
    rows = [
        claim_row("noise", "all", "all", 0.90),
        claim_row("noise", "only", "fc1", 0.80),
        claim_row("noise", "only", "fc1", 0.91, lr=0.01),
        claim_row("noise", "only", "fc4", 0.85),
        claim_row("permute-labels", "all", "all", 0.90),
        claim_row("permute-labels", "only", "fc1", 0.91),
        claim_row("permute-labels", "only", "fc4", 0.80),
    ]

    class Study:
        tolerance = 1.0
        chosen = ""

    claims = lee23.claims(Study(), rows)
    assert [claim.within for claim in claims] == [True, True, False, False]
    assert claims[0].measured == pytest.approx(6)
    assert "rates 0.01 and 0.001" in claims[0].note
    rows[-1] = claim_row("permute-labels", "only", "fc4", 0.915)
    assert [claim.within for claim in lee23.claims(Study(), rows)] == [True, True, None, True]


def test_claims_of_lee23_take_the_rate_and_the_rival_that_held_out_examples_choose():
    def row(layer, test, held_out, lr=0.001):
        way = "all" if layer == "all" else "only"
        return claim_row("noise", way, layer, test, lr=lr) | {"validation_accuracy_mean": held_out}

    rows = [
        row("all", 0.90, 0.9),
        row("fc1", 0.80, 0.9),
        row("fc1", 0.95, 0.8, lr=0.01),
        row("fc2", 0.70, 0.7),
        row("fc3", 0.99, 0.6),
    ]
    study = Finetune(TARGET, {"shift": "none"})
    rival, everything = lee23.claims(study, rows)
    assert "(fc2)" in rival.quantity
    assert rival.measured == pytest.approx(10)
    assert "rates 0.001 and" in rival.note
    assert everything.measured == pytest.approx(-10)
