"""Robustness of a network one has: what is put back, what is drawn, and a model that comes out as it went in."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
import torch
from helpers import NormNet, baseline, bits, own_law, small_recipe
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Case, Tied, WithToken, build, cases, inputs, portrait
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import letitgo
from letitgo.errors import BadRequest
from letitgo.execute import Executor
from letitgo.plan import Distance, Estimated, Evaluation, Graft, Initial, RunningStatistics
from letitgo.value import derive
from letitgo.weights import copied, everything, initial_state, layers, once, robustness, select

COLUMNS = ["layer", "intervention", "draw", "parameters", "score", "drop", "distance_l2", "distance_linf"]


def token_law(part: nn.Module) -> None:
    """Class tokens have no ``reset_parameters``."""
    if isinstance(part, WithToken):
        nn.init.normal_(part.cls_token)


def everything_of(model: nn.Module) -> dict[str, Any]:
    """All that must come out as it went in."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    buffers = dict(model.named_buffers())  # also those that no state_dict holds
    return {
        **portrait(model),
        "grads": ({name: id(grad) for name, grad in grads.items()}, bits(grads)),
        "buffers": ({name: id(buffer) for name, buffer in buffers.items()}, bits(buffers)),
        "storages": [tensor.data_ptr() for tensor in (*model.parameters(), *buffers.values(), *grads.values())],
    }


def careless(model: nn.Module) -> float:
    """An evaluation that leaves nothing in the model as it was."""
    model.requires_grad_(True).train(not model.training)
    score = model(inputs()).square().mean()
    score.backward()  # adds to the gradients that are there
    next(model.parameters()).grad = None
    model.train()(inputs())  # statistics follow
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    model.requires_grad_(False).eval().double()
    for part in list(model.modules()):
        for slots in (part._parameters, part._buffers):
            slots.update({name: copy.deepcopy(tensor) for name, tensor in slots.items()})
        part.register_buffer("probe", torch.zeros(1))
    model.add_module("another", nn.Linear(1, 1))
    return score.item()


class Seen:
    """An evaluation that keeps what it was shown, and may fail at a call."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.fails_at = fails_at

    def __call__(self, model: nn.Module) -> float:
        self.states.append(once(copied(model)))
        if len(self.states) == self.fails_at:
            careless(model)
            raise KeyboardInterrupt
        return float(len(self.states))


def lived(case: Case, training: bool = True) -> nn.Module:
    """A network that has gradients, statistics of its own and some frozen weights."""
    model = case.module(1).train()
    model(inputs()).square().mean().backward()
    for name in case.chosen:
        model.get_parameter(name).requires_grad_(False)
    model.register_buffer("passing", torch.ones(2), persistent=False)
    return model.train(training)


@pytest.mark.filterwarnings("ignore::letitgo.weights.state.SameDraws")  # the factory seeds itself
@given(case=cases(), training=st.booleans(), donor=st.sampled_from(["state", "factory", "none"]))
def test_the_model_comes_out_as_it_went_in(case, training, donor):
    model = lived(case, training)
    before = everything_of(model)
    donors = {"state": copied(case.module(2)), "factory": case.module, "none": None}
    frame = robustness(model, careless, donors[donor], by="module", init=None if donor == "factory" else token_law)
    assert len(frame) == 1 + (1 + (donor == "state")) * len(layers(model))
    assert everything_of(model) == before


@given(case=cases(), training=st.booleans(), data=st.data())
def test_the_model_comes_out_as_it_went_in_when_evaluation_fails(case, training, data):
    model = lived(case, training)
    before = everything_of(model)
    evaluate = Seen(fails_at=data.draw(st.integers(1, 1 + 2 * len(layers(model)))))
    with pytest.raises(KeyboardInterrupt):
        robustness(model, evaluate, copied(case.module(2)), init=token_law, by="module")
    assert len(evaluate.states) == evaluate.fails_at
    assert everything_of(model) == before


@given(case=cases(), kind=st.sampled_from(["state", "factory", "none"]))
def test_the_callers_random_state_is_not_drawn_from(case, kind):
    model = build(case.tree)
    assume(layers(model))
    donor = {"state": copied(model), "factory": lambda: build(case.tree), "none": None}[kind]
    before = torch.get_rng_state()
    robustness(model, Seen(), donor, init=None if kind == "factory" else token_law)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_comes_out_as_it_went_in_when_drawing_fails():
    model = NormNet((4,), 2)
    before, rng = everything_of(model), torch.get_rng_state()

    def clumsy(part: nn.Module) -> None:
        if part is model.head:
            raise KeyError

    with pytest.raises(KeyError):
        robustness(model, careless, init=clumsy)
    assert everything_of(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


@given(case=cases())
def test_one_layer_moves_to_the_donor_and_nothing_else(case):
    model, evaluate = lived(case), Seen()
    own, donor = once(copied(model)), copied(case.module(2))
    frame = robustness(model, evaluate, donor, draws=0, by="module")
    assert bits(evaluate.states[0]) == bits(own)
    assert list(frame.layer[1:]) == list(layers(model))
    for (_, row), state in zip(list(frame.iterrows())[1:], evaluate.states[1:], strict=True):
        taken = layers(model)[row.layer]
        assert row.intervention == "reinitialised"
        assert bits(state) == {name: bits(donor if name in taken else own)[name] for name in own}
        difference = torch.cat([(own[name].double() - donor[name].double()).flatten() for name in taken])
        assert row.parameters == len(difference)
        assert row.distance_l2 == pytest.approx(float(difference.square().mean().sqrt()), abs=1e-12)
        assert row.distance_linf == float(difference.abs().max())


@given(case=cases())
def test_only_the_chosen_parameters_of_a_layer_move(case):
    assume(case.chosen)
    model, evaluate = lived(case), Seen()
    own = bits(copied(model))
    frame = robustness(model, evaluate, layers=case.selection, init=token_law, by="module")
    touched = [layer for layer, names in layers(model).items() if set(names) & set(case.chosen)]
    assert list(frame.layer[1:]) == touched
    for layer, state in zip(touched, evaluate.states[1:], strict=True):
        moved = {name for name, tensor in bits(state).items() if tensor != own[name]}
        assert moved <= set(layers(model)[layer]) & set(case.chosen)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**40), case=cases())
def test_a_draw_is_a_function_of_seed_layer_and_number(seed, case):
    one, other = case.module(1), case.module(2)
    all_layers, few = Seen(), Seen()
    robustness(one, all_layers, init=token_law, seed=seed, draws=2, by="module")
    last = list(layers(other))[-1]
    robustness(other, few, copied(one), select(other, last), init=token_law, seed=seed, draws=2)
    names = layers(one)[last]
    n = len(layers(one))
    for a, b in ((all_layers.states[n], few.states[2]), (all_layers.states[2 * n], few.states[3])):
        assert {name: bits(a)[name] for name in names} == {name: bits(b)[name] for name in names}


def test_draws_differ_between_seeds_numbers_and_layers_of_one_shape():
    model, evaluate = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), Seen()
    robustness(model, evaluate, draws=2, seed=0)
    robustness(model, evaluate, draws=2, seed=1)
    drawn = [evaluate.states[i][f"{(i - 1) % 5 % 2}.weight"] for i in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert len({tensor.numpy().tobytes() for tensor in drawn}) == 8


def test_a_draw_follows_the_modules_own_law():
    model, evaluate = nn.Sequential(nn.Linear(100, 50), nn.BatchNorm1d(50)), Seen()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(5.0)
        model[1].running_mean.fill_(3.0)
    frame = robustness(model, evaluate, by="module")
    linear, norm = evaluate.states[1], evaluate.states[2]
    assert linear["0.weight"].abs().max() <= 0.1
    assert linear["0.weight"].std() == pytest.approx(0.1 / 3**0.5, rel=0.1)
    assert linear["0.bias"].abs().max() <= 0.1
    assert (norm["1.weight"] == 1).all()
    assert (norm["1.bias"] == 0).all()
    assert (norm["1.running_mean"] == 3).all()  # data statistics, not drawn
    assert list(frame.layer) == ["all", "0", "1"]


def test_init_is_applied_as_network_apply_does():
    model, evaluate = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), Seen()

    def law(part: nn.Module) -> None:
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, 2, 3)

    robustness(model, evaluate, init=law, by="module")
    assert ((evaluate.states[1]["0.weight"] >= 2) & (evaluate.states[1]["0.weight"] <= 3)).all()
    assert evaluate.states[1]["0.bias"].abs().max() <= 3**-0.5
    assert (evaluate.states[2]["1.weight"] == 1).all()


def test_a_factory_draws_from_its_own_law():
    model, evaluate = own_law(), Seen()
    frame = robustness(model, evaluate, own_law, draws=2, seed=4)
    assert list(frame.intervention) == ["baseline"] + 4 * ["rerandomised"]
    assert frame.draw.tolist()[1:] == [0, 0, 1, 1]
    for draw in (0, 1):
        expected = initial_state(own_law, derive(4, "rerandomised", draw))
        for place, layer in enumerate(("1", "3")):
            state = evaluate.states[1 + 2 * draw + place]
            for name in layers(model)[layer]:
                assert torch.equal(state[name], expected[name])
            assert ((state[f"{layer}.weight"] >= 2) & (state[f"{layer}.weight"] <= 3)).all()


def test_a_tied_weight_moves_in_both_places():
    model, seen = Tied(), []
    donor = copied(Tied())

    def evaluate(model: nn.Module) -> float:
        seen.append((model.encode.weight is model.decode.weight, model.decode.weight.detach().clone()))
        return 0.0

    robustness(model, evaluate, donor, "encode", draws=0)
    assert seen[1][0]
    assert torch.equal(seen[1][1], donor["encode.weight"])


def test_a_block_is_put_back_and_redrawn_as_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 3))
    initial = {name: torch.full_like(tensor, 0.5) for name, tensor in model.state_dict().items()}
    seen: list[dict[str, Tensor]] = []

    def score(net: nn.Module) -> float:
        seen.append(copied(net))
        return 0.0

    table = robustness(model, score, donor=initial, draws=1, blocks="0", progress=False)
    assert table["layer"].tolist() == ["all", "0", "1", "0", "1"]
    assert table["parameters"].tolist() == [55, 40, 15, 40, 15]
    trained, back, _, fresh, _ = seen
    inside = [name for name in trained if name.startswith("0.")]
    assert all(torch.equal(back[name], initial[name]) for name in inside)
    assert torch.equal(back["1.weight"], trained["1.weight"])
    drawn = []
    robustness(model, lambda net: float(drawn.append(copied(net)) or 0), draws=1, layers=["0.0"], progress=False)
    assert torch.equal(fresh["0.0.weight"], drawn[1]["0.0.weight"])  # each layer of it as it would be alone
    assert not torch.equal(fresh["0.2.weight"], trained["0.2.weight"])
    with pytest.raises(BadRequest, match="matches no block"):
        robustness(model, score, blocks="9", progress=False)


def test_a_layer_moves_with_its_norm():
    torch.manual_seed(0)
    model, evaluate = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), Seen()
    nn.init.constant_(model[1].weight, 5.0)
    initial = {name: torch.full_like(tensor, 0.5) for name, tensor in model.state_dict().items()}
    table = robustness(model, evaluate, initial, layers="0", progress=False)
    assert table["layer"].tolist() == ["all", "0", "0"]
    assert table["parameters"].tolist() == [43, 28, 28]
    _, back, fresh = evaluate.states
    assert torch.equal(back["1.weight"], initial["1.weight"])
    assert (fresh["1.weight"] == 1).all()
    assert torch.equal(back["2.weight"], copied(model)["2.weight"])
    one = robustness(model, Seen(), initial, layers=select(model, "0"), draws=0, progress=False)
    assert one["parameters"].tolist() == [43, 20]
    with pytest.raises(BadRequest, match="by is 'norm'"):
        robustness(model, Seen(), by="norm")  # type: ignore[arg-type]


def test_the_table():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    scores = iter([0.9, 0.5, 0.25, float("nan"), torch.tensor([0.5]), True])
    donor = {name: torch.zeros_like(tensor) for name, tensor in copied(model).items()}
    frame = letitgo.robustness(model, lambda _: next(scores), donor)
    assert list(frame.columns) == COLUMNS
    assert list(frame.layer) == ["all", "0", "2", "0", "2"]
    assert list(frame.intervention) == ["baseline", *2 * ["reinitialised"], *2 * ["rerandomised"]]
    assert frame.draw.isna().tolist() == [True, True, True, False, False]
    assert list(frame.parameters) == [26, 16, 10, 16, 10]
    assert list(frame.score[:3]) == [0.9, 0.5, 0.25]
    assert frame["drop"][:3].tolist() == [0.0, pytest.approx(0.4), pytest.approx(0.65)]
    assert frame.isna().score.tolist() == frame.isna()["drop"].tolist() == [False, False, False, True, False]
    assert frame.distance_l2[0] == frame.distance_linf[0] == 0


def accuracy_on(recipe):
    split = recipe.dataset.split("test")
    return lambda model: recipe.dataset.task.evaluate(model, split)["accuracy"]


@pytest.mark.parametrize("model", ["fcn", "helpers:NormNet"])
def test_agrees_with_the_study_of_the_same_network(model, store):
    recipe = small_recipe() if model == "fcn" else small_recipe(model=model, widths=None)
    run, network, seed = baseline(recipe), recipe.network, 3
    estimated = lambda state: Estimated(RunningStatistics(state, recipe.dataset))  # noqa: E731
    donors = {"reinitialised": run.at(0), "rerandomised": Initial(network, derive(seed, "rerandomised", 0))}
    kinds = [(kind, layer, names) for kind in donors for layer, names in network.layers.items()]
    changed = {
        statistics: [
            Evaluation(as_asked(Graft(run.final, names, donors[kind])), recipe.dataset, "test")
            for kind, _, names in kinds
        ]
        for statistics, as_asked in (("as is", lambda state: state), ("re-estimated", estimated))
    }
    trained = Evaluation(run.final, recipe.dataset, "test")
    apart = {kind: Distance(run.final, donor) for kind, donor in donors.items()}
    assert not Executor(store, workers=0).compute(
        [trained, *changed["as is"], *changed["re-estimated"], *apart.values()]
    )

    module = run.final.module(store)
    training_inputs = list(RunningStatistics(run.final, recipe.dataset).batches(module))
    scores = {}
    for statistics, batches in (("as is", None), ("re-estimate", training_inputs)):
        asked = {"statistics": statistics, "batches": batches, "seed": seed, "by": "module"}
        back = robustness(module, accuracy_on(recipe), initial_state(network, recipe.seed), draws=0, **asked)
        afresh = robustness(module, accuracy_on(recipe), network, **asked)
        assert back.score[0] == afresh.score[0] == trained.result(store)["accuracy"]
        rows = [*back[1:].itertuples(), *afresh[1:].itertuples()]
        scores[statistics] = [row.score for row in rows]
        for (kind, layer, _), row in zip(kinds, rows, strict=True):
            assert (row.intervention, row.layer) == (kind, layer)
            between = apart[kind].result(store)[layer]
            assert row.distance_l2 == (between["squares"] / between["count"]) ** 0.5
            assert (row.distance_linf, row.parameters) == (between["largest"], between["count"])
    assert scores["as is"] == [m.result(store)["accuracy"] for m in changed["as is"]]
    assert scores["re-estimate"] == [m.result(store)["accuracy"] for m in changed["re-estimated"]]
    assert (scores["as is"] != scores["re-estimate"]) == (model != "fcn")
    assert len(set(scores["as is"])) > 2


class Parametrized(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.plain = nn.Linear(4, 4)
        self.held = getattr(parametrizations, how)(nn.Linear(4, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.held(self.plain(inputs))


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_weight_is_the_donors(how):
    model, donor = Parametrized(how).eval(), Parametrized(how).eval()
    seen = []
    before = everything_of(model)
    robustness(model, lambda m: seen.append(m.held.weight.detach().clone()) or 0.0, donor.state_dict(), "held", draws=0)
    robustness(model, lambda m: seen.append(m.held.weight.detach().clone()) or 0.0, lambda: Parametrized(how), "held")
    assert torch.equal(seen[0], model.held.weight)
    assert torch.equal(seen[1], donor.held.weight)
    assert not torch.allclose(seen[3], model.held.weight, atol=0.01)
    assert everything_of(model) == before


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_reset_parameters_does_not_reach_a_parametrized_weight(how):
    model = Parametrized(how)
    before = everything_of(model)
    with pytest.raises(BadRequest, match=r"nothing draws held\.parametrizations\.weight\.original"):
        robustness(model, careless)
    assert everything_of(model) == before

    def law(part: nn.Module) -> None:
        if part is model.held:
            part.weight = nn.init.orthogonal_(torch.empty(4, 4))

    seen = []
    robustness(model.eval(), lambda m: seen.append(m.held.weight.detach().clone()) or 0.0, init=law, layers="held")
    assert seen[1].isfinite().all()
    assert not torch.allclose(seen[0], seen[1], atol=0.01)


class Nameless(nn.Module):
    """Some weights that nothing in it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.steps = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.head = nn.Linear(8, 2)


def test_what_nothing_draws_is_named_and_never_guessed():
    model, calls = Nameless(), []

    def evaluate(_: nn.Module) -> float:
        calls.append(1)
        return 0.0

    with pytest.raises(BadRequest) as raised:
        robustness(model, evaluate)
    assert str(raised.value) == (
        "nothing draws token, steps, attention.in_proj_weight, attention.in_proj_bias: the module's reset_parameters "
        "and init leave them alone or are not there; give init or the network's factory as donor, or leave them out "
        "(layers, or draws=0)"
    )
    assert not calls
    assert len(robustness(model, evaluate, layers=["!token", "!steps", "!attention.*", "attention.out_proj"])) == 3
    assert len(robustness(model, evaluate, copied(Nameless()), draws=0)) == 6
    assert len(robustness(model, evaluate, Nameless)) == 6


def test_a_layer_that_its_own_reset_reaches_in_part_is_named():
    class Adapted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(BadRequest, match=r"nothing draws 0\.scale:"):
        robustness(nn.Sequential(Adapted()), careless)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def read_once() -> Any:
    return (batch for batch in [torch.ones(2, 3)])


STATE = copied(net())
RE = {"statistics": "re-estimate"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"donor": net()}, "donor is a network: give its weights"),
        ({"donor": 3}, "donor is an int: it can be a state"),
        ({"donor": {}}, "the donor has no '0.weight': there is none"),
        ({"donor": {f"net.{name}": tensor for name, tensor in STATE.items()}}, "did you mean net.0.weight"),
        ({"donor": {**STATE, "2.bias": torch.ones(5)}}, r"'2.bias' has shape \(5,\), the model's has \(2,\)"),
        ({"donor": lambda: nn.Linear(3, 2)}, "the donor has no '0.weight'"),
        ({"donor": dict}, r"donor\(\) gives a dict: a factory returns"),
        ({"donor": net, "init": token_law}, "init and a factory are two laws"),
        ({"draws": 0}, "draws is 0: at least 1 is needed, or 0 with initial weights"),
        ({"draws": -1, "donor": STATE}, "draws is -1"),
        ({"layers": "fc1"}, "the pattern 'fc1' matches no layer"),
        ({"layers": everything(nn.Linear(2, 2))}, "the selection is of another network"),
        ({"layers": ~everything(net())}, "no layer is chosen"),
        ({"statistics": "frozen"}, "statistics is 'frozen': it can be 'as is' or 're-estimate'"),
        (RE, "batches and statistics='re-estimate' go together"),
        ({"batches": [torch.ones(2, 3)]}, "batches and statistics='re-estimate' go together"),
        ({**RE, "batches": read_once()}, "batches can be read only once"),
        ({**RE, "batches": []}, "batches is empty"),
        ({**RE, "batches": torch.ones(2, 3)}, "batches is one tensor: give a list"),
        ({**RE, "batches": [(torch.ones(2, 3), torch.ones(2))]}, "batches gives tuples: give the inputs alone"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_evaluated(arguments, message):
    model, evaluate = net(), Seen()
    before = everything_of(model)
    with pytest.raises(BadRequest, match=message):
        robustness(model, evaluate, **arguments)
    assert not evaluate.states
    assert everything_of(model) == before


@pytest.mark.parametrize("score", ["0.9", None, {"accuracy": 0.9}, torch.ones(2), 1j])
def test_an_evaluation_gives_a_number(score):
    with pytest.raises(BadRequest, match=f"evaluate gives a {type(score).__name__}: it has to return one number"):
        robustness(net(), lambda _: score)


def test_an_evaluation_is_a_function():
    with pytest.raises(BadRequest, match="evaluate is None: give a function"):
        robustness(net(), None)


@pytest.mark.parametrize("donor", ["state_dict", "factory"])
def test_a_donor_that_is_the_model_itself_is_refused(donor):
    model = net()
    with pytest.raises(BadRequest, match=r"the donor's '0\.weight' is the model's own tensor"):
        robustness(model, careless, model.state_dict() if donor == "state_dict" else lambda: model)


def test_re_estimating_with_a_loader_that_shuffles():
    torch.manual_seed(0)
    data = torch.randn(16, 3) * 5 + 2
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, collate_fn=torch.stack)
    model, evaluate = net(), Seen()
    before, rng = everything_of(model), torch.get_rng_state()
    frame = robustness(model, evaluate, statistics="re-estimate", batches=loader)
    assert torch.equal(torch.get_rng_state(), rng)
    assert everything_of(model) == before
    assert (evaluate.states[0]["1.running_mean"] == 0).all()  # the trained network as it is
    for layer, state in zip(frame.layer[1:], evaluate.states[1:], strict=True):
        hidden = data @ state["0.weight"].T + state["0.bias"]
        torch.testing.assert_close(state["1.running_mean"], hidden.mean(0), msg=layer)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("wanted", [True, False])
def test_progress_is_shown_on_a_terminal_where_wanted(wanted, monkeypatch, capsys):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    robustness(net(), Seen(), progress=wanted)
    assert ("robustness" in stream.getvalue()) == wanted
    assert capsys.readouterr().out == ""


def test_progress_is_not_shown_elsewhere(capfd):
    robustness(net(), Seen())
    assert capfd.readouterr() == ("", "")


def test_networks_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )

    def build() -> nn.Module:
        return transformers.ViTForImageClassification(config)

    model = build().eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(images).logits

        def closeness(model: nn.Module) -> float:
            return -float((model(images).logits - outputs).square().sum())

        before = everything_of(model)
        back = robustness(model, closeness, initial_state(build, 1), draws=0, by="module")
        afresh = robustness(model, closeness, build, by="module")
    assert list(back.layer) == list(afresh.layer) == ["all", *layers(model)]
    assert any("cls_token" in layer for layer in back.layer)
    assert back.score[0] == 0
    assert (back["drop"][1:] > 0).any()
    assert everything_of(model) == before
    with pytest.raises(BadRequest, match=r"nothing draws .*cls_token"):
        robustness(model, closeness)


# Blocks that are left out


class Residual(nn.Module):
    """Three blocks: the second halves the width, the third is not called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, inputs: Tensor, passed: Tensor) -> tuple[Tensor, Tensor]:
        wide = inputs + self.first(input=inputs)
        return nn.functional.linear(self.second(wide), self.third.weight), passed


def test_a_block_is_left_out_by_passing_on_what_it_takes():
    torch.manual_seed(0)
    model, given = Residual(), torch.randn(5, 8)
    before = everything_of(model)
    frame = robustness(
        *(model, lambda model: model(given, given)[0].detach().square().sum()),
        draws=0,
        blocks=("first", "second", "third"),
        skip=True,
    )
    assert everything_of(model) == before
    assert not model.first._forward_hooks
    rows = frame.set_index("layer")
    assert list(rows.intervention) == ["baseline", "skipped", "skipped", "skipped"]
    expected = nn.functional.linear(model.second(2 * given), model.third.weight).detach().square().sum()
    assert rows.score["first"] == pytest.approx(float(expected))
    assert rows.score["first"] != rows.score["all"]
    assert rows["drop"]["first"] == rows.score["all"] - rows.score["first"]
    assert rows.score[["second", "third"]].isna().all()
    assert list(rows.parameters[1:]) == [72, 36, 20]


def test_a_block_that_gives_more_than_one_output_passes_on_the_rest():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, hidden: Tensor, extra: int) -> tuple[Tensor, int]:
            return self.linear(hidden), extra + 1

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer(), Layer()])

        def forward(self, hidden: Tensor) -> Tensor:
            extra = 0
            for layer in self.layers:
                hidden, extra = layer(hidden, extra)
            return hidden * extra

    torch.manual_seed(0)
    model, given = Stack(), torch.randn(5, 8)
    frame = robustness(
        model, lambda model: model(given).detach().sum(), draws=0, blocks="layers.*", skip=True
    ).set_index("layer")
    expected = 2 * model.layers[1].linear(given).detach().sum()
    assert frame.score["layers.0"] == pytest.approx(float(expected))


def test_statistics_are_re_estimated_with_the_block_left_out():
    torch.manual_seed(0)
    batches = [torch.randn(20, 4) + 3, torch.randn(20, 4) + 5]
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    seen: list[Tensor] = []

    def evaluate(model: nn.Module) -> float:
        seen.append(model[1].running_mean.clone())  # type: ignore[index,union-attr]
        return 0.0

    robustness(model, evaluate, draws=0, blocks="0", skip=True, layers="0", statistics="re-estimate", batches=batches)
    assert torch.equal(seen[0], torch.zeros(4))
    assert torch.allclose(seen[1], torch.cat(batches).mean(0), atol=1e-5)
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_leaving_out_needs_blocks():
    with pytest.raises(BadRequest, match="skip leaves out blocks: give by='block', or patterns as blocks"):
        robustness(nn.Linear(2, 2), float, skip=True)
