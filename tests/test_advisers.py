"""Rules that tell what may stay frozen: what they read, what they are held against, and what is told of them."""

from __future__ import annotations

import json
from math import sqrt
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import small_recipe
from torch import nn

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.plan import Estimated, Fisher, Influence, Initial, SingularValues
from letitgo.recipes import Recipe
from letitgo.recipes.batches import Batches
from letitgo.recipes.data import Data
from letitgo.report.draw import to_figure
from letitgo.store import open_store
from letitgo.studies.advisers.study import OF_RULES, RULES, SCORED, Advisers, Field
from letitgo.studies.compute import compute, estimate
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.map.study import Map
from letitgo.studies.search.study import Search
from letitgo.studies.statistics import spearman

pytestmark = pytest.mark.usefixtures("all_learned")

RECIPE = small_recipe(widths="16", depth=3)


class Blocks(nn.Module):
    """A block that adds nothing, one that turns its input around, and one that gives another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.around, self.head = Added(), nn.Linear(64, 64), nn.Linear(64, 10)
        with torch.no_grad():
            self.around.weight.copy_(-2 * torch.eye(64))
            self.around.bias.zero_()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.around(self.nothing(inputs.flatten(1))[0]))


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)
        nn.init.zeros_(self.inner.weight)
        nn.init.zeros_(self.inner.bias)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return inputs + self.inner(inputs), None


class Spiked(nn.Module):
    """A matrix whose singular values are known: 10 and 8 stand out of what lies between 0.1 and 2."""

    values = (10.0, 8.0, *np.linspace(2, 0.1, 8))

    def __init__(self) -> None:
        super().__init__()
        self.spiked, self.head = nn.Linear(64, 10, bias=False), nn.Conv1d(1, 1, 3, padding=1)
        left, right = (torch.linalg.qr(torch.randn(n, 10)).Q for n in (10, 64))
        with torch.no_grad():
            self.spiked.weight.copy_(left @ torch.diag(torch.tensor(self.values, dtype=torch.float32)) @ right.T)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.spiked(inputs.flatten(1))[:, None])[:, 0]


# What rules read


def test_singular_values_beyond_the_edge_are_signal(tmp_path):
    network = Recipe(model="test_advisers:Spiked").network
    state, store = Initial(network, 3), open_store(tmp_path)
    found = SingularValues(state).compute(store)
    values = np.array(Spiked.values)
    low, high = np.quantile(values, [0.25, 0.75])
    edge = (high - low) / 1.349 * (1 + sqrt(10 / 64))
    assert found["spiked.weight"]["largest"] == pytest.approx(10, rel=1e-5)
    assert found["spiked.weight"]["least"] == pytest.approx(0.1, rel=1e-4)
    assert 1.2 < edge < 1.4
    assert found["spiked.weight"]["signal"] == pytest.approx(values[values > edge].sum(), rel=1e-5)
    assert found["spiked.weight"]["noise"] == pytest.approx(values[values <= edge].sum(), rel=1e-5)
    kernel = state.module(store).get_parameter("head.weight").detach().flatten(1)
    assert found["head.weight"]["largest"] == pytest.approx(float(kernel.norm()), rel=1e-5)
    assert found.keys() == {"spiked.weight", "head.weight"}


def test_fisher_information_is_the_mean_square_of_single_gradients(tmp_path):
    recipe = Recipe(model="test_advisers:linear", batch_size=7)
    state, store = Initial(recipe.network, 0), open_store(tmp_path)
    found = Fisher(state, recipe, examples=10).compute(store)
    module, batches = state.module(store), Batches(recipe)
    inputs, labels = (torch.cat(part)[:10] for part in zip(batches.at(0), batches.at(1), strict=True))
    left = module(inputs).detach().softmax(-1) - nn.functional.one_hot(labels, 10)
    squares = left.square().sum(-1)
    assert found["1.bias"] == pytest.approx(float(squares.mean()), rel=1e-5)
    assert found["1.weight"] == pytest.approx(float((squares * inputs.flatten(1).square().sum(-1)).mean()), rel=1e-5)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_influence_is_one_minus_the_cosine_where_shapes_are_equal(tmp_path):
    recipe = Recipe(model="test_advisers:Blocks")
    found = Influence(Initial(recipe.network, 0), recipe, examples=20).compute(open_store(tmp_path))
    assert found["nothing"] == pytest.approx(0, abs=1e-12)
    assert found["around"] == pytest.approx(2)
    assert found["nothing.inner"] == pytest.approx(1)  # its output is zero
    assert "head" not in found


# What they are held against


def test_spearman_is_that_of_scipy():
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = generator.integers(0, 5, 9).tolist(), generator.normal(size=9).tolist()
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def field(scores: dict[str, float | None], drops: dict[str, list[float]]) -> Field:
    """Units, each with one score of the rule ``rise`` under every seed, and a drop under each."""
    found = {
        unit: {seed: {"drop": drop, "rise": scores[unit]} for seed, drop in enumerate(own)}
        for unit, own in drops.items()
    }
    labels = {unit: {"saved": 0.1 * (1 + i), "parameters": 5} for i, unit in enumerate(drops)}
    return Field(labels, found, range(3), (0.5, 1.0, 5.0))


DROPS = {"a": [0.0, 0.002, 0.004], "b": [0.03, 0.03, 0.03], "c": [0.006, 0.006, 0.006], "d": [0.2, 0.1, 0.3]}


def test_a_rule_is_held_against_the_drops_under_the_other_seeds():
    right = field({"a": 1.0, "b": 8.0, "c": 3.0, "d": 9.0}, DROPS)
    found = right.judged("rise", 0)
    assert found["correlation"] == pytest.approx(1)
    assert found["regret"] == 0
    assert found["ranked"] == 4
    assert [found[t]["harmless"] for t in (0.5, 1.0, 5.0)] == [1, 2, 3]
    assert all(found[t]["forgone"] == pytest.approx(0) and found[t]["excess"] == 0 for t in (0.5, 1.0, 5.0))
    wrong = field({"a": 9.0, "b": 3.0, "c": 8.0, "d": 1.0}, DROPS).judged("rise", 0)
    assert wrong["correlation"] == pytest.approx(-1)
    assert wrong["regret"] == pytest.approx(0.2 - 0.003)  # of seeds 1 and 2 alone
    assert wrong[1.0]["forgone"] == pytest.approx(1)  # d and b are taken, a and c would do
    assert wrong[1.0]["excess"] == pytest.approx(0.2 - 0.01)
    assert wrong[5.0]["forgone"] == pytest.approx(0.1 / 0.6)  # d, b and c are taken in place of a, b and c


def test_what_a_rule_says_nothing_of_is_not_ranked_and_never_taken():
    found = field({"a": None, "b": 3.0, "c": 1.0, "d": 9.0}, DROPS).judged("rise", 0)
    assert found["ranked"] == 3
    assert found["correlation"] == pytest.approx(1)
    assert found["regret"] == pytest.approx(0.006 - 0.003)
    assert found[5.0]["forgone"] == pytest.approx(0.1 / 0.6)
    silent = field(dict.fromkeys("abcd"), DROPS).judged("rise", 0)
    assert (silent["correlation"], silent["regret"], silent["ranked"]) == (None, None, 0)
    assert silent[5.0] == {"harmless": 3, "forgone": 1, "excess": None}


def test_position_one_seed_and_chance():
    one = field(dict.fromkeys("abcd", 0.0), DROPS)
    assert one.judged("first", 0)["correlation"] == pytest.approx(-one.judged("last", 0)["correlation"])
    assert one.judged("one_seed", 0)["correlation"] == pytest.approx(1)
    assert one.judged("parameters", 0)["correlation"] is None  # all have as many
    assert one.judged("rise", 0)["regret"] == 0  # of equal harm the first is taken
    assert abs(one.judged("random", 0)["correlation"]) < 0.3
    assert one.judged("random", 0) == one.judged("random", 0) != one.judged("random", 1)


# The study


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("advisers"))
    study = Advisers(RECIPE, seeds=3)
    with patch.object(Data, "learned", lambda *_: True):
        outcome = compute(study, store)
        assert outcome.failures == []
        yield study, store, outcome


def test_rows_are_of_units_rules_and_tolerances(found):
    study, _, outcome = found
    rows = outcome.rows
    assert [row["row"] for row in rows[:5]] == ["baseline", *["unit"] * 4]
    assert [row["rule"] for row in rows if row["row"] == "rule"] == list(RULES)
    assert len([row for row in rows if row["row"] == "tolerance"]) == len(RULES) * len(study.tolerances)
    assert len({tuple(row) for row in rows}) == 1  # as CSV needs
    by_seed = outcome.seeds
    for name in OF_RULES:
        for row in (row for row in rows if row["row"] == "rule"):
            own = by_seed[(by_seed["row"] == "rule") & (by_seed["rule"] == row["rule"])][name].dropna()
            mean = row[f"{name}_mean"]
            assert (mean is None) == (len(own) == 0)
            assert mean is None or mean == pytest.approx(own.mean())
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_drops_and_runs_are_those_of_a_map(found):
    _, store, outcome = found
    takes = estimate(Map(RECIPE, seeds=3, reinit_at=(), draws=1), store, 1)
    assert takes.runs == takes.runs_stored == 3 * 5
    drops = {
        row["layer"]: row["drop_mean"]
        for row in compute(Map(RECIPE, seeds=3, reinit_at=()), store).rows[1:]
        if row["intervention"] == "frozen"
    }
    assert {row["unit"]: row["drop_mean"] for row in outcome.rows if row["row"] == "unit"} == drops


def test_the_rise_in_loss_is_that_of_a_search_and_auto_rgn_that_of_finetune(found, tmp_path):
    _, store, outcome = found
    search = compute(Search(RECIPE, seeds=3, spend=1.1, search_seeds=3), store)
    rises = {next(iter(row["frozen"])): row["rise_mean"] for row in search.rows if row["row"] == "unit"}
    assert {row["unit"]: row["rise_mean"] for row in outcome.rows if row["row"] == "unit"} == pytest.approx(rises)


def test_the_costs_are_counted(found):
    study, _, outcome = found
    cost = {row["rule"]: row["trainings"] for row in outcome.rows if row["row"] == "rule"}
    saved = [row["saved"] for row in outcome.rows if row["row"] == "unit"]
    assert cost["one_seed"] == pytest.approx(1 + sum(1 - share for share in saved))
    assert cost["random"] == cost["first"] == 0
    assert 0 < cost["gradient"] == cost["relative_gradient"] < 1 < cost["rise"] < cost["one_seed"]
    of = study.subjects[0]
    for unit, share in zip(study.units(of), saved, strict=True):
        assert share == pytest.approx(1 - of.trainings(of.frozen(unit.parameters, of.recipe)))


def test_the_report_says_which_rule_agrees_best(found, tmp_path):
    study, _, outcome = found
    rules = [row for row in outcome.rows if row["row"] == "rule" and row["rule"] not in ("random", "one_seed")]
    best = max((row for row in rules if row["correlation_mean"] is not None), key=lambda row: row["correlation_mean"])
    ceiling = next(row for row in outcome.rows if row["rule"] == "one_seed")
    if ceiling["correlation_mean"] > ceiling["correlation_ci95"]:
        assert RULES[best["rule"]].says in outcome.answers[0]
    else:
        assert outcome.answers[0].startswith("No rule can be judged")
    assert any("letitgo search ranks by" in text for text in outcome.answers)
    assert list(outcome.figures()) == ["advisers-correlation"]
    assert "Spectrum" in outcome.report(tmp_path).read_text()
    with patch.object(Data, "learned", lambda *_: False):
        assert study.report(outcome.rows).sections[0].answer.startswith("No verdicts")


def test_intervals_of_correlations_end_at_one_and_tables_without_numbers_are_left_out(found):
    study, _, outcome = found
    wide = {"correlation_mean": 0.9, "correlation_ci95": 0.25}
    rows = [row | wide if row["rule"] == "one_seed" else row for row in outcome.rows]
    rows = [row | {"forgone_mean": None, "excess_mean": None} if row["row"] == "tolerance" else row for row in rows]
    [section] = study.report(rows).sections
    column = section.tables[0].columns[1]
    [row] = [row for row in section.tables[0].rows if row["rule"] == "one_seed"]
    assert column.cell(row) == "0.90 (0.65 to 1.00)"
    assert column.cell(row | {"correlation_mean": -0.9}) == "-0.90 (-1.00 to -0.65)"
    assert column.cell(row | {"correlation_mean": 0.7}) == "0.70 ± 0.25"
    assert not any("At tolerances" in table.title for table in section.tables)
    assert section.main == [section.tables[0]]
    rows = [row | {"forgone_mean": 0.1} if row["row"] == "tolerance" else row for row in rows]
    assert [table.title for table in study.report(rows).sections[0].main][1:] == ["At tolerances, points"]
    [axes] = to_figure(section.pictures["correlation"]).axes
    ends = [x for lines in axes.collections for path in lines.get_segments() for x in path[:, 0]]
    assert min(ends) >= -1
    assert max(ends) == 1


def test_seeds_that_do_not_agree_judge_no_rule(found):
    study, _, outcome = found
    rows = [
        row | {"correlation_mean": 0.1, "correlation_ci95": 0.4} if row["rule"] == "one_seed" else row
        for row in outcome.rows
    ]
    assert study.report(rows).sections[0].answer == (
        "No rule can be judged: the seeds do not agree on which layers are harmful to freeze "
        "(rank correlation 0.10 ± 0.40)."
    )


def test_a_pretrained_start_has_the_runs_of_finetune(tmp_path):
    recipe, source = small_recipe(depth=3, shift="invert", examples=300), {"epochs": 1}
    store = open_store(tmp_path)
    study = Advisers(recipe, pretrained=source, seeds=2)
    outcome = compute(study, store)
    assert outcome.failures == []
    assert {row["start"] for row in outcome.rows} == {"pretrained"}
    assert outcome.said.sections[0].heading.endswith(", pretrained: 1 epoch on digits")
    tuned = compute(Finetune(recipe, source, seeds=2), store)
    rows = [row for row in tuned.rows if row["start"] == "pretrained"]
    units = {row["unit"]: row for row in outcome.rows if row["row"] == "unit"}
    frozen = {row["layer"]: row for row in rows if row["intervention"] == "frozen"}
    alone = {row["layer"]: row for row in rows if row["intervention"] == "only"}
    for name, row in units.items():
        assert row["drop_mean"] == pytest.approx(frozen[name]["drop_mean"])
        assert row["relative_gradient_mean"] == pytest.approx(alone[name]["gradient_mean"])
        assert row["saved"] == pytest.approx(1 - frozen[name]["share"])


def test_networks_with_norms_are_read_with_statistics_of_the_data(tmp_path):
    recipe = small_recipe(model="helpers:NormNet", widths=None, epochs=1, examples=200)
    study, store = Advisers(recipe, seeds=2, by="module"), open_store(tmp_path)
    outcome = compute(study, store)
    assert outcome.failures == []
    [[_, cell, *_]] = study.cells(study.subjects[0], store)
    measures = cell.measures(study.subjects[0].recipe)
    assert isinstance(measures["fisher"].state, Estimated)
    assert measures["fisher"].state == measures["influence"].state
    units = {row["unit"]: row for row in outcome.rows if row["row"] == "unit"}
    assert units["norm1"]["signal_mean"] is None  # it has no matrix
    assert units["norm1"]["influence_mean"] is not None
    assert units["fc1"]["influence_mean"] is None
    assert all(units["fc1"][f"{name}_mean"] is not None for name in set(SCORED) - {"influence"})


def test_the_command_gives_rows_as_json_and_csv(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        "--widths",
        "8",
        "--depth",
        "3",
        "--epochs",
        "1",
        "--examples",
        "200",
        "--seeds",
        "2",
        "--tolerances",
        "1",
    ]
    asked = ["advisers", *options, "--workers", "0", "--report", "none"]
    assert run([*asked, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["row"] for row in rows} == {"baseline", "unit", "rule", "tolerance"}
    assert run([*asked, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": ("fc1", "fc2")}, "2 of the layers or blocks asked for train in 'fcn': to rank takes 3"),
        ({"seeds": 1}, "seeds is 1: give at least 2"),
        ({"tolerances": (1.0, 1.0)}, "tolerances has a value twice"),
        ({"pretrained": "digits"}, "pretraining and fine-tuning are the same"),
        ({"layers": ("conv*",)}, "conv"),
    ],
)
def test_what_cannot_be_ranked_is_refused(fields, said, tmp_path):
    with pytest.raises(BadRequest, match=said):
        compute(Advisers(RECIPE, **fields), open_store(tmp_path))


def test_what_is_not_computed_yet_ranks_nothing(tmp_path):
    study = Advisers(RECIPE, seeds=2)
    rows = study.rows(open_store(tmp_path))
    assert {row["n"] for row in rows} == {0}
    assert {row["correlation_mean"] for row in rows} == {None}
    assert study.report(rows).sections == []


def test_a_seed_with_a_run_that_failed_is_left_out(found):
    study, store, _ = found
    of = study.subjects[0]
    [[_, *cells]] = study.settled(of, store)
    whole = study.found
    with patch.object(Advisers, "found", lambda self, cell, *rest: _without(1, whole(cell, *rest), cell is cells[2])):
        field = study._field(of, cells, store)
    assert field.seeds == [0, 2]
    assert field.judged("rise", 0)["ranked"] == 4


def _without(seed, numbers, here):
    return {own: value for own, value in numbers.items() if not (here and own == seed)}
