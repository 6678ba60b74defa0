"""What a study took is what its records say."""

from __future__ import annotations

import pytest
from helpers import small_recipe

from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.outcome import of_unmoved, took
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.studies.usage import Usage

RECIPE = small_recipe(widths="8", depth=2)
WHOLE, LATE = Train((RECIPE,)), Train((RECIPE,), freeze=("fc1",), freeze_at=1)


def recorded(store: Store) -> float:
    found = [store.examine(e.path[:-5])["body"] for e in store.files.walk() if e.path.endswith(".json")]
    return sum(body.get("seconds", 0.0) for body in found)


def test_what_is_computed_is_told_with_its_machine(store):
    usage = compute(WHOLE, store).usage
    assert (usage.results, usage.stored, usage.saved, usage.shared) == (3, 0, 0.0, 0.0)
    assert sum(usage.core.values()) == pytest.approx(recorded(store))
    assert 0 < sum(usage.core.values()) <= usage.wall
    assert len(usage.core) == 1


def test_what_was_there_is_told_as_saved(store):
    compute(WHOLE, store)
    usage = compute(WHOLE, store).usage
    assert (usage.results, usage.stored, usage.core) == (3, 3, {})
    assert usage.saved == pytest.approx(recorded(store))


def test_a_run_that_begins_late_is_spared_the_way_there(store):
    usage = compute(LATE, store).usage
    base = LATE.run(RECIPE).start
    assert usage.shared == pytest.approx(base.record(store)["seconds"])
    assert usage.results == 4


@pytest.mark.parametrize("part", [{}, {"freeze": ("head",), "freeze_at": 1}])
def test_what_trained_and_did_not_move_is_named(store, part, capsys):
    study = Train((Recipe(model="helpers:Spare", epochs=2, batch_size=64),), **part)
    usage = compute(study, store).usage
    runs = 2 if part else 1
    assert (usage.trainings, usage.unmoved) == (runs, {"spare.weight": 1})
    assert compute(study, store).usage.unmoved == usage.unmoved
    assert of_unmoved(usage).startswith(f"trained and did not move: spare.weight in 1 of {runs} training run")
    assert "Trained and did not move: spare.weight" in took(usage)
    compute(study, store).show()
    assert "Trained and did not move: spare.weight" in capsys.readouterr().out


def test_what_training_code_of_ones_own_does_not_move_is_named(store):
    assert compute(Train((Recipe(task="own_tasks:Spare"),)), store).usage.unmoved == {"1.spare.weight": 1}


@pytest.mark.parametrize("some", [{"grid": (5,)}, {"grid": (5,), "layers": ("fc1",)}])
def test_what_moves_in_a_subspace_does_move(store, some):
    assert compute(Dimension(RECIPE, seeds=1, split="test", **some), store).usage.unmoved == {}


def test_single_weights_move_and_pruned_layers_need_not(store):
    assert compute(Ticket(RECIPE, seeds=1, levels=1, rates=(("fc1", 0.99),)), store).usage.unmoved == {}


def test_it_is_told_in_sentences():
    usage = Usage(10.0, {"a": 12.0, "b": 3.0}, 1200, 200, 7200.0, 300.0)
    assert took(usage) == (
        "Took 10 s, and 15 s of core time (a 12 s, b 3 s). "
        "200 of 1,200 results were in the store already, which saved 2.0 h of core time. "
        "Runs that start from another run's state saved 5 min of core time."
    )
    assert took(Usage(3.0, {}, 4, 4)).startswith("Took 3 s. 4 of 4 results")
    assert took(Usage()) == ""
