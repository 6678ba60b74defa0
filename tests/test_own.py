"""Training code of one's own: what letitgo freezes, asks and compares around it."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy

import own_tasks
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import letitgo
from letitgo.cli.main import run
from letitgo.errors import BadRequest, PartlyFailed, WorkFailed
from letitgo.execute.training import carry_out
from letitgo.plan import Evaluation, Initial
from letitgo.recipes import Recipe
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute, estimate
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.subject import Subject
from letitgo.studies.sweep import sweep
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.value import derive
from letitgo.weights.state import seed_generators

SEED = 3


def recipe(task: str = "Digits", **fields) -> Recipe:
    return Recipe(task=f"own_tasks:{task}", seed=SEED, **fields)


def trained(of: Recipe, freeze_at: dict[int, list[str]]) -> dict[str, torch.Tensor]:
    """What the same script gives alone, with parameters frozen by hand at epochs."""
    task = getattr(own_tasks, of.model.partition(":")[2])()
    model = task.model()
    model.load_state_dict(Initial(of.network, SEED).load(None))
    model.train()
    frozen = [p for name, p in model.named_parameters() if name in freeze_at.get(0, ())]
    for parameter in frozen:
        parameter.requires_grad_(False)
    seed_generators(SEED)
    for epoch, _ in enumerate(task.train(model, SEED), start=1):
        for name in freeze_at.get(epoch, ()):
            model.get_parameter(name).requires_grad_(False)
            model.get_parameter(name).grad = None
        seed_generators(derive(SEED, "epoch", epoch + 1))
    return model.state_dict()


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("names", "epoch"), [((), 0), (("0.weight", "0.bias"), 0), (("0.weight", "0.bias"), 2)])
def test_it_trains_as_the_script_alone_does(names, epoch, store):
    of = Subject(recipe())
    state = of.frozen(names, of.recipe, epoch) if names else of.baseline(of.recipe).final
    outcome = compute(_Only(of.recipe, state), store)
    assert not outcome.failures
    found = state.load(store)
    assert equal(found, trained(of.recipe, {epoch: list(names)}))
    if names:
        start = of.baseline(of.recipe).at_epoch(epoch).load(store)
        assert all(torch.equal(found[name], start[name]) for name in names)
        assert not torch.equal(found["3.weight"], start["3.weight"])


class _Only(Train):
    """One evaluation of a state."""

    def __init__(self, of: Recipe, state) -> None:
        super().__init__(of)
        object.__setattr__(self, "wanted", Evaluation.under(of, state, "test"))

    def stages(self, store):
        yield [self.wanted]

    def rows(self, store):
        return []


def test_a_map_has_verdicts_and_what_else_is_measured(store):
    study = Map(recipe(), seeds=2, freeze_at=(0, 1))
    told = estimate(study, store, 1)
    outcome = compute(study, store)
    assert not outcome.failures
    assert told.runs == 2 * 7 + 1
    base, *others = outcome.rows
    assert base["accuracy_mean"] > 0.8
    assert 0 <= base["test_even_mean"] <= 1
    assert not {"test_n_mean", "test_correct_mean"} & base.keys()
    assert all(row["drop_new_ci95"] is not None for row in others if row["drop_ci95"] is not None)
    assert {row["verdict"] for row in others} <= {"robust", "critical", "undecided"}
    saved = {row["layer"]: row["saved"] for row in others if (row["intervention"], row["epoch"]) == ("frozen", 0)}
    assert saved["0"] > saved["4"] > 0
    assert all(0 < row["saved"] < saved[row["layer"]] for row in others if row["epoch"] == 1 and row["saved"])
    table = outcome.said.sections[0].tables[-1]
    assert [column.name for column in table.columns if column.name == "test_even"]
    assert not [column.name for column in table.columns if column.name == "train_accuracy"]


def test_less_is_better_where_the_task_says_so(store):
    outcome = compute(Map(recipe("Regression"), seeds=2), store)
    base, *others = outcome.rows
    fresh = [row for row in others if row["intervention"] == "rerandomised"]
    assert all(row["mse_mean"] > base["mse_mean"] and row["drop_mean"] > 0 for row in fresh)
    assert any("test mse" in sentence for sentence in outcome.answers)


def test_a_network_that_is_called_with_keywords_is_counted(store):
    rows = compute(Map(recipe("ByKeyword"), seeds=1), store).rows
    saved = {row["layer"]: row["saved"] for row in rows if row["intervention"] == "frozen"}
    forward, head = 2 * (160 + 160), 2 * 160  # operations for one example; gradients of a product cost as much again
    assert saved["body"] == pytest.approx(1 - (forward + head) / (forward + 3 * head))


def test_one_run_at_a_time(store):
    [row] = compute(Train(recipe("Whole"), freeze=("0",)), store).rows
    assert row["trained"] == 16 * 16 + 16 + 16 * 10 + 10
    assert row["train_accuracy"] is None
    assert None not in (row["accuracy"], row["test_even"])


def test_a_run_goes_on_where_it_broke_off(tmp_path, store):
    flag = tmp_path / "stop"
    flag.write_text("")
    of = Subject(recipe("Resuming", model_args={"flag": str(flag)}))
    states = [of.baseline(of.recipe).at_epoch(epoch) for epoch in (2, 3)]
    with pytest.warns(PartlyFailed, match="the power went"):
        compute(_Several(of.recipe, states), store)
    flag.unlink()
    outcome = compute(_Several(of.recipe, states), store)
    assert not outcome.failures
    assert equal(states[-1].load(store), trained(recipe("Digits"), {}))
    frozen = of.frozen(("0.weight",), of.recipe, 2)
    assert not compute(_Only(of.recipe, frozen), store).failures
    assert equal(frozen.load(store), trained(recipe("Digits"), {2: ["0.weight"]}))


def test_an_epoch_that_nobody_asked_for_is_kept_until_the_run_gets_further(tmp_path, store):
    flag = tmp_path / "stop"
    flag.write_text("")
    of = Subject(recipe("Resuming", model_args={"flag": str(flag)}))
    run = of.baseline(of.recipe)
    with pytest.raises(WorkFailed, match="the power went"):
        carry_out(run, store, [3], checkpoint_every=0)
    assert [address.rpartition("/")[2] for address in store.under(run.partial_folder)] == ["000000001", "000000002"]
    flag.unlink()
    told = []
    carry_out(run, store, [3], on_step=told.append)
    assert told == [3]
    assert equal(run.final.load(store), trained(recipe("Digits"), {}))
    assert not list(store.under(run.partial_folder))


class _Several(_Only):
    def __init__(self, of: Recipe, states) -> None:
        super().__init__(of, states[0])
        object.__setattr__(self, "states", states)

    def stages(self, store):
        yield [Evaluation.under(self.recipes[0], state, "test") for state in self.states]


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("Thawing", "0.weight is frozen and moved all the same in train of the task 'own_tasks:Thawing'. It asks for"),
        ("Replacing", "returns another network: it has to train the one that it is given, in place"),
        ("Growing", "changes which parameters there are (more.bias): build them in model()"),
        ("Idle", "leaves every weight as it was: train the model it is given"),
        ("Raising", "train of the task 'own_tasks:Raising' raises ValueError: no such file"),
        ("TooFew", "yields 2 times: it states 3 epochs"),
        ("TooMany", "yields more than 3 times: it states 3 epochs"),
        ("Unmeasured", "has to give a dict with 'accuracy': it gives loss"),
        ("Wordy", "has to give a dict with 'accuracy': it gives float"),
        ("NotANumber", "gives nan for 'accuracy'"),
        ("InPercent", "for 'accuracy': a share lies between 0 and 1"),
    ],
)
def test_a_bad_task_fails_in_one_sentence(task, says, store):
    with pytest.warns(PartlyFailed):
        outcome = compute(Map(recipe(task), seeds=1, layers=("0",), reinit_at=()), store)
    assert any(says in failure.why and "\n" not in failure.why for failure in outcome.failures), outcome.failures
    outcome.show()


TOLD = ("ticket", "random mask", "frozen", "complement")


def by_hand(of: Recipe, run, store) -> dict[str, torch.Tensor]:
    """What the same script gives alone in a network that is held by hand."""
    model = own_tasks.Parts().model()
    model.load_state_dict(run.start.load(store))
    letitgo.hold(model.train(), run.trains.part(model, store))
    seed_generators(SEED)
    for epoch, _ in enumerate(own_tasks.Parts().train(model, SEED), start=1):
        seed_generators(derive(SEED, "epoch", epoch + 1))
    return model.state_dict()


def test_tickets_of_it_train_as_the_script_alone_does_in_a_held_network(store):
    study = Ticket(recipe("Parts"), seeds=1, levels=1, variants=TOLD[1:], stability=True)
    outcome = compute(study, store)
    assert not outcome.failures
    assert [row["variant"] for row in outcome.rows] == ["everything", *TOLD]
    assert outcome.rows[1]["weights_left"] == outcome.rows[2]["weights_left"] < outcome.rows[0]["weights_left"]
    [of] = study.subjects
    for variant in TOLD:
        run = study.tickets[of].run(1, variant, of.recipe)
        assert equal(run.final.load(store), by_hand(of.recipe, run, store))
    assert 0 < outcome.rows[1]["pruning_angle_mean"] < 90
    assert outcome.rows[1]["order_angle_mean"] > 0  # another seed of its code is another order
    with pytest.raises(BadRequest, match="rewind is 1ep: training code of your own begins at its first epoch"):
        compute(Ticket(recipe("Parts"), rewind="1ep"), store)


def test_fractions_of_it_train_beside_as_many_random_values(store):
    outcome = compute(Fraction(recipe("Parts"), seeds=1, shares=(0.5,), only=("classifier",)), store)
    assert not outcome.failures
    policies = ["everything", "filters", "classifier only", "random values", "random values"]
    assert [row["policy"] for row in outcome.rows] == policies
    assert outcome.rows[1]["learned"] == 8 * 10 + 8 + 8 * 16 + 8 + 170 == outcome.rows[3]["learned"]
    assert all(row["delta_bytes_mean"] < row["whole_bytes_mean"] for row in outcome.rows[1:])
    assert outcome.rows[0]["train_accuracy_mean"] is None


def test_it_trains_in_a_subspace_and_goes_on_there(tmp_path, store):
    study = Dimension(recipe("Parts"), seeds=1, grid=(60,))
    outcome = compute(study, store)
    assert not outcome.failures
    assert outcome.rows[-1]["bits_per_label"] is None
    [search] = study.asked
    run = search.run(60, search.of.recipe)
    whole = run.final.load(store)
    assert equal(whole, by_hand(search.of.recipe, run, store))
    flag = tmp_path / "stop"
    flag.write_text("")
    [search] = Dimension(recipe("Parts", model_args={"flag": str(flag)}), seeds=1, grid=(60,)).asked
    run = search.run(60, search.of.recipe)
    with pytest.raises(WorkFailed, match="the power went"):
        carry_out(run, store, [3], checkpoint_every=0)
    flag.unlink()
    told = []
    carry_out(run, store, [3], on_step=told.append)
    assert told == [3]
    assert equal(run.final.load(store), whole)


def test_dimensions_are_asked_of_tasks_with_an_accuracy_to_hold_out(store):
    with pytest.raises(BadRequest, match="accuracy: the metric of 'own_tasks:Regression' is mse"):
        compute(Dimension(recipe("Regression")), store)
    with pytest.raises(BadRequest, match="says nothing of its training examples; give validation or test"):
        compute(Dimension(recipe("Parts"), split="train"), store)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("Digits", "the optimiser was given 0.weight itself, which does not move as a whole"),
        ("Released", "releases the network, of which only a part may move"),
        ("Written", "frozen entries of 0.weight moved all the same"),
    ],
)
def test_code_that_does_not_keep_to_the_part_that_is_held_fails(task, says, store):
    with pytest.warns(PartlyFailed, match="training single weights, seed 3"):
        outcome = compute(Ticket(recipe(task), seeds=1, levels=1, variants=()), store)
    assert any(says in failure.why for failure in outcome.failures)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("Written", "0.weight left the subspace it trains in"),
        (
            "FreezesItself",
            "0.weight moves in the subspace, though train of the task 'own_tasks:FreezesItself'",
        ),
    ],
)
def test_code_that_does_not_keep_to_its_subspace_fails(task, says, store):
    with pytest.warns(PartlyFailed, match="training in 60 dimensions, seed 3"):
        outcome = compute(Dimension(recipe(task), seeds=1, grid=(60,)), store)
    assert any(says in failure.why for failure in outcome.failures)


def test_a_drop_is_how_much_worse_it_is_where_less_is_better(store):
    base, ticket, random = compute(
        Ticket(recipe("Wrong"), seeds=1, levels=1, rate=0.9, variants=("random mask",)), store
    ).rows
    for row in (ticket, random):
        assert row["drop_mean"] == pytest.approx(row["error_mean"] - base["error_mean"])
    assert random["below_ticket_mean"] == pytest.approx(random["error_mean"] - ticket["error_mean"])
    assert random["drop_mean"] > 0
    rows = compute(Fraction(recipe("Wrong"), seeds=1, shares=(), only=("classifier",)), store).rows
    assert rows[1]["above_random_mean"] == pytest.approx(rows[2]["error_mean"] - rows[1]["error_mean"])
    with pytest.raises(BadRequest, match="mse is none; name another, or say share = True in the task"):
        compute(Ticket(recipe("Regression")), store)


def test_its_dense_layers_are_measured_as_it_trains(store):
    rows = compute(Align(recipe(), seeds=1), store).rows
    assert len(rows) == 3 * (4 + 3)
    assert all(row["train_loss_mean"] is None and row["accuracy_mean"] is not None for row in rows)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("Untrained", "without train(model, seed)"),
        ("Unpaused", "states 3 epochs, so train has to be a generator"),
        ("Endless", "epochs of the task 'own_tasks:Endless' is 0"),
        ("Nameless", "metric of the task 'own_tasks:Nameless' is 3"),
        ("Blind", "never calls the model, so operations cannot be counted"),
        ("Shapeless", "gives a str: it has to return a torch.nn.Module"),
        ("Nowhere", "has no function or class 'Nowhere'"),
    ],
)
def test_a_bad_task_is_refused_before_anything_runs(task, says, store):
    with pytest.raises(BadRequest, match=says.replace("(", r"\(").replace(")", r"\)")):
        compute(Map(recipe(task), seeds=1), store)


def test_fields_that_are_given_are_refused_by_default_values_too():
    for given in ({"data": "digits"}, {"model": "fcn"}, {"optimizer": "sgd"}, {"epochs": 30}):
        with pytest.raises(BadRequest, match=f"{next(iter(given))} does not apply to 'own_tasks:Digits'"):
            sweep(task="own_tasks:Digits", **given)
    [found] = sweep(task="own_tasks:Digits", epochs=3, data="own", seed=2)
    assert found.seed == 2


def test_fields_that_its_code_decides_are_refused():
    with pytest.raises(BadRequest, match="lr does not apply to 'own_tasks:Digits', which trains with its own code"):
        recipe(lr=0.1)
    with pytest.raises(BadRequest, match="epochs does not apply"):
        recipe(epochs=7)
    with pytest.raises(BadRequest, match="takes no 'depth'"):
        recipe(model_args={"depth": 2})
    for study in (Classifier(recipe(), seeds=1), Carry((recipe(),), seeds=1)):
        with pytest.raises(BadRequest, match=r"loop, which this study changes: align, .*, ticket and train do not$"):
            compute(study)


def test_its_key_is_the_same_elsewhere_and_covers_its_arguments():
    script = "import sys; from letitgo import Recipe; print(Recipe(task='own_tasks:Digits', seed=3).key)"
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == recipe().key == deepcopy(recipe()).key
    assert recipe(model_args={"rate": 0.2}).key != recipe().key
    assert any(name.startswith("own_tasks") for name in recipe().covered)


def test_the_command_trains_it_in_workers(capsys):
    command = ["map", "--task", "own_tasks:Digits", "--seeds", "1", "--workers", "1"]
    assert run([*command, "--report", "none", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["layer"] for row in rows} == {"all", "0", "3", "4"}


@pytest.mark.parametrize(("task", "says"), [("Whole", "give the same weights"), ("Restless", "differ: by ")])
def test_it_is_told_whether_runs_repeat(task, says, store):
    outcome = compute(Map(recipe(task), seeds=2, layers=("0",), reinit_at=()), store)
    assert any(sentence.startswith(f"Two runs under one seed {says}") for sentence in outcome.answers)
    assert (outcome.rows[0]["repeat_l2"] == 0) is (task == "Whole")


def loaders(shuffle: bool = True, generator: torch.Generator | None = None, scale: float = 1.0):
    task = own_tasks.Digits()
    train, test = (
        TensorDataset(scale * task.inputs[part], task.labels[part]) for part in (slice(120), slice(120, 160))
    )
    return DataLoader(train, 20, shuffle, generator=generator), DataLoader(test, 40)


def test_a_task_may_be_an_object(store):
    task = own_tasks.Digits(rate=0.2)
    of = Recipe(task=task)
    assert of.key == Recipe(task=own_tasks.Digits(rate=0.2)).key != Recipe(task=own_tasks.Digits()).key
    rows = compute(Train(of), store).rows
    assert (
        rows[0]["accuracy"]
        == compute(Train(Recipe(task="own_tasks:Digits", model_args={"rate": 0.2})), store).rows[0]["accuracy"]
    )
    with pytest.raises(BadRequest, match="known to this process alone"):
        compute(Train(of), store, workers=1)
    with pytest.raises(BadRequest, match="is an object, which is made already"):
        Recipe(task=task, model_args={"rate": 0.1})
    task.rate = 0.3
    with pytest.raises(BadRequest, match="changed since its recipe was made"):
        compute(Train(of), store)
    task.held = (number for number in range(3))
    with pytest.raises(BadRequest, match="the Digits holds a generator, whose content cannot be read"):
        Recipe(task=task)


def test_live_objects(store):
    def run(**given):
        train, test = loaders(**given)
        return letitgo.map(own_tasks.small, train, test, epochs=8, seeds=2, reinit_at=(0,), store=store)

    first = run()
    assert first.rows[0]["accuracy_mean"] > 0.8
    assert first.rows[0]["test_loss_mean"] > 0
    assert first.rows[0]["repeat_l2"] == 0
    again = run(generator=torch.Generator().manual_seed(9))
    assert again.rows[0]["repeat_l2"] == 0
    assert run(scale=2.0).rows[0]["test_loss_mean"] != first.rows[0]["test_loss_mean"]
    assert run().usage.stored == run().usage.results
    train, test = loaders()
    own = first.study.recipes[0].own
    assert own.constant(own.metric) == pytest.approx(0.1)  # of ten classes, equally many each
    worse = letitgo.map(own_tasks.small, train, test, metric=own_tasks.error, more_is_better=False, epochs=1, seeds=1)
    assert worse.rows[0]["error_mean"] < 0.9
    with pytest.raises(BadRequest, match="give a function, not a network"):
        letitgo.map(own_tasks.small(), train, test)
    with pytest.raises(BadRequest, match="optimizer is called with the parameters"):
        letitgo.map(own_tasks.small, train, test, optimizer="sgd")
    with pytest.raises(BadRequest, match=r"the weights 'nowhere\.pt' cannot be read"):
        compute(Finetune(recipe("Shifted"), "nowhere.pt", seeds=1))
    with pytest.raises(BadRequest, match="metric has no name"):
        letitgo.map(own_tasks.small, train, test, metric=lambda a, b: 0)
    with pytest.raises(BadRequest, match=r"pairs \(inputs, labels\)"):
        letitgo.map(own_tasks.small, [torch.ones(2)], test)


def test_fine_tuning_from_a_file_and_from_another_task(tmp_path, store):
    file = tmp_path / "before.safetensors"
    compute(Train(recipe(), save=str(file)), store)
    for pretrained in (str(file), "own_tasks:Digits"):
        outcome = compute(Finetune(recipe("Shifted"), pretrained, seeds=2), store)
        assert not outcome.failures
        ways = {(row["layer"], row["intervention"], row["start"]): row for row in outcome.rows}
        assert ways["all", "none", "pretrained"]["accuracy_mean"] < ways["all", "all", "pretrained"]["accuracy_mean"]
        assert all(row["validation_accuracy_mean"] is not None for row in outcome.rows)
        assert sum(row["recommended"] for row in outcome.rows) == 1
        assert {column.name for column in outcome.said.sections[0].tables[-1].columns} >= {"test_even"}
        assert outcome.figures()


def test_fine_tuning_is_judged_by_what_the_task_says(tmp_path, store):
    outcome = compute(Finetune(recipe("Regression"), "own_tasks:Whole", seeds=2), store)
    best = next(row for row in outcome.rows if row["recommended"])
    rivals = [row for row in outcome.rows if row["start"] == "pretrained" and row["trained"]]
    assert best["mse_mean"] == min(row["mse_mean"] for row in rivals)
    assert all(row["drop_mean"] >= 0 for row in rivals if row["mse_mean"] >= outcome.rows[1]["mse_mean"])
    assert "test mse" in " ".join(outcome.answers)
    outcome.report(tmp_path)
