"""Results of another letitgo, torch or processor are marked, and replaced on request."""

from __future__ import annotations

import pytest
import torch
from helpers import small_recipe

from letitgo.catalogue.contents import contents, run_rows
from letitgo.cli.options import RunningOptions
from letitgo.cli.run import run_study
from letitgo.store import open_store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.outcome import took
from letitgo.studies.train.study import Train
from letitgo.version import other_versions, versions

STUDY = Train((small_recipe(epochs=1),))


@pytest.fixture
def older(tmp_path, monkeypatch):
    """A store with the results of another torch."""
    store = open_store(tmp_path / "store")
    with monkeypatch.context() as before:
        before.setattr(torch, "__version__", "2.99.0")
        compute(STUDY, store)
    return store


def test_versions_that_round_differently_are_named_and_what_is_not_recorded_is_not():
    here = versions()
    assert other_versions(here) == other_versions({}) == other_versions({**here, "python": "3.0"}) == ""
    assert other_versions({**here, "torch": "1.0", "cpu": "ABACUS"}) == "torch 1.0, cpu ABACUS"


def test_a_study_that_mixes_versions_says_so_in_the_report_and_the_catalogue(older):
    outcome = compute(STUDY, older)
    assert list(outcome.usage.other_versions) == ["torch 2.99.0"]
    assert "with torch 2.99.0: these may differ from those computed here" in took(outcome.usage)
    assert [row["other_versions"] for row in run_rows(older, contents(older), {})] == ["torch 2.99.0"]


def test_the_command_names_them_and_how_to_replace_them(older, capsys):
    run_study(STUDY, RunningOptions(store=str(older.root), workers=0, report="none", format="json"))
    said = capsys.readouterr()
    assert "with torch 2.99.0: these may differ from those computed here; --recompute-other-versions" in said.err
    assert '"torch 2.99.0"' in said.out


@pytest.mark.parametrize("workers", [0, 1])
def test_they_are_replaced_on_request_once(workers, older):
    again = open_store(older.root)
    again.recompute_other_versions = True
    assert estimate(STUDY, older, 0).runs_stored == 1
    assert estimate(STUDY, again, 0).runs_stored == 0
    outcome = compute(STUDY, older, workers, recompute_other_versions=True)
    assert outcome.usage.other_versions == {}
    assert estimate(STUDY, again, 0).runs_stored == 1
