"""Deep linear networks: the measures of alignment, gradient descent, and the study of JT18."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from math import log

import numpy as np
import pytest
import torch
from helpers import write_dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import softplus

from letitgo import alignment, imbalance, invariant_drift, lemma_2
from letitgo.cli.main import run
from letitgo.deep_linear.descent import descend, product, risk_of, start
from letitgo.deep_linear.margin import NotSeparable, max_margin
from letitgo.deep_linear.options import LAWS
from letitgo.deep_linear.study import DeepLinear
from letitgo.deep_linear.values import Descent, MaximumMargin, Synthetic
from letitgo.errors import BadRequest, WorkFailed
from letitgo.papers import jt18
from letitgo.recipes.data import open_data
from letitgo.store import Store
from letitgo.studies.compute import compute, estimate
from letitgo.value import dump, load

laws = st.sampled_from(LAWS)
depths = st.lists(st.integers(1, 5), max_size=3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chain(widths: list[int], inputs: int = 3, seed: int = 0) -> list[torch.Tensor]:
    sizes = [inputs, *widths, 1]
    return [random(b, a, seed=seed + k) for k, (a, b) in enumerate(pairwise(sizes))]


# The measures


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_ratio_lies_between_its_floor_and_one(rows, columns, seed):
    found = alignment([random(rows, columns, seed=seed)])
    assert found.floor[0] - 1e-12 <= found.ratio[0] <= 1 + 1e-12
    assert found.adjacent == ()
    assert alignment([torch.eye(max(rows, 2))]).ratio[0] == pytest.approx(max(rows, 2) ** -0.5)


def test_the_numbers_are_numpys():
    matrices = chain([4, 5])
    found = alignment(matrices)
    parts = [np.linalg.svd(matrix.numpy()) for matrix in matrices]
    assert found.spectral == pytest.approx([values[0] for _, values, _ in parts])
    assert found.frobenius == pytest.approx([np.linalg.norm(matrix) for matrix in matrices])
    expected = [abs(parts[k + 1][2][0] @ parts[k][0][:, 0]) for k in range(2)]
    assert found.adjacent == pytest.approx(expected)


@given(widths=depths, seed=st.integers(0, 99))
def test_aligned_matrices_of_rank_one_are_told_as_such(widths, seed):
    units = [random(n, seed=seed + n) for n in (3, *widths)] + [torch.ones(1).double()]
    units = [unit / unit.norm() for unit in units]
    matrices = [2 * torch.outer(left, right) for right, left in pairwise(units)]
    found = alignment(matrices, direction=-units[0])
    assert all(value == pytest.approx(1) for value in (*found.ratio, *found.adjacent, found.first, found.product))
    assert imbalance(matrices) == pytest.approx(0, abs=1e-12)


@given(widths=depths, seed=st.integers(0, 99))
def test_d_bounds_how_far_from_rank_one_a_chain_is_where_it_is_taken(widths, seed):
    """Lemma 2's first inequality with D of the same matrices is algebra: no flow is needed for it."""
    matrices = chain(widths, seed=seed)
    assert lemma_2(matrices, matrices).rank <= 1e-9
    assert invariant_drift(matrices, matrices) == 0


def test_a_module_gives_its_dense_layers_and_stays_what_it_is():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(5, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = alignment(module)
    assert found.layers == ("2", "4")
    assert found.adjacent == (None,)  # 4 outputs below, 5 inputs above
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert list(found.frame["layer"]) == ["2", "4"]
    assert found.frame["ratio"].between(found.frame["floor"] - 1e-9, 1).all()


def test_a_zero_matrix_leaves_undefined_what_is_undefined():
    found = alignment([torch.zeros(4, 2), torch.ones(1, 4)], direction=torch.ones(2))
    assert found.ratio == (None, 1.0)
    assert found.adjacent == (None,)
    assert (found.first, found.product) == (None, None)


WRONG = {
    "nothing": (lambda: alignment(nn.ReLU()), "there is no dense layer to measure"),
    "no matrices": (lambda: alignment([]), "there is no dense layer to measure"),
    "a vector": (lambda: alignment([torch.ones(3)]), r"layer 1 is to be a matrix \(outputs, inputs\)"),
    "not finite": (lambda: alignment([torch.full((2, 2), torch.nan)]), "layer 1 has weights that are not finite"),
    "outputs": (lambda: alignment([torch.ones(2, 3)], torch.ones(3)), "of several outputs the theorem says nothing"),
    "no chain": (
        lambda: imbalance([torch.ones(2, 3), torch.ones(1, 4)]),
        "matrix 2 takes 4 inputs and matrix 1 gives 2",
    ),
    "direction": (lambda: alignment([torch.ones(1, 3)], torch.ones(2)), "the layers take 3 inputs"),
    "D of several": (lambda: imbalance([torch.ones(2, 3)]), "the last layer has 2 outputs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_measured_is_refused(what):
    call, sentence = WRONG[what]
    with pytest.raises(BadRequest, match=sentence):
        call()


# The maximum margin


@given(seed=st.integers(0, 30))
def test_the_maximum_margin_is_the_best_of_the_plane(seed):
    signed = Synthetic(seed, points=12, gap=0.1).signed()
    found = max_margin(signed)
    turns = torch.linspace(0, 2 * torch.pi, 3601, dtype=torch.float64)
    around = torch.stack([turns.cos(), turns.sin()])
    best = float((signed @ around).min(0).values.max())
    assert best <= found.margin + 1e-7
    assert found.margin == pytest.approx(best, abs=2e-3)
    assert found.margin >= 0.1 - 1e-9
    assert float((signed[found.support] @ found.direction).max()) == pytest.approx(found.margin, rel=1e-4)


def test_what_no_plane_separates_is_told():
    with pytest.raises(NotSeparable):
        max_margin(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64))


# Gradient descent


@given(law=laws, widths=depths, seed=st.integers(0, 30), rule=st.sampled_from(["theorem", "risk", "constant"]))
def test_steps_are_those_of_autograd(law, widths, seed, rule):
    signed = Synthetic(seed).signed()
    begin = start(law, widths, signed, seed, 1.0)
    one, two = [
        ([matrix.clone() for matrix in point.matrices], point.rate)
        for point, _ in zip(descend(begin, signed, rule, 0.1), range(2), strict=False)
    ]
    matrices = [matrix.requires_grad_() for matrix in one[0]]
    softplus(-(signed @ product(matrices))).mean().backward()
    for before, after in zip(matrices, two[0], strict=True):
        torch.testing.assert_close(after, before.detach() - two[1] * before.grad)


@given(law=laws, widths=depths, seed=st.integers(0, 30), rule=st.sampled_from(["theorem", "risk"]))
def test_the_risk_never_rises(law, widths, seed, rule):
    signed = Synthetic(seed).signed()
    points = descend(start(law, widths, signed, seed, 1.0), signed, rule, 1.0)
    risks = [point.risk for point, _ in zip(points, range(60), strict=False)]
    assert all(b <= a + 1e-15 for a, b in pairwise(risks))


@given(law=laws, widths=depths, seed=st.integers(0, 30), data=st.data())
def test_a_frozen_layer_stays_to_the_bit_and_the_start_is_not_touched(law, widths, seed, data):
    signed = Synthetic(seed).signed()
    begin = start(law, widths, signed, seed, 1.0)
    kept = [matrix.clone() for matrix in begin]
    frozen = data.draw(st.lists(st.integers(0, len(widths)), max_size=len(widths), unique=True))
    end = None
    for point, _ in zip(descend(begin, signed, "risk", 1.0, frozen), range(5), strict=False):
        end = point
    for place in frozen:
        assert torch.equal(end.matrices[place], kept[place])
    assert all(torch.equal(a, b) for a, b in zip(begin, kept, strict=True))


@given(widths=depths, seed=st.integers(0, 50), scale=st.sampled_from([0.1, 1.0]))
def test_the_balanced_start_is_balanced_and_meets_assumption_2(widths, seed, scale):
    signed = Synthetic(seed).signed()
    matrices = start("balanced", widths, signed, seed, scale)
    assert imbalance(matrices) < 1e-12
    assert risk_of(matrices, signed) <= log(2)
    assert float(product(matrices).norm()) > 0


@given(law=laws, seed=st.integers(0, 50))
def test_starts_are_functions_of_the_seed(law, seed):
    signed = Synthetic(seed).signed()
    one, again, other = (start(law, [4, 4], signed, s, 1.0) for s in (seed, seed, seed + 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[1], other[1])
    assert (float(one[0].norm()) == 0) == (law == "zero first layer")


def test_too_long_a_step_is_told():
    signed = Synthetic(0).signed()
    with pytest.raises(WorkFailed, match="the risk is not finite by step"):
        for _ in descend(start("default", [4, 4, 4], signed, 0, 1.0), signed, "constant", 1e200):
            pass


# The study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("deep-linear"))


STUDY = DeepLinear(steps=2000, seeds=2)


@pytest.fixture(scope="module")
def rows(folder):
    outcome = compute(STUDY, folder)
    assert outcome.failures == []
    return outcome.rows


def ends(rows, **where):
    found = [row for row in rows if row["n"] and all(row[name] == value for name, value in where.items())]
    step = max(row["step"] for row in found)
    return {row["layer"]: row for row in found if row["step"] == step}


def test_from_a_balanced_start_the_layers_align_and_the_product_separates_with_the_largest_margin(rows):
    end = ends(rows, case="far", start="balanced")
    for layer in "1234":
        assert end[layer]["ratio_mean"] > 1 - 1e-3
        assert layer == "4" or end[layer]["adjacent_mean"] > 0.999
    assert end["network"]["angle_mean"] < 2
    assert end["network"]["margin_mean"] > 0.99


def test_from_an_unbalanced_start_they_come_nearer(rows):
    for law in ("zero first layer", "default"):
        end = ends(rows, case="far", start=law)
        begin = {row["layer"]: row for row in rows if (row["case"], row["start"], row["step"]) == ("far", law, 0)}
        for layer in "23":
            assert end[layer]["ratio_mean"] > begin[layer]["ratio_mean"] + 0.1
            assert end[layer]["adjacent_mean"] > max(0.98, begin[layer]["adjacent_mean"])


def test_lemma_2_holds_at_every_recorded_step_with_the_theorems_step(rows):
    pace = [row for row in rows if row["case"] == "theorem" and row["layer"] == "network"]
    assert {row["start"] for row in pace} == set(LAWS)
    assert len(pace) > 100
    for row in pace:
        assert row["rank_excess_max"] <= max(1e-12, row["drift_mean"])
        assert row["adjacent_excess_max"] <= 0


def test_the_invariants_drift_in_proportion_to_the_step(rows):
    for law in LAWS:
        whole, half = (ends(rows, case="theorem", start=law, rate=rate)["network"] for rate in (1.0, 0.5))
        assert half["step"] == 2 * whole["step"]
        assert whole["drift_mean"] / half["drift_mean"] == pytest.approx(2, rel=0.05)


def test_a_frozen_layer_keeps_its_numbers_while_the_others_align(rows):
    for layer in range(1, 5):
        series = [row for row in rows if row["frozen"] == layer and row["layer"] == str(layer) and row["n"]]
        assert len({row["frobenius_mean"] for row in series}) == 1
        whole = [row for row in rows if row["frozen"] == layer and row["layer"] == "network"]
        assert whole[-1]["risk_mean"] < whole[0]["risk_mean"]
        assert (whole[-1]["angle_left_mean"] is None) == (layer != 1)


def test_nothing_is_computed_twice_and_a_dry_run_says_so(rows, folder):
    left = estimate(STUDY, folder, 1)
    assert (left.runs, left.runs_stored, left.measures, left.measures_stored) == (2 * 14, 2 * 14, 2, 2)
    assert left.operations == 0
    more = estimate(DeepLinear(steps=2000, seeds=3), folder, 1)
    assert (more.runs - more.runs_stored, more.measures - more.measures_stored) == (14, 1)
    assert more.operations > 0
    assert more.seconds > 0


def test_a_descent_travels_to_a_worker_as_what_it_is():
    value = STUDY.descent(STUDY.cases[-2], 1)
    assert load(dump([value])) == [value]
    assert value.frozen == (3,)
    assert value.key != Descent(**{**value.fields(), "frozen": ()}).key


def test_claims_of_jt18(rows):
    told = {claim.quantity: claim for claim in jt18.claims(STUDY, rows)}
    assert told["least ‖W‖₂/‖W‖_F, balanced start"].within
    angle = told["angle to the maximum margin, balanced start, degrees"]
    assert angle.within is (True if angle.measured + angle.ci95 <= jt18.DEGREES else None)
    assert told["Lemma 2, first inequality: missed by"].within
    assert told["least ‖W‖₂/‖W‖_F, default start"].within is None
    worse = [{**row, "rank_excess_max": 1.0} if row["rank_excess_max"] is not None else row for row in rows]
    told = {claim.quantity: claim for claim in jt18.claims(STUDY, worse)}
    assert told["Lemma 2, first inequality: missed by"].within is False


def test_digits_are_separable_with_a_margin_that_holds(store):
    study = DeepLinear(
        data="digits",
        classes=(3, 8),
        examples=60,
        widths=(4,),
        steps=300,
        seeds=1,
        init=("balanced",),
        freeze_layers=(),
    )
    study.check()
    assert compute(study, store).failures == []
    best = study.margins[0].result(store)
    assert (best["n"], best["d"]) == (60, 64)
    signed = study.margins[0].problem.signed()
    assert float(signed.norm(dim=1).max()) == pytest.approx(1)
    assert float((signed @ torch.tensor(best["direction"], dtype=torch.float64)).min()) == pytest.approx(best["margin"])
    assert ends(study.rows(store), case="far")["network"]["margin_mean"] > 0


def test_data_of_ones_own_that_nothing_separates_are_refused_before_the_work(tmp_path, store, capsys, monkeypatch):
    gray = [np.full((1, 2), level, dtype=np.uint8) for level in (10, 20, 30, 40)]
    data = write_dataset(tmp_path / "own", {"train": (gray, [0, 1, 1, 0]), "test": (gray, [0, 1, 1, 0])}, classes=2)
    with pytest.raises(BadRequest, match=r"cannot be separated by a plane through the origin: without a margin"):
        compute(DeepLinear(data=str(data), seeds=1), store)
    monkeypatch.chdir(tmp_path)
    assert run(["deep-linear", "--data", str(data), "--report", "none"]) == 2
    assert "JT18's theorem says nothing" in capsys.readouterr().err


# The command


QUICK = ("--seeds", "2", "--steps", "50", "--widths", "4,4", "--workers", "0")


@pytest.mark.usefixtures("svg_only")
def test_the_command_tells_rows_and_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["deep-linear", *QUICK, "--format", "json", "--report", "out"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["case"] for row in rows} == {"far", "theorem", "frozen", "one layer"}
    page = (tmp_path / "out" / "deep-linear.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    for figure in ("layers", "direction", "drift", "frozen"):
        assert (tmp_path / "out" / f"deep-linear-{figure}.png").is_file()
    assert run(["deep-linear", *QUICK, "--format", "csv", "--report", "none"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == len(rows)
    assert run(["deep-linear", *QUICK, "--report", "none"]) == 0
    told = capsys.readouterr().out
    assert "balanced, theorem × 0.5" in " ".join(told.split())
    assert run(["deep-linear", *QUICK, "--dry-run", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"]["operations"] == 0


REFUSED = {
    "lr": (("--lr", "1"), "Unknown option: --lr"),
    "classes of synthetic": (("--classes", "1,2"), "synthetic points have two classes of their own"),
    "three classes": (("--data", "digits", "--classes", "0,1,2"), "of more outputs it says nothing"),
    "one class": (("--data", "digits", "--classes", "1,1"), "give two classes"),
    "class": (("--data", "digits", "--classes", "1,12"), "digits has classes 0 to 9"),
    "start": (("--init", "balancd"), "init is 'balancd': did you mean balanced?"),
    "layer": (("--freeze-layers", "5"), "freeze-layers names layer 5: there are layers 1 to 4"),
    "only layer": (("--widths", "none", "--freeze-layers", "1"), "freezing the only layer leaves nothing to train"),
    "step": (("--step-size", "0"), "step-size is 0.0: give more than 0"),
    "steps": (("--steps", "0"), "steps is 0: give at least 1"),
    "width": (("--widths", "4,0"), "widths is '0': give at least 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_requests_get_one_sentence(what, capsys, tmp_path, monkeypatch):
    options, sentence = REFUSED[what]
    monkeypatch.chdir(tmp_path)
    assert run(["deep-linear", *options, "--report", "none"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_the_margin_of_a_data_set_is_found_once_for_all_seeds():
    study = DeepLinear(data="digits", examples=40, seeds=3)
    assert len(set(study.margins)) == 1
    assert isinstance(study.margins[0], MaximumMargin)
    assert open_data("digits").classes == 10
