"""How many seeds a verdict takes: the statistics of the looks, and studies that take them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from helpers import small_recipe
from scipy.stats import norm, t, ttest_ind

from letitgo.plan import Evaluation
from letitgo.recipes.tasks import unpacked
from letitgo.report.words import of_the_error
from letitgo.store import open_store
from letitgo.studies.cell import Looks
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute, estimate
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.statistics import ALPHA, Drop, ci95, disagreement, for_new_examples, looks, paired, unpaired

pytestmark = pytest.mark.usefixtures("all_learned")

BASE = [0.95, 0.96, 0.94, 0.955, 0.945, 0.95]
NEAR = [0.94, 0.95, 0.945]
NO_FLOOR = [0.0, 0.0, 0.0]


def test_looks_end_with_the_most_seeds_and_grow_by_a_quarter():
    assert list(looks(20)) == [3, 4, 5, 6, 8, 10, 12, 16, 20]
    assert list(looks(2)) == [2]
    assert list(looks(7)) == [3, 4, 5, 6, 7]
    assert list(looks(45)) == [3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40, 45]


def test_independent_runs_share_one_variance():
    other = [0.93, 0.94, 0.945, 0.935]
    drops = unpaired(BASE, [NEAR, other], NO_FLOOR)
    squares = sum((len(v) - 1) * stdev(v) ** 2 for v in (BASE, NEAR, other))
    df = len(BASE) + len(NEAR) + len(other) - 3
    for drop, values in zip(drops, (NEAR, other), strict=True):
        assert drop.mean == pytest.approx(fmean(BASE) - fmean(values))
        error = sqrt(squares / df * (1 / len(BASE) + 1 / len(values)))
        assert drop.half == pytest.approx(t.ppf(1 - ALPHA / 2, df) * error)


def test_a_variance_far_above_the_others_is_not_pooled():
    wild = [0.5, 0.9, 0.1]
    alone, drop = unpaired(BASE, [NEAR, wild], NO_FLOOR)
    assert alone == unpaired(BASE, [NEAR], NO_FLOOR[:2])[0]
    interval = ttest_ind(BASE, wild, equal_var=False).confidence_interval(1 - ALPHA)
    assert drop.half == pytest.approx((interval.high - interval.low) / 2)


def test_no_interval_is_without_width():
    same = [0.9, 0.9, 0.9]
    assert paired([0.0, 0.0, 0.0], 0.01).half == pytest.approx(t.ppf(1 - ALPHA / 2, 2) * 0.01 / sqrt(3))
    pooled = t.ppf(1 - ALPHA / 2, 4) * sqrt((0.01**2 + 0.03**2) / 2 * 2 / 3)
    assert unpaired(same, [same], [0.01, 0.03])[0].half == pytest.approx(pooled)


def test_one_run_decides_nothing():
    assert paired([0.0], 0.01) == Drop(0.0, None)
    assert unpaired(BASE, [[0.9]], NO_FLOOR[:2]) == unpaired([0.9], [NEAR], NO_FLOOR[:2]) == [Drop(0.0, None)]
    assert Drop(0.0, None).verdict(0.5) == "undecided"


def answers(rng: np.random.Generator, seeds: int, examples: int = 359) -> tuple[float, np.ndarray, np.ndarray]:
    """The true drop, and which of some examples are right with and without it: seeds and examples drawn afresh."""
    easy, bias, cost, luck, noise = 4.6, 2.2, 0.4, 0.2, 1.0

    def right(mean: float) -> np.ndarray:
        shared, of_seed, of_both = (rng.normal(size=size) for size in (examples, (seeds, 1), (seeds, examples)))
        return mean + bias * (0.9 * hard + sqrt(1 - 0.81) * shared) + luck * of_seed + noise * of_both > 0

    hard, spread = rng.normal(size=examples), sqrt(bias**2 + luck**2 + noise**2)
    true = float(norm.cdf(easy / spread) - norm.cdf((easy - cost) / spread))
    return true, right(easy), right(easy - cost)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seeds", [3, 10])
def test_the_interval_for_new_examples_covers_the_drop_of_all_examples(seeds, shared):
    rng, studies = np.random.default_rng(seeds), 1000
    over_seeds = over_both = 0
    for _ in range(studies):
        true, base, own = answers(rng, seeds)
        if shared:
            sides = [np.subtract(base, own, dtype=float)]
            half = ci95(sides[0].mean(1).tolist())
        else:
            sides = [base, own]
            half = unpaired(base.mean(1).tolist(), [own.mean(1).tolist()], [0.0, 0.0], 0.05)[0].half
        off = abs(base.mean() - own.mean() - true)
        over_seeds += off <= half
        over_both += off <= for_new_examples(half, sides)
    assert over_seeds < 0.94 * studies  # of these test examples only
    assert 0.94 * studies <= over_both <= 0.99 * studies


def test_without_several_seeds_and_examples_there_is_no_interval_for_new_ones():
    one, two = np.ones((1, 5)), np.ones((2, 5))
    assert for_new_examples(None, [two]) is None
    assert for_new_examples(0.1, [two, one]) is None
    assert for_new_examples(0.1, []) is None
    assert for_new_examples(0.1, [two, two]) == 0.1  # no example is ever wrong, so new ones are not expected to be


def test_disagreement_is_the_spread_of_examples_that_err_by_themselves():
    rng = np.random.default_rng(0)
    right = rng.random((2000, 100)) < rng.random(100)
    assert disagreement(right) == pytest.approx(right.mean(1).std(ddof=1), rel=0.05)
    assert disagreement(right[:1]) == 0.0


TINY = {"epochs": 1, "widths": "8", "depth": 2, "examples": 100}


def by_layer(rows: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {row["layer"]: row for row in rows if row["intervention"] == kind and row["epoch"] in (0, None)}


def test_decided_rows_stop_and_undecided_ones_go_on(tmp_path):
    store = open_store(tmp_path / "store")
    easy = Map(small_recipe(**TINY), tolerance=90.0, freeze_at=(0,), reinit_at=(0,), select="test")
    assert estimate(easy, store, 1).at_least
    rows = compute(easy, store).rows
    assert [row["n"] for row in rows] == [6] + [3] * (len(rows) - 1)  # twice as many baselines
    assert {row["verdict"] for row in rows if row["intervention"] == "frozen"} == {"robust"}
    hard = Map(small_recipe(**TINY), tolerance=3.0, max_seeds=4, freeze_at=(0,), reinit_at=(0,), select="test")
    outcome = compute(hard, store)
    undecided = [row for row in outcome.rows if row["verdict"] == "undecided"]
    assert undecided
    assert {row["n"] for row in undecided} == {4}
    assert any(sentence.startswith("Near the tolerance of 3 points: ") for sentence in outcome.answers)
    assert compute(easy, store).rows == rows  # what else the store holds changes nothing


def test_each_verdict_has_an_interval_for_new_examples(tmp_path):
    store = open_store(tmp_path / "store")
    study = Map(small_recipe(**TINY), seeds=3, reinit_at=(0,), draws=2, select="test")
    outcome = compute(study, store)
    base, *judged = outcome.rows
    assert base["drop_new_ci95"] is None
    assert all(row["drop_new_ci95"] >= row["drop_ci95"] for row in judged)
    assert "drop_new_ci95" in outcome.frame
    [of], correct = study.subjects, []
    [cells] = study.cells(of, store)
    for cell in cells[:2]:
        found = [cell.measures(recipe)["test"].result(store) for recipe in of.seeds]
        correct.append(np.array([unpacked(one["correct"], one["n"]) for one in found], dtype=float))
    side = correct[0] - correct[1]
    added = side.mean(0).var(ddof=1) / side.shape[1] - disagreement(side) ** 2 / 3
    expected = sqrt(judged[0]["drop_ci95"] ** 2 + (t.ppf(0.975, side.shape[1] - 1)) ** 2 * max(0, added))
    assert judged[0]["drop_new_ci95"] == pytest.approx(expected)
    assert any(sentence.startswith("For new test examples the interval of ") for sentence in outcome.answers)


def test_records_without_right_examples_still_read(tmp_path, monkeypatch):
    store, study = open_store(tmp_path / "store"), Map(small_recipe(**TINY), seeds=2, reinit_at=(0,), select="test")
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "compute", without_correct(Evaluation.compute))
        old = compute(study, store)
    assert {row["drop_new_ci95"] for row in old.rows} == {None}
    assert "No interval for new test examples: results do not say which were right." in old.answers
    new = compute(study, open_store(tmp_path / "new"))
    assert [row | {"drop_new_ci95": None} for row in new.rows] == old.rows


def without_correct(computed: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Evaluations as they were before they kept which examples were right."""
    return lambda *args: {name: value for name, value in computed(*args).items() if name != "correct"}


def test_a_floor_is_what_seeds_disagree_in(tmp_path):
    store = open_store(tmp_path / "store")
    study = Map(small_recipe(**TINY), tolerance=50.0, max_seeds=3, reinit_at=(0,), select="test")
    compute(study, store)
    [of] = study.subjects
    [cells] = study.settled(of, store)
    looks = Looks(study, of, store, cells)
    frozen, fresh = cells[1], cells[-1]
    assert looks._floors(frozen) == [disagreement(side) for side in study.sides(frozen, of, store)]
    assert [len(side) for side in study.sides(frozen, of, store)] == [6, 3]
    assert [len(side) for side in study.sides(fresh, of, store)] == [3]


def test_draws_of_a_seed_are_averaged(tmp_path):
    store = open_store(tmp_path / "store")
    options: dict[str, Any] = {"seeds": 2, "reinit_at": (0,), "layers": ("fc1",)}
    one, three = (compute(Map(small_recipe(**TINY), draws=n, **options, select="test"), store) for n in (1, 3))
    assert one.usage.results
    assert three.usage.stored == one.usage.results  # the first draw is the one there was
    study = Map(small_recipe(**TINY), draws=3, **options, select="test")
    [of] = study.subjects
    [cells] = study.cells(of, store)
    drawn = cells[-1].measured(of.recipe)
    found = [draw["test"].result(store)["accuracy"] for draw in drawn]
    first = next(row for row in study.seed_rows(store) if row["intervention"] == "rerandomised")
    assert len(set(found)) > 1
    assert first["accuracy"] == pytest.approx(fmean(found))
    right = [unpacked(draw["test"].result(store)["correct"], 359) for draw in drawn]
    assert study.correct(cells[-1], of, store)[of.recipe.seed] == pytest.approx(np.mean(right, axis=0))
    assert by_layer(three.rows, "rerandomised")["fc1"]["n"] == 2


STUDIES: dict[str, Callable[..., Any]] = {
    "finetune": lambda **o: Finetune(
        small_recipe(**TINY, shift="invert"), {"data": "digits", "shift": "none"}, **o, select="test"
    ),
    "fraction": lambda **o: Fraction(small_recipe(**TINY), shares=(0.5,), only=("classifier",), **o, select="test"),
    "classifier": lambda **o: Classifier(small_recipe(**TINY), **o, select="test"),
}


@pytest.mark.parametrize("name", STUDIES)
def test_seeds_are_added_until_a_verdict_is_there(name, tmp_path):
    store = open_store(tmp_path / "store")
    rows = compute(STUDIES[name](tolerance=99.0, max_seeds=4), store).rows
    judged = [row for row in rows if row["verdict"]]
    assert judged
    assert all(row["n"] == 3 for row in judged if row["verdict"] == "robust")
    fixed = {row["drop_mean"] for row in compute(STUDIES[name](seeds=3), store).rows if row["verdict"]}
    assert {row["drop_mean"] for row in judged} != fixed  # of twice as many baselines


def test_a_tolerance_is_also_a_share_of_the_error():
    study = Map(small_recipe(), tolerance=1.0, select="test")
    assert of_the_error(study, {"accuracy_mean": 0.984}) == [
        "The tolerance of 1 point is 62 % of the baseline's error."
    ]
    assert of_the_error(study, {"accuracy_mean": 1.0}) == []
