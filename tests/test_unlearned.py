"""A baseline that has not learned gets no verdicts and no advice."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import small_recipe

from letitgo.recipes.tasks import Classification, Metric, NextWord
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.carry.study import Carry
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.ticket.study import Ticket

BLIND = small_recipe(lr=1e-7, epochs=1)
STUDIES = {
    "map": Map(BLIND, seeds=3, reinit_at=(0,)),
    "advisers": Advisers(small_recipe(lr=1e-7, epochs=1, depth=2), seeds=3),
    "fraction": Fraction(BLIND, seeds=3, shares=(0.1,)),
    "classifier": Classifier(BLIND, seeds=3),
    "finetune": Finetune(small_recipe(lr=1e-7, epochs=1, shift="invert"), {"shift": "none", "lr": 1e-7}, seeds=3),
    "ticket": Ticket(BLIND, seeds=3, levels=1),
    "dimension": Dimension(BLIND, seeds=3, grid=(10,)),
}


@pytest.mark.parametrize("name", STUDIES)
def test_at_chance_nothing_is_judged(name, store):
    outcome = compute(STUDIES[name], store)
    assert {row.get("verdict") for row in outcome.rows} == {None}
    [answer] = outcome.answers
    assert answer.startswith("No verdicts: the baseline's ")
    assert "not surely better than" in answer


def test_carry_is_silent_on_the_target_that_did_not_learn(store):
    learns = small_recipe(epochs=3, shift="invert")
    outcome = compute(Carry((learns, BLIND), seeds=3, levels=1, rewind="0", controls=()), store)
    said, silent = outcome.said.sections
    assert said.answer.startswith("With ")
    assert {row["target"] for table in said.tables for row in table.rows} == {"digits invert, sgd:0.05"}
    assert silent.answer.startswith("No verdicts: the baseline's ")
    assert silent.shown == 0
    assert {row["target"] for table in silent.tables for row in table.rows} == {"digits, sgd:1e-07"}


def test_the_whole_interval_decides_from_two_seeds_on():
    learned = partial(BLIND.dataset.learned, Metric("accuracy"), 0.5)
    assert learned(None)
    assert learned(0.3)
    assert not learned(0.6)


def test_a_metric_beats_another_number_with_its_whole_interval():
    accuracy, perplexity = Metric("accuracy"), Metric("perplexity", more_is_better=False, share=False)
    assert [accuracy.beats(0.2, half, 0.1) for half in (0.05, 0.15, None)] == [True, False, True]
    assert [perplexity.beats(200, half, 300) for half in (50, 150, None)] == [True, False, True]


def test_the_best_constant_prediction():
    labels = torch.tensor([0, 1, 1, 2])
    assert Classification().constant(labels, labels, 3) == 0.5
    uniform = torch.arange(8)
    assert NextWord().constant(uniform, uniform, 8) == pytest.approx(8)
    assert NextWord().constant(torch.zeros(100, dtype=torch.int64), torch.zeros(10, dtype=torch.int64), 8) < 1.1
