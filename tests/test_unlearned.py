"""A baseline that has not learned gets no verdicts and no advice."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import small_recipe
from torch import nn

from letitgo.recipes import Recipe
from letitgo.recipes.metrics import find_metric
from letitgo.recipes.tasks import Classification, Metric, NextWord, best_constant
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.carry.study import Carry
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.sweep import sweep
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


def test_a_sweep_says_where_there_are_no_verdicts(store):
    recipes = sweep(widths="8", depth=1, epochs=3, batch_size=32, optimizer="adam", lr=[0.02, 1e-7])
    answer = compute(Map(recipes, seeds=3, reinit_at=(0,), draws=1), store).answers[0]
    assert "at 0.02, no verdicts at 1e-07." in answer


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


def test_a_guess_ignores_the_inputs_too():
    """Ten classes: a constant has a macro F1 of 0.018, a guess one of 0.1."""
    metric, judge = find_metric("f1_macro")
    labels = torch.arange(1000) % 10
    assert best_constant(judge, metric, labels, labels) == pytest.approx(0.1, abs=0.01)
    guesses = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(1))
    assert float(judge(guesses, labels)) > 4 * float(judge(torch.zeros_like(labels), labels))


def test_under_a_macro_averaged_metric_an_untrained_network_is_not_judged(store):
    blind = small_recipe(lr=1e-7, epochs=1, widths="32x32", metric="f1_macro")
    outcome = compute(Map(blind, seeds=8, freeze_at=(0,), reinit_at=(), draws=1), store)
    assert outcome.answers[0].startswith("No verdicts: the baseline's ")


class Cut(nn.Module):
    """No gradient reaches its first layer."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(inputs.flatten(1)).relu().detach())


def test_a_layer_that_never_moves_has_no_verdict(store):
    cut = Recipe(model="test_unlearned:Cut", optimizer="adam", lr=0.02, epochs=10)
    outcome = compute(Map(cut, seeds=3, reinit_at=(0,), tolerance=90.0, draws=1), store)
    verdicts = {(row["layer"], row["intervention"]): row["verdict"] for row in outcome.rows}
    assert verdicts["first", "frozen"] is verdicts["first", "reinitialised"] is None
    assert verdicts["first", "rerandomised"] == verdicts["last", "frozen"] == "robust"
    assert "first" not in outcome.answers[0]
