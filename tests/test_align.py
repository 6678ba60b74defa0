"""The alignment of a network's dense layers along its training."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import small_recipe

from letitgo.cli.main import run
from letitgo.plan import Initial, Run, Spectra
from letitgo.studies.align.study import Align
from letitgo.studies.compute import compute, estimate
from letitgo.studies.map.study import Map


def test_the_dense_layers_of_a_network_share_their_runs_with_map(store):
    recipe = small_recipe(widths="8", depth=2)
    study = Align((recipe,), seeds=1)
    assert estimate(study, store, 1).runs == 4
    compute(Map((recipe,), seeds=1, select="test"), store)
    assert estimate(study, store, 1).runs_stored == 4
    rows = compute(study, store).rows
    assert {(row["frozen"], row["epoch"]) for row in rows} == {
        (None, 0),
        (None, 1),
        (None, 2),
        *((f"fc{k}", 2) for k in (1, 2, 3)),
    }
    names = tuple(recipe.network().state_dict())
    module = Run(Initial(recipe.network, 0), names, recipe).final.module(store)
    [row] = [row for row in rows if (row["frozen"], row["epoch"], row["layer"]) == (None, 2, "fc2")]
    values = np.linalg.svd(module.fc2.weight.detach().double().numpy())[1]
    assert row["ratio_mean"] == pytest.approx(values[0] / np.sqrt((values**2).sum()))
    start = [row for row in rows if (row["frozen"], row["epoch"], row["layer"]) == (None, 0, "fc1")]
    frozen = [row for row in rows if (row["frozen"], row["layer"]) == ("fc1", "fc1")]
    assert start[0]["ratio_mean"] == frozen[0]["ratio_mean"]
    assert Spectra(Initial(recipe.network, 0)).cost() > 0


def test_the_command_measures_the_dense_layers_of_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = ("--model", "fcn", "--widths", "8", "--depth", "1", "--epochs", "1", "--seeds", "2", "--workers", "0")
    assert run(["align", *recipe, "--report", "out"]) == 0
    assert (tmp_path / "out" / "align.html").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "helpers:no_parameters"), "has no parameters to train"),
        (("--steps", "5"), "Unknown option: --steps"),
    ],
)
def test_bad_requests_get_one_sentence(options, sentence, capsys):
    assert run(["align", *options, "--report", "none"]) == 2
    assert sentence in capsys.readouterr().err
