"""What a store holds, told, cleaned, exported and merged by the commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pandas
import pytest
import torch
from helpers import small_recipe
from test_store import KEY
from torch import nn

from letitgo import weights
from letitgo.cli.main import run
from letitgo.execute.training import carry_out
from letitgo.plan import Choice, Initial, Run, reached
from letitgo.store import Store, claimed, open_store
from letitgo.store.addresses import MARK
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.train.study import Train

RECIPES = (small_recipe(widths="8", depth=2, epochs=1), small_recipe(widths="8", depth=2, epochs=1, seed=1))
STUDY = Train(RECIPES)
FROZEN = Train(RECIPES[:1], freeze=("fc1",))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Two studies, of two runs and one."""
    root = tmp_path_factory.mktemp("kept") / "store"
    for study in (STUDY, FROZEN):
        assert compute(study, root).failures == []
    return root


@pytest.fixture
def filled(kept, store) -> Store:
    shutil.copytree(kept, store.root, dirs_exist_ok=True)
    return store


@pytest.fixture
def told(capsys):
    def call(*arguments: str, code: int = 0) -> dict:
        assert run([*arguments, "--format", "json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def refused(capsys, *arguments: str, code: int = 2) -> str:
    assert run(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("letitgo: ")
    assert captured.err.count("\n") == 1
    return captured.err


def age(store: Store, hours: float = 2.0) -> None:
    """As if everything had been written some hours ago."""
    then = time.time() - hours * 3600
    for path in store.root.rglob("*"):
        os.utime(path, (then, then))


def addresses(study: Train) -> set[str]:
    return set(reached([value for stage in study.stages(Store("nowhere")) for value in stage]))


def there(store: Store) -> set[str]:
    return {e.path for e in store.files.walk() if e.path.partition("/")[0] not in ("claims", "studies")}


def test_runs_tells_what_there_is(filled, told, capsys):
    found = told("runs")
    assert (found["studies"], found["runs"], found["states"], found["measures"]) == (2, 3, 3, 6)
    assert found["bytes"] == sum(p.stat().st_size for p in filled.root.rglob("*") if p.is_file() and p.name != MARK)
    assert {(row["model"], row["seed"], row["frozen"]) for row in found["rows"]} == {
        ("fcn", 0, ""),
        ("fcn", 1, ""),
        ("fcn", 0, "fc1"),
    }
    assert [row["results"] for row in found["study_rows"]] == [3, 6]
    assert not any(row["under_way"] for row in found["study_rows"])
    run(["runs"])
    text = capsys.readouterr().out
    assert "2 studies, 3 runs with 3 states, 6 measures" in text
    assert all(row["key"][:12] in text for row in found["rows"])
    assert [row["data"] for row in found["study_rows"]] == ["digits", "digits"]
    assert {"widths=8", "depth=2", "epochs=1"} <= set(found["study_rows"][0]["recipe"].split())
    assert "under way" in text
    assert "_" not in text.partition("studies\n")[2].partition("\n")[0]


def test_runs_are_filtered_and_paged(filled, told, capsys):
    every = told("runs")["rows"]
    assert [row["seed"] for row in told("runs", "--where", "seed=1")["rows"]] == [1]
    assert told("runs", "--where", "seed=1", "--where", "batch-size=3")["rows"] == []
    pages = [told("runs", "--rows", "2", "--page", page)["rows"] for page in ("1", "2", "3")]
    assert pages == [every[:2], every[2:], []]
    study = next(row["key"] for row in told("runs")["study_rows"] if row["results"] == 3)
    assert [row["frozen"] for row in told("runs", "--study", study[:6])["rows"]] == ["fc1"]
    assert "give a field" in refused(capsys, "runs", "--where", "seed")
    assert "did you mean batch_size" in refused(capsys, "runs", "--where", "batchsize=3")
    run(["runs", "--where", "seed=77"])
    assert "no run on this page matches" in capsys.readouterr().out
    assert "page is 0" in refused(capsys, "runs", "--page", "0")


def test_a_store_that_is_not_there_is_a_bad_request(tmp_path, capsys):
    for command in (["runs"], ["show", "abcd"], ["clean"], ["export", str(tmp_path / "a.parquet")]):
        assert "there is no store at" in refused(capsys, *command, "--store", str(tmp_path / "none"))
    assert "there is no store at" in refused(capsys, "merge", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_show_follows_a_measure_to_its_start(filled, told, capsys):
    [value] = [value for value in next(FROZEN.stages(filled)) if value.split == "test"]
    found = told("show", value.key[:10])
    assert found["address"] == value.address
    assert found["result"] == value.result(filled)
    state = found["came_from"]["state"]
    assert state["at"] == FROZEN.run(RECIPES[0]).final.address
    assert state["run"]["start"]["kind"] == "Initial"
    assert "fc1.weight" not in state["run"]["trains"]
    assert found["versions"]["torch"]
    run(["show", value.key[:10]])
    assert f"at: {state['at']}" in capsys.readouterr().out


def test_show_tells_of_runs_and_studies(filled, told, capsys):
    final = STUDY.run(RECIPES[1]).final
    found = told("show", final.run.key)
    assert found["states"] == [final.address]
    assert found["recipe"]["seed"] == 1
    assert found["tensor_bytes"] == (filled.root / f"{final.address}.safetensors").stat().st_size
    study = told("runs")["study_rows"][0]
    assert told("show", study["key"])["results"] == study["results"]
    assert run(["show", final.run.key]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert not {"clip:", "model args:", "fit:"} & set(lines)
    assert any(re.fullmatch(r"seconds: [\d.]+ (s|min|h)", line) for line in lines)
    assert any(re.fullmatch(r"tensor bytes: [\d.]+ k?B", line) for line in lines)
    assert run(["show", study["key"]]) == 0
    assert "begun: just now" in capsys.readouterr().out
    assert "give at least the first four" in refused(capsys, "show", "ab")
    assert "is not in the store" in refused(capsys, "show", "0" * 20)


def test_searches_of_other_options_are_other_studies_and_keep_their_results(tmp_path, told, monkeypatch):
    recipe = small_recipe(widths="8", depth=1, batch_size=256, optimizer="adam", lr=0.05)
    store = Store(tmp_path / "searches")
    monkeypatch.setenv("LETITGO_STORE", str(store.root))
    shared = {"seeds": 1, "global_baseline": 0.0}
    asked = [{"grid": (20, 60)}, {"grid": (30, 40)}, {"max_d": 200}, {"max_d": 200, "kind": "sparse"}]
    studies = [Dimension((recipe,), **shared, **options) for options in asked]
    for study in studies:
        compute(study, store)
    rows = told("runs")["study_rows"]
    assert len({row["key"] for row in rows}) == len(studies)
    assert {row["options"] for row in rows} == {
        "global_baseline=0.0 grid=20,60 seeds=1",
        "global_baseline=0.0 grid=30,40 seeds=1",
        "global_baseline=0.0 max_d=200 seeds=1",
        "global_baseline=0.0 kind=sparse max_d=200 seeds=1",
    }
    age(store)
    before = there(store)
    told("clean", "--remove")
    assert there(store) == before
    for study in studies:
        compute(study, store)
    assert len(told("runs")["study_rows"]) == len(studies)


def test_clean_removes_nothing_that_a_study_lists(filled, told):
    age(filled)
    before = there(filled)
    told("clean", "--remove")
    assert there(filled) == before


def test_clean_removes_what_no_study_lists(filled, told):
    study = next(row["key"] for row in told("runs")["study_rows"] if row["results"] == 3)
    new = {f"{a}.json" for a in addresses(FROZEN)} | {f"{FROZEN.run(RECIPES[0]).final.address}.safetensors"}
    left = {f"damaged/evaluations/ab/{KEY}.json", f"evaluations/ab/.{KEY}.json.0123456789ab.partial"}
    for path in left:
        (filled.root / path).parent.mkdir(parents=True, exist_ok=True)
        (filled.root / path).write_text("?")
    age(filled)
    before = there(filled)
    dry = told("clean", "--study", study)
    assert there(filled) == before
    assert {row["what"]: row["files"] for row in dry["rows"]} == {
        "left_behind": 1,
        "damaged": 1,
        "unlisted": 4,
        "states": 0,
        "study": 1,
    }
    assert told("clean", "--study", study, "--remove")["rows"] == dry["rows"]
    assert before - there(filled) == new | left
    assert len(list(filled.under("studies"))) == 1
    assert compute(STUDY, filled).failures == []


def test_what_was_written_just_now_stays(filled, told):
    shutil.rmtree(filled.root / "studies")
    before = there(filled)
    told("clean", "--remove")
    assert there(filled) == before
    told("clean", "--remove", "--hours", "0")
    assert there(filled) == set()


def test_clean_leaves_a_study_under_way_alone(filled, told, capsys):
    key = told("runs")["study_rows"][0]["key"]
    age(filled)
    with claimed(filled, f"study-{key}-0e", "me"):
        assert any(row["under_way"] for row in told("runs")["study_rows"])
        assert "is under way" in refused(capsys, "clean", "--study", key)
        assert next(r["files"] for r in told("clean", "--states")["rows"] if r["what"] == "states") == 4
    assert next(r["files"] for r in told("clean", "--states")["rows"] if r["what"] == "states") == 6


def test_clean_leaves_a_run_under_way_alone(filled, told):
    shutil.rmtree(filled.root / "studies")
    run_key = STUDY.run(RECIPES[0]).final.run.key
    age(filled)
    with claimed(filled, run_key, "me"):
        told("clean", "--remove")
        assert {path.split("/")[2].partition(".")[0] for path in there(filled)} == {run_key}


def test_without_states_a_finished_study_keeps_its_table(filled, told):
    rows = compute(STUDY, filled).rows
    (filled.root / f"{next(iter(next(FROZEN.stages(filled)))).address}.json").unlink()  # that study is not finished
    age(filled)
    told("clean", "--states", "--remove")
    assert {p for p in there(filled) if p.endswith(".safetensors")} == {
        f"{FROZEN.run(RECIPES[0]).final.address}.safetensors"
    }
    assert compute(STUDY, filled).rows == rows


def test_a_study_whose_list_is_damaged_stops_clean(filled, capsys):
    path = next(filled.root.glob("studies/*.json"))
    path.write_bytes(path.read_bytes()[:-9])
    assert "start the study again" in refused(capsys, "clean")


def test_export_is_one_row_for_each_number(filled, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    target = tmp_path / "measures.parquet"
    assert run(["export", str(target)]) == 0
    frame = pandas.read_parquet(target)
    assert capsys.readouterr().out == f"{target}: {len(frame)} rows\n"
    assert len(frame) == 6 * 3
    for recipe in RECIPES:
        for split in ("train", "test"):
            value = STUDY.evaluations(recipe)[split]
            rows = frame[(frame.key == value.key)].set_index("name")
            found = {name: item for name, item in value.result(filled).items() if name != "correct"}
            assert rows.value.to_dict() == found
            assert set(rows.split) == {split}
            assert set(rows.seed) == {recipe.seed}
            assert set(rows.run) == {STUDY.run(recipe).final.run.key}
            assert set(rows.step) == {recipe.steps}
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == ["measures.parquet"]


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_other_libraries_read_the_table(library, filled, tmp_path):
    module = pytest.importorskip(library)
    assert run(["export", str(tmp_path / "a.parquet")]) == 0
    if library == "polars":
        assert module.read_parquet(tmp_path / "a.parquet").height == 18
    else:
        [[count]] = module.sql(f"SELECT count(*) FROM '{tmp_path / 'a.parquet'}' WHERE name = 'accuracy'").fetchall()
        assert count == 6


def test_export_to_nowhere_is_a_bad_request(filled, tmp_path, capsys):
    assert "cannot be written" in refused(capsys, "export", str(tmp_path / "no" / "a.parquet"))
    assert "is not the name of a Parquet file" in refused(capsys, "export", str(tmp_path / "a.csv"))


def test_merge_makes_one_store_of_two(filled, tmp_path, told):
    other = tmp_path / "other"
    compute(FROZEN, other)
    empty = open_store(tmp_path / "empty")
    for source, copied, present in ((other, 4, 0), (filled.root, 7, 4), (filled.root, 0, 11)):
        done = told("merge", str(source), "--store", str(empty.root))
        assert (done["copied"], done["present"]) == (copied, present)
        assert done["conflicts"] == done["damaged"] == {}
    assert there(empty) == there(filled)
    assert compute(STUDY, empty).rows == compute(STUDY, filled).rows


def test_conflicts_and_damage_are_named(filled, tmp_path, capsys):
    target = tmp_path / "target"
    shutil.copytree(filled.root, target)
    one, two = (STUDY.evaluations(recipe)["test"] for recipe in RECIPES)
    filled.write(one.address, one.key, {"result": {"accuracy": 2.0}, "versions": {"torch": "0"}})
    (filled.root / f"{two.address}.json").write_text("[]")
    state = STUDY.run(RECIPES[0]).final
    Store(target).remove(state.address)
    (filled.root / f"{state.address}.safetensors").write_bytes(b"")
    ours = Store(target).read(one.address, one.key)
    assert run(["merge", str(filled.root), "--store", str(target)]) == 1
    told = capsys.readouterr().err
    assert f"letitgo: conflict: {one.address}: its result differs (theirs by torch 0; ours by " in told
    assert f"letitgo: damaged: {two.address}: its record cannot be read" in told
    assert f"letitgo: damaged: {state.address}: its tensors are not the ones that were written" in told
    assert Store(target).read(one.address, one.key) == ours
    assert state.address not in Store(target)
    assert (filled.root / f"{two.address}.json").exists()
    assert "is the store itself" in refused(capsys, "merge", str(target), "--store", str(target))


def test_runs_in_a_subspace_are_not_told_as_frozen(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "store"))
    recipe = small_recipe(epochs=1)
    compute(Dimension((recipe,), seeds=1, grid=(5,), layers=("fc1",), global_baseline=0.0), tmp_path / "store")
    assert run(["runs", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["part"], "fc1" in row["frozen"], "fc2" in row["frozen"]) for row in rows} == {
        ("", False, False),
        ("", True, False),
        ("subspace", False, True),
    }


@dataclass(frozen=True, eq=False)
class EveryOther(Choice):
    """Every other value of a tensor."""

    name: str

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part:
        tensor = module.get_parameter(self.name)
        return weights.entries(module, {self.name: (torch.arange(tensor.numel()) % 2 == 0).view_as(tensor)})


def test_runs_names_a_choice_that_it_does_not_know(store, told):
    recipe = RECIPES[0]
    training = Run(Initial(recipe.network, 0), EveryOther("fc1.weight"), recipe)
    carry_out(training, store, [recipe.steps])
    (row,) = told("runs")["rows"]
    assert (row["part"], row["frozen"], row["begin"]) == ("everyother", "fc1 fc2 fc3", 0)


def test_records_without_a_summary_are_listed_with_blanks(filled, told, tmp_path, capsys):
    for final in (STUDY.run(recipe).final for recipe in RECIPES):
        body, tensors = final.record(filled), filled.read_tensors(final.address, final.key)
        filled.write(final.address, final.key, {name: body[name] for name in body if name != "summary"}, tensors)
    blank = [row for row in told("runs")["rows"] if row["frozen"] is None]
    assert len(blank) == 2
    assert all(row["part"] is row["begin"] is None and row["model"] == "fcn" for row in blank)
    assert run(["runs"]) == 0
    assert "–" in capsys.readouterr().out
    assert run(["export", str(tmp_path / "a.parquet")]) == 0
    rows = pandas.read_parquet(tmp_path / "a.parquet")
    assert set(rows[rows.frozen.isna()].run) == {STUDY.run(recipe).final.run.key for recipe in RECIPES}
    assert compute(STUDY, filled).rows == compute(STUDY, tmp_path / "anew").rows


def test_what_cannot_be_written_is_not_blamed_on_the_store(filled, capsys):
    assert "/proc/all.parquet cannot be written" in refused(capsys, "export", "/proc/all.parquet", code=1)
    assert refused(capsys, "merge", "/nowhere").endswith("there is no store at /nowhere: name another\n")
