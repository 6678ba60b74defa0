"""The papers' claims, held against rows."""

from __future__ import annotations

import pytest

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.papers import PAPERS, find_paper, inside, scaled, shortened, zbs19
from letitgo.papers.report import Comparison
from letitgo.studies.outcome import Outcome


def test_the_help_names_every_paper(capsys):
    run(["reproduce", "--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_has_what_is_asked_of_one(name):
    paper = find_paper(name)
    assert "arXiv:" in paper.TITLE
    assert callable(paper.study)
    assert callable(paper.claims)


def test_an_unknown_paper_and_a_scale_out_of_range():
    with pytest.raises(BadRequest, match="unknown paper 'zbs18': did you mean zbs19"):
        find_paper("zbs18")
    for scale in (0.0, 1.5):
        with pytest.raises(BadRequest, match="above 0 and at most 1"):
            scaled(100, scale)
    assert scaled(100, 0.001) == 1


def test_a_shortened_study_says_what_is_run_of_the_papers_own():
    for name, *told in (
        ("fc18", 1 / 55, "1 of the paper's 55 epochs"),
        ("jt18", 1e-3, "10 of the paper's 10,000 steps"),
    ):
        paper = find_paper(name)
        assert shortened(paper.study(0.001, 1), paper.study(1.0, 1)) == tuple(told)
        assert shortened(paper.study(1.0, 1), paper.study(1.0, 1)) == (1, "")


def test_a_wider_interval_agrees_less_easily():
    limits = {"low": -0.2, "high": 0.2}
    assert [inside(0.1, half, **limits) for half in (0.05, 0.15, 5.0, None)] == [True, None, None, None]
    assert [inside(0.4, half, **limits) for half in (0.1, 0.3)] == [False, None]
    assert inside(None, None) is None
    assert (inside(1.0, None, low=0), inside(1.0, None, low=0, sure=True)) == (None, True)


@pytest.mark.parametrize(("epochs", "within"), [(9, None), (10, True)])
def test_a_run_under_a_tenth_of_the_papers_length_judges_nothing(epochs, within):
    whole = zbs19.study(1.0, 3)
    rows = [
        row("fc1", "rerandomised", 0.88, 0.1, "critical", epoch=None),
        row("fc1", "reinitialised", 0.4, 0.6, "critical"),
    ]
    comparison = Comparison(zbs19, zbs19.study(epochs / 100, 3), whole)
    outcome = comparison.view(Outcome(rows, study=comparison.study))
    assert [claim["within"] for claim in outcome.rows] == [within, within]
    assert outcome.answers[0].startswith("Too short" if within is None else "Of 2 claims, 2 are borne out")


def row(layer, intervention, drop, accuracy, verdict, scope="layer", epoch=0):
    return {
        "layer": layer,
        "scope": scope,
        "intervention": intervention,
        "epoch": epoch,
        "drop_mean": drop,
        "drop_ci95": 0.001,
        "accuracy_mean": accuracy,
        "accuracy_ci95": 0.02,
        "n": 3,
        "verdict": verdict,
    }


def test_claims_of_zbs19():
    rows = [
        row("fc1", "reinitialised", 0.4, 0.58, "critical"),
        row("fc1", "rerandomised", 0.88, 0.1, "critical", epoch=None),
        row("fc2", "reinitialised", 0.03, 0.95, "critical"),
        row("fc2", "rerandomised", 0.3, 0.7, "critical", epoch=None),
        row("fc3", "reinitialised", 0.01, 0.97, "undecided"),
        row("fc3", "rerandomised", 0.88, 0.11, "critical", epoch=None),
    ]

    class Study:
        tolerance = 0.01

    assert [claim.within for claim in zbs19.claims(Study(), rows)] == [True, True, False, False, None, True]
