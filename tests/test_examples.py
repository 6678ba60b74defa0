"""Every example in ``examples/`` is mapped and fine-tuned."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.studies.compute import compute
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.map.study import Map
from letitgo.studies.ticket.study import Ticket

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = {
    "plain_loop": ("Inverted", "Digits"),
    "bert_trainer": ("Topics", "OtherTopics"),
    "lightning_images": ("Noisy", "Images"),
    "regression": ("Diabetes", "Others"),
}
BLOCKS = {"bert_trainer": ("bert.encoder.layer.*", "bert.embeddings")}
SHORT = {"bert_trainer": ("OtherTopics", (24, 5)), "lightning_images": ("Images", (1,))}
"""Defaults of a task's own arguments that make training short."""


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_an_example_is_mapped_and_fine_tuned(name, tmp_path, store, monkeypatch):
    if name in SHORT:
        task, defaults = SHORT[name]
        monkeypatch.setattr(getattr(importlib.import_module(name), task).__init__, "__defaults__", defaults)
    after, before = (f"{name}:{task}" for task in TASKS[name])
    blocks = BLOCKS.get(name, ())
    mapped = compute(Map(Recipe(task=before), seeds=1, reinit_at=(0,), draws=1, blocks=blocks), store)
    assert not mapped.failures
    tuned = compute(Finetune(Recipe(task=after), before, seeds=1, blocks=blocks), store)
    assert not tuned.failures
    assert sum(row["recommended"] for row in tuned.rows) == 1
    tuned.show()
    if name == "regression":  # figures are drawn of one alone: it takes seconds
        tuned.report(tmp_path)


@pytest.mark.parametrize("name", ["plain_loop", "lightning_images"])
def test_an_example_finds_tickets(name, store):
    outcome = compute(Ticket(Recipe(task=f"{name}:{TASKS[name][1]}"), seeds=1, levels=1, variants=()), store)
    assert not outcome.failures
    whole, ticket = outcome.rows
    assert whole["weights_left"] > ticket["weights_left"]


def test_a_checkpoint_of_a_plain_loop_is_fine_tuned(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, EXAMPLES / "plain_loop.py"], check=True)
    outcome = compute(
        Finetune(Recipe(task="plain_loop:Inverted"), "digits.pt", keep="plain_loop:Digits", seeds=1), store
    )
    untrained, full, *_ = outcome.rows
    assert untrained["test_before_mean"] > 0.8 > full["test_before_mean"] + 0.1  # fine-tuning forgets
    for row in (untrained, full):
        assert row["old_accuracy_mean"] == row["test_before_mean"]
    assert full["accuracy_mean"] > untrained["accuracy_mean"]
    with pytest.raises(
        BadRequest, match="keep is 'digits': 'plain_loop:Inverted' trains with its own code, so name an"
    ):
        Finetune(Recipe(task="plain_loop:Inverted"), "digits.pt", keep="digits").check()
    assert any(sentence.startswith("Test before: ") for sentence in outcome.answers)
