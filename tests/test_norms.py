"""What studies make of the running statistics of norms: ``--statistics follow | frozen | re-estimate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import baseline, freezing, small_recipe

from letitgo.cli.main import run as letitgo
from letitgo.errors import BadRequest
from letitgo.plan import At, Estimated, Evaluation, Graft, Initial, RunningStatistics, estimated, reached, shared
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.sweep import sweep
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.weights import re_estimate

SMALL: dict[str, Any] = {"widths": "8", "depth": 1, "epochs": 1, "examples": 150, "batch_size": 50}
STUDIES: dict[str, Callable[..., Any]] = {
    "map": lambda recipes, **asked: Map(recipes[:1], seeds=1, draws=1, **asked),
    "train": lambda recipes, **asked: Train(recipes[:1], freeze=("*1",), **asked),
    "advisers": lambda recipes, **asked: Advisers(recipes[:1], seeds=2, by="module", layers=("*c*",), **asked),
    "finetune": lambda recipes, **asked: Finetune(recipes[:1], {"shift": "invert"}, seeds=1, **asked),
    "fraction": lambda recipes, **asked: Fraction(recipes[:1], seeds=1, shares=(0.5,), norms=("frozen",), **asked),
    "classifier": lambda recipes, **asked: Classifier(recipes[:1], seeds=1, **asked),
    "ticket": lambda recipes, **asked: Ticket(recipes[:1], seeds=1, levels=1, **asked),
    "carry": lambda recipes, **asked: Carry(recipes, seeds=1, levels=1, rewind="0", **asked),
    "dimension": lambda recipes, **asked: Dimension(recipes[:1], seeds=1, grid=(20,), layers=("fc1",), **asked),
    "align": lambda recipes, **asked: Align(recipes[:1], seeds=1, **asked),
}


def recipes(norm: bool) -> list[Recipe]:
    return sweep(**SMALL, model_args={"norm": True} if norm else {}, half=["a", "b"])


def values(study: Any, store: Store) -> dict[str, Any]:
    """All that a study asks for before any result is there, and what that rests on, by address."""
    return reached([value for stage in study.stages(store) for value in stage])


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("statistics", ["frozen", "re-estimate"])
def test_without_norms_no_key_changes(name, statistics, store):
    before, after = (STUDIES[name](recipes(norm=False), **asked) for asked in ({}, {"statistics": statistics}))
    assert values(before, store).keys() == values(after, store).keys()


@pytest.mark.parametrize("name", STUDIES)
def test_every_evaluation_of_a_study_is_re_estimated(name, store):
    study = STUDIES[name](recipes(norm=True), statistics="re-estimate")
    asked = [value for stage in study.stages(store) for value in stage]
    states = {value.state for value in asked if isinstance(value, Evaluation)}
    assert states
    assert all(isinstance(state, Estimated) for state in states)
    trained = {value for value in values(study, store).values() if isinstance(value, At)}
    follows = STUDIES[name](recipes(norm=True))
    assert trained == {value for value in values(follows, store).values() if isinstance(value, At)}


def test_re_estimated_accuracies_are_those_of_the_states(store):
    recipe = small_recipe(model="helpers:NormNet", widths=None, epochs=1)
    outcome = compute(
        Map((recipe,), seeds=1, layers=("fc1",), by="module", select="test", statistics="re-estimate"), store
    )
    assert not outcome.failures
    assert all(section.heading.endswith("statistics re-estimate") for section in outcome.said.sections)
    base, test = baseline(recipe), recipe.dataset.split("test")
    graft = Graft(base.final, recipe.network.layers["fc1"], base.at(0))
    found = {("baseline", None): base.final, ("frozen", 0): freezing(base, "fc1").final, ("reinitialised", 0): graft}
    for (what, epoch), state in found.items():
        module = state.module(store)
        lagging = recipe.dataset.task.evaluate(module, test)["accuracy"]
        re_estimate(module, RunningStatistics(state, recipe.dataset).batches(module))
        expected = recipe.dataset.task.evaluate(module, test)["accuracy"]
        [row] = [r for r in outcome.rows if (r["intervention"], r["epoch"]) == (what, epoch)]
        assert row["accuracy_mean"] == pytest.approx(expected)
        assert expected != lagging  # else this shows nothing


def test_statistics_come_from_the_same_random_training_inputs_for_all(monkeypatch):
    monkeypatch.setattr(estimated, "EXAMPLES", 1000)  # of 1,438
    recipe = Recipe(model="fcn", model_args={"norm": True}, widths="8")
    run = baseline(recipe)
    one, other = (RunningStatistics(state, recipe.dataset) for state in (run.start, run.final))
    module = recipe.network()
    batches = list(one.batches(module))
    assert sum(map(len, batches)) == 1000
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert all(map(torch.equal, batches, other.batches(module)))
    assert not torch.equal(batches[0], recipe.dataset.split("train").batch(slice(0, len(batches[0]))))


def test_what_re_estimating_takes_is_counted(store):
    recipe = recipes(norm=True)[0]
    [state] = {
        value.state
        for stage in Train((recipe,), statistics="re-estimate").stages(store)
        for value in stage
        if isinstance(value, Evaluation)
    }
    assert isinstance(state, Estimated)
    test = Evaluation(state, recipe.dataset, "test")
    assert state.statistics.cost() / 150 == test.cost() / len(recipe.dataset.split("test"))


def test_re_estimated_statistics_are_those_of_the_data():
    recipe = small_recipe(model="helpers:NormNet", widths=None)
    module, data = recipe.network().train(), recipe.dataset.split("train")
    inputs = data.batch(slice(None))
    modes = [part.training for part in module.modules()]
    re_estimate(module, [inputs])
    assert [part.training for part in module.modules()] == modes
    hidden = module.fc1(inputs.flatten(1))
    torch.testing.assert_close(module.norm1.running_mean, hidden.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module.norm1.running_var, hidden.var(0), atol=1e-3, rtol=1e-2)
    assert module.norm1.momentum == 0.1


@pytest.mark.parametrize("statistics", ["follow", "frozen"])
def test_statistics_of_a_norm_frozen_at_initialization(statistics, store):
    recipe = small_recipe(model="helpers:NormNet", widths=None, epochs=1)
    study = Train((recipe,), freeze=("norm1",), statistics=statistics)
    assert not compute(study, store).failures
    run, untouched = study.run(recipe), baseline(recipe).start.load(store)
    start, end = run.start.load(store), run.final.load(store)
    assert torch.equal(start["norm1.running_var"], end["norm1.running_var"]) == (statistics == "frozen")
    assert torch.equal(start["norm1.running_var"], untouched["norm1.running_var"]) == (statistics == "follow")
    assert torch.equal(start["norm2.running_var"], untouched["norm2.running_var"])
    assert not torch.equal(start["norm2.running_mean"], end["norm2.running_mean"])
    assert torch.equal(start["norm1.weight"], end["norm1.weight"])
    if statistics == "frozen":
        module = baseline(recipe).start.module(store)
        hidden = module.fc1(recipe.dataset.split("train").batch(slice(None)).flatten(1))
        torch.testing.assert_close(end["norm1.running_var"], hidden.var(0), atol=1e-3, rtol=1e-2)


def test_statistics_frozen_later_are_those_of_training(store):
    recipe = small_recipe(model="helpers:NormNet", widths=None, epochs=2)
    run = Train((recipe,), freeze=("norm1",), freeze_at=1, statistics="frozen").run(recipe)
    assert run.start == baseline(recipe).at_epoch(1)
    assert run.statistics == "frozen"


def test_a_deep_network_with_all_its_norms_frozen_trains(store):
    small: dict[str, Any] = {"fit": "3x32x32", "examples": 64, "test_examples": 64, "epochs": 1, "batch_size": 32}
    [recipe] = sweep(model="resnet20", data="digits", lr=0.01, **small)
    study = Train((recipe,), freeze=("*norm*", "conv1", "layer1*"), statistics="frozen")
    outcome = compute(study, store)
    assert not outcome.failures
    assert outcome.rows[0]["train_loss"] < 6


def test_evaluations_of_grafts_that_share_layers_give_the_same_bits(store, monkeypatch):
    [recipe] = sweep(model="resnet20", model_args={"width": 2}, fit="3x32x32", examples=10, test_examples=150, epochs=1)
    base, names = baseline(recipe).start, baseline(recipe).trains

    def graft(layer: str, seed: int) -> Evaluation:
        own = tuple(name for name in names if name.startswith(layer))
        return Evaluation(Graft(base, own, Initial(recipe.network, seed)), recipe.dataset, "test")

    asked = [graft(layer, seed) for layer in ("layer1.1", "layer3.0", "fc", "conv1", "layer2.1") for seed in (1, 2)]
    calls = []
    with torch.nn.modules.module.register_module_forward_hook(lambda part, *_: calls.append(type(part).__name__)):
        together = [one.compute(store) for one in asked]
    blocks = calls.count("Residual")
    shared.forget()
    monkeypatch.setattr(shared, "SHARED_BYTES", 0)
    assert together == [one.compute(store) for one in asked]
    # One block is run for both, then 8; then 5 more, then 3; then 2, then 1; all 9; 4 anew, then 5.
    once, each = 1 + 5 + 2 + 4, 8 + 3 + 1 + 9 + 5
    assert blocks == 2 * (once + 2 * each) + once  # in two batches, and on one example to see the size


def test_training_code_of_ones_own_has_no_inputs_to_take_statistics_from():
    with pytest.raises(BadRequest, match="re-estimate needs training inputs, which only the task 'own_tasks:Digits'"):
        Train((Recipe(task="own_tasks:Digits"),), statistics="re-estimate").check()


def test_the_old_flag_is_gone(capsys):
    assert letitgo(["map", "--re-estimate"]) != 0
    assert "Unknown option" in capsys.readouterr().err
