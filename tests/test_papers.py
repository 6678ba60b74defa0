"""The papers' claims, held against rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers import small_recipe

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.papers import PAPERS, Paper, find_paper, hhs18, inside, scaled, shortened, zbs19
from letitgo.papers.report import Comparison
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute


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


def on_digits(epochs: int, **recipe: Any) -> Paper:
    """HHS18 with a small network, claims and all."""

    def study(scale: float, seeds: int) -> Classifier:
        return Classifier(small_recipe(epochs=scaled(epochs, scale), **recipe), seeds=seeds, select="test")

    return cast(Paper, SimpleNamespace(TITLE="", study=study, claims=hhs18.claims))


@pytest.mark.parametrize(
    ("epochs", "scale", "lr", "answer", "judged"),
    [
        (5, 1.0, 0.1, "Of 6 claims", True),
        (20, 0.05, 0.1, "Too short to judge any of 6 claims", False),
        (5, 1.0, 1e-9, "None of 6 claims is judged: a baseline did not learn.", False),
    ],
    ids=["learned", "too short", "did not learn"],
)
def test_what_is_too_short_or_did_not_learn_judges_nothing(epochs, scale, lr, answer, judged, store):
    paper = on_digits(epochs, lr=lr)
    study = paper.study(scale, 3)
    outcome = Comparison(paper, study, paper.study(1.0, 3)).view(compute(study, store))
    assert outcome.answers[0].startswith(answer)
    assert any(claim["within"] is not None for claim in outcome.rows) == judged


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
