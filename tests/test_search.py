"""Which layers may stay frozen, all together: the strategy, the study, its answers, and how others are told."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import log
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import NormNet, block_net
from torch import nn
from torch.nn.functional import cross_entropy

import letitgo
from letitgo import weights
from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute import Executor
from letitgo.plan import At, Evaluation, Run
from letitgo.recipes import Recipe
from letitgo.recipes.data import Data
from letitgo.report.numbers import percent
from letitgo.store import open_store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.search.strategy import Units, following, least, ranked
from letitgo.studies.search.study import JUDGED, Search, Searched, Trial, named, sets_tried
from letitgo.studies.search.translate import translated
from letitgo.studies.statistics import ALPHA, looks, unpaired
from letitgo.studies.subject import Subject

SMALL: dict[str, Any] = {"widths": "32", "depth": 3, "epochs": 5, "optimizer": "adam", "lr": 0.005, "batch_size": 50}


def small(**fields: Any) -> Recipe:
    return Recipe(**(SMALL | fields))


def tried(harm: Mapping[str, float], order: list[str], tolerance: float) -> dict[Units, float]:
    """What splitting tries where harm adds up."""
    excess: dict[Units, float] = {}
    while (units := following(order, excess)) is not None:
        assert units not in excess
        excess[units] = sum(harm[unit] for unit in units) - tolerance
    return excess


# The strategy


def test_splitting_leaves_out_what_does_harm_and_nothing_else():
    generator = random.Random(0)
    for _ in range(200):
        units = [f"u{i}" for i in range(generator.randint(1, 40))]
        bad = set(generator.sample(units, min(len(units), generator.randint(0, 3))))
        excess = tried({unit: float(unit in bad) for unit in units}, units, 0.5)
        passed = [set(group) for group, value in excess.items() if value <= 0]
        assert max(passed, key=len, default=set()) == set(units) - bad
        assert len(excess) <= 2 + 2 * len(bad) * (1 + log(len(units), 4 / 3))


def test_splitting_ends_with_a_set_to_which_nothing_can_be_added():
    generator = random.Random(1)
    for _ in range(100):
        harm = {f"u{i}": generator.random() for i in range(12)}
        excess = tried(harm, list(harm), 2.0)
        best = max((group for group in excess if excess[group] <= 0), key=len, default=frozenset())
        assert sum(harm[unit] for unit in best) <= 2.0
        assert all(sum(harm[u] for u in best | {unit}) > 2.0 for unit in set(harm) - best)


def test_units_are_ranked_by_what_they_save_for_the_harm_they_seem_to_do():
    saved = {"a": 0.1, "b": 0.4, "c": 0.2}
    assert ranked({"a": 1.0, "b": 1.0, "c": 1.0}, lambda units: sum(map(saved.get, units))) == ["b", "c", "a"]
    assert ranked({"a": 0.1, "b": 9.0, "c": 1.0}, lambda units: sum(map(saved.get, units))) == ["a", "c", "b"]
    assert ranked({"a": -1.0, "b": float("inf"), "c": 1.0}, lambda units: sum(map(saved.get, units)))[-1] == "b"
    assert ranked({"a": 1.0, "b": 1.0, "c": 1.0}, lambda units: sum(map(saved.get, units)), frozenset("b")) == [
        "c",
        "a",
    ]


# The study


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("search"))
    study = Search(small(), tolerance=12.0, max_seeds=6)
    return study, store, compute(study, store)


def test_the_answer_is_a_set_that_was_tried_and_judged(found):
    study, _, outcome = found
    rows = outcome.rows
    answer = study.answer(rows)
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["row"] == "judged"
    assert chosen["verdict"] == "robust"
    assert chosen["drop_mean"] + chosen["drop_ci95"] <= 0.12
    assert chosen["frozen"] in [row["frozen"] for row in sets_tried(rows) if row["within"]]
    assert set(answer) >= {"frozen", "from_epoch", "saved", "drop_mean", "drop_ci95", "spent"}
    assert answer["frozen"] == list(chosen["frozen"])
    assert outcome.answers[0].startswith(f"Freeze {answer['frozen'][0]}")
    assert f"saves {percent(answer['saved'])} of the training arithmetic" in outcome.answers[0]


def test_no_more_is_spent_than_was_said_and_it_is_counted(found):
    study, _, outcome = found
    of = study.subjects[0]
    sets = sets_tried(outcome.rows)
    spent = 1.0
    for row in sets:
        spent += (1 - row["saved"]) * (1 if row["until"] is None else row["until"] / of.recipe.epochs)
        assert row["spent"] == pytest.approx(spent)
        assert row["saved"] == pytest.approx(1 - of.trainings(of.frozen(_parameters(of, row["frozen"]), of.recipe)))
    assert spent <= study.spend
    assert len(sets) > 1
    assert "3 trainings under one seed" in study.promise


def _parameters(of: Subject, units: Mapping[str, int]) -> list[str]:
    return [name for unit in of.units() if unit.name in units for name in unit.parameters]


def test_sets_are_tried_on_held_out_examples_and_judged_on_the_test_set(found):
    _, _, outcome = found
    for row in outcome.rows:
        assert row["validation_drop_mean"] is not None
        assert (row["accuracy_mean"] is None) == (row["row"] in ("unit", "early", "tried"))
        assert row["n"] == 1 or row["row"] in ("baseline", "judged")
    assert [row["frozen"] for row in outcome.rows if row["row"] == "unit"] == [{f"fc{i}": 0} for i in range(1, 5)]


def test_the_trainings_in_all_are_those_of_all_seeds(found):
    _, _, outcome = found
    judged = [row for row in outcome.rows if row["row"] == "judged"]
    sets = {str(row["frozen"]): (row["until"] or 5) / 5 for row in sets_tried(outcome.rows)}
    saved = {str(row["frozen"]): row["saved"] for row in outcome.rows}
    for row in judged:
        sets[str(row["frozen"])] = row["n"]
    total = outcome.rows[0]["n"] + sum(count * (1 - saved[name]) for name, count in sets.items())
    assert judged[-1]["trainings"] == pytest.approx(total)
    assert outcome.rows[0]["n"] == 2 * max(row["n"] for row in judged)


def test_a_set_that_cannot_come_back_is_stopped_at_a_third_of_its_training(found):
    study, store, outcome = found
    of = study.subjects[0]
    looks = [row for row in outcome.rows if row["row"] == "early" and row["frozen"]]
    stopped = [row for row in looks if not row["within"]]
    assert {row["until"] for row in looks} == {2}
    assert stopped
    ended = [row["frozen"] for row in outcome.rows if row["row"] == "tried"]
    for row in looks:
        final = of.frozen(_parameters(of, row["frozen"]), of.recipe)
        assert isinstance(final, At)
        early = Evaluation.under(of.recipe, final.run.at_epoch(2), "validation")
        before = Evaluation.under(of.recipe, of.baseline(of.recipe).at_epoch(2), "validation")
        drop = before.result(store)["accuracy"] - early.result(store)["accuracy"]
        assert row["validation_drop_mean"] == pytest.approx(drop)
        assert (row["frozen"] in ended) <= row["within"]
        assert (row["frozen"] in ended) <= (final.address in store)


def test_training_that_is_too_short_to_stop_is_not_looked_at_early(tmp_path):
    rows = compute(Search(small(epochs=1), seeds=2), open_store(tmp_path)).rows
    assert "early" not in [row["row"] for row in rows]
    network = Searched(study := Search(small(epochs=6), freeze_at=(0, 3)), study.subjects[0])
    assert network.early == [2, 4]
    assert network.trials({"fc1": 0, "fc2": 3}) == [Trial({"fc1": 0, "fc2": 3}, 4), Trial({"fc1": 0, "fc2": 3})]
    everything = {f"fc{i}": 0 for i in range(1, 5)}
    assert network.trials(everything) == [Trial(everything)]


def test_a_search_goes_on_where_it_was_interrupted(found, tmp_path):
    study, _, outcome = found
    store, trained = open_store(tmp_path / "store"), []
    real, calls = Executor.compute, iter(range(1000))

    def interrupted(self: Executor, values: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        trained.append([value for value in values if value.address not in store])
        return real(self, values)

    with patch.object(Executor, "compute", interrupted):
        with pytest.raises(KeyboardInterrupt):
            compute(study, store)
        assert estimate(study, store, 0).runs_stored == 2
        again = compute(study, store)
    keys = [value.key for values in trained for value in values]
    assert len(keys) == len(set(keys))
    assert again.rows == outcome.rows


def test_a_search_that_is_interrupted_after_every_step_ends_with_the_same_rows(found, tmp_path):
    study, _, outcome = found
    store, trained, steps = open_store(tmp_path / "store"), [], []
    real, rows = Executor.compute, None

    def once(self: Executor, values: Any) -> Any:
        missing = [value.key for value in values if value.address not in store]
        if missing and steps:
            raise KeyboardInterrupt
        steps.extend(missing)
        trained.extend(missing)
        return real(self, values)

    attempts = 0
    with patch.object(Executor, "compute", once):
        while rows is None:
            attempts += 1
            steps.clear()
            with suppress(KeyboardInterrupt):
                rows = compute(study, store).rows
    assert attempts > len(sets_tried(rows))
    assert len(trained) == len(set(trained))
    assert rows == outcome.rows


def test_worker_processes_give_the_same_rows(found, tmp_path):
    study, _, outcome = found
    assert compute(study, open_store(tmp_path), workers=2).rows == outcome.rows


DRIVER = """
import json, sys
from test_search import small
from letitgo.execute import training
from letitgo.studies.compute import compute
from letitgo.studies.search.study import Search
train, log = training._train, open(sys.argv[2], "a", buffering=1)
def noted(run, store, wanted, *args):
    log.write(f"{run.key}-{'-'.join(map(str, sorted(wanted)))}\\n")
    return train(run, store, wanted, *args)
training._train = noted
print(json.dumps(compute(Search(small(), tolerance=12.0, max_seeds=6), sys.argv[1], 0).rows))
"""


def test_two_drivers_share_a_search(found, tmp_path):
    _, _, outcome = found
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "store"), str(tmp_path / "log")]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert [json.loads(rows) for rows in printed] == 2 * [json.loads(json.dumps(outcome.rows))]
    trained = (tmp_path / "log").read_text().split()
    assert len(trained) == len(set(trained)) > 10


def test_another_tolerance_takes_what_is_there(found):
    _, store, outcome = found
    tried = sets_tried(outcome.rows)
    known = estimate(Search(small(), tolerance=11.5, max_seeds=6), store, 0)
    assert known.runs_stored > len(tried)
    assert known.runs_stored == known.runs


def test_layers_may_be_frozen_from_an_epoch_on(tmp_path):
    study, store = Search(small(), tolerance=8.0, freeze_at=(0, 2), spend=5.0, seeds=3), open_store(tmp_path)
    rows = compute(study, store).rows
    of = study.subjects[0]
    late = [row for row in sets_tried(rows) if 2 in row["frozen"].values()]
    both = [row for row in late if 0 in row["frozen"].values()]
    assert late
    assert [row["frozen"] for row in rows if row["row"] == "unit"][-1] == {"fc4": 2}
    assert all(row["spent"] <= 5.0 for row in late)
    for row in both:
        alone = [unit for unit, epoch in row["frozen"].items() if not epoch]
        first = 1 - of.trainings(of.frozen(_parameters(of, dict.fromkeys(alone)), of.recipe))
        assert row["saved"] > first


def test_units_in_a_row_are_named_by_their_ends():
    every = [f"fc{i}" for i in range(1, 9)]
    assert named({"fc1": 0, "fc2": 0, "fc3": 0, "fc5": 0, "fc7": 2, "fc8": 2}, every) == (
        "fc1 to fc3, fc5; fc7, fc8 from epoch 2"
    )
    assert named({}, every) == ""


def test_a_schedule_is_a_chain_of_runs_each_of_which_begins_at_a_point_of_the_last():
    recipe = small()
    of = Subject(recipe)
    units = {unit.name: unit.parameters for unit in of.units()}
    state = of.scheduled({0: units["fc1"], 2: units["fc2"]}, recipe)
    assert isinstance(state, At)
    assert isinstance(state.run.start, At)
    assert state.run.resume
    assert state.run.begin == 2 * recipe.steps_per_epoch
    assert state.run.start.run == Run(of.baseline(recipe).start, of.but(units["fc1"]), recipe)
    assert set(state.run.moves) == set(units["fc3"] + units["fc4"])
    assert of.scheduled({0: units["fc1"]}, recipe).key == of.frozen(units["fc1"], recipe).key
    assert of.scheduled({}, recipe).key == of.baseline(recipe).final.key
    assert of.scheduled({2: of.trainable}, recipe).key == of.baseline(recipe).at_epoch(2).key
    whole, branch = of.trainings(of.baseline(recipe).final), of.trainings(of.frozen(units["fc1"], recipe, 2))
    assert whole == 1
    assert of.trainings(of.scheduled({2: of.trainable}, recipe)) == pytest.approx(0.4)
    together = of.trainings(of.baseline(recipe).final, of.frozen(units["fc1"], recipe, 2))
    assert together == pytest.approx(whole + branch - 0.4)


def test_parameters_can_be_saved_instead(tmp_path):
    study = Search(small(), save="parameters", tolerance=5.0, seeds=2)
    rows = compute(study, open_store(tmp_path)).rows
    of = study.subjects[0]
    for row in rows:
        if row["row"] in ("tried", "judged"):
            assert row["saved"] == pytest.approx(row["parameters"] / of.size(of.trainable))


def test_memory_can_be_saved_instead(tmp_path):
    study = Search(small(), save="memory", tolerance=5.0, seeds=2)
    outcome = compute(study, open_store(tmp_path))
    recipe = study.subjects[0].recipe
    batch, labels = torch.randn(recipe.batch_size, 64), torch.zeros(recipe.batch_size, dtype=torch.int64)
    for row in outcome.rows:
        if row["row"] in ("tried", "judged"):
            peaks = []
            for frozen in ((), row["frozen"]):
                module = recipe.network()
                for unit in frozen:
                    module.get_submodule(unit).requires_grad_(False)
                loss = partial(cross_entropy, target=labels)
                peaks.append(weights.memory(module, batch, optimizer=recipe.make_optimizer, loss=loss).peak)
            everything = len(row["frozen"]) == len(recipe.network.layers)
            assert row["saved"] == (1.0 if everything else pytest.approx(1 - peaks[1] / peaks[0], abs=1e-3))
    with pytest.raises(BadRequest, match="save memory takes freeze-at 0 alone"):
        Search(small(), save="memory", freeze_at=(0, 2))
    with pytest.raises(BadRequest, match="save memory counts letitgo's own training step"):
        Search(Recipe(task="own_tasks:Validated"), save="memory").check()


# A budget in place of a tolerance


def test_the_least_set_that_reaches_a_goal_has_no_unit_that_it_can_do_without():
    generator = random.Random(2)
    for _ in range(200):
        saved = {f"u{i}": generator.random() for i in range(9)}
        harm, goal = {unit: generator.random() for unit in saved}, generator.random() * 4
        order = ranked(harm, lambda units, saved=saved: sum(saved[unit] for unit in units))
        found = least(order, harm, lambda units, saved=saved, goal=goal: sum(saved[u] for u in units) >= goal)
        assert (found is None) == (sum(saved.values()) < goal)
        if found:
            total = sum(saved[unit] for unit in found)
            assert total >= goal
            assert len(found) == 1 or all(total - saved[unit] < goal for unit in found)


def test_for_a_budget_the_set_of_the_smallest_drop_is_found(tmp_path):
    store, drops = open_store(tmp_path), []
    for spend in (2.0, 5.0):
        study = Search(small(), budget=0.2, spend=spend, seeds=3)
        outcome = compute(study, store)
        ended = [row for row in outcome.rows if row["row"] == "tried"]
        [chosen] = [row for row in outcome.rows if row["row"] == "judged"]
        assert all(row["saved"] >= 0.2 for row in sets_tried(outcome.rows))
        assert chosen["validation_drop_mean"] is not None
        assert chosen["frozen"] == min(ended, key=lambda row: row["validation_drop_mean"])["frozen"]
        assert (chosen["verdict"], chosen["n"], outcome.rows[0]["n"]) == (None, 3, 6)
        assert max(row["spent"] for row in sets_tried(outcome.rows)) <= spend
        assert "tolerance" not in " ".join(outcome.answers)
        answer = study.answer(outcome.rows)
        assert answer["drop_ci95"] is not None
        assert answer["error"] is None
        drops.append(min(row["validation_drop_mean"] for row in ended))
    assert len(sets_tried(outcome.rows)) > len(ended) >= 1
    assert drops[1] <= drops[0]
    assert compute(Search(small(), budget=0.2, spend=5.0, seeds=3), open_store(tmp_path / "new")).rows == outcome.rows


def test_a_budget_is_no_tolerance_and_has_to_be_reached():
    assert Search(small()).tolerance == 1.0
    with pytest.raises(BadRequest, match=r"budget is 0.3 and tolerance 1: .* give one of the two"):
        Search(small(), budget=0.3, tolerance=1.0)
    with pytest.raises(BadRequest, match="budget takes one epoch of freeze-at: it has 2"):
        Search(small(), budget=0.3, freeze_at=(0, 2))
    with pytest.raises(BadRequest, match=r"budget is 0.5: all that may be frozen in 'fcn' saves 0\.\d+"):
        Search(small(), budget=0.5, layers=("fc4",)).check()


# Own training code, and pretrained weights


@pytest.mark.parametrize("task", ["Validated", "ValidatedResuming"])
def test_training_code_of_ones_own_is_searched(task, tmp_path):
    study = Search(Recipe(task=f"own_tasks:{task}"), tolerance=60.0, seeds=3, spend=4.0)
    outcome = compute(study, open_store(tmp_path))
    rows = outcome.rows
    assert {row["until"] for row in rows} == ({None, 1} if task == "ValidatedResuming" else {None})
    assert all(row["rise_mean"] is not None for row in rows if row["row"] == "unit")
    assert sets_tried(rows)[-1]["spent"] <= 4
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["drop_mean"] + chosen["drop_ci95"] <= 0.6
    assert outcome.answers[0].startswith(("Freeze ", "Everything may stay frozen"))
    if task == "ValidatedResuming":
        assert compute(study, open_store(tmp_path / "workers"), workers=2).rows == rows


def test_a_task_that_holds_nothing_out_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"'own_tasks:Digits' knows: give it a method validate\(model\)"):
        compute(Search(Recipe(task="own_tasks:Digits")), open_store(tmp_path))


def test_pretrained_weights_are_searched_from_where_they_are(tmp_path):
    recipe = small(shift="invert", examples=600)
    study, store = Search(recipe, pretrained="digits", tolerance=15.0, seeds=3), open_store(tmp_path)
    outcome = compute(study, store)
    of, tuned = study.subjects[0], Finetune(recipe, "digits")
    start = of.baseline(of.recipe).start
    assert start.key == tuned.start(tuned.subjects[0], tuned.subjects[0].recipe).key
    assert of.trainings(of.baseline(of.recipe).final) == 1  # without pretraining
    judged = [row for row in outcome.rows if row["row"] == "judged"]
    assert judged
    assert outcome.rows[0]["n"] == max(row["n"] for row in judged)  # paired: they share a trained start
    assert estimate(Finetune(recipe, "digits", seeds=3), store, 0).runs_stored >= 6  # pretraining and full fine-tuning
    with pytest.raises(BadRequest, match="the same"):
        Search(small(), pretrained="digits").check()


# Answers at the edges


@pytest.mark.parametrize(
    ("fields", "options", "answer"),
    [
        ({}, {"tolerance": 99.0}, "Everything may stay frozen from the start: the untrained network costs "),
        (
            {"widths": "6", "depth": 1},
            {"tolerance": 0.1, "layers": ("fc1",)},
            "Nothing may be frozen: the one set tried is not within 0.1 points on held-out examples; fc1 costs ",
        ),
        ({}, {"tolerance": 1.0, "seeds": 2}, " at 2 seeds"),
        ({"lr": 1e-9}, {"seeds": 2}, "No verdicts: the baseline's "),
        ({}, {"spend": 1.01}, "Nothing was tried: "),
    ],
    ids=["everything", "nothing", "too few seeds", "not learned", "nothing to spend"],
)
def test_answers_at_the_edges(fields, options, answer, tmp_path):
    outcome = compute(Search(small(**fields), **options), open_store(tmp_path))
    assert answer in outcome.answers[0]
    assert "None" not in " ".join(outcome.answers)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(BadRequest, match="freeze-at is none, and search is about what may be frozen"):
        Search(small(), freeze_at=())
    with pytest.raises(BadRequest, match="freeze-at names epoch 9: training has 5 epochs"):
        Search(small(), freeze_at=(0, 9))
    with pytest.raises(BadRequest, match="spend"):
        Search(small(), spend=1.0)
    with pytest.raises(BadRequest, match="nothing"):
        Search(small(), layers=("nothing",)).check()


def test_a_program_reads_the_answer_before_the_rows(tmp_path, capsys):
    arguments = "search --widths 24 --depth 2 --epochs 3 --lr 0.2 --batch-size 50 --tolerance 5 --seeds 2"
    arguments += " --report none --workers 0"
    code = run([*arguments.split(), "--store", str(tmp_path), "--format", "json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert code == 0
    assert printed.err.startswith("the search spends at most 3 trainings")
    assert list(found).index("answer") < list(found).index("rows")
    assert found["answer"] is None or found["answer"]["spent"] <= 3
    assert run([*arguments.split(), "--store", str(tmp_path), "--dry-run"]) == 0
    assert "the search spends at most 3 trainings" in capsys.readouterr().out


def test_sets_on_the_tolerance_are_called_robust_in_five_per_cent_of_searches_at_most():
    generator, wrong, searches = np.random.default_rng(0), 0, 600
    for _ in range(searches):
        base = generator.normal(0.9, 0.01, 40)
        for number in range(1, JUDGED + 1):
            own = generator.normal(0.89, 0.01, 20)
            drops = (unpaired(base[: 2 * n], [own[:n]], [0.003, 0.003], ALPHA / 2**number)[0] for n in looks(20))
            if any(drop.verdict(0.01) == "robust" for drop in drops):
                wrong += 1
                break
    assert wrong / searches <= 0.05


# How others are told


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("path", ["helpers:NormNet", "helpers:block_net"])
def test_what_a_loop_is_told_freezes_the_set_and_nothing_else(path):
    of = Subject(Recipe(model=path))
    units = of.units(by="block")
    plan = {units[0].name: 0, units[1].name: 3}
    lines = translated(of, units, plan)["loop"].splitlines()
    model = network(block_net if path.endswith("block_net") else lambda: NormNet((1, 8, 8), 10))
    exec(lines[1], {"letitgo": letitgo, "model": model})
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(units[0].parameters)
    assert lines[2].endswith("# before epoch 3")
    exec(lines[2], {"letitgo": letitgo, "model": model})
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {*units[0].parameters, *units[1].parameters}


def test_callbacks_are_told_the_schedule():
    of = Subject(small())
    lines = translated(of, of.units(), {"fc1": 0, "fc3": 2})
    assert set(lines) == {"loop", "Lightning", "Trainer"}
    assert '{0: ["fc1"], 2: ["fc1", "fc3"]}' in lines["Lightning"]
    schedule = letitgo_schedule({0: ["fc1"], 2: ["fc1", "fc3"]})
    model = of.recipe.network()
    schedule.begin(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    schedule.enter(2)
    assert not model.fc3.weight.requires_grad


def letitgo_schedule(epochs: Any) -> Any:
    from letitgo.callbacks import Schedule

    return Schedule(epochs)


def test_settings_of_other_programs_name_what_trains_or_what_does_not():
    of = Subject(Recipe(model="helpers:NormNet"))
    units = of.units()
    lines = translated(of, units, {units[0].name: 0})
    names = [name for name, _ in of.module.named_parameters()]
    frozen = set(units[0].parameters)
    patterns = [line.removeprefix("  - ") for line in lines["axolotl"].splitlines()[1:]]
    literal = [re.compile(re.sub(r"\.(?!\+)", r"\\.", pattern)) for pattern in patterns]  # as axolotl reads them
    assert {name for name in names if not any(pattern.match(name) for pattern in literal)} == frozen
    prefixes = lines["ms-swift"].split()[1:]
    assert {name for name in names if name.startswith(tuple(prefixes))} == frozen
    assert lines["peft"] == 'LoraConfig(target_modules=["fc2", "head"])'
    assert "LLaMA-Factory" not in lines


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.down(torch.relu(self.up(inputs)))


class Decoder(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Block() for _ in range(4))
        self.lm_head = nn.Linear(64, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = inputs.flatten(1)
        for layer in self.model.layers:
            hidden = layer(hidden)
        return self.lm_head(hidden)


@pytest.mark.parametrize(
    ("frozen", "layers"), [((0, 1, 2), "1"), ((0,), "3"), ((1, 2, 3), "-1"), ((1,), None), ((0, 1, 2, 3), None)]
)
def test_the_last_or_first_blocks_are_a_number_to_llama_factory(frozen, layers):
    of = Subject(Recipe(model="test_search:Decoder"))
    units = of.units(by="block")
    told = translated(of, units, {f"model.layers.{i}": 0 for i in frozen}).get("LLaMA-Factory")
    if layers is None:
        assert told is None
    else:
        assert told == f"finetuning_type: freeze\nfreeze_trainable_layers: {layers}\nfreeze_extra_modules: lm_head"


def test_all_of_it_shows_without_a_display(found, tmp_path):
    _, _, outcome = found
    page = outcome.report(tmp_path).read_text()
    assert "letitgo.freeze(model" in page
    assert list(outcome.figures()) == ["search-frontier"]
    assert fmean(row["n"] for row in outcome.rows) > 0
    with patch.object(Data, "learned", lambda *_: False):
        assert outcome.study.report(outcome.rows).sections[0].answer.startswith("No verdicts")
