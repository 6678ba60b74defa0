"""Networks, optimisers and schedules by name or import path, and what is said of those there are not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from helpers import NormNet, small_recipe
from safetensors.torch import save_file
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Graft, adapted, open_weights
from letitgo.recipes import Recipe
from letitgo.recipes.networks import NETWORKS, find_network
from letitgo.recipes.optimizers import find_optimizer, find_schedule
from letitgo.studies.check import check_recipe
from letitgo.studies.subject import Subject
from letitgo.studies.ticket.study import Ticket, Tickets
from letitgo.weights import everything, layers, parameter_names, seeded, select

MNIST, DIGITS, CIFAR = (1, 28, 28), (1, 8, 8), (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "args", "count"),
    [
        ("lenet", MNIST, {}, 44_426),
        ("lenet-300-100", MNIST, {}, 266_610),
        ("fcn", MNIST, {}, 784 * 256 + 256 + 2 * (256 * 256 + 256) + 256 * 10 + 10),
        ("fcn", CIFAR, {"widths": [5], "depth": 1}, 3072 * 5 + 5 + 5 * 10 + 10),
        ("fcn", DIGITS, {"depth": 0}, 64 * 10 + 10),
        ("fcn", DIGITS, {"widths": [3, 4]}, 64 * 3 + 3 + 3 * 4 + 4 + 4 * 10 + 10),
        ("lenet", CIFAR, {}, 3 * 6 * 25 + 6 + 6 * 16 * 25 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10),
    ],
)
def test_parameters_are_as_many_as_in_the_papers(name, shape, args, count):
    module = find_network(name, shape, 10, args)()
    assert sum(p.numel() for p in module.parameters()) == count
    assert module(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_as_many_as_the_classes(name):
    words = name in ("lstm", "transformer")
    inputs = torch.zeros(2, 35, dtype=torch.int64) if words else torch.zeros(2, *MNIST)
    network = find_network(name, (35,) if words else MNIST, 7, {}, vocab_size=9 if name == "transformer" else 0)
    assert network()(inputs).shape == ((2, 35, 7) if name == "lstm" else (2, 7))


def test_layers_have_the_names_people_use():
    assert list(find_network("fcn", DIGITS, 10, {}).layers) == ["fc1", "fc2", "fc3", "fc4"]
    assert list(find_network("lenet", MNIST, 10, {}).layers) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert find_network("fcn", DIGITS, 10, {}).layers["fc1"] == ("fc1.weight", "fc1.bias")


def said(call, *args, **kwargs) -> str:
    with pytest.raises(BadRequest) as error:
        call(*args, **kwargs)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("lenet-300", {}, "unknown network 'lenet-300': did you mean lenet-300-100 or lenet or resnet20?"),
        ("zzz", {}, "unknown network 'zzz': choose from fcn, lenet, lenet-300-100"),
        ("nowhere.at.all:net", {}, "the network 'nowhere.at.all:net' does not import: nowhere.at.all raises Module"),
        ("helpers:missing", {}, "the network 'helpers:missing' does not import: helpers has no function or class"),
        ("helpers:__doc__", {}, "the network 'helpers:__doc__' does not import: helpers has no function or class"),
        ("fcn", {"width": 3}, "the network 'fcn' takes no 'width': it takes input_shape, num_classes, widths, depth"),
        ("helpers:own_law", {"mid": 1}, "the network 'helpers:own_law' takes no 'mid': it takes low, high"),
        ("helpers:wants_more", {}, "the network 'helpers:wants_more' needs 'flavour': give it with --model-args"),
    ],
)
def test_a_network_that_cannot_be_found_is_named(name, args, sentence):
    assert said(find_network, name, DIGITS, 10, args).startswith(sentence)


@pytest.mark.parametrize(("given", "text"), [(16, "16"), ((300, 100), "300x100"), ([8], "8"), ("16", "16")])
def test_widths_are_numbers_or_text(given, text):
    assert Recipe(widths=given).widths == text
    assert Recipe(widths=given).key == Recipe(widths=text).key


@pytest.mark.parametrize("given", [0, True, 1.5, [], [16, 0], "a"])
def test_other_widths_are_refused(given):
    with pytest.raises(BadRequest, match="widths is "):
        Recipe(widths=given)


def test_a_module_that_raises_on_import_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_on_import.py").write_text("1 / 0\n")
    sentence = said(find_network, "broken_on_import:net", DIGITS, 10, {})
    assert sentence.endswith("does not import: broken_on_import raises ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("helpers:unbuildable", {}, "the network 'helpers:unbuildable' raises RuntimeError: out of parts"),
        ("helpers:no_module", {}, "the network 'helpers:no_module' gives a dict: it has to return a torch.nn.Module"),
        ("fcn", {"widths": [3, 4], "depth": 3}, "depth 3 does not fit 2 widths: give one width, or as many as the dep"),
        ("lenet", {}, "lenet takes images of at least 16×16 pixels; the data has 8×8"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(name, args, sentence):
    assert said(find_network(name, DIGITS, 10, args)).startswith(sentence)


def test_an_import_path_is_handed_what_its_signature_names():
    assert find_network("helpers:own_law", DIGITS, 10, {"high": 4.0}).args == {"high": 4.0}
    assert find_network("helpers:dropout_net", DIGITS, 10, {}).args == {"input_shape": [1, 8, 8], "num_classes": 10}
    assert find_network("helpers:wants_more", DIGITS, 10, {"flavour": "sweet"})()(torch.zeros(2, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("call", "name", "sentence"),
    [
        (find_optimizer, "adamm", "unknown optimiser 'adamm': did you mean adam or"),
        (find_optimizer, "helpers:nothing", "the optimiser 'helpers:nothing' does not import: helpers has no function"),
        (find_schedule, "cosin", "unknown schedule 'cosin': did you mean cosine?"),
        (find_schedule, "0.1@80", "schedule is '0.1@80': write milestones as in 0.1@80ep+120ep, or in steps as in"),
        (find_schedule, "2@3ep", "schedule is '2@3ep': write milestones as in"),
        (find_schedule, "zzz", "unknown schedule 'zzz': choose from constant, linear, cosine, step"),
        (
            find_schedule,
            "helpers:nothing",
            "the schedule 'helpers:nothing' does not import: helpers has no",
        ),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_be_found_is_named(call, name, sentence):
    assert said(call, name).startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"optimizer": "adam", "momentum": 0.5},
            "the optimiser 'adam' takes no 'momentum': it takes params, lr, betas",
        ),
        ({"optimizer_args": {"speed": 1}}, "the optimiser 'sgd' takes no 'speed': it takes params, lr, momentum"),
        ({"optimizer_args": {"lr": -1.0}}, "the optimiser 'sgd' cannot be used: Invalid learning rate: -1.0"),
        ({"optimizer": "sparseadam", "optimizer_args": {"lr": "x"}}, "the optimiser 'sparseadam' cannot be used: "),
        ({"optimizer": "helpers:NormNet"}, "the optimiser 'helpers:NormNet' cannot be used: "),
        (
            {"model": "helpers:three_outputs", "widths": None},
            "the network 'helpers:three_outputs' gives outputs of shape (2, 3)",
        ),
        (
            {"model": "helpers:no_parameters", "widths": None},
            "the network 'helpers:no_parameters' has no parameters to tr",
        ),
        (
            {"schedule": "helpers:wordy_schedule"},
            "the schedule 'helpers:wordy_schedule' gives a str: it has to give a num",
        ),
        ({"model": "lenet", "widths": None}, "lenet takes images of at least 16×16 pixels; the data has 8×8"),
        (
            {"model": "fcn", "widths": None, "model_args": {"input_shape": [3]}},
            "the network 'fcn' does not take inputs of shape (1, 8, 8) from digits: RuntimeError: ",
        ),
        ({"optimizer": "lbfgs", "weight_decay": 0.1}, "the optimiser 'lbfgs' takes no 'weight_decay': it takes params"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(fields, sentence):
    assert said(lambda: check_recipe(small_recipe(**fields))).startswith(sentence)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lbfgs", "rmsprop", "adagrad", "rprop", "nadam", "adafactor"])
def test_optimizers_take_a_recipe(name):
    recipe = small_recipe(optimizer=name, lr=0.01)
    check_recipe(recipe)
    optimizer = recipe.make_optimizer(seeded(recipe.network, 0).parameters())
    assert type(optimizer).__name__.lower() == name
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_an_optimizer_without_weight_decay_or_momentum_of_nesterov_is_refused():
    parameters = list(seeded(Recipe().network, 0).parameters())
    assert Recipe(nesterov=True).make_optimizer(parameters).param_groups[0]["nesterov"]
    for fields in ({"optimizer": "rprop", "decay": "weights"}, {"optimizer": "adam", "nesterov": True}):
        with pytest.raises(BadRequest, match=f"the optimiser '{fields['optimizer']}' takes no"):
            Recipe(**fields).make_optimizer(parameters)


def test_sgd_has_the_rate_and_momentum_of_the_help_text():
    group = Recipe().make_optimizer(seeded(Recipe().network, 0).parameters()).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 0)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("constant", {0.0: 1.0, 0.99: 1.0}),
        ("cosine", {0.0: 1.0, 0.5: 0.5}),
        ("step", {0.0: 1.0, 0.29: 1.0, 0.3: 0.2, 0.6: 0.04, 0.9: 0.008}),
    ],
)
def test_schedules_follow_their_law(name, factors):
    schedule = find_schedule(name)
    assert {progress: pytest.approx(schedule(progress)) for progress in factors} == factors


@pytest.fixture
def net():
    return find_network("fcn", DIGITS, 10, {})()


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("fc1",), ["fc1.weight", "fc1.bias"]),
        (("*.bias",), ["fc1.bias", "fc2.bias", "fc3.bias", "fc4.bias"]),
        (("fc[12]", "!*.bias"), ["fc1.weight", "fc2.weight"]),
        (("!fc[123]",), ["fc4.weight", "fc4.bias"]),
        (("fc3", "fc1"), ["fc1.weight", "fc1.bias", "fc3.weight", "fc3.bias"]),
    ],
)
def test_patterns_choose(patterns, chosen, net):
    assert list(select(net, *patterns)) == chosen


def test_no_pattern_chooses_everything(net):
    assert select(net) == everything(net)
    assert str(select(net)) == "everything"
    assert str(~select(net)) == "nothing"


def test_layers_are_chosen_by_place_type_and_property(net):
    assert select(net, index=0) == select(net, "fc1")
    assert select(net, index=-1) == select(net, "fc4")
    assert select(net, index=slice(1, 3)) == select(net, "fc2", "fc3")
    norm = NormNet((4,), 2)
    assert select(norm, types=torch.nn.BatchNorm1d) == select(norm, "norm*")
    assert select(norm, where=lambda name, part: name == "head") == select(norm, "head")


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"patterns": ["fc9"]}, "the pattern 'fc9' matches no layer: did you mean fc"),
        ({"patterns": ["!zzz"]}, "the pattern '!zzz' matches no layer: choose from fc1, fc2, fc3, fc4"),
        ({"index": 4}, "index 4 is outside the 4 layers chosen"),
        ({"patterns": ["fc1"], "index": 1}, "index 1 is outside the 1 layers chosen"),
        ({"types": torch.nn.Conv2d}, "no chosen layer has the type or property asked for (Conv2d)"),
        ({"where": lambda name, part: False}, "no chosen layer has the type or property asked for (predicate)"),
    ],
)
def test_a_choice_of_nothing_is_refused(choice, sentence, net):
    others = {name: value for name, value in choice.items() if name != "patterns"}
    assert said(select, net, *choice.get("patterns", ()), **others).startswith(sentence)


def test_choices_of_different_networks_do_not_mix(net):
    assert (
        said(lambda: everything(net) | everything(NormNet((4,), 2))) == "the two selections are of different networks"
    )


def test_a_lazy_network_is_refused():
    assert said(parameter_names, torch.nn.LazyLinear(3)).startswith("weight is lazy and has no shape yet: call the")


def test_attention_is_one_layer_and_a_token_is_its_own():
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = torch.nn.Parameter(torch.zeros(1))
            self.attention = torch.nn.MultiheadAttention(4, 2)

    found = layers(torch.nn.Sequential(Block()))
    assert found["0.cls_token"] == ("0.cls_token",)
    assert found["0.attention"] == ("0.attention.in_proj_weight", "0.attention.in_proj_bias")


def test_a_parametrized_weight_belongs_to_its_layer():
    module = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3)))
    assert list(layers(module)) == ["0"]
    assert len(layers(module)["0"]) == 3


def test_a_network_has_one_output_layer_for_every_study(monkeypatch, tmp_path):
    def make():
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(64, 10), norm=nn.BatchNorm1d(10)))

    monkeypatch.setitem(NETWORKS, "ends in a norm", make)
    recipe = small_recipe(model="ends in a norm", widths=None)
    of = Subject(recipe)
    assert weights.head(of.module) == recipe.network.head == of.head.name == "fc"
    assert Tickets(Ticket(recipe, rate=0.2), of).rates == {"fc.weight": 0.1}
    tensors = {**weights.initial_state(recipe.network, 1), "fc.weight": torch.zeros(7, 64), "fc.bias": torch.zeros(7)}
    save_file(tensors, tmp_path / "seven.safetensors")
    start = adapted(open_weights(str(tmp_path / "seven.safetensors"), recipe.network), recipe.network, 0)
    assert isinstance(start, Graft)
    assert start.parameters == tuple(name for name in tensors if name.startswith("norm"))
