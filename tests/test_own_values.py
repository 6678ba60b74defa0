"""Values that are defined outside the package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from helpers import baseline, small_recipe

from letitgo.code import EditedSince
from letitgo.errors import BadRequest
from letitgo.execute import Executor
from letitgo.plan import Evaluation, Initial, Measure, Run, State, spelled_out
from letitgo.store import open_store
from letitgo.value import Value, dump, load

MINE = """
from dataclasses import dataclass

import torch

from letitgo import weights
from letitgo.plan import Choice, Measure, State


@dataclass(frozen=True, eq=False)
class Halved(State):
    of: State

    @property
    def network(self):
        return self.of.network

    def load(self, store):
        return {name: tensor / 2 for name, tensor in self.of.load(store).items()}


@dataclass(frozen=True, eq=False)
class FirstRow(Choice):
    def part(self, module, store=None):
        masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in module.named_parameters()}
        for mask in masks.values():
            mask[0] = True
        return weights.entries(module, masks)


@dataclass(frozen=True, eq=False)
class Evaluation(Measure):
    state: State

    def compute(self, store):
        return {"largest": max(float(tensor.abs().max()) for tensor in self.state.load(store).values())}
"""


@dataclass(frozen=True, eq=False)
class Where(Measure):
    state: State

    def compute(self, store, place):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"device": place.device, "threads": place.threads}


def test_one_that_runs_a_network_is_given_the_place(store):
    value = Where(Initial(small_recipe().network, 0))
    assert Executor(store).compute([value]) == []
    assert value.result(store) == {"device": "cpu", "threads": 1}


@pytest.fixture
def mine(tmp_path, monkeypatch) -> ModuleType:
    """A user's module, in the working directory."""
    return module(tmp_path, monkeypatch, "mine", MINE)


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> ModuleType:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def measures(mine: ModuleType) -> list[Measure]:
    recipe = small_recipe(epochs=1)
    run = Run(mine.Halved(Initial(recipe.network, 0)), mine.FirstRow(), recipe)
    return [mine.Evaluation(run.final), Evaluation(run.final, recipe.dataset, "test")]


def test_they_are_computed_by_workers_as_by_this_process(mine, tmp_path):
    results = []
    for workers in (0, 1):
        store = open_store(tmp_path / str(workers))
        assert Executor(store, workers).compute(measures(mine)) == []
        results.append([measure.result(store) for measure in measures(mine)])
    assert results[0] == results[1]
    assert results[0][0]["largest"] > 0
    assert results[0][1]["n"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_token")
def test_they_are_computed_on_ray(mine, tmp_path):
    from letitgo.execute.cluster import RayExecutor, disconnect

    here, there = open_store(tmp_path / "here"), open_store(tmp_path / "there")
    try:
        assert RayExecutor(there, workers=1).compute(measures(mine)) == []
    finally:
        disconnect()
    Executor(here).compute(measures(mine))
    assert [m.result(there) for m in measures(mine)] == [m.result(here) for m in measures(mine)]


def test_one_with_the_name_of_ours_stands_beside_it(mine):
    recipe = small_recipe()
    ours, theirs = Evaluation(baseline(recipe).final, recipe.dataset, "test"), mine.Evaluation(baseline(recipe).final)
    assert [type(value) for value in load(dump([ours, theirs]))] == [Evaluation, mine.Evaluation]
    assert (ours.description["kind"], theirs.description["kind"]) == ("Evaluation", "mine:Evaluation")
    assert spelled_out(theirs)["kind"] == "mine:Evaluation"
    assert (ours.address.split("/")[0], theirs.address.split("/")[0]) == ("evaluations", "mine.evaluations")


def test_editing_the_source_changes_the_key(mine):
    state = Initial(small_recipe().network, 0)
    before = mine.Halved(state).key
    assert mine.Halved(state).key == before
    Path("mine.py").write_text(MINE.replace("tensor / 2", "tensor / 3"))
    with pytest.warns(EditedSince, match=r"mine\.py was edited after it was imported"):
        assert mine.Halved(state).key == before  # this process still runs the code that it imported
    assert importlib.reload(mine).Halved(state).key != before


def test_editing_the_source_of_a_base_changes_the_key(mine, tmp_path, monkeypatch):
    text = "import mine\nclass Own(mine.Halved): ...\n"
    derived = module(tmp_path, monkeypatch, "derived", text)
    state = Initial(small_recipe().network, 0)
    before = derived.Own(state).key
    Path("mine.py").write_text(MINE.replace("tensor / 2", "tensor / 3"))
    importlib.reload(mine)
    assert importlib.reload(derived).Own(state).key != before


def test_a_worker_that_would_run_other_code_refuses(mine, store):
    values = measures(mine)
    Path("mine.py").write_text(MINE.replace("tensor / 2", "tensor / 3"))
    with pytest.warns(EditedSince):
        whys = [failure.why for failure in Executor(store, workers=1).compute(values)]
    assert any("the data, the code of the network or value, or letitgo itself is not the same" in why for why in whys)


def test_a_module_that_a_worker_does_not_find_is_named(mine, store):
    values = measures(mine)
    Path("mine.py").unlink()
    (failure,) = Executor(store, workers=1).compute(values)
    assert failure.why.startswith("the value 'mine:")
    assert "No module named 'mine'" in failure.why


def test_the_name_of_one_of_ours_cannot_be_taken():
    with pytest.raises(BadRequest, match=r"a value of kind Evaluation, which letitgo\.plan\.measures:Evaluation is"):
        type("Evaluation", (Measure,), {"__module__": "letitgo.elsewhere"})
    assert isinstance(
        load(dump([Evaluation(Initial(small_recipe().network, 0), small_recipe().dataset, "test")]))[0], Evaluation
    )


SCRIPT = """
import sys
{source}
from letitgo import Recipe
from letitgo.execute import Executor
from letitgo.plan import Initial
from letitgo.store import open_store
value = Evaluation(Halved(Initial(Recipe().network, 0)))
for workers in (0, 1):
    store = open_store(f"store{{workers}}")
    print([failure.why for failure in Executor(store, workers).compute([value])] or value.result(store)["largest"])
"""


def test_one_of_a_script_is_computed_in_its_process_alone(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(source=MINE))
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    here, worker = done.stdout.splitlines()
    assert float(here) > 0
    assert "is defined in the script or notebook that runs, so worker processes cannot import it: move it to" in worker


def test_one_without_a_source_file_is_refused(monkeypatch):
    cells = ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", cells)
    exec(compile(MINE, "<ipython-input-1-ab>", "exec"), vars(cells))
    with pytest.raises(BadRequest, match=r"^cells:Halved has no source file, .*: move it to a module"):
        cells.Halved(Initial(small_recipe().network, 0)).key  # noqa: B018


def test_one_of_a_function_does_not_travel():
    @dataclass(frozen=True, eq=False)
    class Local(State):
        pass

    with pytest.raises(BadRequest, match=r"Local is defined in a function or class, so worker processes cannot"):
        dump([Local()])


@pytest.mark.parametrize("field", ["kind", "code"])
def test_a_reserved_field_is_refused(field):
    class Reserved(Value):
        def fields(self):
            return {field: 1}

    with pytest.raises(BadRequest, match=f"has a field '{field}', which is reserved: give it another name"):
        Reserved().key  # noqa: B018
