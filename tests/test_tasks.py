"""Regression and the classification of sequences, losses and metrics, in every study."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers import small_recipe
from sklearn import metrics
from torch.nn import functional

from letitgo.errors import BadRequest, PartlyFailed
from letitgo.recipes import Recipe
from letitgo.recipes.metrics import _KNOWN, find_metric
from letitgo.recipes.splits import Split
from letitgo.recipes.tasks import Classification, Regression, best_constant, customised
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.check import check_recipe
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.weights import head, seeded

HERE = "test_tasks"


def prices():
    """Amounts that are a line of four features, far from zero."""
    inputs = torch.randn(300, 4)
    amounts = 500 + 80 * inputs[:, 0] - 40 * inputs[:, 1] + torch.randn(300)
    return (inputs[:200], amounts[:200]), (inputs[200:], amounts[200:])


def dearer():
    (inputs, amounts), test = prices()
    return (inputs, amounts + 100), (test[0], test[1] + 100)


def reviews():
    """Sequences of six tokens and padding, of the class that one of them tells."""
    tokens = torch.randint(4, 12, (200, 6))
    labels = torch.arange(200) % 2
    tokens[torch.arange(200), torch.randint(0, 3, (200,))] = 2 + labels
    tokens[::3, 4:] = 0
    return (tokens[:120], labels[:120]), (tokens[120:], labels[120:])


REGRESSION = Recipe(data=f"{HERE}:prices", widths="16", epochs=5, batch_size=20, schedule="constant", lr=0.05)
SEQUENCES = Recipe(
    data=f"{HERE}:reviews", model="transformer", widths="8", epochs=6, batch_size=20, optimizer="adam", lr=0.02
)
RECIPES = {"regression": REGRESSION, "sequences": SEQUENCES}


@dataclass(frozen=True, eq=False)
class Own(Classification):
    default_loss = ""


def mean_gap(predictions, labels):
    return (predictions - labels).abs().mean()


mean_gap.more_is_better = False


def silent(predictions, labels):
    return 0.0


def own_loss(outputs, labels, power=2):
    return (outputs - labels).abs() ** power


def fraction_off(predictions, labels):
    raise ValueError("no such number")


fraction_off.more_is_better = True


# In every study


@pytest.mark.parametrize("name", RECIPES)
def test_a_map(name, store):
    layers = tuple(RECIPES[name].network.layers)[:3]
    outcome = compute(Map(RECIPES[name], layers=layers, seeds=2, reinit_at=(0,), draws=1, select="test"), store)
    metric = RECIPES[name].dataset.task.metric
    base, *others = outcome.rows
    assert base[f"{metric.name}_mean"] > 0.8
    for row in others:
        assert row["n"] == 2
        gap = base[f"{metric.name}_mean"] - row[f"{metric.name}_mean"]
        assert row["drop_mean"] == pytest.approx(gap)
    assert {row["verdict"] for row in others} & {"robust", "critical"}
    assert f"% test {metric.name}" in " ".join(outcome.answers)
    assert "point" in outcome.answers[0]


STUDIES = {
    "finetune": lambda recipe: Finetune(recipe, {"epochs": 1}, seeds=2, select="test"),
    "fraction": lambda recipe: Fraction(recipe, seeds=1, shares=(0.5,), select="test"),
    "ticket": lambda recipe: Ticket(replace(recipe, validation=30), seeds=2, levels=1),
    "align": lambda recipe: Align(recipe, seeds=1),
    "train": Train,
}


@pytest.mark.parametrize(
    ("study", "name"), [*((study, "regression") for study in STUDIES), ("ticket", "sequences"), ("train", "sequences")]
)
@pytest.mark.usefixtures("svg_only")
def test_other_studies(study, name, store, tmp_path):
    outcome = compute(STUDIES[study](replace(RECIPES[name], epochs=2)), store)
    metric = RECIPES[name].dataset.task.metric.name
    assert not outcome.failures
    assert all(row.get(f"{metric}_mean", row.get(metric)) is not None for row in outcome.rows)
    outcome.report(tmp_path)
    page = next(tmp_path.glob("*.html")).read_text()
    assert f"test {metric}" in page or study == "align"
    if name == "regression":
        assert "accuracy" not in " ".join(outcome.answers)


@pytest.mark.usefixtures("all_learned")
@pytest.mark.parametrize("name", RECIPES)
def test_tickets_are_carried(name, store):
    recipe = replace(RECIPES[name], epochs=2)
    other = replace(recipe, lr=0.015)
    outcome = compute(Carry((recipe, other), seeds=2, levels=1, rewind="0"), store)
    metric = recipe.dataset.task.metric.name
    for row in outcome.rows:
        assert row[f"{metric}_mean"] is not None
    assert outcome.answers[0].startswith("With ")


def test_sequences_have_a_classifier_and_a_dimension(store):
    dimension = Dimension(SEQUENCES, seeds=1, grid=(50,), split="test")
    for study in (Classifier(SEQUENCES, seeds=2, kinds=("frozen",), select="test"), dimension):
        assert not compute(study, store).failures


def test_a_regression_has_neither(store):
    with pytest.raises(BadRequest, match="classifier is about classes"):
        compute(Classifier(REGRESSION, seeds=2), store)
    with pytest.raises(BadRequest, match="dimension searches for a share of the baseline's accuracy"):
        compute(Dimension(REGRESSION, seeds=2, grid=(10,)), store)


def test_an_error_is_judged_in_per_cent(store):
    recipe = Recipe(**{**REGRESSION.fields(), "metric": "rmse"})
    outcome = compute(Map(recipe, seeds=2, reinit_at=(0,), draws=1, select="test"), store)
    base, *others = outcome.rows
    assert base["rmse_mean"] < 40  # in the units of the data
    for row in others:
        assert (row["drop_mean"] > 0) == (row["rmse_mean"] > base["rmse_mean"])
    assert "per cent" in outcome.answers[0]
    other = Recipe(**{**recipe.fields(), "lr": 0.03})
    for study in (Ticket(recipe, seeds=2, levels=1), Carry((recipe, other), seeds=2, levels=1)):
        with pytest.raises(BadRequest, match="compares shares, such as an accuracy or r2: rmse is none"):
            compute(study, store)


def test_a_regression_that_learned_nothing_gets_no_verdict(store):
    blind = Recipe(**{**REGRESSION.fields(), "lr": 1e-7, "epochs": 1})
    outcome = compute(Map(blind, seeds=3, reinit_at=(0,), draws=1, select="test"), store)
    assert outcome.answers[0].startswith("No verdicts: the baseline's ")


# Tasks, losses and metrics


def test_another_scale_of_amounts_is_learned_alike():
    one, other = (Recipe(**{**REGRESSION.fields(), "data": f"{HERE}:{make}"}) for make in ("prices", "dearer"))
    labels = [recipe.dataset.split("train").labels for recipe in (one, other)]
    torch.testing.assert_close(*labels, atol=1e-5, rtol=0)
    assert one.key != other.key


def evaluated(task, outputs, labels):
    """The evaluation of a network whose outputs are given."""
    split = Split(outputs, labels)
    return task.evaluate(torch.nn.Identity(), split)


AMOUNTS = torch.randn(50, generator=torch.Generator().manual_seed(0))
GUESSES = (AMOUNTS + 0.3 * AMOUNTS.roll(1)).view(50, 1)
LABELS = torch.arange(60) % 3
LOGITS = functional.one_hot(LABELS.where(torch.arange(60) % 4 > 0, 0), 3).float()


@pytest.mark.parametrize("name", _KNOWN)
def test_metrics_are_those_of_scikit_learn(name):
    function, args, better, share, labels = _KNOWN[name]
    task = customised(Regression() if labels == "amounts" else Classification(), None, {}, name)
    outputs, truth = (GUESSES, AMOUNTS) if labels == "amounts" else (LOGITS, LABELS)
    predicted = outputs[:, 0] if labels == "amounts" else outputs.argmax(-1)
    expected = getattr(metrics, function)(truth.numpy(), predicted.numpy(), **args)
    found = evaluated(task, outputs, truth)
    assert found[name] == pytest.approx(expected)
    assert (task.metric.more_is_better, task.metric.share) == (better, share)
    assert ("correct" in found) == (name == "accuracy")
    assert ("accuracy" in found) == (labels == "classes")


@pytest.mark.parametrize("loss", ["nll_loss", "multi_margin_loss"])
def test_losses_of_classes_are_those_of_torch(loss):
    task = customised(Classification(), loss, {}, None)
    assert task.loss(LOGITS, LABELS) == pytest.approx(float(getattr(functional, loss)(LOGITS, LABELS)))
    assert evaluated(task, LOGITS, LABELS)["loss"] == pytest.approx(float(task.loss(LOGITS, LABELS)))


@pytest.mark.parametrize("loss", ["mse_loss", "huber_loss", "binary_cross_entropy_with_logits"])
def test_losses_of_amounts_take_classes_as_ones_and_zeros(loss):
    task = customised(Classification(), loss, {}, None)
    expected = getattr(functional, loss)(LOGITS, functional.one_hot(LABELS, 3).float())
    assert task.loss(LOGITS, LABELS) == pytest.approx(float(expected))
    assert evaluated(task, LOGITS, LABELS)["loss"] == pytest.approx(float(expected))


def test_arguments_of_losses():
    smooth = customised(Classification(), None, {"label_smoothing": 0.1}, None)
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    assert smooth.loss(LOGITS, LABELS) == pytest.approx(float(expected))
    robust = customised(Regression(), "huber_loss", {"delta": 0.1}, None)
    expected = functional.huber_loss(GUESSES[:, 0], AMOUNTS, delta=0.1)
    assert robust.loss(GUESSES, AMOUNTS) == pytest.approx(float(expected))


def test_the_own_loss_and_metric_of_a_task_change_nothing():
    assert customised(Classification(), "cross_entropy", {}, "accuracy") == Classification()
    assert customised(Regression(), "mse_loss", {}, "r2") == Regression()
    assert Recipe(loss="cross_entropy", metric="accuracy", task="classification").key == Recipe().key


def test_a_loss_and_a_metric_of_ones_own(store):
    recipe = Recipe(**{**REGRESSION.fields(), "loss": f"{HERE}:own_loss", "metric": f"{HERE}:mean_gap"})
    [row] = compute(Train(recipe), store).rows
    assert 0 < row["mean_gap"] < 60
    task = recipe.dataset.task
    assert HERE in task.code
    assert task.loss(GUESSES, AMOUNTS) == pytest.approx(float(functional.mse_loss(GUESSES[:, 0], AMOUNTS)))
    other = Recipe(**{**recipe.fields(), "loss_args": {"power": 1}})
    assert other.key != recipe.key
    assert other.dataset.task.loss(GUESSES, AMOUNTS) == pytest.approx(float(functional.l1_loss(GUESSES[:, 0], AMOUNTS)))


REFUSED = {
    "silent": ({"metric": f"{HERE}:silent"}, "does not say which direction is better: set silent.more_is_better"),
    "not there": ({"metric": f"{HERE}:none"}, "the metric 'test_tasks:none' does not import"),
    "unknown": ({"metric": "rmsd"}, "unknown metric 'rmsd': did you mean rmse"),
    "a loss": ({"loss": "huber"}, r"unknown loss 'huber': did you mean huber_loss\?"),
    "a loss of one's own": ({"loss": f"{HERE}:none"}, "the loss 'test_tasks:none' does not import"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_or_metric(name):
    fields, said = REFUSED[name]
    with pytest.raises(BadRequest, match=said):
        Recipe(**{**REGRESSION.fields(), **fields}).dataset  # noqa: B018


def test_arguments_that_a_loss_does_not_take_are_refused_before_training(store):
    recipe = Recipe(**{**REGRESSION.fields(), "loss_args": {"delta": 1.0}})
    with pytest.raises(BadRequest, match="unexpected keyword argument 'delta'"):
        compute(Train(recipe), store)


def test_a_metric_that_raises_is_named(store):
    recipe = Recipe(**{**REGRESSION.fields(), "metric": f"{HERE}:fraction_off", "epochs": 1})
    with pytest.warns(PartlyFailed, match="the metric 'fraction_off' raises ValueError: no such number"):
        compute(Train(recipe), store)


def test_a_task_of_ones_own_says_its_loss_itself():
    with pytest.raises(BadRequest, match="loss and metric are for the tasks that are built in"):
        Recipe(task=f"{HERE}:Own", metric="f1_macro").dataset  # noqa: B018


def test_the_best_constants():
    train, test = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 9.0])
    for name in ("r2", "rmse", "mae"):
        metric, judge = find_metric(name)
        values = [float(judge(torch.full((4,), guess), test)) for guess in (3.0, 0.0)]
        assert best_constant(judge, metric, train, test) == (max(values) if metric.more_is_better else min(values))
    metric, judge = find_metric("balanced_accuracy")
    many = torch.arange(3000) % 3
    assert best_constant(judge, metric, many, many) == pytest.approx(1 / 3, abs=0.01)
    assert math.isclose(REGRESSION.dataset.constant(REGRESSION.dataset.task.metric), 0, abs_tol=0.1)


# The network for sequences


def test_padding_changes_no_answer():
    module = seeded(SEQUENCES.network, 0).eval()
    tokens = torch.tensor([[5, 6, 7, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    other = module.state_dict()["places.weight"].clone()
    outputs = module(tokens)
    module.state_dict()["places.weight"][3:] = 99.0
    torch.testing.assert_close(module(tokens), outputs)
    assert torch.isfinite(outputs).all()
    module.state_dict()["places.weight"].copy_(other)
    assert not torch.allclose(module(torch.tensor([[5, 6, 7, 8, 0, 0]])), outputs[0])


def test_training_and_evaluation_agree():
    module, tokens = seeded(SEQUENCES.network, 0), SEQUENCES.dataset.sample
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(tokens), module.train()(tokens))


def test_the_network_for_sequences_has_a_head_and_blocks():
    network = SEQUENCES.network
    assert network.args["vocab_size"] == SEQUENCES.dataset.vocabulary == 12
    assert head(network()) == "classifier"
    sizes = {name: int(np.prod(tensor.shape)) for name, tensor in network().named_parameters()}
    assert sizes["tokens.weight"] == 12 * 8


def test_networks_that_do_not_fit_name_one_that_does(store):
    for recipe, said in (
        (Recipe(data=f"{HERE}:reviews"), "for tokens give --model transformer"),
        (Recipe(data=f"{HERE}:prices", model="resnet20"), "resnet20"),
        (Recipe(**{**SEQUENCES.fields(), "widths": "6"}), "transformer takes one width that 4 heads divide"),
    ):
        with pytest.raises(BadRequest, match=said):
            compute(Train(recipe), store)


def test_recipes_that_are_judged_by_two_metrics_are_refused_before_training(store):
    recipes = [Recipe(epochs=1, widths="8", metric=metric) for metric in ("accuracy", "f1_macro")]
    with pytest.raises(BadRequest, match="judged by accuracy and f1_macro, which do not compare"):
        compute(Train(recipes), store, workers=0)


def test_the_gap_is_in_the_metric_that_judges(store):
    [row] = compute(Train(Recipe(epochs=1, widths="8", metric="f1_macro")), store, workers=0).rows
    assert row["gap"] == row["train_f1_macro"] - row["f1_macro"] != row["train_accuracy"] - row["accuracy"]


def test_no_run_is_the_best_of_different_data(store, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    study = Train([Recipe(data=name, epochs=1, widths="8") for name in ("digits", str(table))])
    [answer] = compute(study, store, workers=0).answers
    assert answer == "Runs on different data do not compare: see the table."


def no_number(outputs, labels):
    return [0.5]


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("test_tasks:no_number", "the loss 'test_tasks:no_number' gives list: it has to give a tensor"),
        ("test_tasks:fraction_off", "the loss 'test_tasks:fraction_off' cannot be computed for two examples of digits"),
    ],
)
def test_a_loss_that_gives_no_number_is_named(loss, says):
    with pytest.raises(BadRequest, match=says):
        check_recipe(small_recipe(loss=loss))
