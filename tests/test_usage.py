"""What a study took is what its records say."""

from __future__ import annotations

import pytest
from helpers import small_recipe

from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.outcome import took
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


def test_it_is_told_in_sentences():
    usage = Usage(10.0, {"a": 12.0, "b": 3.0}, 1200, 200, 7200.0, 300.0)
    assert took(usage) == (
        "Took 10 s, and 15 s of core time (a 12 s, b 3 s). "
        "200 of 1,200 results were in the store already, which saved 2.0 h of core time. "
        "Runs that start from another run's state saved 5 min of core time."
    )
    assert took(Usage(3.0, {}, 4, 4)).startswith("Took 3 s. 4 of 4 results")
    assert took(Usage()) == ""
