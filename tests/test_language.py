"""Text as data, and the next word as a task."""

from __future__ import annotations

import dataclasses
import json
import shlex
from math import exp, sqrt
from statistics import fmean
from typing import Any

import pytest
import torch
from helpers import baseline, bits, freezing
from torch.nn.functional import cross_entropy

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute.training import carry_out
from letitgo.plan import Evaluation
from letitgo.recipes import Recipe
from letitgo.recipes.data import open_data
from letitgo.recipes.steps import Half, HoldOut, Vocabulary
from letitgo.recipes.tasks import Classification, Metric, NextWord
from letitgo.report.numbers import decimal
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.statistics import verdict
from letitgo.studies.train.study import Train
from letitgo.weights import initial_state

TEXT = " ".join(f"the cat{i % 7} saw a dog{i * i % 11}." for i in range(1500))
TRAINING = round(0.9 * 6 * 1500)
"""Words of its training part."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def recipe(text):
    return Recipe(
        data=text, model="lstm", widths="8", vocabulary=24, epochs=1, batch_size=10, optimizer="adam", lr=0.03
    )


def test_words_are_numbered_by_their_frequency(text):
    data = open_data(text, Vocabulary(6))
    train = data.split("train").inputs.flatten()
    assert (data.classes, data.shape) == (6, (35,))
    assert set(train.tolist()) == set(range(6))
    assert len(train) == (TRAINING - 1) // 35 * 35
    counts = train.bincount()[1:]
    assert torch.equal(counts, counts.sort(descending=True).values)
    words = TEXT.replace(".", " .").split()[: len(train)]
    known = {"the", "saw", "a", ".", max(set(words) - {"the", "saw", "a", "."}, key=words.count)}
    assert (train == 0).sum() == sum(word not in known for word in words)


def test_windows_hold_the_text_in_order_and_labels_are_the_words_that_follow(text):
    data = open_data(text, Vocabulary(1000))
    words = TEXT.replace(".", " .").split()
    for name, part in (("train", words[:TRAINING]), ("test", words[TRAINING:])):
        split = data.split(name)
        inputs, labels = split.inputs.flatten(), split.labels.flatten()
        assert torch.equal(inputs[1:], labels[:-1])
        assert split.batch(slice(0, 2)).dtype == torch.int64
        numbers = dict(zip(part, inputs.tolist(), strict=False))
        assert [numbers[word] for word in part[: len(inputs)]] == inputs.tolist()


def test_a_text_is_known_by_its_words(text, tmp_path):
    (tmp_path / "other.txt").write_text(TEXT.replace(" ", "\n"))
    (tmp_path / "more.txt").write_text(TEXT + " more")
    assert open_data(text).key == open_data(str(tmp_path / "other.txt")).key
    assert open_data(text).key != open_data(str(tmp_path / "more.txt")).key
    assert open_data(text) == open_data(text, Vocabulary(1000)) != open_data(text, Vocabulary(999))
    assert open_data("python-manual").split("train").inputs.numel() > 50_000


def test_a_text_is_what_its_file_holds_now(tmp_path, monkeypatch):
    for place, words in (("A", TEXT), ("B", TEXT + " more")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "text.txt").write_text(words)
    monkeypatch.chdir(tmp_path / "A")
    first = open_data("text.txt")
    monkeypatch.chdir(tmp_path / "B")
    second = open_data("text.txt")
    (tmp_path / "A" / "text.txt").write_text(TEXT + " and more")
    assert len({first.key, second.key, open_data("../A/text.txt").key}) == 3
    with pytest.raises(BadRequest, match="have changed since they were opened"):
        first.split("train")


def test_the_data_decide_the_task(recipe):
    assert type(recipe.dataset.task) is NextWord
    assert type(Recipe().dataset.task) is Classification
    assert recipe.dataset.task.metric == Metric("perplexity", more_is_better=False, share=False)
    assert Recipe().dataset.task.metric == Metric("accuracy")


def test_perplexity_is_of_every_word_of_the_split(recipe, store):
    run = baseline(recipe)
    found = Evaluation(run.start, recipe.dataset, "test").compute(store)
    split, module = recipe.dataset.split("test"), run.start.module(store)
    with torch.no_grad():
        outputs = module(split.inputs).flatten(0, 1)
    loss = float(cross_entropy(outputs, split.labels.flatten()))
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["perplexity"] == pytest.approx(exp(loss), rel=1e-5)
    assert found["n"] == split.labels.numel()
    assert found["accuracy"] == float((outputs.argmax(1) == split.labels.flatten()).double().mean())
    assert found[recipe.dataset.task.metric.name] == found["perplexity"]


def test_a_language_model_learns_and_resumes_to_the_same_bits(recipe, store, tmp_path):
    run, steps = baseline(recipe), recipe.steps
    carry_out(run, store, [7])
    carry_out(run, Store(store.root), [steps])
    whole = Store(tmp_path / "whole")
    carry_out(run, whole, [steps])
    assert bits(run.final.load(store)) == bits(run.final.load(whole))
    before, after = (Evaluation(state, recipe.dataset, "test").compute(whole) for state in (run.start, run.final))
    assert after["perplexity"] < 0.8 * before["perplexity"]


def test_layers_of_a_language_model_freeze(recipe, store):
    run = freezing(baseline(recipe), "lstm")
    carry_out(run, store, [recipe.steps])
    before, after = bits(run.start.load(store)), bits(run.final.load(store))
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"embedding.weight", "classifier.weight", "classifier.bias"}


def test_halves_held_out_windows_and_noise_are_of_windows(text):
    data = open_data(text, Vocabulary(24), Half("a"), HoldOut(20))
    windows = (TRAINING - 1) // 35
    assert (len(data.split("train")), len(data.split("validation"))) == ((windows + 1) // 2 - 20, 20)
    own = {row.numpy().tobytes() for row in data.split("train").inputs}
    assert own <= {row.numpy().tobytes() for row in open_data(text, Vocabulary(24)).split("train").inputs}


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_outputs_differ_in_the_classifier_alone(text, kind):
    learned = Recipe(data=text, model="lstm", widths="8", vocabulary=50)
    tied = Recipe(data=text, model="lstm", widths="8", vocabulary=50, model_args={"tied": True})
    fixed = Recipe(
        data=text, model="fixed-classifier", widths="8", vocabulary=50, model_args={"network": "lstm", "kind": kind}
    )
    states = [bits(initial_state(recipe.network, 2)) for recipe in (learned, tied, fixed)]
    shared = [name for name in states[0] if not name.startswith("classifier")]
    assert len({tuple(state[name] for name in shared) for state in states}) == 1
    module = tied.network()
    assert module.classifier.weight is module.embedding.weight
    for recipe in (learned, tied, fixed):
        check_recipe(recipe)


def test_what_is_refused(text, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    for fields, sentence in (
        ({"data": str(tmp_path / "short.txt")}, "has 2 words: at least 360 are needed"),
        ({"data": str(tmp_path / "bytes.txt")}, "cannot be read .*: give a text file in UTF-8, or python-manual"),
        ({"data": text, "shift": "invert"}, "shift is for images: .* holds text"),
        ({"data": text, "fit": "1x8x8"}, "fit is for images: .* holds text"),
        ({"data": text, "pixels": "unit"}, "pixels is for images: .* holds text"),
        ({"vocabulary": 10}, "vocabulary is for text: 'digits' holds images"),
        ({"data": text}, "'fcn' does not take inputs of shape .*: RuntimeError: .*; for text give --model lstm"),
        ({"data": text, "model": "lstm", "widths": "8x8"}, "lstm takes one width, as in --widths 128: it was given 2"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            check_recipe(Recipe(**fields))


def test_the_program_trains_a_language_model(text, capsys):
    def letitgo(*options: str) -> Any:
        command = f"train --data {text} --model lstm --widths 8 --vocabulary 24 --epochs 1 --workers 0 --report none"
        assert run([*shlex.split(command), "--format", "json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    [row] = letitgo()["rows"]
    assert 0 < row["loss"] < 10
    plan = letitgo("--dry-run")["dry_run"]
    assert (plan["runs"], plan["runs_stored"], plan["measures_stored"]) == (1, 1, 2)


def test_the_study_of_classifiers_compares_perplexities(recipe, store):
    recipe = dataclasses.replace(recipe, epochs=2)
    study = Classifier(recipe, seeds=2, kinds=("hadamard", "frozen"), select="test")
    outcome = compute(study, store)
    assert not outcome.failures
    rows = {row["classifier"]: row for row in outcome.rows}
    [of] = study.subjects
    for kind, row in rows.items():
        found, learned = (
            [
                Evaluation.under(seeded, study.run(of, one, seeded).final, "test").result(store)["perplexity"]
                for seeded in of.seeds
            ]
            for one in (kind, "learned")
        )
        assert row["perplexity_mean"] == pytest.approx(fmean(found))
        rises = [own / base - 1 for own, base in zip(found, learned, strict=True)]
        assert row["drop_mean"] == pytest.approx(fmean(rises))
        assert row["verdict"] == (None if kind == "learned" else verdict(rises, study.tolerance / 100))
        assert row["n"] == 2
    assert rows["hadamard"]["scale"][0] == pytest.approx(1 / sqrt(24))
    [answer, *_] = outcome.answers
    assert answer.endswith(("within 0.3 per cent.", "more than 0.3 per cent.", "optimiser state is saved."))
    [table, _] = outcome.said.sections[0].tables
    assert [column.head for column in table.columns[:3]] == ["classifier", "test perplexity", "drop"]
    assert table.columns[1].cell(rows["frozen"]) == decimal(
        *(rows["frozen"][f"perplexity_{of}"] for of in ("mean", "ci95"))
    )
    assert any(line.startswith("Test perplexity: ") for line in outcome.answers)


def test_the_study_of_one_run_shows_perplexities_on_text(recipe, store):
    found = compute(Train([recipe, dataclasses.replace(recipe, lr=0.003)]), store)
    best = min(found.rows, key=lambda row: row["perplexity"])
    assert [row["perplexity"] for row in found.rows] == pytest.approx([exp(row["loss"]) for row in found.rows])
    reached = f"The best is {best['perplexity']:.2f} test perplexity, at lr {best['lr']}"
    assert found.answers == [f"{reached}: the test set chose it, which flatters it."]
    heads = [column.head for column in found.said.sections[0].tables[0].columns]
    assert {"test perplexity", "training perplexity"} <= set(heads)
    assert not {"test, %", "gap"} & set(heads)


def test_dimensions_on_text_are_reported(recipe, store):
    found = compute(Dimension(dataclasses.replace(recipe, iterations=30), seeds=1, grid=(10,), split="test"), store)
    assert not found.failures
    assert "dimensions" in found.answers[0]


def test_dimensions_on_text_need_a_network_that_learned(recipe, store):
    blind = dataclasses.replace(recipe, iterations=3, lr=1e-7)
    [answer] = compute(Dimension(blind, seeds=2, grid=(10,), split="test"), store).answers
    assert answer.startswith("No verdicts: the baseline's ")
    assert "accuracy" in answer
