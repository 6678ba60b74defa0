"""What is chosen is chosen on held-out training examples, and judged on the test set."""

from __future__ import annotations

import pytest
from helpers import small_recipe

from letitgo.errors import BadRequest
from letitgo.plan import Evaluation, Measure, Run
from letitgo.store import Store, open_store
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map

TINY = {"widths": "8", "depth": 2, "epochs": 1}
MAKE = {
    "map": lambda **o: Map(small_recipe(**TINY), seeds=2, reinit_at=(0,), **o),
    "finetune": lambda **o: Finetune(small_recipe(**TINY, shift="invert"), {"shift": "none"}, seeds=2, **o),
    "fraction": lambda **o: Fraction(small_recipe(**TINY), seeds=2, shares=(0.5, 0.1), **o),
    "classifier": lambda **o: Classifier(small_recipe(**TINY), seeds=2, **o),
}


def judged_by_hand(study, store: Store, accuracy) -> None:
    """Write a record for all that a study measures; ``accuracy(split, trains)`` is what each state is said to have."""
    for _ in range(4):  # later stages rest on what earlier ones found
        for values in study.stages(store):
            for value in values:
                if isinstance(value, Evaluation):
                    run = getattr(value.state, "run", None)
                    trains = run.moves if isinstance(run, Run) else ()
                    found = {"accuracy": accuracy(value.split, trains), "loss": 1.0, "n": 100}
                elif value.address.startswith("gradientss"):
                    layers = study.subjects[0].recipe.network.layers
                    found = {p: {"weights": 1.0, "gradients": [1.0]} for names in layers.values() for p in names}
                elif value.address.startswith("distances"):
                    found = {
                        layer: {"count": 1, "squares": 1.0, "largest": 1.0}
                        for layer in study.subjects[0].recipe.network.layers
                    }
                else:
                    found = {"bytes": 1, "whole": 2, "moved": 1}
                assert isinstance(value, Measure)
                store.write(value.address, value.key, {"result": found})


def disagree(good_on_test: str, good_on_validation: str):
    """All states reach 90 %, but 50 where a layer is frozen or zeroed that is good on the other split only."""

    def accuracy(split: str, trains: tuple[str, ...]) -> float:
        good = good_on_validation if split == "validation" else good_on_test
        frozen = {name.split(".")[0] for name in ("fc1.weight", "fc2.weight", "fc3.weight") if name not in trains}
        return 0.9 if not frozen or frozen == {good} else 0.5

    return accuracy


def test_the_freeze_to_advise_is_read_from_held_out_examples_and_judged_on_the_test_set(tmp_path):
    for select, advised, verdict in (("validation", "fc2", "critical"), ("test", "fc1", "robust")):
        study, store = MAKE["map"](select=select), open_store(tmp_path / select)
        judged_by_hand(study, store, disagree(good_on_test="fc1", good_on_validation="fc2"))
        rows = study.rows(store)
        [row] = [row for row in rows if (row["intervention"], row["layer"]) == ("frozen", advised)]
        assert row["verdict"] == verdict
        assert study.report(rows).answers[0].startswith(f"Freeze {advised} from the start")
        assert ("critical on the test set" in study.report(rows).answers[0]) == (select == "validation")
        sentences = study.report(rows).sections[0].sentences
        assert any(said.startswith("fc1 would save") for said in sentences) == (select == "validation"), sentences


def test_the_set_found_together_is_that_of_held_out_examples(tmp_path):
    def accuracy(split: str, trains: tuple[str, ...]) -> float:
        bad = "fc3" if split == "validation" else "fc1"  # so fc1 and fc2 pass, and on the test set fc2 and fc3
        return 0.9 if f"{bad}.weight" in trains else 0.5

    for select, names in (("validation", "fc1+fc2"), ("test", "fc2+fc3")):
        study, store = MAKE["map"](select=select, together=True), open_store(tmp_path / select)
        judged_by_hand(study, store, accuracy)
        found = {row["layer"] for row in study.rows(store) if row["scope"] == "robust"}
        assert found == {f"robust {names}"}


def slightly_worse_trained_in_full(split: str, trains: tuple[str, ...]) -> float:
    return disagree(good_on_test="fc1", good_on_validation="fc2")(split, trains) - 0.01 * (len(trains) == 6)


def test_what_fine_tuning_recommends_is_read_from_held_out_examples(tmp_path):
    for select, recommended in (("validation", "fc2"), ("test", "fc1")):
        study, store = MAKE["finetune"](select=select), open_store(tmp_path / select)
        judged_by_hand(study, store, slightly_worse_trained_in_full)
        rows = study.rows(store)
        [row] = [row for row in rows if row["recommended"]]
        assert (row["layer"], row["intervention"]) == (recommended, "frozen")
        own = [row for row in rows if row["start"] == "pretrained" and row["behind_mean"] is not None]
        assert all(r["behind_mean"] == pytest.approx(row["accuracy_mean"] - r["accuracy_mean"]) for r in own)


@pytest.mark.usefixtures("all_learned")
def test_d_is_searched_on_held_out_examples_and_judged_on_the_test_set_once(tmp_path):
    study, store = Dimension(small_recipe(**TINY), seeds=2, resolution=1.0, max_d=200), open_store(tmp_path)
    outcome = compute(study, store)
    [answer] = [row for row in outcome.rows if row["row"] == "answer"]
    [search] = study.asked
    tested = [
        d
        for d in {row["d"] for row in outcome.rows if row["row"] == "d"}
        if all(store.intact(value.address, value.key) for value in search.at(d, 1, "test"))
    ]
    assert tested == [answer["best_d"]]
    accuracies = [value.result(store)["accuracy"] for value in search.at(answer["best_d"], 1, "test")]
    assert answer["test_accuracy_mean"] == pytest.approx(sum(accuracies) / 2)
    assert any(sentence.startswith("On the test set: ") for sentence in outcome.answers)


@pytest.mark.parametrize("name", MAKE)
def test_held_out_examples_are_evaluated_and_never_trained_on(name, tmp_path):
    study = MAKE[name]()
    splits = {value.split for stage in study.stages(open_store(tmp_path)) for value in stage if hasattr(value, "split")}
    assert "validation" in splits
    recipe = study.subjects[0].recipe
    assert (len(recipe.dataset.split("validation")), len(recipe.dataset.split("train"))) == (287, 1151)


@pytest.mark.parametrize("name", MAKE)
def test_selected_on_the_test_set_keys_are_those_of_the_recipe_as_it_is(name, tmp_path):
    study = MAKE[name](select="test")
    assert [of.recipe.key for of in study.subjects] == [recipe.key for recipe in study.recipes]
    values = [value for stage in study.stages(open_store(tmp_path)) for value in stage]
    assert "validation" not in {getattr(value, "split", None) for value in values}


def test_a_recipe_s_own_held_out_examples_are_kept_and_the_data_of_pretraining_hold_out_the_same():
    study = Map(small_recipe(validation=100))
    assert study.trained[0].key == study.recipes[0].key
    tuned = MAKE["finetune"]()
    of = tuned.subjects[0]
    source = tuned.source(of)
    held_out = of.recipe.dataset.split("validation").labels
    assert source is not None
    assert source.dataset.split("validation").labels.equal(held_out)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"examples": 100}, "20 of 100 training examples would be held out to choose on, and 30 are the least"),
        ({"validation": 10}, "10 of 1,428 training examples would be held out"),
        ({"examples": 1400}, "examples is 1,400: 'digits' has 1,158 for training, besides 280 held out to choose on"),
    ],
)
def test_too_few_held_out_examples_are_refused_in_a_sentence(fields, why):
    recipe = small_recipe(**TINY, **fields)
    for study in (Map(recipe), Fraction(recipe), Classifier(recipe), Dimension(recipe)):
        with pytest.raises(BadRequest, match=why) as refused:
            study.check()
        assert "choose on the test set" in str(refused.value)
        assert "\n" not in str(refused.value)
    Map(recipe, select="test").check()
