"""How few dimensions are enough: what a run in a subspace stores, the search, and what is told of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import bits, python, small_recipe
from hypothesis import given
from hypothesis import strategies as st

from letitgo.cli.main import run
from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute import Executor
from letitgo.execute.jobs import plan_jobs
from letitgo.execute.training import carry_out
from letitgo.papers import lfly18
from letitgo.plan import Initial, Run, Subspace
from letitgo.recipes.data import open_data
from letitgo.recipes.networks import fcn, lenet
from letitgo.recipes.steps import Shift
from letitgo.report.pictures import Points
from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.dimension.crossing import crossing
from letitgo.studies.dimension.search import GLOBAL, Search, Target, interval
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.map.study import Map
from letitgo.studies.statistics import quantile
from letitgo.studies.sweep import sweep
from letitgo.value import dump
from letitgo.weights import parameter_names, seeded

pytestmark = pytest.mark.usefixtures("all_learned")

RECIPE = small_recipe(widths="8", depth=1, batch_size=256, epochs=2, optimizer="adam", lr=0.05)
NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def subspace_run(recipe=RECIPE, d=40, projection="fastfood", seed=3, within=NAMES, besides=(), said=False):
    choice = Subspace(d, projection, seed, within, besides, said)
    return Run(Initial(recipe.network, recipe.seed), choice, recipe)


# ---- the states of a run in a subspace

CASES = {
    "fastfood": {},
    "dense": {"projection": "dense"},
    "sparse": {"projection": "sparse"},
    "scales": {"said": True},
    "one layer, another whole": {"within": NAMES[:2], "besides": NAMES[2:]},
    "one layer, another frozen": {"within": NAMES[2:]},
    "norms": {
        "recipe": small_recipe(model="helpers:NormNet", widths=None, batch_size=256, optimizer="adam", lr=0.05),
        "within": ("fc1.weight", "norm1.weight", "fc2.weight", "head.weight"),
        "besides": ("norm1.bias",),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_stopping_and_resuming_changes_no_bit(name, store, tmp_path):
    training, other = subspace_run(**CASES[name]), Store(tmp_path / "other")
    carry_out(training, store, [12])
    for step in (1, 5, 12):
        carry_out(training, other, [step])
    state = training.at(12)
    assert bits(state.load(store)) == bits(state.load(other))
    ours, theirs = state.optimizer(store), state.optimizer(other)
    assert bits(ours[0]) == bits(theirs[0])
    assert ours[1] == theirs[1]


def test_in_the_subspace_and_nowhere_else(store):
    training = subspace_run(d=12, within=NAMES[:2], besides=("fc2.bias",))
    carry_out(training, store, [12])
    start, end = training.start.load(store), training.at(12).load(store)
    assert end["fc2.weight"].equal(start["fc2.weight"])
    assert not end["fc2.bias"].equal(start["fc2.bias"])
    moved = torch.cat([(end[name] - start[name]).flatten() for name in NAMES[:2]]).double()
    held = training.trains.part(seeded(RECIPE.network, 0))
    assert (held.d, len(held.projected), len(held.excluded)) == (12, 2, 1)
    from letitgo.weights.projections import draw

    projection = draw("fastfood", len(moved), 12, 3)
    columns = torch.stack([projection.image(row) for row in torch.eye(12, dtype=torch.float64)], 1)
    rest = moved - columns @ torch.linalg.lstsq(columns, moved[:, None]).solution[:, 0]
    assert rest.norm() < 1e-5 * moved.norm()


def test_a_state_is_stored_as_z_and_loads_elsewhere_to_the_same_bits(store):
    recipe = small_recipe(widths="256", depth=1, batch_size=256, optimizer="adam")
    names = parameter_names(seeded(recipe.network, 0))
    training = subspace_run(recipe, d=20, within=names)
    carry_out(training, store, [3])
    state = training.at(3)
    size = sum(file.stat().st_size for file in store.root.glob(f"{state.address}*"))
    assert size < 8_000 < 4 * sum(tensor.numel() for tensor in state.load(store).values())
    script = (
        "import json, sys, letitgo.plan; from pathlib import Path; from letitgo.store import Store;"
        "from letitgo.value import load;"
        "from letitgo.weights.delta import summary;"
        "print(summary(load(json.loads(sys.argv[1]))[0].load(Store(Path(sys.argv[2]))))['digest'])"
    )
    from letitgo.weights.delta import summary

    found = python(script, json.dumps(dump([state])), str(store.root)).stdout.strip()
    assert found == summary(state.load(store))["digest"]


def test_another_projection_is_refused(store, monkeypatch):
    training = subspace_run()
    carry_out(training, store, [2])
    monkeypatch.setattr("letitgo.weights.projections._quantiles", lambda: torch.linspace(-2, 2, 2**16).numpy())
    with pytest.raises(WorkFailed, match="projection drawn here is not the one"):
        training.at(2).load(store)


def test_whatever_changes_the_subspace_changes_the_key(store):
    others = [
        subspace_run(**fields)
        for fields in (
            {"d": 41},
            {"projection": "sparse"},
            {"seed": 4},
            {"said": True},
            {"within": NAMES[:2]},
            {"within": NAMES[:2], "besides": NAMES[2:]},
        )
    ]
    assert len({training.key for training in (subspace_run(), *others)}) == 7
    [job] = plan_jobs([subspace_run().final], store)
    assert str(job) == "training in 40 dimensions, seed 0"
    assert subspace_run(within=NAMES[2:]).moves == NAMES[2:]


# ---- the search


def search(recipe=RECIPE, **fields) -> Search:
    return Dimension(recipe, **fields, split="test").asked[0]


@given(
    truth=st.integers(0, 2_000), resolution=st.floats(0.01, 1), max_d=st.one_of(st.none(), st.integers(1, 610)),
    said=st.booleans(),
)  # fmt: skip
def test_the_search_ends_in_a_narrow_interval_around_the_truth(truth, resolution, max_d, said):
    one = search(resolution=resolution, max_d=max_d and max(max_d, 3), said=said)
    means = {0: float(truth <= 0)}
    while (d := one.next(0.5, means)) is not None:
        assert one.least <= d <= one.limit
        assert d not in means
        means[d] = float(d >= truth)
        assert len(means) < 40
    low, high = interval(0.5, means)
    if truth > one.limit:
        assert (low, high) == (one.limit, None)
    elif truth <= one.least:
        assert high == (0 if truth <= 0 else one.least)
    else:
        assert low < truth <= high
        assert high - low <= 1 or high <= (1 + resolution) * low


def test_the_first_that_exceeds_counts_and_equal_is_not_enough():
    means = {0: 0.1, 10: 0.5, 20: 0.6, 30: 0.5, 40: 0.7}
    assert interval(0.5, means) == (10, 20)
    assert interval(0.6, means) == (30, 40)
    assert interval(0.7, means) == (40, None)
    assert interval(0.05, means) == (0, 0)


LINE = (600, 700, 800, 1000, 1100)


def on_a_line(tried, true, target, slope=0.1, shifts=(0.0, 0.01, -0.01)):
    """Accuracies of seeds whose lines in log d differ in level alone, the mean at the target at the true d."""
    return {d: [target + slope * math.log(d / true) + shift for shift in shifts] for d in tried}


@given(true=st.floats(720, 1000), target=st.floats(0.3, 0.9), slope=st.floats(0.05, 0.2), near=st.integers(650, 1150))
def test_the_crossing_of_a_line_is_found_and_its_interval_is_that_of_the_seeds(true, target, slope, near):
    found = crossing(on_a_line(LINE, true, target, slope), [target] * 3, near)
    half = quantile(0.05, 2) * 0.01 / math.sqrt(3) / slope
    assert (found.d, found.low, found.high) == pytest.approx(
        (true, true * math.exp(-half), true * math.exp(half)), rel=1e-6
    )


def test_the_seeds_of_the_baseline_are_in_the_interval():
    accuracies, targets = on_a_line(LINE, 800, 0.8), [0.8, 0.8, 0.8]
    alone = crossing(accuracies, targets, 800)
    with_them = crossing(accuracies, [0.8, 0.81, 0.79], 800)  # each seed at its own baseline alike
    against = crossing(accuracies, [0.8, 0.79, 0.81], 800)
    assert with_them.d == pytest.approx(alone.d) == pytest.approx(against.d)
    assert with_them.high - with_them.low < 1e-3 < alone.high - alone.low < against.high - against.low


def test_seeds_that_agree_by_chance_give_no_narrower_interval_than_their_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (len(LINE), 3))
    noise -= noise.mean(axis=0)  # the seeds' means agree to the last bit
    accuracies = {d: 0.8 + 0.1 * math.log(d / 800) + own for d, own in zip(LINE, noise, strict=True)}
    found = crossing(accuracies, [0.8] * 3, 800)
    assert math.log(found.high / found.low) > 2 * quantile(0.05, 11) * 0.005 / math.sqrt(15) / 0.1


@pytest.mark.parametrize(
    ("accuracies", "target"),
    [
        (on_a_line(LINE, 800, 0.8, shifts=(0.0,)), 0.8),  # one seed
        (on_a_line((790, 810), 800, 0.8), 0.8),  # too few d
        (on_a_line((100, 790, 810, 9_000), 800, 0.8), 0.8),  # too few of them near
        (on_a_line(LINE, 800, 0.8, slope=-0.1), 0.8),
        (on_a_line(LINE, 800, 0.8, slope=0.0), 0.8),
        ({d: [0.8, 0.8 + 0.02 * (-1) ** i, 0.8] for i, d in enumerate(LINE)}, 0.8),  # no sure slope
        (on_a_line(LINE, 1150, 0.8), 0.8),  # beyond what was tried
        (on_a_line(LINE, 800, 0.8, shifts=(0.1, -0.1, 0.0)), 0.8),  # an interval over more than a factor of ten
    ],
)
def test_where_no_line_can_be_fitted_there_is_no_crossing(accuracies, target):
    [seeds] = {len(values) for values in accuracies.values()}
    assert crossing(accuracies, [target] * seeds, 800) is None


def test_a_wider_window_is_fitted_where_few_d_are_close():
    accuracies = on_a_line((400, 790, 1_200), 800, 0.8)
    assert crossing(accuracies, [0.8] * 3, 790).d == pytest.approx(800)
    assert crossing({d: accuracies[d] for d in (400, 790)}, [0.8] * 3, 790) is None


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_the_true_crossing_as_often_as_it_says(seeds):
    rng, studies, held = np.random.default_rng(seeds), 1000, 0
    for _ in range(studies):
        base, own = rng.normal(0.98, 0.004, seeds), rng.normal(0, 0.004, seeds)
        accuracies = {
            d: 0.9 * 0.98 + 0.06 * math.log(d / 830) + own + rng.normal(0, 0.004, seeds)
            for d in (562, 649, 750, 805, 866, 1000)
        }
        found = crossing(accuracies, 0.9 * base, 805)
        held += found is not None and found.low <= 830 <= found.high
    assert 0.93 * studies <= held <= 0.98 * studies


STUDY = Dimension(RECIPE, seeds=2, global_baseline=0.6, resolution=0.5, split="test")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    outcome = compute(STUDY, store)
    assert not outcome.failures
    return store, outcome.rows


def of_kind(rows, kind):
    return [row for row in rows if row["row"] == kind]


def test_each_seed_has_its_accuracy(done):
    store, rows = done
    seeds = STUDY.seed_rows(store)
    for row in of_kind(rows, "baseline") + of_kind(rows, "d"):
        own = [one for one in seeds if (one["row"], one["d"]) == (row["row"], row["d"])]
        assert [one["accuracy"] for one in own] == row["accuracies"]
        assert [one["seed"] for one in own] == [0, 1]


def test_the_answer_is_read_off_the_points(done):
    _, rows = done
    [base] = of_kind(rows, "baseline")
    points = {row["d"]: row["accuracy_mean"] for row in of_kind(rows, "d")}
    own, fixed = of_kind(rows, "answer")
    assert [row["target"] for row in (own, fixed)] == [pytest.approx(0.9 * base["accuracy_mean"]), 0.9 * 0.6]
    for answer in (own, fixed):
        assert (answer["low"], answer["d"]) == interval(answer["target"], points)
        assert answer["d"] <= 1.5 * answer["low"]
        assert answer["D"] == 64 * 8 + 8 + 8 * 10 + 10
        assert answer["bits_per_label"] == 32 * answer["d"] / 1438
        for i, alone in enumerate(answer["seed_d"]):
            own_points = {row["d"]: row["accuracies"][i] for row in of_kind(rows, "d")}
            assert alone == interval(answer["target"], own_points)[1]
    assert points[0] < 0.3


def test_the_answer_is_fitted_to_the_points(store):
    recipe = replace(RECIPE, epochs=8)
    study = Dimension(recipe, seeds=3, global_baseline=0.8, grid=(60, 80, 100, 120, 160, 220), split="test")
    rows = compute(study, store).rows
    [base] = of_kind(rows, "baseline")
    tried = {row["d"]: row["accuracies"] for row in of_kind(rows, "d")}
    answers = of_kind(rows, "answer")
    for answer, targets in zip(answers, ([0.9 * own for own in base["accuracies"]], 3 * [0.9 * 0.8]), strict=True):
        found = crossing(tried, targets, answer["best_d"])
        told = tuple(answer[f"fitted_{name}"] for name in ("d", "low", "high"))
        assert told == ((found.d, found.low, found.high) if found else (None, None, None))
    assert any(answer["fitted_d"] for answer in answers)
    assert all(row["fitted_d"] is None for row in rows if row["row"] != "answer")


def test_the_fitted_answer_is_told_first_and_the_bracket_beside_it(done):
    _, rows = done
    fit = {"fitted_d": 880.4, "fitted_low": 856.2, "fitted_high": 1908.1}
    rows = [row | (fit if row["baseline"] == "own" else {}) for row in rows]
    answer = next(row for row in rows if row["fitted_d"])
    [section] = STUDY.report(rows).sections
    assert section.answer.startswith(
        "About 880 of 610 dimensions (144 %; 95 % interval 856 to 1,908) are enough for 90 %"
    )
    assert section.answer.endswith(
        f"Of those tried, {answer['d']} are enough on average over the seeds; {answer['low']} are not."
    )
    shown = {column.head: column.cell(section.tables[0].rows[0]) for column in section.tables[0].columns}
    assert (shown["fitted"], shown["enough"]) == ("880 (856 to 1,908)", str(answer["d"]))
    [[panel]] = section.pictures["accuracy"].panels
    assert [880.4] in [mark.x for mark in panel.marks if isinstance(mark, Points)]
    never = [row | ({"d": None, "bits_per_label": None} if row["fitted_d"] else {}) for row in rows]
    [section] = STUDY.report(never).sections
    assert " None of those tried is, on average over the seeds: the best is " in section.answer


def test_a_grid_finds_its_runs_in_the_store_and_the_search_is_not_led_by_them(done, tmp_path):
    store, rows = done
    tried = tuple(sorted(row["d"] for row in of_kind(rows, "d") if row["d"]))
    steps = []
    grid = compute(
        Dimension(RECIPE, seeds=2, global_baseline=0.6, grid=tried, split="test"), store, on_progress=steps.append
    )
    assert not steps
    assert grid.rows == rows
    other = Store(tmp_path / "other")
    near = {max(1, d - 1) for d in tried}
    compute(Dimension(RECIPE, seeds=1, grid=tuple(near), split="test"), other)
    assert compute(STUDY, other).rows == rows


def test_a_study_that_broke_off_ends_the_same(done, tmp_path):
    _, rows = done
    other = Store(tmp_path / "other")
    for values in STUDY.stages(other):
        Executor(other).compute(values[:-1])  # a seed is missing
    assert len(STUDY.rows(other)) < len(rows)
    assert compute(STUDY, other).rows == rows


def test_looking_every_epoch_ends_early_whatever_the_store_holds(store, tmp_path):
    recipe = small_recipe(widths="8", depth=1, batch_size=256, epochs=4, optimizer="adam", lr=0.05)
    early = Dimension(recipe, seeds=2, grid=(20, 400), stop_every=1, thresholds=(0.5,), split="test")
    rows = compute(early, store).rows
    little, much = (next(row for row in rows if row["row"] == "d" and row["d"] == d) for d in (20, 400))
    [answer] = of_kind(rows, "answer")
    assert much["epoch"] < 4
    assert much["accuracy_mean"] > answer["target"] > little["accuracy_mean"]
    part = early.asked[0]
    assert answer["fitted_d"] is None  # trainings ended at different epochs
    assert part.run(400, recipe).at_epoch(4).address not in store
    assert part.run(20, recipe).at_epoch(4).address in store
    compute(Dimension(recipe, seeds=2, grid=(20, 400), split="test"), store)
    assert part.run(400, recipe).at_epoch(4).address in store
    assert early.rows(store) == rows


def test_what_is_out_of_reach_is_given_up_and_the_answer_stays(store):
    recipe = small_recipe(widths="8", depth=1, batch_size=200, epochs=8, optimizer="adam", lr=0.05)
    study = Dimension(
        recipe, seeds=2, stop_every=1, thresholds=(0.95,), global_baseline=0.0, kind="sparse", split="test"
    )
    rows = compute(study, store).rows
    [answer] = of_kind(rows, "answer")
    given_up = [row for row in of_kind(rows, "d") if row["stopped"] == "given up"]
    assert given_up
    for row in given_up:
        assert row["epoch"] < 8
        assert row["accuracy_mean"] < answer["target"]
        assert study.asked[0].run(row["d"], recipe).at_epoch(8).address not in store
    [section] = study.report(rows).sections
    shown = {column.head: column.cell(given_up[0]) for column in section.tables[1].columns}
    assert (shown["epoch"], shown["stopped"]) == (str(given_up[0]["epoch"]), "given up")
    whole = compute(replace(study, stop_every=0, grid=tuple(row["d"] for row in given_up)), store).rows
    assert all(row["accuracy_mean"] < answer["target"] for row in of_kind(whole, "d"))
    assert study.rows(store) == rows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": (20,), "max_d": 40}, "a grid is not searched"),
        ({"grid": (20, 20)}, "grid has a value twice"),
        ({"stop_every": RECIPE.epochs + 1}, "stop-every is 3: give at most 2"),
        ({"stop_every": -1}, "stop-every is -1: give at least 0"),
        ({"thresholds": ()}, "thresholds is (): give at least one"),
        ({"thresholds": (0.9, 0.9)}, "thresholds has a value twice"),
        ({"kind": "fast"}, "kind is 'fast': "),
        ({"others": "trained"}, "others is about layers searched one at a time: give layers too"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(BadRequest, match=re.escape(said)):
        Dimension(RECIPE, **options, split="test")


def test_on_the_level_of_chance_nothing_is_given_up(monkeypatch, store):
    one = search(replace(RECIPE, epochs=8), seeds=1)
    monkeypatch.setattr("letitgo.studies.dimension.search.results", lambda *_: [0.1])  # the initial weights
    monkeypatch.setattr(Search, "targets", lambda *_: [Target(0.9, "own", 0.8)])

    def settled(*accuracies):
        return one._settled({epoch: [value] for epoch, value in enumerate(accuracies, start=1)}, store)

    assert not settled(0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert not settled(0.44, 0.44, 0.44, 0.44)  # less than half the way
    assert not settled(0.7)  # no pace is known
    assert not settled(0.6, 0.7)  # would be at 1.9
    assert settled(0.7, 0.7)
    assert settled(0.6, 0.7, 0.71, 0.69)
    assert settled(0.6, 0.81)


def test_a_search_that_broke_off_between_looks_ends_the_same(tmp_path):
    recipe = small_recipe(widths="8", depth=1, batch_size=256, epochs=4, optimizer="adam", lr=0.05)
    early = Dimension(
        recipe, seeds=2, grid=(20, 100), stop_every=1, thresholds=(0.9,), global_baseline=0.0, split="test"
    )
    rows = compute(early, tmp_path / "whole").rows
    assert max(row["epoch"] for row in of_kind(rows, "d")) > 1
    broken = Store(tmp_path / "broken")
    for values in islice(early.stages(broken), 2):  # the baselines and the first look
        Executor(broken).compute(values)
    assert not of_kind(early.rows(broken), "d")
    assert compute(early, broken).rows == rows


def test_what_is_never_reached_says_so_with_the_best(store):
    study = Dimension(RECIPE, seeds=1, thresholds=(1.0,), max_d=30, split="test")
    rows = compute(study, store).rows
    [answer] = of_kind(rows, "answer")
    assert (answer["d"], answer["low"], answer["bits_per_label"]) == (None, 30, None)
    [section] = study.report(rows).sections
    assert section.answer.startswith("30 dimensions, the most tried, of 610, are not enough for 100 % of ")
    assert f"at d = {answer['best_d']}" in section.answer
    assert "One seed: the spread is not known." in section.sentences


def test_a_layer_with_the_others_frozen_or_trained(store):
    for others in ("frozen", "trained"):
        study = Dimension(
            RECIPE, seeds=2, layers=("fc*",), others=others, grid=(5, 60), exclude=("fc1.bias",), split="test"
        )
        first, last = study.asked
        assert [one.layer for one in study.asked] == ["fc1", "fc2"]
        assert (first.size, last.size) == (512, 90)
        training = first.run(5, RECIPE)
        wanted = {"frozen": ("fc1.bias",), "trained": ("fc1.bias", "fc2.weight", "fc2.bias")}[others]
        assert (training.trains.within, training.trains.besides) == (("fc1.weight",), wanted)
        rows = compute(study, store).rows
        mapped = compute(Map(RECIPE, seeds=2, freeze_at=(0,), reinit_at=(), select="test"), store).rows
        for layer in ("fc1", "fc2"):
            [answer] = of_kind([row for row in rows if row["layer"] == layer], "answer")
            [frozen] = [row for row in mapped if (row["layer"], row["intervention"]) == (layer, "frozen")]
            assert (answer["frozen_drop_mean"], answer["frozen_drop_ci95"]) == (
                frozen["drop_mean"],
                frozen["drop_ci95"],
            )
            zero = next(row for row in rows if (row["layer"], row["row"], row["d"]) == (layer, "d", 0))
            if others == "trained" and layer == "fc2":
                assert zero["accuracy_mean"] == frozen["accuracy_mean"]
        [section] = study.report(rows).sections
        assert section.answer.startswith("Of 2 layers searched one at a time, ")
        drops = [f"{100 * row['frozen_drop_mean']:.2f}" for row in of_kind(rows, "answer")]
        assert all(drop in section.sentences[-1] for drop in drops)
        [panels] = section.pictures["accuracy"].panels
        assert [panel.title for panel in panels] == ["fc1", "fc2"]


def test_global_baselines_are_the_papers_unless_told_otherwise(store, monkeypatch):
    def told(given: float | None) -> list[tuple[float, str, float]]:
        found = search(thresholds=(0.9, 1.0), global_baseline=given).targets(store)
        return [(target.threshold, target.baseline, target.accuracy) for target in found]

    assert GLOBAL == {"mnist": 1.0, "cifar10": 0.5}
    assert told(None) == told(0.0) == []
    assert told(0.5) == [(0.9, "global", 0.45), (1.0, "global", 0.5)]
    monkeypatch.setitem(GLOBAL, "digits", 1.0)
    assert told(None) == [(0.9, "global", 0.9)]  # no accuracy exceeds 1
    assert told(0.0) == []


def test_large_projections_are_not_tried():
    recipe = small_recipe(widths="2000", depth=2)
    assert search(recipe).limit == 4_152_010
    assert search(recipe, kind="dense").limit == 2**32 // (4 * 4_152_010)
    assert search(recipe, kind="sparse").limit == 2**32 // (12 * 2038)
    assert search(recipe, said=True).least == 4


# ---- data and networks


def test_pixels_are_shuffled_alike_in_all_images():
    plain, shuffled = open_data("digits"), open_data("digits", Shift("permute-pixels"))
    assert plain.key != shuffled.key
    for split in ("train", "test"):
        before, after = plain.split(split), shuffled.split(split)
        assert before.labels.equal(after.labels)
        assert not before.inputs.equal(after.inputs)
        assert before.inputs.flatten(1).sort(1).values.equal(after.inputs.flatten(1).sort(1).values)
    columns = [
        {tuple(column.tolist()) for column in data.split("train").inputs.flatten(1).T} for data in (plain, shuffled)
    ]
    assert columns[0] == columns[1]


@pytest.mark.parametrize(
    "build", [lambda **a: fcn((1, 28, 28), 10, (200,), 2, **a), lambda **a: lenet((1, 28, 28), 10, **a)]
)
def test_initial_weights_of_he(build):
    module = seeded(lambda: build(init="he"), 0)
    for layer in module:
        if hasattr(layer, "weight"):
            inputs = layer.weight[0].numel()
            assert layer.weight.std().item() * math.sqrt(inputs / 2) == pytest.approx(1, abs=0.12)
            assert not layer.bias.any()
    with pytest.raises(BadRequest, match="init is 'xavier': choose from torch, glorot, he"):
        build(init="xavier")


# ---- the program

QUICK = (
    *("dimension", "--widths", "8", "--depth", "1", "--batch-size", "256", "--epochs", "1", "--seeds", "2"),
    *("--optimizer", "adam", "--lr", "0.05", "--workers", "0"),
)


@pytest.mark.usefixtures("svg_only")
def test_the_program_tells_rows_and_a_page(tmp_path, capsys):
    options = (*QUICK, "--global-baseline", "0.5", "--resolution", "1", "--report", str(tmp_path / "out"))
    assert run([*options, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["baseline"] for row in of_kind(rows, "answer")] == ["own", "global"]
    page = (tmp_path / "out" / "dimension.html").read_text()
    assert page.count("<svg") == 1
    assert "bits per training label" in page
    assert (tmp_path / "out" / "dimension-accuracy.png").is_file()
    assert run([*options, "--format", "csv"]) == 0
    told = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["row"] for row in told] == [row["row"] for row in rows]
    assert run([*options, "--dry-run", "--format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)["dry_run"]
    assert planned["runs"] == planned["runs_stored"] == 2 * (len(of_kind(rows, "d")))
    assert not planned["at_least"]
    assert run([*options, "--seed", "9", "--dry-run"]) == 0
    assert "left to do: at least" in capsys.readouterr().out
    assert run(options) == 0
    assert "for 90 % of the network's own baseline" in capsys.readouterr().out


def test_random_labels_are_learned_by_heart(capsys):
    options = ("--label-noise", "1", "--split", "train", "--examples", "20", "--grid", "500", "--report", "none")
    assert run([*QUICK, *options, "--format", "json", "--thresholds", "0.5,1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipes"][0]["label_noise"] == 1
    assert [row["threshold"] for row in of_kind(told["rows"], "answer")] == [0.5, 1.0]
    assert {round(20 * row["accuracy_mean"], 1) % 0.5 for row in told["rows"] if row["row"] != "answer"} == {0.0}


WRONG = {
    "d of 0": (("--grid", "0,10"), "grid is 0: give whole numbers from 1 to 610"),
    "d above D": (("--grid", "10,611"), "from 1 to 610, the weights that are projected"),
    "d above a layer": (("--layers", "fc2", "--grid", "91"), "from 1 to 90, the weights of fc2"),
    "max-d": (("--max-d", "0"), "max-d is 0: give whole numbers from 1"),
    "scales": (("--said", "--grid", "2"), "grid is 2: give whole numbers from 3"),
    "words": (("--grid", "few"), "grid is 'few': give a whole number"),
    "threshold": (("--thresholds", "90"), "thresholds is '90': give at most 1"),
    "threshold in words": (("--thresholds", "most"), "thresholds is 'most': give a number"),
    "resolution": (("--resolution", "0"), "resolution is 0.0: give more than 0"),
    "baseline": (("--global-baseline", "98"), "global-baseline is 98.0: give at most 1"),
    "nothing to project": (("--exclude", "*"), "nothing is left to project: exclude fewer parameters"),
    "others without a layer": (("--others", "trained"), "searched one at a time: give layers too"),
    "no such layer": (("--layers", "conv1"), "the pattern 'conv1' matches no layer"),
    "no weights": (("--model", "helpers:no_parameters"), "has no parameters to train"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_the_program_refuses_in_one_sentence(what, capsys):
    options, sentence = WRONG[what]
    base = ("dimension",) if "helpers:no_parameters" in options else QUICK
    assert run([*base, *options, "--report", "none"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_an_optimizer_of_matrices_is_refused():
    if hasattr(torch.optim, "Muon"):
        recipe = small_recipe(model="test_fraction:matrices", widths=None, optimizer="muon")
        with pytest.raises(
            BadRequest, match="in a subspace, which is one vector to the optimiser: the optimiser 'muon'"
        ):
            Dimension(recipe, split="test").check()


def answer_row(widths, depth, d, size):
    return {
        **{
            "row": "answer",
            "widths": widths,
            "depth": depth,
            "layer": "",
            "d": d,
            "low": d - 1 if d else size,
            "D": size,
        },
        **{
            "threshold": 0.9,
            "baseline": "own",
            "target": 0.9,
            "accuracies": [],
            "seed_d": [d],
            "frozen_drop_mean": None,
        },
        **{"fitted_d": None, "fitted_low": None, "fitted_high": None},
        **{"accuracy_mean": 0.91, "accuracy_ci95": None, "best_d": 40, "bits_per_label": 1.0, "stopped": None, "n": 1},
    }


def test_a_sweep_over_widths_and_depths_is_a_grid():
    recipes = sweep(widths=["8", "16"], depth=[1, 2])
    study = Dimension(recipes, seeds=1, split="test")
    rows = [
        answer_row(r.widths, r.depth, d, size)
        for r, d, size in zip(recipes, (50, 60, None, 70), (600, 700, 800, 900), strict=True)
    ]
    over = study.report(rows).sections[0]
    [[panel]] = over.pictures["sweep"].panels
    assert panel.marks[0].values == [[50, 60], [None, 70]]
    assert (list(panel.places), list(panel.steps)) == (["8", "16"], ["1", "2"])
    shown = [[column.cell(row) for column in over.tables[0].columns] for row in over.tables[0].rows]
    assert [row[:3] for row in shown] == [["8", "1", "600"], ["8", "2", "700"], ["16", "1", "800"], ["16", "2", "900"]]
    assert "not reached" in shown[2]
    along = Dimension(recipes[:2], seeds=1, split="test")
    [[panel]] = along.report(rows[:2]).sections[0].pictures["sweep"].panels
    assert panel.x == "weights, D"
    assert [(mark.x, mark.y) for mark in panel.marks] == [([600, 600], [49, 50]), ([700, 700], [59, 60])]


def test_claims_of_lfly18():
    study = lfly18.study(0.1, 2)
    for scale, wanted in ((0.1, (10, 0.01, "cosine")), (0.5, (50, 0.004, "cosine")), (1, (100, 0.001, "constant"))):
        recipes = lfly18.study(scale, 2).recipes
        assert {(recipe.epochs, recipe.lr, recipe.schedule) for recipe in recipes} == {wanted}

    def row(model, baseline, low, d):
        told = {"row": "answer", "model": model, "baseline": baseline, "low": low, "d": d, "n": 2}
        return told | {"fitted_d": None, "fitted_low": None, "fitted_high": None}

    base = {"row": "baseline", "model": "fcn", "accuracy_mean": 0.979, "accuracy_ci95": 0.001, "n": 2}
    rows = [
        base,
        {**base, "accuracy_mean": 0.97},
        {**base, "accuracy_mean": None, "accuracy_ci95": None, "n": 0},
        row("fcn", "global", 680, 720),
        row("fcn", "global", 650, 699) | {"fitted_d": 690.6, "fitted_low": 640.2, "fitted_high": 1234.5},
        row("fcn", "own", 550, 600),
        row("fcn", "own", 575, 600),
        row("lenet", "own", 270, 280),
        row("lenet", "global", 44_426, None),
    ]
    told = lfly18.claims(study, rows)
    assert [claim.within for claim in told] == [True, False, None, None, False, None, True, None, False]
    assert told[3].note == "between 680 and 720; 10 epochs in place of 100"
    assert told[4].note.startswith("between 650 and 699; fitted 691, 95 % interval 640 to 1,234; ")
    assert told[-1].note.startswith("not reached up to 44,426")
