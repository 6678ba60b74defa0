"""Keys are functions of what changes the result, and of nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import baseline, freezing, pictures, python, small_recipe, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from letitgo.errors import BadRequest
from letitgo.plan import Distance, Evaluation, Graft, Initial, Run, stored_inputs
from letitgo.recipes import Recipe
from letitgo.recipes.data import Data, open_data
from letitgo.recipes.networks import Network
from letitgo.recipes.tasks import Classification, NextWord, unpacked
from letitgo.store import Store
from letitgo.value import Value, canonical, derive, dump, load

NETWORK = Network("fcn", {"input_shape": [1, 8, 8], "num_classes": 10})


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (NETWORK, "ab32e902a16f98175fcf85a897ffd08329133e462d976ed9f92700e54b6eaf07"),
        (Initial(NETWORK, 0), "fcbbf5c7452b8997d6669d7f522ca94501a4c46e09078f80ca087fe8158c2b07"),
        (
            Graft(Initial(NETWORK, 0), ("fc1.weight",), Initial(NETWORK, 1)),
            "bef12c1a7c052ba9959b60d252239d067fbbf86d3fdf354a8e5428580c05f033",
        ),
        (Data("anywhere", "00"), "9f88a82fd0d6e348b089a8368c29dfbe84c5035753915b9dcf23fcd013cef78a"),
        (
            small_recipe(
                shift="noise", half="b", examples=100, seed=3, fit="3x10x7", pixels="unit", validation=50
            ).dataset,
            "a9317a4379ab52a4ad1c21fca8eda5b8d03a6373636ca32fedc8b86526123140",
        ),
    ],
)
def test_keys_are_what_they_have_always_been(value, key):
    assert value.key == key


def test_derived_seeds_are_what_they_have_always_been():
    assert derive(0, "order", 1) == 2961819992523135983


@given(parts=st.lists(st.one_of(st.integers(), st.text(alphabet="abc")), min_size=1, max_size=3))
def test_derived_seeds_fit_a_generator(parts):
    assert 0 <= derive(*parts) < 2**63


def other_fields(folder: str) -> dict[str, Any]:
    """For every field of a recipe a value that changes the result."""
    return {
        "model": "lenet-300-100",
        "widths": "32",
        "depth": 2,
        "model_args": {"widths": [5]},
        "data": folder,
        "task": "regression",
        "loss": "multi_margin_loss",
        "loss_args": {"label_smoothing": 0.1},
        "metric": "f1_macro",
        "target": "good",
        "text": "other",
        "length": 1,
        "shift": "invert",
        "examples": 5,
        "test_examples": 2,
        "half": "a",
        "fit": "1x10x10",
        "pixels": "unit",
        "vocabulary": 24,
        "validation": 5,
        "augment": "flip",
        "label_noise": 0.1,
        "optimizer": "adam",
        "lr": 0.123,
        "momentum": 0.123,
        "weight_decay": 0.123,
        "decay": "weights",
        "nesterov": True,
        "optimizer_args": {"dampening": 0.1},
        "clip": 1.0,
        "schedule": "cosine",
        "warmup": "3it",
        "epochs": 3,
        "iterations": 359,
        "batch_size": 7,
        "precision": "bf16",
        "memory_format": "channels-last",
        "seed": 1,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    return write_dataset(path, {"train": (pictures(6), [0, 1, 2] * 2), "test": (pictures(3, seed=1), [0, 1, 2])})


def test_every_field_of_a_recipe_changes_the_key(folder):
    others = other_fields(str(folder))
    assert set(others) == {field.name for field in dataclasses.fields(Recipe)}
    of_words = {name: others.pop(name) for name in ("vocabulary", "target", "text", "length")}
    keys = {name: Recipe(**{name: value}).key for name, value in others.items()}
    keys["none"] = Recipe().key
    keys["vocabulary"], keys["words"] = (Recipe(data="python-manual", vocabulary=words).key for words in (24, None))
    table = Path(folder).with_name("table.jsonl")
    lines = [{"text": f"word {i}", "other": f"{i} words", "good": i % 2, "label": i % 3} for i in range(20)]
    table.write_text("\n".join(map(json.dumps, lines)))
    keys["table"] = Recipe(data=str(table)).key
    keys |= {name: Recipe(data=str(table), **{name: of_words[name]}).key for name in ("target", "text", "length")}
    assert len(set(keys.values())) == len(keys), keys


def test_equal_descriptions_have_equal_keys():
    assert Recipe() == Recipe()
    assert Recipe(optimizer="SGD").key == Recipe(optimizer="sgd").key
    assert Recipe(lr=1).key == Recipe(lr=1.0).key
    assert Recipe(model_args={"depth": 2, "widths": [3]}).key == Recipe(model_args={"widths": [3], "depth": 2}).key
    assert Recipe(widths="3x4").key == Recipe(model_args={"widths": [3, 4]}).key
    assert Recipe(widths="3x4").key == Recipe(model_args={"widths": (3, 4)}).key
    assert len({Recipe(), Recipe(), Recipe(seed=1)}) == 2


def test_every_field_of_a_run_changes_the_key():
    base = baseline(small_recipe())
    run = Run(base.at(1), base.trains, base.recipe)
    others = {
        "start": Initial(run.recipe.network, 1),
        "trains": run.trains[1:],
        "recipe": small_recipe(seed=1),
        "begin": 1,
        "resume": True,
        "statistics": "frozen",
        "again": 1,
    }
    assert set(others) == {field.name for field in dataclasses.fields(Run)}
    keys = {run.key, *(Run(**{**run.fields(), name: value}).key for name, value in others.items())}
    assert len(keys) == len(others) + 1


def test_a_run_resumes_only_from_a_point_of_a_run():
    base = baseline(small_recipe())
    with pytest.raises(BadRequest, match="can resume only from a point of another run"):
        Run(base.start, base.trains, base.recipe, resume=True)


def test_every_field_of_a_measure_changes_the_key(folder):
    run = baseline(small_recipe())
    evaluation = Evaluation(run.final, run.recipe.dataset, "train")
    others = {
        "state": run.start,
        "dataset": open_data(str(folder)),
        "split": "test",
        "label_noise": 0.1,
        "noise_seed": 1,
        "precision": "bf16",
        "memory_format": "channels-last",
    }
    assert set(others) == {field.name for field in dataclasses.fields(Evaluation)}
    keys = {evaluation.key, *(Evaluation(**{**evaluation.fields(), n: v}).key for n, v in others.items())}
    assert len(keys) == len(others) + 1
    assert len({Distance(a, b).key for a in (run.start, run.final) for b in (run.start, run.final)}) == 4
    assert run.at(1).key != run.at(2).key


def test_an_evaluation_keeps_which_test_examples_were_right(tmp_path):
    store = Store(tmp_path / "store")
    start, data = baseline(small_recipe()).start, small_recipe().dataset
    test, train = (Evaluation(start, data, split).compute(store) for split in ("test", "train"))
    split = data.split("test")
    with torch.no_grad():
        inputs, labels = split.batch(slice(0, len(split))), split.labels
        right = (start.module(store).eval()(inputs).argmax(1) == labels).numpy()
    assert unpacked(test["correct"], test["n"]).tolist() == right.tolist()
    assert test["accuracy"] == right.mean()
    assert len(test["correct"]) == 4 * -(-len(right) // 24)
    assert "correct" not in train


class Squared(Classification):
    """Judged by a number that is no share of examples."""

    def score(self, accuracy: float, loss: float) -> float:
        return accuracy**2


@pytest.mark.parametrize("task", [Squared(), NextWord()])
def test_other_metrics_have_no_right_examples(task):
    split = small_recipe().dataset.split("test")
    assert "correct" not in task.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), split)


def test_where_the_data_lie_is_not_in_the_key(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = Recipe(data=str(folder)), Recipe(data=str(copied))
    assert here.dataset.name != there.dataset.name
    assert here.key == there.key
    assert baseline(here).final.key == baseline(there).final.key


def test_keys_are_the_same_in_another_process():
    run = baseline(small_recipe(model="helpers:NormNet", widths=None, label_noise=0.25))
    script = (
        "from helpers import baseline, small_recipe;"
        "print(baseline(small_recipe(model='helpers:NormNet', widths=None, label_noise=0.25)).final.key)"
    )
    assert python(script).stdout.strip() == run.final.key


@given(
    layer=st.sampled_from(["fc1", "fc2", "fc3", "fc4"]),
    step=st.integers(1, 45),
    seed=st.integers(0, 5),
    noise=st.sampled_from([0.0, 0.5]),
)
def test_what_is_dumped_loads_as_the_same_values(layer, step, seed, noise):
    run = baseline(small_recipe(seed=seed, label_noise=noise))
    part = freezing(run, layer, start=run.at(step), begin=step, resume=True)
    values = [
        Evaluation(part.final, run.recipe.dataset, "test"),
        Distance(run.final, Graft(run.final, run.recipe.network.layers[layer], run.at(0))),
        part.final,
    ]
    data = dump(values)
    loaded = load(data)
    assert loaded == values
    assert [value.fields() for value in loaded] == [value.fields() for value in values]
    assert [type(value) for value in loaded] == [type(value) for value in values]
    assert dump(loaded) == data
    shared = [node for node in data["nodes"].values() if node["class"].endswith(":Network")]
    assert len(shared) == 1


def chain(depth: int) -> Graft:
    state: Any = Initial(NETWORK, 0)
    for i in range(depth):
        state = Graft(state, (f"fc{i % 4 + 1}.weight",), state)
    return state


def test_a_long_chain_of_shared_values_stays_small():
    data = dump([chain(40)])
    assert len(data["nodes"]) == 42
    assert len(canonical(data)) < 42 * 500
    assert load(data) == [chain(40)]


def test_finding_what_a_long_chain_needs_looks_at_each_value_once(monkeypatch):
    looked: list[str] = []
    inputs = Value.inputs

    def counting(self: Value) -> Any:
        looked.append(self.key)
        return inputs(self)

    monkeypatch.setattr(Value, "inputs", counting)
    assert stored_inputs(chain(12)) == set()
    assert len(looked) < 100


def test_what_a_value_needs_are_the_nearest_results():
    run = baseline(small_recipe())
    part = freezing(run, "fc1", start=run.at(10), begin=10, resume=True)
    assert stored_inputs(run.final) == set()
    assert stored_inputs(part.final) == {run.at(10)}
    grafted = Graft(run.final, ("fc1.weight",), part.at(20))
    assert stored_inputs(Evaluation(grafted, run.recipe.dataset, "test")) == {run.final, part.at(20)}


@pytest.mark.parametrize("field", ["seed", "of"])
def test_a_value_that_reads_differently_is_refused(field):
    data = dump([Initial(NETWORK, 0)])
    if field == "seed":
        data["nodes"][data["roots"][0]]["fields"]["seed"] = 7
    else:
        data["nodes"][NETWORK.key]["fields"]["args"]["num_classes"] = 11
    with pytest.raises(ValueError, match=r"^(Initial|Network) [0-9a-f]{12} reads as [0-9a-f]{12} here: the data, the"):
        load(data)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"x": float("nan")})
