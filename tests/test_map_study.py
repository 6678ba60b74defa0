"""The map of a network and the single training run: rows that say what was asked, and drops that are paired."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from statistics import fmean, stdev

import pytest
import torch
from helpers import baseline, freezing, small_recipe
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from letitgo.errors import BadRequest, PartlyFailed
from letitgo.execute import plan_jobs
from letitgo.plan import Graft, Run, State
from letitgo.recipes import Recipe
from letitgo.recipes.data import Data
from letitgo.recipes.splits import noisy
from letitgo.report import by_block
from letitgo.store import Store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.map.study import Map
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import sweep, with_seed
from letitgo.studies.train.study import Train
from letitgo.weights import initial_state

pytestmark = pytest.mark.usefixtures("all_learned")

COLUMNS = {
    *("layer", "scope", "intervention", "epoch", "parameters", "trained", "accuracy_mean", "accuracy_ci95"),
    *("train_accuracy_mean", "train_accuracy_ci95", "gap_mean", "gap_ci95", "drop_mean", "drop_ci95", "drop_new_ci95"),
    *("distance_l2_mean", "distance_l2_ci95", "distance_linf_mean", "distance_linf_ci95", "n", "verdict", "saved"),
}
RECIPE = small_recipe(widths="8", depth=2, batch_size=128, epochs=3)
SEEDS = [with_seed(RECIPE, seed) for seed in (0, 1)]
LAYERS = ["fc1", "fc2", "fc3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("map"))


@pytest.fixture(scope="module")
def study():
    return Map(
        (RECIPE,), seeds=2, freeze_at=(0, 1), reinit_at=(0, 2), together=True, training_accuracy=True, select="test"
    )


@pytest.fixture(scope="module")
def rows(study, folder):
    outcome = compute(study, folder)
    assert outcome.failures == []
    return outcome.rows


def row_of(rows: list[dict], intervention: str, layer: str = "all", epoch: int | None = None, scope: str = "") -> dict:
    [row] = [
        row
        for row in rows
        if (row["intervention"], row["layer"], row["epoch"]) == (intervention, layer, epoch)
        and row["scope"] in ((scope,) if scope else ("all", "layer"))
    ]
    return row


def accuracy(state: State, store: Store, split: str = "test") -> float:
    """Counted without the library's own evaluation."""
    data = RECIPE.dataset.split(split)
    outputs = state.module(store).eval()(data.batch(slice(None)))
    return float((outputs.argmax(1) == data.labels).double().mean())


def test_rows_have_the_columns_and_units_they_promise(rows):
    for row in rows:
        assert set(row) == COLUMNS
        assert row["n"] == 2
        for name in ("accuracy_mean", "train_accuracy_mean"):
            assert 0 <= row[name] <= 1
        assert -1 <= row["drop_mean"] <= 1
        assert row["gap_mean"] == pytest.approx(row["train_accuracy_mean"] - row["accuracy_mean"])
        assert row["distance_linf_mean"] >= row["distance_l2_mean"] >= 0
        assert row["verdict"] in ((None,) if row["intervention"] == "baseline" else ("robust", "critical", "undecided"))
        assert (row["saved"] is None) == (row["intervention"] in ("reinitialised", "rerandomised"))


def test_every_layer_has_every_intervention(rows):
    singles = [(row["layer"], row["intervention"], row["epoch"]) for row in rows if row["scope"] in ("all", "layer")]
    expected = [("all", "baseline", None)]
    for layer in LAYERS:
        expected += [
            (layer, "frozen", 0),
            (layer, "frozen", 1),
            (layer, "reinitialised", 0),
            (layer, "reinitialised", 2),
        ]
        expected += [(layer, "rerandomised", None)]
    assert singles == expected


def test_parameters_are_counted(rows):
    sizes = {"fc1": 64 * 8 + 8, "fc2": 8 * 8 + 8, "fc3": 8 * 10 + 10}
    total = sum(sizes.values())
    assert (row_of(rows, "baseline")["parameters"], row_of(rows, "baseline")["trained"]) == (total, total)
    for layer, size in sizes.items():
        frozen, grafted = row_of(rows, "frozen", layer, 0), row_of(rows, "reinitialised", layer, 0)
        assert (frozen["parameters"], frozen["trained"]) == (size, total - size)
        assert (grafted["parameters"], grafted["trained"]) == (size, total)


def states(intervention: str, layer: str, epoch: int | None, base: Run) -> State:
    """What an intervention means, said again."""
    names = base.recipe.network.layers.get(layer, ())
    if intervention == "baseline":
        return base.final
    if intervention == "reinitialised":
        return Graft(base.final, names, base.at_epoch(epoch))
    begin = epoch * base.recipe.steps_per_epoch
    return freezing(base, layer, start=base.at(begin), begin=begin, resume=begin > 0).final


@pytest.mark.parametrize(
    ("intervention", "layer", "epoch"),
    [
        ("baseline", "all", None),
        ("frozen", "fc1", 0),
        ("frozen", "fc3", 1),
        ("reinitialised", "fc1", 0),
        ("reinitialised", "fc2", 2),
    ],
)
def test_numbers_are_those_of_the_states(intervention, layer, epoch, rows, folder):
    row = row_of(rows, intervention, layer, epoch)
    bases = [baseline(recipe) for recipe in SEEDS]
    ends = [states(intervention, layer, epoch, base) for base in bases]
    tests, trains = ([accuracy(end, folder, split) for end in ends] for split in ("test", "train"))
    drops = [accuracy(base.final, folder) - test for base, test in zip(bases, tests, strict=True)]
    assert row["accuracy_mean"] == pytest.approx(fmean(tests))
    assert row["train_accuracy_mean"] == pytest.approx(fmean(trains))
    assert row["drop_mean"] == pytest.approx(fmean(drops))
    assert row["accuracy_ci95"] == pytest.approx(t.ppf(0.975, 1) * stdev(tests) / sqrt(2))
    assert row["drop_ci95"] == pytest.approx(t.ppf(0.975, 1) * stdev(drops) / sqrt(2))


def test_training_accuracy_is_measured_of_what_was_trained(study, folder, rows):
    short = replace(study, training_accuracy=False)
    for row, before in zip(short.rows(folder), rows, strict=True):
        grafted = row["intervention"] in ("reinitialised", "rerandomised")
        assert (row["train_accuracy_mean"] is None) == (row["gap_mean"] is None) == grafted
        assert row["accuracy_mean"] == before["accuracy_mean"]
    count = {
        accuracy: sum(map(len, replace(study, training_accuracy=accuracy).stages(folder))) for accuracy in (False, True)
    }
    assert count[False] < count[True]


def test_a_map_of_some_of_the_examples_says_so(study, rows):
    [section] = study.report(rows).sections
    assert "scaled down" not in section.heading
    recipe = small_recipe(widths="8", depth=2, batch_size=128, epochs=3, examples=300, test_examples=100)
    few = Map((recipe,), seeds=2, freeze_at=(0, 1), select="test")
    [section] = few.report(rows).sections
    said = "fcn on digits, 3 epochs, widths 8, depth 2, scaled down to 300 of 1,438 training examples, scaled down to"
    assert section.heading.startswith(f"{said} 100 of 359 test examples")
    assert section.details["examples"] == "300 of 1,438 for training, 100 of 359 for testing"


def test_a_drop_is_paired(rows, folder):
    paired = [accuracy(baseline(r).final, folder) - accuracy(freezing(baseline(r), "fc1").final, folder) for r in SEEDS]
    assert row_of(rows, "frozen", "fc1", 0)["drop_ci95"] == pytest.approx(t.ppf(0.975, 1) * stdev(paired) / sqrt(2))
    assert row_of(rows, "baseline")["drop_mean"] == row_of(rows, "baseline")["drop_ci95"] == 0


@pytest.mark.parametrize(("intervention", "epoch"), [("frozen", 0), ("frozen", 1), ("reinitialised", 2)])
def test_distances_are_from_the_trained_weights(intervention, epoch, rows, folder):
    squares, largest = [], []
    for recipe in SEEDS:
        base = baseline(recipe)
        a, b = base.final.load(folder), base.at_epoch(epoch).load(folder)
        moved = torch.cat([(a[name] - b[name]).double().flatten() for name in recipe.network.layers["fc2"]])
        squares.append(float(moved.norm()) / sqrt(len(moved)))
        largest.append(float(moved.abs().max()))
    row = row_of(rows, intervention, "fc2", epoch)
    assert row["distance_l2_mean"] == pytest.approx(fmean(squares), rel=1e-5)
    assert row["distance_linf_mean"] == pytest.approx(fmean(largest), rel=1e-5)


def test_rerandomised_weights_come_from_another_seed_of_the_same_law(study, folder, rows):
    singles = next(study.cells(study.subjects[0], folder))
    [cell] = [c for c in singles if (c.labels["intervention"], c.labels["layer"]) == ("rerandomised", "fc1")]
    for recipe in SEEDS:
        state = cell.measures(recipe)["test"].state.load(folder)
        own, base = initial_state(recipe.network, recipe.seed), baseline(recipe).final.load(folder)
        assert not torch.equal(state["fc1.weight"], own["fc1.weight"])
        assert state["fc1.weight"].abs().max() <= 1 / sqrt(64)
        assert state["fc1.weight"].std() == pytest.approx(1 / sqrt(64 * 3), rel=0.15)
        assert all(torch.equal(state[name], base[name]) for name in base if not name.startswith("fc1"))


def test_what_is_saved_is_what_is_counted(rows):
    flops = [2 * 64 * 8, 2 * 8 * 8, 2 * 8 * 10]
    full, epochs = 3 * sum(flops) - flops[0], 3
    assert row_of(rows, "baseline")["saved"] == 0
    for i, layer in enumerate(LAYERS):
        frozen = full - flops[i] - (flops[0] + flops[1] if i == 0 else 0)
        once = flops[0] if i == 0 else 0
        assert row_of(rows, "frozen", layer, 0)["saved"] == pytest.approx(
            1 - (epochs * frozen + once) / (epochs * full)
        )
        late = full + (epochs - 1) * frozen + once
        assert row_of(rows, "frozen", layer, 1)["saved"] == pytest.approx(1 - late / (epochs * full))


def test_together_acts_on_sets(rows, folder):
    sets = {(row["scope"], row["layer"], row["intervention"], row["epoch"]) for row in rows}
    names = [("all but", f"all but {layer}") for layer in LAYERS]
    names += [("prefix", "prefix fc1…fc2"), ("suffix", "suffix fc2…fc3")]
    for scope, name in names:
        for kind, epochs in (("frozen", (0, 1)), ("reinitialised", (0, 2))):
            assert sets >= {(scope, name, kind, epoch) for epoch in epochs}
    others = {scope for scope, *_ in sets} - {"all", "layer", "all but", "prefix", "suffix"}
    assert others <= {"robust"}

    row = row_of(rows, "frozen", "all but fc2", 0, scope="all but")
    ends = []
    for recipe in SEEDS:
        base = baseline(recipe)
        alone = Run(base.start, recipe.network.layers["fc2"], recipe)
        ends.append(accuracy(alone.final, folder))
    assert row["accuracy_mean"] == pytest.approx(fmean(ends))
    assert row["trained"] == 72


def test_robust_layers_are_acted_on_together(tmp_path):
    study = Map((small_recipe(widths="8", depth=2, epochs=1),), seeds=2, together=True, tolerance=99.0, select="test")
    rows = compute(study, tmp_path / "store").rows
    for kind in ("frozen", "reinitialised"):
        robust = [row for row in rows if row["scope"] == "layer" and row["intervention"] == kind and row["epoch"] == 0]
        names = [row["layer"] for row in robust if row["verdict"] == "robust"]
        assert len(names) > 1
        [together] = [row for row in rows if row["scope"] == "robust" and row["intervention"] == kind]
        assert together["layer"] == "robust " + "+".join(names)
        assert together["n"] == 2


def test_the_second_time_nothing_is_planned(study, rows, folder):
    reader = Store(folder.root)
    assert [job for stage in study.stages(reader) for job in plan_jobs(stage, reader)] == []
    assert compute(study, folder).rows == rows


def test_another_study_shares_the_baseline(rows, folder):
    other = Train((RECIPE,))
    assert [job.run for stage in other.stages(folder) for job in plan_jobs(stage, folder) if job.run] == []
    assert compute(other, folder).rows[0]["accuracy"] == accuracy(baseline(RECIPE).final, folder)


def test_an_estimate_tells_what_is_left(store):
    study = Map((small_recipe(widths="8", depth=1, epochs=1),), seeds=2, select="test")
    before = estimate(study, store, workers=2)
    assert (before.runs, before.runs_stored, before.measures_stored) == (2 * 3, 0, 0)
    assert before.measures > 0
    assert before.operations > 0
    assert before.seconds > 0
    assert not list(store.root.glob("*/**/*.json"))
    compute(study, store)
    after = estimate(study, store, workers=2)
    assert (after.runs, after.runs_stored) == (6, 6)
    assert (after.measures, after.measures_stored) == (before.measures, before.measures)
    assert (after.operations, after.seconds) == (0, 0)


def test_a_sweep_has_a_column_for_what_differs(store):
    study = Map(sweep(widths=["4", "8"], depth=1, epochs=1, batch_size=128), seeds=1, select="test")
    rows = compute(study, store).rows
    assert study.swept == ("widths",)
    assert {row["widths"] for row in rows} == {"4", "8"}
    for width in (4, 8):
        row = row_of([row for row in rows if row["widths"] == str(width)], "baseline")
        assert row["parameters"] == 64 * width + width + width * 10 + 10
        assert row["n"] == 1
        assert row["drop_ci95"] is None
        assert row["accuracy_ci95"] is None


def test_label_noise_is_in_the_training_accuracy_alone(store):
    recipe = small_recipe(widths="8", depth=1, label_noise=0.5)
    row = row_of(compute(Map((recipe,), seeds=1, select="test"), store).rows, "baseline")
    final = baseline(recipe).final
    train = recipe.dataset.split("train")
    labels = noisy(train.labels, 10, 0.5, recipe.seed)
    outputs = final.module(store).eval()(train.batch(slice(None))).argmax(1)
    assert row["train_accuracy_mean"] == pytest.approx(float((outputs == labels).double().mean()))
    assert row["train_accuracy_mean"] != pytest.approx(float((outputs == train.labels).double().mean()))
    assert row["accuracy_mean"] == pytest.approx(accuracy(final, store))


def test_blocks_are_acted_on_as_one(store):
    recipe = small_recipe(model="helpers:block_net", widths=None, epochs=1)
    rows = compute(Map((recipe,), seeds=1, blocks=("block?",), select="test"), store).rows
    assert {row["layer"] for row in rows} == {"all", "stem", "block1", "block2", "head"}
    row = row_of(rows, "frozen", "block1", 0)
    assert row["parameters"] == 2 * (8 * 8 + 8)
    base = baseline(recipe)
    trains = tuple(name for name in base.trains if not name.startswith("block1."))
    assert row["accuracy_mean"] == pytest.approx(accuracy(Run(base.start, trains, recipe).final, store))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seeds": 0}, "seeds is 0: give a whole number from 1 to 10,000, or auto"),
        ({"tolerance": 100.0}, "tolerance is 100.0: give less than 100"),
        ({"tolerance": -0.1}, "tolerance is -0.1: give at least 0"),
        ({"freeze_at": (0, 3)}, "freeze-at names epoch 3: training has 3 epochs, 0 to 2"),
        ({"reinit_at": (-1,)}, "reinit-at names epoch -1: training has 3 epochs"),
        ({"layers": ("fc9",)}, "the pattern 'fc9' matches no layer: did you mean fc"),
        ({"blocks": ("zzz",)}, "the pattern 'zzz' matches no block: choose from fc1, fc2, fc3"),
    ],
)
def test_a_map_that_cannot_be_drawn_is_refused(fields, sentence, store):
    with pytest.raises(BadRequest) as error:
        compute(Map((RECIPE,), **fields, select="test"), store)
    assert str(error.value).startswith(sentence)
    assert not list(store.root.glob("*/**/*.json"))


def test_a_study_that_fails_keeps_what_came_through(store, capsys):
    study = Map((small_recipe(lr=1e30, epochs=1),), seeds=1, select="test")
    with pytest.warns(PartlyFailed, match="jobs failed, the first: training everything, seed 0: the loss is not"):
        outcome = compute(study, store)
    assert outcome.failures
    assert all("not finite" in failure.why for failure in outcome.failures)
    assert all(row["n"] == 0 and row["accuracy_mean"] is None for row in outcome.rows)
    assert {row["verdict"] for row in outcome.rows} == {None, "undecided"}
    outcome.show()
    assert "Failed: training everything, seed 0" in capsys.readouterr().out


def test_train_freezes_what_is_asked(store):
    study = Train((RECIPE,), freeze=("fc1", "*.bias"))
    [row] = compute(study, store).rows
    run = study.run(RECIPE)
    assert run.trains == ("fc2.weight", "fc3.weight")
    assert (row["parameters"], row["trained"]) == (520 + 72 + 90, 64 + 80)
    start, end = run.start.load(store), run.final.load(store)
    assert {name for name in start if not torch.equal(start[name], end[name])} == set(run.trains)
    assert row["accuracy"] == pytest.approx(accuracy(run.final, store))
    assert row["gap"] == pytest.approx(row["train_accuracy"] - row["accuracy"])


def test_a_run_that_is_no_better_than_ignoring_the_inputs_says_so(store, monkeypatch):
    [plain] = compute(Train((RECIPE,)), store).answers
    monkeypatch.setattr(Data, "learned", lambda *_: False)
    monkeypatch.setattr(Data, "constant", lambda *_: 0.999)
    [answer] = compute(Train((RECIPE,)), store).answers
    assert answer == f"{plain} It is no better than 99.90 %, what a prediction that ignores the inputs reaches."


def test_train_freezes_from_an_epoch_on(store):
    study = Train((RECIPE,), freeze=("fc1",), freeze_at=2)
    [row] = compute(study, store).rows
    base = baseline(RECIPE)
    assert study.run(RECIPE) == freezing(base, "fc1", start=base.at_epoch(2), begin=24, resume=True)
    assert row["epoch"] == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"freeze": ("*",)}, "* freezes everything: nothing is left to train"),
        ({"freeze": ("fc1", "zzz")}, "the pattern 'zzz' matches no layer: choose from fc1, fc2, fc3"),
        ({"freeze": ("fc1",), "freeze_at": 3}, "freeze-at names epoch 3: training has 3 epochs, 0 to 2"),
    ],
)
def test_a_run_that_cannot_be_trained_is_refused(fields, sentence, store):
    with pytest.raises(BadRequest) as error:
        compute(Train((RECIPE,), **fields), store)
    assert str(error.value) == sentence


def test_sweeps_are_the_product_of_their_lists():
    recipes = sweep(widths=["4", "8"], seed=(0, 1), epochs=2)
    assert [(r.widths, r.seed, r.epochs) for r in recipes] == [("4", 0, 2), ("4", 1, 2), ("8", 0, 2), ("8", 1, 2)]
    assert Train(recipes).swept == ("widths", "seed")
    assert sweep(epochs=[2]) == [Recipe(epochs=2)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0: give at least 1"),
        ({"lr": -1}, "lr is -1: give more than 0"),
        ({"lr": float("nan")}, "lr is nan: give a finite number"),
        ({"momentum": 1}, "momentum is 1: give less than 1"),
        ({"batch_size": 0}, "batch-size is 0: give at least 1"),
        ({"label_noise": 1.5}, "label-noise is 1.5: give at most 1"),
        ({"widths": "3x"}, "widths is '3x': write 256, or 300x100 for the layers one by one"),
        ({"seed": -1}, "seed is -1: give at least 0"),
        ({"epochs": "many"}, "epochs is 'many': give a whole number"),
        ({"epoch": 3}, "a recipe has no field 'epoch': did you mean epochs"),
        ({"epochs": 0, "seed": -1}, "epochs is 0: give at least 1; seed is -1: "),
    ],
)
def test_a_recipe_with_a_wrong_field_is_refused(fields, sentence):
    with pytest.raises(BadRequest) as error:
        Recipe(**fields)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epochs": []}, "epochs is an empty list: give at least one value"),
        ({"seed": [1, 2, 1]}, "seed has a value twice: 1, 2, 1"),
        ({"epochs": [1, 0]}, "epochs is 0: give at least 1"),
    ],
)
def test_a_sweep_that_is_none_is_refused(fields, sentence):
    with pytest.raises(BadRequest) as error:
        sweep(**fields)
    assert str(error.value).startswith(sentence)


drops = st.lists(st.floats(-1, 1), min_size=2, max_size=6)


@given(values=drops)
def test_the_interval_is_students(values):
    low, high = t.interval(0.95, len(values) - 1, loc=fmean(values), scale=stdev(values) / sqrt(len(values)) or 1e-300)
    assert ci95(values) == pytest.approx((high - low) / 2, abs=1e-12)
    assert mean(values) == pytest.approx(fmean(values))


@given(values=drops, tolerance=st.floats(0, 0.5))
def test_a_verdict_is_where_the_interval_lies(values, tolerance):
    low, high = fmean(values) - ci95(values), fmean(values) + ci95(values)
    said = verdict(values, tolerance)
    assert (said == "robust") == (high <= tolerance)
    assert (said == "critical") == (low > tolerance)


def test_one_value_gives_no_interval_and_no_verdict():
    assert ci95([0.5]) is None
    assert mean([]) is None
    assert verdict([0.0], 0.01) == verdict([0.9], 0.01) == verdict([], 0.01) == "undecided"


def test_a_table_names_each_block_once_above_its_layers():
    names = ("conv1", "layer1.0.conv1", "layer1.0.bn1", "layer1.1.conv1", "fc")
    rows = by_block({"layer": name, "scope": "layer", "n": 1} for name in names)
    assert [(row["layer"], "n" in row) for row in rows] == [
        ("conv1", True),
        ("layer1.0", False),
        ("\xa0\xa0conv1", True),
        ("\xa0\xa0bn1", True),
        ("layer1.1.conv1", True),
        ("fc", True),
    ]
    sets = [{"layer": "prefix layer1.0.conv1…layer1.0.bn1", "scope": "prefix"}] * 2
    assert by_block(sets) == sets


def test_without_freezing_the_answer_is_about_layers_put_back(folder, capsys):
    study = Map((RECIPE,), seeds=2, freeze_at=(), reinit_at=(0,))
    assert study.trained == (RECIPE,)  # nothing is chosen, so nothing is held out
    outcome = compute(study, folder)
    assert {row["intervention"] for row in outcome.rows} == {"baseline", "reinitialised", "rerandomised"}
    assert outcome.answers[0].startswith("Put back to initialization after training: ")
    assert not any("reeze" in sentence or "rozen" in sentence for sentence in outcome.answers)
    assert set(outcome.figures()) == {"map-heatmap", "map-distances", "map-generalization"}
    outcome.show()
    assert "saves" not in capsys.readouterr().out
    along = compute(
        Map(sweep(widths=["4", "8"], depth=1, epochs=2, batch_size=32), seeds=2, freeze_at=(), reinit_at=(0,)), folder
    )
    assert along.answers[0].startswith("Layers that are robust when put back to initialization after training, along ")
    assert not any("reeze" in sentence or "rozen" in sentence for sentence in along.answers)


@pytest.mark.parametrize("what", ["map", [], None])
def test_what_is_no_study_is_refused(what, folder):
    with pytest.raises(BadRequest, match="is no study: give a Map"):
        compute(what, folder)


def test_a_freeze_that_saves_nothing_is_no_advice(store):
    recipe = Recipe(model="helpers:Scaled", epochs=3, batch_size=64, lr=0.1)
    outcome = compute(Map(recipe, seeds=1, reinit_at=(), draws=1, by="module", tolerance=20.0), store)
    assert {row["layer"]: row["saved"] for row in outcome.rows if row["intervention"] == "frozen"}["scale"] == 0
    assert outcome.answers[0].startswith("No freeze that is within 20 points on held-out examples saves any ")
