"""How much of a network has to be learned: what moves, what it starts from, what it takes to keep, and what is told."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from helpers import baseline, bits, small_recipe
from hypothesis import given
from hypothesis import strategies as st
from networks import OPTIMIZERS, Case, cases
from torch import nn

import letitgo
from letitgo import plan
from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute.training import carry_out
from letitgo.papers import rt18
from letitgo.plan import Delta, Evaluation, Initial, PerUnit, Run, Scattered, Zeroed
from letitgo.recipes.networks import fcn, find_network, lenet
from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.fraction.report import on_one_base, report, together
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.sweep import with_seed
from letitgo.training import train
from letitgo.weights import copied, initial_state, load, load_state, norms, parameter_names, seeded

pytestmark = pytest.mark.usefixtures("all_learned")


def smooth(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A network in which every value has a gradient."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()),
        nn.Linear(8, num_classes),
    )


NORMED = small_recipe(widths="8", depth=2, batch_size=256, epochs=1, model_args={"norm": True})
PLAIN = small_recipe(widths="8", depth=2, batch_size=256, epochs=1)
SHARES = (1.0, 0.5, 0.1)


def study_of(recipe=NORMED, **fields):
    """A study, the network it acts on, and its policies."""
    study = Fraction(recipe, **{"seeds": 2, "shares": SHARES, **fields}, select="test")
    [of] = study.subjects
    return study, of, study.policies(of)


def policy_of(policies, name, share=None, rest="initial", **fields):
    [policy] = [
        policy
        for policy in policies
        if (policy.name, policy.share, policy.rest) == (name, share, rest)
        and all(getattr(policy, field) == value for field, value in fields.items())
    ]
    return policy


def changed(before, after) -> dict[str, torch.Tensor]:
    """Parameter name → mask of the values whose bytes differ."""
    masks = {}
    for name, old in before.items():
        a, b = (x.contiguous().view(-1).view(torch.uint8).view(x.numel(), -1) for x in (old, after[name]))
        masks[name] = (a != b).any(1).view(old.shape)
    return masks


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_exactly_the_declared_number_of_values_moves(optimizer, store):
    model = "matrices" if optimizer == "Muon" else "smooth"
    recipe = small_recipe(model=f"test_fraction:{model}", widths=None, batch_size=512, epochs=1, optimizer=optimizer)
    if optimizer == "Muon":  # which takes whole rows of matrices only
        study, of, policies = study_of(
            recipe, classifier=("learned", "share", "frozen"), controls=False, only=("classifier", "layers")
        )
    else:
        study, of, policies = study_of(
            recipe,
            shares=SHARES if optimizer == "SGD" else (0.5,),
            of=("filters", "weights"),
            classifier=("learned", "share", "frozen"),
            norms=("learned", "frozen"),
        )
    assert len({policy.name for policy in policies}) == (4 if optimizer == "Muon" else 9)
    for policy in policies:
        training = study.run(of, policy, recipe)
        module = training.start.module(store)
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        training.prepare(module)
        list(train(module, recipe, [recipe.steps]))
        moved = changed(before, dict(module.named_parameters()))
        assert sum(int(mask.sum()) for mask in moved.values()) == policy.size(of), policy
        if choice := policy.choice(recipe.seed):
            chosen = choice.part(seeded(recipe.network, 0))
            for name, mask in moved.items():
                wanted = chosen.entries.get(name, torch.tensor(name in chosen.whole))
                assert mask.equal(wanted.expand(mask.shape)), (policy, name)


def test_with_the_rest_at_zero_nothing_else_moves_either(store):
    study, of, policies = study_of(PLAIN, rest=("zero",), of=("filters", "weights"), controls=False, only=())
    for policy in policies[1:]:
        training = study.run(of, policy, PLAIN)
        carry_out(training, store, [PLAIN.steps])
        moved = changed(training.start.load(store), training.final.load(store))
        assert 0 < sum(int(mask.sum()) for mask in moved.values()) <= policy.size(of)
        choice = policy.choice(PLAIN.seed)
        if choice is not None:
            chosen = choice.part(seeded(PLAIN.network, 0))
            assert not any((moved[name] & ~mask).any() for name, mask in chosen.entries.items())


def test_the_rest_starts_at_zero_and_what_is_chosen_at_its_initial_values(store):
    study, of, policies = study_of(rest=("zero",), norms=("frozen",), controls=False, only=())
    start = study.run(of, policy_of(policies, "filters", 0.5, "zero"), NORMED).start
    assert isinstance(start, Zeroed)
    state, drawn = start.load(store), initial_state(NORMED.network, 0)
    mask = start.choice.part(seeded(NORMED.network, 0)).entries["fc1.weight"]
    assert mask[:, 0].sum() == 4
    assert state["fc1.weight"].equal(drawn["fc1.weight"] * mask)
    for name in ("norm1.weight", "fc3.weight", "fc3.bias"):  # not of the layers learned in part
        assert state[name].equal(drawn[name])


@given(cases(), st.integers(0, 5), st.floats(0.01, 1))
def test_scattered_values_are_as_many_as_asked_for(case: Case, seed, share):
    module = case.module()
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    count = max(1, round(share * sum(sizes.values())))
    choice = Scattered(count, seed, parameter_names(module))
    part = choice.part(module)
    assert sum(int(mask.sum()) for mask in part.entries.values()) == count
    assert not part.whole.parameters
    again = choice.part(case.module(seed=7))
    assert all(mask.equal(again.entries[name]) for name, mask in part.entries.items())


def test_scattered_values_are_everywhere_and_other_with_another_seed():
    module = fcn((1, 8, 8), 10, (32,), norm=True)
    names = parameter_names(module)
    a, b = (Scattered(1000, seed, names).part(module).entries for seed in (0, 1))
    assert not a["fc1.weight"].equal(b["fc1.weight"])
    total = sum(parameter.numel() for parameter in module.parameters())
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        assert a[name].float().mean() == pytest.approx(1000 / total, rel=0.25)
    with pytest.raises(BadRequest, match="0 values are to be chosen: give at least 1 and at most"):
        Scattered(0, 0, names).part(module)


def test_values_per_unit_are_as_many_of_each_unit():
    module = lenet((1, 28, 28), 10)
    part = PerUnit(2, 3, ("conv2.weight", "fc1.weight")).part(module)
    assert {name: mask.flatten(1).sum(1).unique().tolist() for name, mask in part.entries.items()} == {
        "conv2.weight": [2],
        "fc1.weight": [2],
    }
    assert not part.whole.parameters
    again, other = (PerUnit(2, seed, ("fc1.weight",)).part(module).entries["fc1.weight"] for seed in (3, 4))
    assert not other.equal(again)
    with pytest.raises(BadRequest, match=r"26 weights of each unit are to be chosen: those of conv1\.weight"):
        PerUnit(26, 0, ("conv1.weight",)).part(module)


def test_norms_and_biases_alone_have_random_weights_of_each_unit_beside_them():
    _, of, policies = study_of(NORMED, only=("norms",), shares=(), per_unit=True)
    [norms] = [policy for policy in policies if policy.each]
    assert norms.each == 2
    assert norms.size(of) == next(policy for policy in policies if policy.name == "norms only").size(of)
    assert of.head.parameters[0] not in norms.within
    _, of, policies = study_of(PLAIN, only=("biases",), shares=(), per_unit=True)
    [biases] = [policy for policy in policies if policy.each]
    assert (biases.each, biases.size(of)) == (1, of.size(of.biases))
    with pytest.raises(BadRequest, match="per-unit: in 'fcn' neither norms nor biases alone are one or two values"):
        Fraction((PLAIN,), only=("classifier",), per_unit=True, select="test").check()


def test_each_part_is_also_shown_at_its_own_learning_rate(store):
    recipes = tuple(replace(NORMED, lr=lr, epochs=1) for lr in (0.01, 0.5))
    study = Fraction(recipes, seeds=2, shares=(), only=("norms",), per_unit=True)
    outcome = compute(study, store)
    own = outcome.said.sections[0]
    assert own.heading == "Each at its own learning rate"
    [table] = own.tables
    assert [row["what"] for row in table.rows] == ["everything", "norms only", "random values per unit"]
    for row in table.rows:
        tried = [one for one in outcome.rows if (one["policy"], one["learned"]) == (row["policy"], row["learned"])]
        assert row["lr"] == max(tried, key=lambda one: one["validation_accuracy_mean"])["lr"]
    assert "Rates tried: 0.01, 0.5." in own.sentences
    [[panel]] = own.pictures["rates"].panels
    policies = ["everything", "norms only", "random values per unit", "random values"]
    assert [(mark.label, mark.x) for mark in panel.marks] == [(policy, [0.01, 0.5]) for policy in policies]
    random = [one for one in outcome.rows if one["policy"] == "random values"]
    best = max(random, key=lambda one: one["validation_accuracy_mean"])
    assert table.rows[1]["random"].endswith(f" % at {best['lr']:g}")
    assert compute(replace(study, recipes=recipes[:1]), store).said.sections[0].heading != own.heading


def test_all_of_everything_is_the_baseline_and_shared_with_the_map():
    study, of, policies = study_of(seeds=1)
    assert study.run(of, policies[0], NORMED).key == baseline(NORMED).key
    assert [policy.share for policy in policies if policy.name == "filters"] == [0.5, 0.1]  # 1 is everything
    of_map = {value.key for stage in Map((NORMED,), seeds=1, select="test").stages(Store("nowhere")) for value in stage}
    [base, *_], *_ = study.cells(of, Store("nowhere"))
    own = {value.key for value in base.measures(NORMED).values() if isinstance(value, Evaluation)}
    assert len(own) == 2
    assert own <= of_map


def test_policies_state_norms_and_classifier():
    asked = {"norms": ("learned", "frozen"), "classifier": ("learned", "frozen", "share"), "shares": (0.5,)}
    _, of, policies = study_of(**asked, by="module")
    half = (8 * 64 + 8 * 8) // 2
    told = {(p.norms, p.classifier): p.size(of) for p in policies if p.name == "filters"}
    assert told == {
        ("learned", "learned"): half + 32 + 90,
        ("learned", "frozen"): half + 32,
        ("learned", "share"): half + 32 + 45,
        ("frozen", "learned"): half + 90,
        ("frozen", "frozen"): half,
        ("frozen", "share"): half + 45,
    }
    alone = {p.name: (p.norms, p.classifier, p.size(of)) for p in policies if p.name.endswith(" only")}
    assert alone == {
        "norms only": ("learned", "frozen", 32),
        "biases only": ("frozen", "in part", 10),
        "classifier only": ("frozen", "learned", 90),
        "fc1 only": ("frozen", "frozen", 512),
        "fc2 only": ("frozen", "frozen", 64),
    }
    _, of, policies = study_of(**asked)
    assert {p.name: p.size(of) for p in policies if p.name in ("fc1 only", "fc2 only")} == {
        "fc1 only": 528,
        "fc2 only": 80,
    }
    assert {p.norms for p in study_of(PLAIN)[2]} == {"none"}


def test_blocks_are_learned_as_one():
    recipe = small_recipe(model="helpers:block_net", widths=None, epochs=1)
    _, of, policies = study_of(recipe, only=("layers",), blocks=("block*",), controls=False, shares=())
    assert [policy.name for policy in policies] == [
        "everything",
        "stem only",
        "block1 only",
        "block2 only",
        "head only",
    ]
    assert policies[2].size(of) == 2 * 72
    _, _, policies = study_of(recipe, only=("layers",), layers=("block1.0",), controls=False, shares=())
    assert [policy.name for policy in policies] == ["everything", "block1.0 only"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("fraction"))


@pytest.fixture(scope="module")
def study():
    return Fraction(
        (NORMED,), seeds=2, shares=(1.0, 0.5), rest=("initial", "zero"), only=("norms", "classifier"), select="test"
    )


@pytest.fixture(scope="module")
def rows(study, folder):
    outcome = compute(study, folder)
    assert outcome.failures == []
    return outcome.rows


def test_rows_are_those_of_the_runs(study, rows, folder):
    names = parameter_names(seeded(NORMED.network, 0))
    [row] = [row for row in rows if (row["policy"], row["rest"]) == ("filters", "initial")]
    tests, drops, above, sizes = [], [], [], []
    for seed in (0, 1):
        recipe = with_seed(NORMED, seed)
        half = plan.Fraction(
            0.5, "filters", seed, ("fc1.weight", "fc2.weight"), tuple(n for n in names if n[:4] in ("norm", "fc3."))
        )
        ends = [
            Run(Initial(recipe.network, seed), trains, recipe).final
            for trains in (names, half, Scattered(row["learned"], seed, names))
        ]
        base, mine, random = (Evaluation(end, recipe.dataset, "test").result(folder)["accuracy"] for end in ends)
        tests.append(mine)
        drops.append(base - mine)
        above.append(mine - random)
        sizes.append(Delta(ends[1], Initial(recipe.network, seed)).result(folder)["bytes"])
    assert row["accuracy_mean"] == pytest.approx(fmean(tests))
    assert row["drop_mean"] == pytest.approx(fmean(drops))
    assert row["above_random_mean"] == pytest.approx(fmean(above))
    assert row["delta_bytes_mean"] == pytest.approx(fmean(sizes))
    assert row["gap_mean"] == pytest.approx(row["train_accuracy_mean"] - row["accuracy_mean"])
    for row in rows:
        assert row["n"] == 2
        assert row["moved_max"] <= row["learned"] <= row["parameters"] == 698


def test_the_size_is_that_of_a_file_from_which_the_network_comes_back(study, folder, rows, tmp_path):
    [of] = study.subjects
    policies = study.policies(of)
    for policy in policies:
        training = study.run(of, policy, NORMED)
        start, end = training.start.load(folder), training.final.load(folder)
        module = seeded(NORMED.network, 0)
        load_state(module, end)
        letitgo.save(module, tmp_path / "delta", start)
        told = Delta(training.final, training.start).result(folder)
        assert told["bytes"] == (tmp_path / "delta").stat().st_size
        names = parameter_names(module)
        assert told["moved"] == sum(int(mask.sum()) for name, mask in changed(start, end).items() if name in names)
        load_state(module, start)
        load(module, tmp_path / "delta", start)
        assert bits(copied(module)) == bits(end)


def test_tasks_on_one_base_leave_the_same_rest(folder):
    """Two tasks, here the labels as they are and shuffled, share all that is not learned."""
    ends = []
    for noise in (0.0, 1.0):
        recipe = small_recipe(widths="8", depth=2, epochs=1, label_noise=noise)
        study, of, policies = study_of(recipe, controls=False, only=())
        training = study.run(of, policy_of(policies, "filters", 0.1), recipe)
        carry_out(training, folder, [recipe.steps])
        ends.append(training.final.load(folder))
    both = changed(*ends)
    learned = policy_of(policies, "filters", 0.1).size(of)
    assert 0 < sum(int(mask.sum()) for mask in both.values()) <= learned < 698


BAD = {
    "share of nothing": ({"shares": (0.0,)}, "shares is 0.0: give more than 0"),
    "share beyond all": ({"shares": (0.5, 1.5)}, "shares is 1.5: give at most 1"),
    "share that is no number": ({"shares": (float("nan"),)}, "shares is nan: give a number"),
    "share twice": ({"shares": (0.5, 0.5)}, "shares has a value twice"),
    "of": ({"of": ("filter",)}, "of is 'filter': did you mean filters?"),
    "rest": ({"rest": ("null",)}, "rest is 'null': choose from initial, zero"),
    "norms": ({"norms": ("none",)}, "norms is 'none'"),
    "classifier": ({"classifier": ("shared",)}, "did you mean share or learned?"),
    "only": ({"only": ("norm",)}, "did you mean norms?"),
    "no seeds": ({"seeds": 0}, "seeds is 0"),
    "tolerance": ({"tolerance": 100.0}, "tolerance is 100.0: give less than 100"),
    "norms where there are none": ({"only": ("norms",)}, "only names norms, but 'fcn' has none"),
    "pattern": ({"layers": ("conv*",)}, "the pattern 'conv*' matches no layer"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests(what):
    fields, sentence = BAD[what]
    with pytest.raises(BadRequest) as told:
        Fraction((PLAIN,), **fields, select="test").check()
    assert sentence in str(told.value)


def test_a_network_that_is_its_classifier_and_an_optimiser_for_matrices():
    with pytest.raises(BadRequest, match="no filters but those of its classifier fc1: learn a share of that"):
        Fraction((small_recipe(widths="8", depth=0),), select="test").check()
    Fraction((small_recipe(widths="8", depth=0),), classifier=("share",), select="test").check()
    if hasattr(torch.optim, "Muon"):
        recipe = small_recipe(model="test_fraction:matrices", widths=None, optimizer="muon")
        Fraction((recipe,), controls=False, select="test").check()
        Fraction((recipe,), select="test").check()  # single values of a matrix are a matrix too


def matrices() -> nn.Module:
    """A network of matrices alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False), nn.Tanh(), nn.Linear(8, 10, bias=False))


@pytest.mark.parametrize(
    ("module", "plain", "normed"),
    [
        (lambda norm: fcn((1, 28, 28), 10, norm=norm), 335_114, 335_114 + 3 * 256),
        (lambda norm: lenet((1, 28, 28), 10, norm=norm), 44_426, 44_426 + 6 + 16 + 120 + 84),
    ],
)
def test_norms_stand_in_the_place_of_biases(module, plain, normed):
    assert sum(p.numel() for p in module(False).parameters()) == plain
    assert sum(p.numel() for p in module(True).parameters()) == normed
    assert len(norms(module(True))) == 2 * sum(isinstance(layer, nn.ReLU) for layer in module(False))
    with pytest.raises(BadRequest):
        norms(module(False))


def test_networks_without_norms_keep_their_keys():
    args = {"input_shape": [1, 28, 28], "num_classes": 10}
    assert find_network("lenet", (1, 28, 28), 10, {}).args == args
    assert find_network("fcn", (1, 28, 28), 10, {}).args == args
    state = initial_state(find_network("fcn", (1, 28, 28), 10, {}), 0)
    with_norms = initial_state(find_network("fcn", (1, 28, 28), 10, {"norm": True}), 0)
    assert state["fc2.weight"].equal(with_norms["fc2.weight"])


QUICK = ("fraction", "--epochs", "1", "--widths", "8", "--depth", "2", "--seeds", "2", "--shares", "1,0.5,0.1")


@pytest.mark.usefixtures("svg_only")
def test_the_program_tells_rows_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = (*QUICK, "--workers", "0", "--model-args", '{"norm": true}')
    monkeypatch.setattr(sys, "argv", ["letitgo", *options])
    assert run([*options, "--format", "json", "--report", "out"]) == 0
    told = json.loads(capsys.readouterr().out)["rows"]
    assert {row["policy"] for row in told} == {
        *("everything", "filters", "norms only", "biases only", "classifier only", "fc1 only", "fc2 only"),
        "random values",
    }
    page = (tmp_path / "out" / "fraction.html").read_text()
    assert page.count("<svg") == 3
    for outside in ('src="http', "url(http", "<script", "<link"):
        assert outside not in page
    for word in ("norms only", "letitgo fraction", "kB", "10 tasks on one base"):
        assert word in page
    for figure in ("accuracy", "storage", "alone"):
        assert (tmp_path / "out" / f"fraction-{figure}.png").is_file()

    def again(*more: str) -> str:
        assert run([*options, "--report", "none", *more]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out

    from_csv = csv.DictReader(io.StringIO(again("--format", "csv")))
    assert [float(row["drop_mean"]) for row in from_csv] == [row["drop_mean"] for row in told]
    planned = json.loads(again("--dry-run", "--format", "json"))["dry_run"]
    assert planned["runs"] == planned["runs_stored"] == 2 * len(told)
    assert "10 % of filters" in again()


WRONG = {
    "share": (("--shares", "0"), "shares is '0': give more than 0"),
    "share in words": (("--shares", "half"), "shares is 'half': give a number"),
    "unknown policy": (("--only", "norms,bias"), "only is 'bias': did you mean biases?"),
    "no norms": (("--only", "norms"), "'fcn' has none (fcn and lenet have them with model-args"),
    "unknown rest": (("--rest", "zeros"), "rest is 'zeros': did you mean zero?"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_program_refuses_in_one_sentence(what, capsys):
    options, sentence = WRONG[what]
    assert run(["fraction", *options, "--report", "none"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_the_report_says_what_the_rows_say(study, rows):
    [section] = report(study, rows).sections
    said = " ".join(section.sentences)
    assert "698 values, n = 2." in said
    assert "Saved beside its base, 50 % of filters takes 3.7 kB" in said
    shares, alone, everything = section.tables
    assert [column.head for column in shares.columns] == [
        *("learned", "rest", "values", "drop", "above random", "stored")
    ]
    assert [row["rest"] for row in shares.rows] == ["initial", "zero"]
    assert [row["what"] for row in alone.rows] == ["norms only", "classifier only"]
    assert len(everything.rows) == len(rows)
    [panel] = section.pictures["accuracy"].panels[0]
    lines = {mark.label: mark for mark in panel.marks}
    assert lines["filters, rest initial"].x == [shares.rows[0]["learned"], 698]
    assert lines["filters, rest initial"].y[1] == pytest.approx(100 * rows[0]["accuracy_mean"])
    assert lines["norms only"].y == [pytest.approx(100 * alone.rows[0]["accuracy_mean"])]


def test_the_answer_is_the_fewest_values_that_are_surely_within_the_tolerance(study):
    few, more = (claim_row("filters", 0.895, share=share, verdict="robust", learned=n) for share, n in SIZES)
    base = claim_row("everything", 0.9, verdict=None, learned=1000)
    answer = report(study, [base, more, few]).answers[0]
    assert answer.startswith("Learn 10 % of filters (rest initial, norms frozen, classifier learned): 100 of 1,000 ")
    assert answer.endswith("values (10 %) cost 0.50 ± 1.00 points.")
    rows = [base, few | {"verdict": "critical"}, more | {"verdict": "undecided", "drop_mean": 0.002}]
    answer = report(study, rows).answers[0]
    assert answer == (
        "No part is surely within 1 point of everything learned; "
        "the least drop is 0.20 ± 1.00 points, with 25 % of filters."
    )


SIZES = ((0.1, 100), (0.25, 250))


def test_a_report_of_forty_layers_names_few(study):
    base = claim_row("everything", 0.9, verdict=None, learned=1000)
    layers = [claim_row(f"stage{i}.conv only", 0.4 + i / 100, verdict="critical" if i else "robust") for i in range(40)]
    [section] = report(study, [base, *layers]).sections
    assert max(map(len, section.sentences)) < 200
    assert "One part alone: 1 robust (stage0.conv only), 39 critical." in section.sentences
    for picture in section.pictures.values():
        labels = {getattr(mark, "label", "") for panels in picture.panels for panel in panels for mark in panel.marks}
        assert len(labels) <= 6
    assert len(section.pictures["alone"].panels[0][0].places) == 40


def test_tasks_on_one_base_are_added_up(rows):
    def tasks_of(*data: str) -> list:
        rows_of = [row | {"what": row["policy"]} for row in rows]
        return on_one_base([(SimpleNamespace(data=name, network=NORMED.network), rows_of) for name in data])

    assert tasks_of("digits") == []
    [tasks] = tasks_of("mnist", "fashion_mnist")
    study = Fraction((NORMED,), select="test")
    by_name = {row["what"]: row for row in together(study, tasks)}
    [alone] = [row for row in rows if row["policy"] == "norms only"]
    assert by_name["norms only"]["delta"] == 2 * alone["delta_bytes_mean"]
    assert by_name["norms only"]["passes"] == (alone["verdict"] == "robust")
    assert len(together(study, tasks)) == len(
        [row for row in rows if row["policy"] not in ("everything", "random values")]
    )


def claim_row(policy, accuracy, **fields):
    return {
        **{
            "policy": policy,
            "share": None,
            "rest": "initial",
            "norms": "frozen",
            "classifier": "learned",
            "accuracy_mean": accuracy,
            "validation_accuracy_mean": accuracy,
            "accuracy_ci95": 0.01,
            "n": 3,
        },
        **{"train_accuracy_mean": accuracy, "moved_max": 100, "delta_bytes_ci95": 0.0},
        **{"drop_mean": 0.9 - accuracy, "drop_ci95": 0.01, "drop_new_ci95": None},
        **{"above_random_mean": 0.2, "above_random_ci95": 0.05},
        **{"learned": 100, "parameters": 1000, "delta_bytes_mean": 450.0, "whole_bytes_mean": 4000.0},
        **fields,
    }


def test_claims_of_rt18():
    study = rt18.study(0.1, 2)
    assert study.recipes[0].epochs == 3
    told = [
        claim_row("filters", 0.88, share=0.25, norms="learned"),
        claim_row("filters", 0.80, share=0.1, norms="learned"),
        claim_row("norms only", 0.5, norms="learned"),
        claim_row("conv1 only", 0.5),
        claim_row("fc1 only", 0.7),
        claim_row("fc3 only", 0.6),
    ]
    assert [claim.within for claim in rt18.claims(study, told)] == [True, False, True, True, True]
    told.insert(4, claim_row("fc2 only", 0.99) | {"validation_accuracy_mean": 0.1})  # held-out examples choose fc1
    assert [claim.within for claim in rt18.claims(study, told)] == [True, False, True, True, True]
    assert rt18.claims(study, told)[3].measured == pytest.approx(10)
    told[2]["above_random_mean"], told[5]["accuracy_mean"], told[1]["delta_bytes_mean"] = -0.1, 0.55, 700.0
    assert [claim.within for claim in rt18.claims(study, told)] == [True, False, False, False, False]
    for row in told:
        row.update(dict.fromkeys([name for name in row if name.endswith(("_mean", "_ci95", "_bytes"))]), n=0)
    assert {claim.within for claim in rt18.claims(study, told)} == {None}
