"""How many seeds a verdict takes: the statistics of the looks, and studies that take them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import pytest
from helpers import small_recipe
from scipy.stats import t, ttest_ind

from letitgo.recipes.data import Data
from letitgo.report.words import of_the_error
from letitgo.store import open_store
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute, estimate
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.statistics import ALPHA, Drop, looks, paired, unpaired

BASE = [0.95, 0.96, 0.94, 0.955, 0.945, 0.95]
NEAR = [0.94, 0.95, 0.945]


def test_looks_end_with_the_most_seeds_and_grow_by_a_quarter():
    assert list(looks(20)) == [3, 4, 5, 6, 8, 10, 12, 16, 20]
    assert list(looks(2)) == [2]
    assert list(looks(7)) == [3, 4, 5, 6, 7]
    assert list(looks(45)) == [3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40, 45]


def test_independent_runs_share_one_variance():
    other = [0.93, 0.94, 0.945, 0.935]
    drops = unpaired(BASE, [NEAR, other], 0.0)
    squares = sum((len(v) - 1) * stdev(v) ** 2 for v in (BASE, NEAR, other))
    df = len(BASE) + len(NEAR) + len(other) - 3
    for drop, values in zip(drops, (NEAR, other), strict=True):
        assert drop.mean == pytest.approx(fmean(BASE) - fmean(values))
        error = sqrt(squares / df * (1 / len(BASE) + 1 / len(values)))
        assert drop.half == pytest.approx(t.ppf(1 - ALPHA / 2, df) * error)


def test_a_variance_far_above_the_others_is_not_pooled():
    wild = [0.5, 0.9, 0.1]
    alone, drop = unpaired(BASE, [NEAR, wild], 0.0)
    assert alone == unpaired(BASE, [NEAR], 0.0)[0]
    interval = ttest_ind(BASE, wild, equal_var=False).confidence_interval(1 - ALPHA)
    assert drop.half == pytest.approx((interval.high - interval.low) / 2)


def test_no_interval_is_without_width():
    same = [0.9, 0.9, 0.9]
    assert paired([0.0, 0.0, 0.0], 0.01).half == pytest.approx(t.ppf(1 - ALPHA / 2, 2) * 0.01 / sqrt(3))
    assert unpaired(same, [same], 0.01)[0].half == pytest.approx(t.ppf(1 - ALPHA / 2, 4) * 0.01 * sqrt(2 / 3))


def test_one_run_decides_nothing():
    assert paired([0.0], 0.01) == Drop(0.0, None)
    assert unpaired(BASE, [[0.9]], 0.01) == unpaired([0.9], [NEAR], 0.01) == [Drop(0.0, None)]
    assert Drop(0.0, None).verdict(0.5) == "undecided"


TINY = {"epochs": 1, "widths": "8", "depth": 2, "examples": 100}


def by_layer(rows: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {row["layer"]: row for row in rows if row["intervention"] == kind and row["epoch"] in (0, None)}


def test_decided_rows_stop_and_undecided_ones_go_on(tmp_path):
    store = open_store(tmp_path / "store")
    easy = Map(small_recipe(**TINY), tolerance=90.0, freeze_at=(0,), reinit_at=(0,))
    assert estimate(easy, store, 1).at_least
    rows = compute(easy, store).rows
    assert {row["n"] for row in by_layer(rows, "frozen").values()} == {3}
    assert [row["n"] for row in rows if row["intervention"] != "frozen"] == [6] * 7
    assert {row["verdict"] for row in rows if row["intervention"] == "frozen"} == {"robust"}
    hard = Map(small_recipe(**TINY), tolerance=3.0, max_seeds=4, freeze_at=(0,), reinit_at=(0,))
    outcome = compute(hard, store)
    undecided = [row for row in outcome.rows if row["verdict"] == "undecided"]
    assert undecided
    assert all(row["n"] == (4 if row["intervention"] == "frozen" else 8) for row in undecided)
    assert any(sentence.startswith("Near the tolerance of 3 points: ") for sentence in outcome.answers)
    assert compute(easy, store).rows == rows  # what else the store holds changes nothing


@pytest.fixture(autouse=True)
def learned(monkeypatch):
    """Networks here are so small that some do not learn: they are judged all the same."""
    monkeypatch.setattr(Data, "learned", lambda *_: True)


STUDIES: dict[str, Callable[..., Any]] = {
    "finetune": lambda **o: Finetune(small_recipe(**TINY, shift="invert"), {"data": "digits", "shift": "none"}, **o),
    "fraction": lambda **o: Fraction(small_recipe(**TINY), shares=(0.5,), only=("classifier",), **o),
    "classifier": lambda **o: Classifier(small_recipe(**TINY), **o),
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
    study = Map(small_recipe(), tolerance=1.0)
    assert of_the_error(study, {"accuracy_mean": 0.984}) == [
        "The tolerance of 1 point is 62 % of the baseline's error."
    ]
    assert of_the_error(study, {"accuracy_mean": 1.0}) == []
