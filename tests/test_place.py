from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from helpers import baseline, small_recipe
from torch import nn

import letitgo
from letitgo import Evaluation, Executor, Place
from letitgo.errors import BadRequest
from letitgo.execute.cluster import RayExecutor
from letitgo.execute.jobs import measure, plan_jobs
from letitgo.execute.training import carry_out
from letitgo.plan import Measure
from letitgo.recipes.batches import Batches
from letitgo.store import Store
from letitgo.studies.train.study import Train
from letitgo.training import CPU

TWO = Place(threads=2)


@dataclass(frozen=True, eq=False)
class Threads(Measure):
    """The place and the number of threads that a measure gets."""

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        return {"place": asdict(place), "threads": torch.get_num_threads()}


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_a_number_of_threads_below_one_is_refused(threads):
    with pytest.raises(BadRequest, match="threads is"):
        Place(threads=threads)


def test_training_runs_on_the_threads_of_its_place_and_gives_them_back(store):
    run, seen = baseline(small_recipe()), []
    for place in (TWO, CPU):
        carry_out(run, store, [len(seen) + 1], place, on_step=lambda _: seen.append(torch.get_num_threads()))
    assert seen == [2, 1]
    assert torch.get_num_threads() == 1


def test_a_measure_gets_its_place_and_the_threads_of_it(store):
    measure(Threads(), store, TWO)
    assert Threads().result(store) == {"place": asdict(TWO), "threads": 2}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_the_place_is_in_every_record_and_in_no_key(store, workers):
    recipe = small_recipe(epochs=1)
    final = baseline(recipe).final
    values = [final, Evaluation(final, recipe.dataset, "test")]
    assert Executor(store, workers, place=TWO).compute(values) == []
    assert [value.record(store)["place"] for value in values] == [{"device": "cpu", "threads": 2}] * 2
    assert plan_jobs(values, store) == []  # another place would ask for the same results


def test_a_study_is_computed_at_its_place(store):
    study = Train((small_recipe(epochs=1),))
    letitgo.compute(study, store, place=TWO)
    places = [value.record(store)["place"] for values in study.stages(store) for value in values]
    assert places
    assert all(place == asdict(TWO) for place in places)


def test_a_job_on_a_cluster_reserves_the_threads_of_its_place_and_is_sent_there(store):
    executor = RayExecutor(store, place=TWO)
    (job,) = plan_jobs([baseline(small_recipe()).final], store)
    assert executor.needs_of(job)["num_cpus"] == 2
    assert executor.request(job)["place"] == asdict(TWO)


def test_a_place_allows_deterministic_algorithms_alone_and_gives_the_mode_back():
    def put():
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"), CPU.entered():
        put()
    put()
    assert torch.get_deterministic_debug_mode() == 0


def test_batches_are_on_the_device_they_are_made_for():
    batches = Batches(small_recipe(label_noise=0.5), "meta")
    after = batches.after(nn.Flatten(), 2**30)
    assert after is not None
    for item in (*batches.at(1), *after.at(1)):
        assert item.device.type == "meta"
