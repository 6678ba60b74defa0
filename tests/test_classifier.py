"""A classifier that is not learned: the laws of its matrix, of putting it in and taking it out, and the study."""

from __future__ import annotations

import copy
import json
from math import sqrt

import pytest
import torch
from helpers import baseline, bits, small_recipe
from hypothesis import given
from hypothesis import strategies as st
from networks import OPTIMIZERS, portrait
from scipy.linalg import hadamard
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.execute import plan_jobs
from letitgo.papers import hhs18
from letitgo.plan import Initial, Run
from letitgo.recipes import Recipe
from letitgo.recipes.networks import find_network
from letitgo.store import Store
from letitgo.studies.classifier.report import report
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute, estimate
from letitgo.studies.statistics import mean
from letitgo.studies.sweep import sweep, with_seed
from letitgo.weights import (
    CosineClassifier,
    FixedClassifier,
    Selection,
    copied,
    fix_classifier,
    fixed_matrix,
    freeze,
    initial_state,
    layers,
    load_state,
    seeded,
    status,
)

sizes = st.integers(1, 70)


@given(power=st.integers(0, 6), classes=sizes)
def test_rows_of_a_hadamard_matrix_are_orthogonal_within_a_block(power, classes):
    features = 2**power
    matrix = fixed_matrix(classes, features)
    assert set(matrix.unique().tolist()) <= {-1.0, 1.0}
    for block in matrix.split(features):
        assert torch.equal(block @ block.T, features * torch.eye(len(block), dtype=torch.float64))
    assert torch.equal(matrix[:features], torch.tensor(hadamard(features)[:classes], dtype=torch.float64))


@given(classes=sizes, features=st.integers(9, 70))
def test_no_two_classes_have_the_same_row(classes, features):
    matrix = fixed_matrix(classes, features)
    assert matrix.shape == (classes, features)
    assert len(matrix.unique(dim=0)) == classes


def test_many_more_classes_than_features_are_told_apart():
    matrix = fixed_matrix(3000, 128).float()
    cosines = (matrix @ matrix.T / 128).fill_diagonal_(0)
    assert cosines.abs().max() < 6 / sqrt(128)
    assert cosines.square().mean().sqrt() == pytest.approx(1 / sqrt(128), rel=0.05)
    cut = torch.tensor(hadamard(4096)[:3000, :128])
    assert len(cut.unique(dim=0)) == 128  # what the paper's cut would give


@given(classes=sizes, features=sizes, seed=st.integers(0, 2**62))
def test_an_orthogonal_matrix_is_orthogonal(classes, features, seed):
    matrix = fixed_matrix(classes, features, "orthogonal", seed)
    product = matrix @ matrix.T if classes <= features else matrix.T @ matrix
    torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.float64))


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_a_matrix_is_a_function_of_its_description(kind):
    state = torch.get_rng_state()
    one, again, other = (fixed_matrix(40, 16, kind, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("kind", "sign", "scale"), [("hadamard", -1, 1 / sqrt(7)), ("orthogonal", 1, 10.0)])
def test_outputs_are_those_of_the_formula(kind, sign, scale):
    layer = FixedClassifier(12, 7, kind).double()
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    assert layer.scale.item() == pytest.approx(scale)
    assert layer.bias.abs().max() <= (1 / sqrt(7) if kind == "hadamard" else 0)
    cosines = (x / x.norm(dim=-1, keepdim=True)) @ fixed_matrix(7, 12, kind).T
    torch.testing.assert_close(layer(x), sign * layer.scale * cosines + layer.bias)
    torch.testing.assert_close(layer(5 * x), layer(x))
    assert torch.isfinite(layer.half()(torch.zeros(2, 12, dtype=torch.float16))).all()


def multiplied_out(layer: FixedClassifier, x: torch.Tensor) -> torch.Tensor:
    return linear(-layer.scale * normalize(x, dim=-1), layer.matrix, layer.bias)


class TestTransform:
    """Where logits are transformed and not multiplied out they are the same, and so are gradients."""

    @given(
        features=st.integers(1, 40),
        more=st.integers(0, 90),
        lead=st.lists(st.integers(1, 3), max_size=2),
        seed=st.integers(0, 3),
    )
    def test_it_is_the_product_with_the_matrix(self, features, more, lead, seed):
        layer = FixedClassifier(features, 8 + more, seed=seed).double()  # at least as many as the small matrices have
        x = torch.randn(*lead, features, dtype=torch.float64)
        torch.testing.assert_close(layer._transformed(x), x @ layer.matrix.T)

    SHAPES = ((512, 1000, (16,)), (512, 1000, (2, 9)), (700, 3000, (3,)), (1024, 600, (8,)), (600, 9000, ()))

    @pytest.mark.parametrize(("features", "classes", "lead"), SHAPES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("training", [True, False])
    def test_logits_and_gradients(self, features, classes, lead, dtype, training):
        torch.manual_seed(0)
        layer = FixedClassifier(features, classes, seed=1).to(dtype).train(training)
        x = torch.randn(*lead, features, dtype=dtype, requires_grad=True)
        assert layer._is_faster_transformed(x)
        towards = torch.randn(*lead, classes, dtype=dtype)
        inputs = [x, layer.scale, layer.bias]
        found, wanted = layer(x), multiplied_out(layer, x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted)
        for one, other in zip(
            *(torch.autograd.grad((y * towards).sum(), inputs) for y in (found, wanted)), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-5)

    def test_where_it_is_not_faster_it_is_not_used(self):
        few, many = FixedClassifier(512, 100), FixedClassifier(512, 1000)
        x = torch.randn(64, 512)
        assert not few._is_faster_transformed(x)
        assert many._is_faster_transformed(x)
        assert not many._is_faster_transformed(x[:1])
        assert not many._is_faster_transformed(torch.empty(4096, 512))
        assert not many._is_faster_transformed(x.bfloat16())
        assert not many._is_faster_transformed(x.to("meta"))
        assert not FixedClassifier(512, 1000, "orthogonal")._is_faster_transformed(x)
        with torch.autocast("cpu"):
            assert not many._is_faster_transformed(x)
            assert many(x).dtype == torch.bfloat16

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_in_16_bits_logits_are_near(self, dtype):
        layer = FixedClassifier(512, 1000)
        x = torch.randn(16, 512)
        torch.testing.assert_close(
            layer.to(dtype)(x.to(dtype)).float(), multiplied_out(layer.float(), x), atol=0.01, rtol=0.02
        )

    def test_it_is_undone_saved_and_loaded_as_ever(self):
        module, other = (nn.Sequential(nn.Linear(4, 512), nn.Linear(512, 1000)) for _ in range(2))
        x, before = torch.randn(16, 4), module[1]
        wanted = module(x)
        undo = fix_classifier(module, "1", seed=2)
        fix_classifier(other, "1", seed=2)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(x), module(x))
        undo()
        assert module[1] is before
        assert torch.equal(module(x), wanted)

    def test_torch_func_and_the_compiler_see_plain_products(self):
        layer = FixedClassifier(512, 1000)
        x = torch.randn(3, 16, 512)
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
        _, along = torch.func.jvp(layer, (x,), (x,))
        torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-5, rtol=0)  # lengths do not count
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))
        batch = torch.export.Dim("batch", min=2)
        exported = torch.export.export(layer, (x[0],), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(exported(x[1]), layer(x[1]))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_matrix_stays_under_every_optimizer_and_the_scale_learns(name, kind):
    module = seeded(small, 0)
    fix_classifier(module, "2", kind)
    layer = module[2]
    matrix, before = layer.matrix.clone(), copied(module)
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    x, y = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 5

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = cross_entropy(module.train()(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert bits({"": layer.matrix}) == bits({"": matrix})
    for learned in ("0.weight", *(() if name == "Muon" else ("2.scale", "2.bias"))):  # Muon is given matrices only
        assert not torch.equal(module.get_parameter(learned), before[learned])


def test_a_cosine_classifier_has_features_and_rows_of_norm_one():
    layer = CosineClassifier(6, 4, dtype=torch.float64)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0] *= 100  # the length of a row says nothing
        layer.bias.copy_(torch.arange(4))
    cosines = torch.nn.functional.cosine_similarity(x[..., None, :], layer.weight, dim=-1)
    torch.testing.assert_close(layer(x), 10 * cosines + torch.arange(4))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "scale", "bias"]


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_undoing_gives_the_old_layer_back(kind):
    module = seeded(small, 0).double()
    module[2].eval()
    freeze(module, Selection(("2.weight",), tuple(n for n, _ in module.named_parameters())))
    before = portrait(module)
    undo = fix_classifier(module, "2", kind)
    assert list(module.state_dict()) == ["0.weight", "0.bias", "2.scale", "2.bias", "2.description"]
    assert module[2].matrix.dtype == torch.float64
    assert not module[2].training
    undo()
    assert portrait(module) == before
    with pytest.raises(BadRequest, match="'2' is no longer the classifier that was put there"):
        undo()


def test_a_layer_used_under_two_names_is_exchanged_under_both():
    module = small()
    module.add_module("again", module[2])
    undo = fix_classifier(module, "again")
    assert module.again is module[2]
    assert isinstance(module[2], FixedClassifier)
    undo()
    assert module.again is module[2]
    assert isinstance(module[2], nn.Linear)


def test_a_tied_weight_stays_with_the_embedding():
    module = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
    module[1].weight = module[0].weight
    weight = module[0].weight
    fix_classifier(module, "1")
    assert module[0].weight is weight
    assert module(torch.arange(6).view(2, 3)).shape == (2, 3, 11)


def test_layers_and_status_see_what_is_learned():
    module = small()
    fix_classifier(module, "2")
    assert layers(module)["2"] == ("2.scale", "2.bias")
    assert status(module).parameters == 6 * 8 + 8 + 1 + 5


class TestStates:
    def test_learned_weights_come_back_and_the_matrix_with_them(self):
        one, other = seeded(small, 0), seeded(small, 1)
        for module in (one, other):
            fix_classifier(module, "2", "orthogonal", seed=3)
        other.load_state_dict(one.state_dict())
        x = torch.randn(4, 6)
        assert torch.equal(one(x), other(x))
        third = copy.deepcopy(other)
        load_state(third, copied(one))
        assert torch.equal(third(x), one(x))

    def test_weights_learned_with_another_matrix_are_refused(self):
        one, other = small(), small()
        fix_classifier(one, "2", "orthogonal", seed=3)
        fix_classifier(other, "2")
        match = (
            "^2 was learned with another matrix: orthogonal, seed 3, 8 features, 5 classes; here it is hadamard, seed 0"
        )
        with pytest.raises(BadRequest, match=match):
            other.load_state_dict(one.state_dict(), strict=False)
        with pytest.raises(BadRequest, match=r"^the state was learned with another matrix"):
            FixedClassifier(8, 5).load_state_dict(FixedClassifier(9, 5).state_dict())

    def test_the_matrix_moves_with_the_module(self):
        layer = FixedClassifier(8, 5).half()
        assert layer.matrix.dtype == torch.float16
        assert layer.description.dtype == torch.int64
        assert torch.equal(layer.float().matrix, fixed_matrix(5, 8).float())
        assert layer.to("meta").matrix.is_meta

    def test_what_is_built_without_memory_is_filled_in_later(self):
        with torch.device("meta"):
            layer = FixedClassifier(8, 5, "orthogonal")
        layer.to_empty(device="cpu").reset_parameters()
        assert torch.equal(layer.matrix, fixed_matrix(5, 8, "orthogonal").float())
        layer.load_state_dict(FixedClassifier(8, 5, "orthogonal").state_dict())


WRONG = {
    "no such layer": (small, "3", {}, "no layer '3': choose from 0, 2"),
    "no linear layer": (small, "1", {}, "'1' is a ReLU, a classifier to fix is an nn.Linear: there is 0, 2"),
    "itself": (lambda: nn.Linear(2, 2), "", {}, "the network itself cannot be exchanged"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "0", {}, "0.weight is lazy and has no shape yet"),
    "kind": (small, "2", {"kind": "hadamrd"}, "kind is 'hadamrd': it can be 'hadamard' or 'orthogonal'"),
    "seed": (small, "2", {"seed": -1}, "seed is -1: give a whole number from 0 on"),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), "0.out_proj", {}, "there is none"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_fixed_is_refused_and_left_alone(what):
    build, name, options, sentence = WRONG[what]
    module = build()
    before = [id(part) for part in module.modules()]
    with pytest.raises(BadRequest) as refusal:
        fix_classifier(module, name, **options)
    assert sentence in str(refusal.value)
    assert [id(part) for part in module.modules()] == before


class TestNetwork:
    @pytest.mark.parametrize(
        ("model", "layer"), [("fcn", "fc4"), ("lenet-300-100", "fc3"), ("helpers:NormNet", "head")]
    )
    @pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
    def test_the_other_layers_begin_the_same(self, model, layer, kind):
        learned = find_network(model, (1, 8, 8), 10, {})
        fixed = find_network("fixed-classifier", (1, 8, 8), 10, {"network": model, "kind": kind})
        one, other = initial_state(learned, 3), initial_state(fixed, 3)
        shared = [name for name in one if not name.startswith(f"{layer}.")]
        assert set(other) == {*shared, f"{layer}.scale", f"{layer}.bias", f"{layer}.description"}
        assert bits({name: one[name] for name in shared}) == bits({name: other[name] for name in shared})

    def test_what_changes_the_network_changes_its_key(self):
        options = [{}, {"kind": "orthogonal"}, {"matrix_seed": 1}, {"layer": "fc2"}, {"network": "lenet-300-100"}]
        keys = [find_network("fixed-classifier", (1, 8, 8), 10, args).key for args in options]
        assert len(set(keys)) == len(keys)

    def test_the_code_of_the_network_within_is_part_of_the_key(self):
        network = find_network("fixed-classifier", (1, 8, 8), 10, {"network": "helpers:NormNet"})
        assert network.source == find_network("helpers:NormNet", (1, 8, 8), 10, {}).source != ""

    def test_arguments_reach_the_network_within(self):
        recipe = small_recipe(model="fixed-classifier", widths="12", depth=1)
        assert recipe.network()[1].out_features == 12
        with pytest.raises(BadRequest, match="the network 'fcn' takes no 'hight'"):
            small_recipe(model="fixed-classifier", model_args={"hight": 3}).network()

    def test_a_last_linear_layer_that_is_no_classifier(self):
        recipe = small_recipe(model="fixed-classifier", widths=None, model_args={"network": "helpers:three_outputs"})
        with pytest.raises(BadRequest, match=r"'1', the last nn\.Linear of 'helpers:three_outputs', gives 3 outputs"):
            recipe.network()
        recipe = small_recipe(model="fixed-classifier", widths=None, model_args={"network": "helpers:no_parameters"})
        with pytest.raises(BadRequest, match=r"no nn\.Linear, so no classifier to fix"):
            recipe.network()


RECIPE = small_recipe(widths="16", depth=1, lr=0.1, epochs=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def study():
    return Classifier((RECIPE,), seeds=2, kinds=("hadamard", "orthogonal", "frozen", "cosine"), select="test")


@pytest.fixture(scope="module")
def rows(study, folder):
    outcome = compute(study, folder)
    assert outcome.failures == []
    return {row["classifier"]: row for row in outcome.rows}


def accuracy(run: Run, store: Store, split: str) -> float:
    data = RECIPE.dataset.split(split)
    outputs = run.final.module(store).eval()(data.batch(slice(None)))
    return float((outputs.argmax(1) == data.labels).double().mean())


class TestStudy:
    def test_numbers_are_those_of_the_states_and_drops_are_paired(self, study, rows, folder):
        for kind, row in rows.items():
            for split, prefix in (("test", ""), ("train", "train_")):
                drops, ends = [], []
                for seed in (0, 1):
                    recipe = with_seed(RECIPE, seed)
                    base = baseline(recipe)
                    if kind == "learned":
                        run = base
                    elif kind == "frozen":
                        run = Run(base.start, base.trains[:2], recipe)
                    else:
                        args = {"network": "fcn", "layer": "fc2", "kind": kind}
                        other = Recipe(**{**recipe.fields(), "model": "fixed-classifier", "model_args": args})
                        learned = ("fc2.weight",) if kind == "cosine" else ()
                        names = (*base.trains[:2], *learned, "fc2.scale", "fc2.bias")
                        run = Run(Initial(other.network, seed), names, other)
                    ends.append(accuracy(run, folder, split))
                    drops.append(accuracy(base, folder, split) - ends[-1])
                assert row[f"{prefix}accuracy_mean"] == pytest.approx(mean(ends))
                assert row[f"{prefix}drop_mean"] == pytest.approx(mean(drops))
            assert row["n"] == 2

    def test_the_scale_is_that_of_the_states(self, study, rows, folder):
        for kind, begins in (("hadamard", 1 / sqrt(10)), ("orthogonal", 10), ("cosine", 10)):
            scale = rows[kind]["scale"]
            assert len(scale) == RECIPE.epochs + 1
            assert scale[0] == pytest.approx(begins)
            assert len(set(scale)) == len(scale)
            [of] = study.subjects
            runs = [study.run(of, kind, with_seed(RECIPE, seed)) for seed in (0, 1)]
            ends = [run.final.load(folder)["fc2.scale"] for run in runs]
            assert scale[-1] == pytest.approx(float(sum(ends)) / 2)
        assert rows["learned"]["scale"] is rows["frozen"]["scale"] is None

    def test_what_is_fixed_and_saved_is_counted(self, rows):
        total, head = 64 * 16 + 16 + 16 * 10 + 10, 16 * 10
        forward, both = 64 * 16 + head, 3 * (64 * 16 + head) - 64 * 16  # the first layer needs no gradient of its input
        assert forward < both
        for kind, fixed in (
            ("learned", 0),
            ("hadamard", head),
            ("orthogonal", head),
            ("frozen", head + 10),
            ("cosine", 0),
        ):
            row = rows[kind]
            assert (row["parameters"], row["fixed"]) == (total, fixed)
            assert row["fixed_share"] == fixed / total
            assert row["saved"] == pytest.approx(head / both if fixed else 0)
            trained = total - fixed + (1 if kind in ("hadamard", "orthogonal", "cosine") else 0)
            assert row["memory_saved"] == pytest.approx(1 - trained / total)

    def test_the_second_time_nothing_is_planned(self, study, rows, folder):
        assert [job for stage in study.stages(folder) for job in plan_jobs(stage, folder)] == []
        takes = estimate(study, folder, 1)
        assert (takes.runs, takes.runs_stored, takes.seconds) == (10, 10, 0)

    def test_a_sweep_and_an_estimate(self, store):
        takes = estimate(Classifier(sweep(widths=["4", "8"], depth=1, epochs=1), seeds=2, select="test"), store, 1)
        assert (takes.runs, takes.runs_stored) == (2 * 2 * 3, 0)
        assert takes.seconds > 0

    def test_requests_that_are_refused(self):
        wrong = {
            "seeds is 0": {"seeds": 0},
            "tolerance is 100.0: give less than 100": {"tolerance": 100.0},
            "kinds is 'hadamar': did you mean hadamard": {"kinds": ("hadamar",)},
            "kinds is 'learned'": {"kinds": ("learned",)},
            "kinds has a value twice: frozen, frozen": {"kinds": ("frozen", "frozen")},
            "kinds is \\(\\): give at least one": {"kinds": ()},
        }
        for sentence, options in wrong.items():
            with pytest.raises(BadRequest, match=sentence):
                Classifier((RECIPE,), **options, select="test")
        with pytest.raises(BadRequest, match="no layer 'fc3': did you mean"):
            Classifier((RECIPE,), layer="fc3", select="test").check()
        with pytest.raises(BadRequest, match="no layer 'fc3'"):
            Classifier((RECIPE,), layer="fc3", kinds=("frozen",), select="test").check()
        with pytest.raises(BadRequest, match="already: name the network within it"):
            Classifier((small_recipe(model="fixed-classifier"),), select="test").check()
        with pytest.raises(BadRequest, match="is its classifier alone: frozen, nothing trains"):
            Classifier((small_recipe(widths=None, depth=0),), kinds=("frozen",), select="test").check()


def told(study, *replacements):
    """The report's one section, of a learned classifier at 90 % and these."""

    def row(classifier, drop, train_drop, verdict, scale):
        means = {"accuracy": 0.9 - drop, "train_accuracy": 0.95 - train_drop, "drop": drop, "train_drop": train_drop}
        numbers = {
            f"{name}_{of}": value for name, mean in means.items() for of, value in (("mean", mean), ("ci95", 0.001))
        }
        saved = {"parameters": 1000, "fixed": 100, "fixed_share": 0.1, "saved": 0.02, "memory_saved": 0.04}
        return {
            "classifier": classifier,
            "layer": "fc2",
            **saved,
            **numbers,
            "drop_new_ci95": 0.004,
            "scale": scale,
            "n": 5,
            "verdict": verdict,
        }

    rows = [row("learned", 0.0, 0.0, None, None), *(row(*replacement) for replacement in replacements)]
    [section] = report(study, rows).sections
    return section


def test_the_answer_is_the_cheapest_replacement_that_is_surely_within_the_tolerance(study):
    better, worse = ("hadamard", -0.002, 0.004, "robust", [0.3, 2.0]), ("orthogonal", 0.002, 0.0, "robust", [10, 9])
    critical = ("frozen", 0.02, 0.02, "critical", None)
    section = told(study, worse, better, critical)
    assert section.answer == (
        "The classifier need not be learned: with a fixed Hadamard matrix the drop in test accuracy is "
        "-0.20 ± 0.10 points, and 4 % of gradients and optimiser state is saved."
    )
    assert "For new test examples the interval of hadamard is ± 0.40 points, not ± 0.10." in section.sentences
    assert "Training accuracy: lower with hadamard and frozen, undecided with orthogonal." in section.sentences
    assert told(study, critical).answer == (
        "The classifier is worth training: every replacement costs more than 0.3 points."
    )
    undecided = ("orthogonal", 0.002, 0.0, "undecided", [10, 9])
    assert told(study, undecided, critical).answer.startswith("Undecided: no replacement")


def test_a_learned_cosine_classifier_is_never_the_answer(study, rows):
    cheap = {"drop_mean": -0.02, "drop_ci95": 0.001, "verdict": "robust"}
    dear = {"drop_mean": 0.2, "drop_ci95": 0.001, "verdict": "critical"}
    told = [rows["learned"], rows["cosine"] | cheap, rows["frozen"] | dear]
    answer = report(study, told).sections[0].answer
    assert answer == "The classifier is worth training: every replacement costs more than 0.3 points."
    told[2] |= cheap | {"drop_mean": 0.0}
    assert "with its initial weights" in report(study, told).sections[0].answer


def test_the_figures_show_the_rows(study, rows):
    [section] = report(study, list(rows.values())).sections
    test, training = section.pictures["drops"].panels[0]
    kinds = ["hadamard", "orthogonal", "frozen", "cosine"]
    assert list(test.places) == list(training.places) == kinds
    assert training.marks[-1].x == [pytest.approx(100 * rows[kind]["train_drop_mean"]) for kind in kinds]
    scales = section.pictures["scale"].panels[0]
    assert {panel.title: panel.marks[0].y for panel in scales} == {
        kind: row["scale"] for kind, row in rows.items() if row["scale"]
    }


def test_a_sweep_is_drawn_in_one_figure(study, rows):
    recipes = sweep(lr=[0.1, 0.2], widths="16", depth=1)
    swept = [{"lr": recipe.lr, **row} for recipe in recipes for row in rows.values()]
    together, *sections = report(Classifier(recipes, select="test"), swept).sections
    assert together.answer.startswith("6 replacements of the classifier: ")
    places = together.pictures["drops"].panels[0][0].places
    assert places == [f"{lr}: {kind}" for lr in (0.1, 0.2) for kind in ("hadamard", "orthogonal", "frozen", "cosine")]
    assert len(sections) == 2


def test_claims_of_hhs18():
    def row(classifier, drop, train_drop, growth):
        known = {"model": "fcn", "data": "mnist", "classifier": classifier, "n": 5}
        means = {"drop_mean": drop, "train_drop_mean": train_drop, "growth_mean": growth}
        return {**known, **means, "drop_ci95": 0.001, "train_drop_ci95": 0.001, "growth_ci95": growth and 0.1}

    rows = [
        row("learned", 0.0, 0.0, None),
        row("hadamard", 0.0, 0.004, 6.0),
        row("orthogonal", 0.02, -0.004, 0.8),
    ]
    claims = hhs18.claims(hhs18.study(0.1, 5), rows)
    assert [claim.within for claim in claims] == [True, True, True, False, False, False]
    assert [claim.measured for claim in claims[:3]] == [0.0, 0.4, 6.0]
    undecided = hhs18.claims(hhs18.study(0.1, 5), [row("hadamard", 0.0028, 0.0005, 1.05)])
    assert [claim.within for claim in undecided] == [None, None, None]


@pytest.fixture
def letitgo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        return run(["classifier", *arguments]), *capsys.readouterr()

    return call


QUICK = ("--epochs", "2", "--widths", "16", "--depth", "1", "--seeds", "2", "--workers", "0")


class TestProgram:
    @pytest.mark.usefixtures("svg_only")
    def test_json_and_report(self, letitgo, tmp_path):
        code, out, err = letitgo(*QUICK, "--format", "json", "--report", "page")
        assert code == 0, err
        rows = json.loads(out)["rows"]
        assert [row["classifier"] for row in rows] == ["learned", "hadamard", "orthogonal"]
        assert all(len(row["scale"]) == 3 for row in rows[1:])
        page = (tmp_path / "page" / "classifier.html").read_text()
        assert "Does the classifier need training?" in page
        assert page.count("<svg") == 2
        for figure in ("drops", "scale"):
            assert (tmp_path / "page" / f"classifier-{figure}.svg").stat().st_size > 5000

    def test_a_table_with_an_answer_and_a_dry_run(self, letitgo):
        _, out, _ = letitgo(*QUICK, "--dry-run", "--format", "json", "--kinds", "hadamard,frozen")
        assert json.loads(out)["dry_run"]["runs"] == 6
        code, out, err = letitgo(*QUICK, "--kinds", "hadamard,frozen", "--report", "none")
        assert code == 0, err
        assert "Training accuracy: " in out
        assert "frozen" in out

    def test_one_sentence_for_what_is_wrong(self, letitgo):
        for options, sentence in (
            (("--layer", "relu1"), "'relu1' is a ReLU, a classifier to fix is an nn.Linear: there is fc1, fc2"),
            (("--kinds", "random"), "kinds is 'random': choose from hadamard, orthogonal, frozen"),
        ):
            code, _, err = letitgo(*QUICK, *options)
            assert code == 2
            assert err.count("\n") == 1
            assert sentence in err
