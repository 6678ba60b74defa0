"""Keys and rows as they were: no change of the code may move either.

``pins/keys.json`` holds the key of one or more values of every kind. ``pins/rows/<study>.json`` holds all rows of a
small run of each study. Rows are compared on the columns that are pinned, so a study may gain columns. A column that is
renamed goes into ``RENAMED``; where a study is called differently, its function below is what changes.

Floats depend on how the processor and torch round. Where both round as those of the recording did (``recorded_on`` in
the file: torch's version, and a digest of some arithmetic), every column is compared, floats to 1e-6 of their size.
Processors of one instruction set may differ in it: which kernel multiplies matrices depends on maker and model.
Elsewhere only the number of rows and the accuracies are compared, to 0.03, and ``SEARCHES`` are left out, since
rounding decides what they try next.

A new kind of value or a new study is recorded without touching the pins that are there::

    python tests/test_pins.py --record

Pins that exist are written again only where they are named, as in ``--record keys train``. Do that only where numbers
were meant to change, and say why in the commit.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import pkgutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

import letitgo
from letitgo import plan
from letitgo.deep_linear.study import DeepLinear
from letitgo.deep_linear.values import Descent, MaximumMargin, Synthetic, TwoClasses
from letitgo.papers import fc18, fdrc19, hhs18, jt18, lee23, lfly18, mypt19, rt18, zbs19
from letitgo.plan import At, Evaluation, Graft, Initial, Kept, Masked, Pruned, Run
from letitgo.plan.states import Partial
from letitgo.recipes import Recipe, steps
from letitgo.recipes.data import Data
from letitgo.recipes.networks import Network
from letitgo.recipes.own import Own, OwnNetwork
from letitgo.recipes.tasks import Classification, Custom, NextWord, Regression
from letitgo.store import Store, open_store
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.fraction.study import Fraction
from letitgo.studies.map.study import Map
from letitgo.studies.search.study import Search
from letitgo.studies.sweep import sweep
from letitgo.studies.ticket.study import Ticket, export_ticket
from letitgo.studies.train.study import Train
from letitgo.value import Value

PINS = Path(__file__).parent / "pins"

RENAMED: dict[str, str] = {
    "distance_l2": "distance_l2_mean",
    "distance_linf": "distance_linf_mean",
    "floor": "floor_mean",
    "delta_bytes": "delta_bytes_mean",
    "whole_bytes": "whole_bytes_mean",
    "moved": "moved_max",
}
"""Pinned column → what it is called now. A study that still uses the pinned name passes too."""

ACCURACIES = ("accuracy", "accuracy_mean", "train_accuracy", "train_accuracy_mean")
SEARCHES = ("dimension_search", "reproduce_lfly18", "search")

Row = dict[str, Any]


# Keys. Nothing here may depend on the machine: data and files are named by literal digests, networks by name.


def values() -> dict[str, Value]:
    """The values whose keys are pinned, by a name for each."""
    return {**_described(), **_states(), **_choices(), **_masks(), **_measures(), **_linear()}


ONES, TWOS = "1" * 64, "2" * 64
FCN = Network("fcn", {"input_shape": [1, 8, 8], "num_classes": 10})
LENET = Network("lenet", {"input_shape": [1, 28, 28], "num_classes": 10, "norm": True})
DATA = Data("digits", ONES)
STEPS = {
    "shift": steps.Shift("invert"),
    "examples": steps.Examples(100, 3),
    "test examples": steps.TestExamples(50),
    "half": steps.Half("b"),
    "validation": steps.HoldOut(50),
    "fit": steps.Fit("1x28x28"),
    "pixels": steps.Pixels(),
    "vocabulary": steps.Vocabulary(24),
    "length": steps.Length(16),
}
START = Initial(FCN, 0)
NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
WEIGHTS = ("fc1.weight", "fc2.weight")
RECIPE = Recipe()
RUN = Run(START, NAMES, RECIPE)
PRUNED = Pruned(RUN.final, {"fc1.weight": 0.2, "fc2.weight": 0.1})


def _described() -> dict[str, Value]:
    return {
        "a network of a task of one's own": OwnNetwork("own_tasks:Digits", {"rate": 0.2}),
        "a task of one's own": Own(OwnNetwork("own_tasks:Digits", {"rate": 0.2})),
        "network": FCN,
        "network, arguments": LENET,
        "network, source": Network("package.module:factory", {"width": 3}, TWOS),
        "data": DATA,
        "data, another name": Data("elsewhere/digits", ONES),
        **{f"data, {name}": Data("digits", ONES, (step,)) for name, step in STEPS.items()},
        **{f"step, {name}": step for name, step in STEPS.items()},
        "task, classification": Classification(),
        "task, next word": NextWord(),
        "task, regression": Regression(),
        "task, all fields": Custom(Classification(), "cross_entropy", {"label_smoothing": 0.1}, "f1_macro"),
        "data, another task": Data("digits", ONES, (), NextWord()),
        "data, all fields": Data(
            "digits",
            ONES,
            (
                steps.Fit("3x32x32"),
                steps.Shift("permute-pixels"),
                steps.Half("a"),
                steps.HoldOut(50),
                steps.Examples(100, 3),
                steps.Pixels(),
            ),
        ),
        "recipe": RECIPE,
        "recipe, network": Recipe(model="lenet-300-100", model_args={"init": "glorot"}),
        "recipe, widths": Recipe(widths="300x100"),
        "recipe, depth": Recipe(widths="64", depth=2, model_args={"norm": True}),
        "recipe, data": Recipe(shift="noise", examples=100, half="a", fit="1x16x16", pixels="unit", validation=30),
        "recipe, fixed classifier": Recipe(
            model="fixed-classifier", model_args={"network": "fcn", "layer": "fc4", "kind": "orthogonal"}
        ),
        "recipe, sgd": Recipe(lr=0.1, momentum=0.0, weight_decay=5e-4),
        "recipe, clip": Recipe(clip=1.0, schedule="linear"),
        "recipe, optimizer": Recipe(optimizer="Adam", lr=0.001, optimizer_args={"betas": [0.9, 0.99]}),
        "recipe, the rest": Recipe(label_noise=0.2, schedule="cosine", epochs=7, batch_size=60, seed=4),
    }


def _states() -> dict[str, Value]:
    later = Run(RUN.at(13), NAMES[2:], RECIPE, 13, resume=True)
    return {
        "initial": START,
        "initial, seed": Initial(LENET, 5),
        "graft": Graft(RUN.final, ("fc1.weight", "fc1.bias"), donor=START),
        "graft, another draw": Graft(RUN.final, ("fc1.weight",), donor=Initial(FCN, 7)),
        "run": RUN,
        "run, some names": Run(START, NAMES[2:], RECIPE),
        "run, resumed": later,
        "run, not resumed": Run(RUN.at(13), NAMES[2:], RECIPE, 13),
        "run, statistics": Run(START, NAMES[2:], RECIPE, statistics="frozen"),
        "run, choice": Run(START, plan.Fraction(0.5, "filters", 0, WEIGHTS), RECIPE),
        "run, ticket": Run(Masked(START, PRUNED), Kept(PRUNED, NAMES[1::2]), RECIPE),
        "at": At(RUN, 12),
        "at, chain": At(later, 24),
        "partial": Partial(RUN, 12),
        "estimated": plan.Estimated(plan.RunningStatistics(RUN.final, DATA)),
        "loaded": plan.Loaded(FCN, "start.safetensors", ONES),
        "loaded, another path": plan.Loaded(FCN, "elsewhere/start.safetensors", ONES),
        "zeroed": plan.Zeroed(START, plan.Fraction(0.5, "filters", 0, WEIGHTS)),
        "zeroed, scattered": plan.Zeroed(START, plan.Scattered(10, 0, WEIGHTS)),
        "masked": Masked(START, PRUNED),
        "masked, step": Masked(RUN.at(5), plan.Complement(PRUNED)),
    }


def _choices() -> dict[str, Value]:
    return {
        "fraction": plan.Fraction(0.5, "filters", 0, WEIGHTS),
        "fraction, besides": plan.Fraction(0.1, "weights", 3, WEIGHTS, NAMES[1::2]),
        "scattered": plan.Scattered(100, 0, WEIGHTS),
        "per unit": plan.PerUnit(2, 0, WEIGHTS),
        "subspace": plan.Subspace(10, "fastfood", 0, NAMES),
        "subspace, besides": plan.Subspace(10, "dense", 3, WEIGHTS, NAMES[1::2]),
        "subspace, said": plan.Subspace(10, "sparse", 0, NAMES, said=True),
        "kept": Kept(PRUNED, NAMES[1::2]),
        "kept, nothing besides": Kept(plan.Scrambled(PRUNED, 3), ()),
    }


def _masks() -> dict[str, Value]:
    return {
        "pruned": PRUNED,
        "pruned, global": Pruned(RUN.final, {"fc1.weight": 0.2}, "global"),
        "pruned, within": Pruned(RUN.final, {"fc1.weight": 0.2}, within=PRUNED),
        "filed": plan.Filed("ticket.safetensors", ONES, WEIGHTS),
        "filed, another path": plan.Filed("elsewhere/ticket.safetensors", ONES, WEIGHTS[:1]),
        "scrambled": plan.Scrambled(PRUNED, 0),
        "scrambled, filed": plan.Scrambled(plan.Filed("ticket.safetensors", ONES, WEIGHTS), 4),
        "complement": plan.Complement(PRUNED),
        "density": plan.Density(PRUNED),
        "curve": plan.Curve(At(RUN, 12)),
        "apart": plan.Apart(RUN.final, START, PRUNED),
    }


def _measures() -> dict[str, Value]:
    noisy = Recipe(label_noise=0.2, seed=4)
    return {
        "evaluation": Evaluation(RUN.final, DATA, "test"),
        "evaluation, noise": Evaluation(RUN.final, DATA, "train", 0.2, 4),
        "running statistics": plan.RunningStatistics(RUN.final, DATA),
        "evaluation, under a recipe": Evaluation.under(noisy, START, "train"),
        "distance": plan.Distance(RUN.final, START),
        "gradients": plan.Gradients(START, RECIPE),
        "gradients, batches": plan.Gradients(RUN.final, RECIPE, batches=2),
        "spectra": plan.Spectra(RUN.final),
        "singular values": plan.SingularValues(START),
        "fisher": plan.Fisher(START, RECIPE),
        "fisher, examples": plan.Fisher(RUN.final, RECIPE, examples=20),
        "influence": plan.Influence(START, RECIPE),
        "influence, examples": plan.Influence(RUN.final, RECIPE, examples=20),
        "track": plan.Track((START, RUN.at(12), RUN.final), "fc4.scale"),
        "delta": plan.Delta(RUN.final, START),
    }


def _linear() -> dict[str, Value]:
    margin = MaximumMargin(Synthetic(0))
    return {
        "synthetic": Synthetic(0),
        "synthetic, points": Synthetic(3, points=16, gap=0.1),
        "two classes": TwoClasses(DATA, (0, 1), 100),
        "maximum margin": margin,
        "maximum margin, two classes": MaximumMargin(TwoClasses(DATA, (3, 8), 50)),
        "descent": Descent(margin, (8, 8), "default", 0, "risk", 8.0, (0, 1, 10)),
        "descent, all fields": Descent(margin, (), "balanced", 2, "theorem", 0.5, (0, 2, 20), (0,), 2.0),
    }


def concrete_kinds() -> set[str]:
    """Names of the kinds of value in letitgo itself that can be made."""
    for module in pkgutil.walk_packages(letitgo.__path__, "letitgo."):
        if not module.name.startswith(("letitgo.callbacks", "letitgo.cli", "letitgo.execute.cluster")):
            importlib.import_module(module.name)
    own = (kind for kind in descendants(Value) if kind.__module__.startswith("letitgo."))
    return {kind.__name__ for kind in own if is_dataclass(kind)}


def descendants(kind: type[Value]) -> set[type[Value]]:
    """The subclasses of a kind, theirs, and so on."""
    below = kind.__subclasses__()
    return {*below, *(found for part in below for found in descendants(part))}


def test_every_kind_of_value_has_a_pinned_key():
    assert concrete_kinds() == {type(value).__name__ for value in values().values()}


def test_keys_are_as_pinned():
    pinned = json.loads((PINS / "keys.json").read_text())
    assert {name: value.key for name, value in values().items()} == pinned


# Rows. Each function is a small run of one study and gives its rows; the working directory is a fresh folder.


def recipes(**fields: Any) -> list[Recipe]:
    """Recipes of a small network on few digits."""
    small = {
        "examples": 200,
        "epochs": 2,
        "batch_size": 20,
        "widths": "16",
        "depth": 2,
        "lr": 0.2,
        "schedule": "cosine",
    }
    return sweep(**{**small, **fields})


def rows_of(study: Any, store: Store) -> list[Row]:
    """All rows of a study, computed in this process; networks too small to learn are judged all the same."""
    with patch.object(Data, "learned", lambda *_: True):
        outcome = compute(study, store, workers=0)
    assert not outcome.failures
    return outcome.rows


def train(store: Store) -> list[Row]:
    return rows_of(Train(recipes(seed=[0, 1], label_noise=0.1)), store)


def train_sweep(store: Store) -> list[Row]:
    return rows_of(Train(recipes(lr=[0.01, 0.1], optimizer=["sgd", "adam"], schedule="step")), store)


def train_freeze(store: Store) -> list[Row]:
    return rows_of(Train(recipes(seed=[0, 1]), freeze=("fc1",)), store)


def train_freeze_at(store: Store) -> list[Row]:
    norm = recipes(seed=[0, 1], model_args={"norm": True})
    return rows_of(Train(norm, freeze=("fc1", "norm1"), freeze_at=1, statistics="frozen"), store)


def train_norms(store: Store) -> list[Row]:
    norm = recipes(seed=[0, 1], model_args={"norm": True})
    return rows_of(Train(norm, freeze=("norm1",), statistics="frozen"), store)


def train_ticket(store: Store) -> list[Row]:
    found = recipes()
    export_ticket(Ticket(found, seeds=1, levels=1, rate=0.5, rewind="3it"), 1, "ticket.safetensors", store)
    return rows_of(Train(found, ticket="ticket.safetensors"), store)


def map_layers(store: Store) -> list[Row]:
    return rows_of(Map(recipes(), seeds=2, select="test", draws=1, training_accuracy=True), store)


def map_together(store: Store) -> list[Row]:
    return rows_of(
        Map(
            recipes(depth=3),
            seeds=2,
            select="test",
            draws=1,
            training_accuracy=True,
            reinit_at=(0,),
            together=True,
            tolerance=50.0,
        ),
        store,
    )


def map_freeze_at(store: Store) -> list[Row]:
    norm = recipes(model_args={"norm": True})
    acts: Any = {"freeze_at": (0, 1), "reinit_at": (1,), "layers": ("fc*",), "by": "module", "draws": 1}
    return rows_of(Map(norm, seeds=2, select="test", **acts, training_accuracy=True, statistics="re-estimate"), store)


def map_blocks(store: Store) -> list[Row]:
    model = recipes(model="helpers:block_net", widths=None, depth=None)
    return rows_of(
        Map(model, seeds=2, select="test", draws=1, training_accuracy=True, blocks=("block*",), reinit_at=(0,)), store
    )


def map_sweep(store: Store) -> list[Row]:
    return rows_of(
        Map(recipes(widths=["8", "16"]), seeds=2, select="test", draws=1, training_accuracy=True, reinit_at=(0,)), store
    )


def search(store: Store) -> list[Row]:
    return rows_of(Search(recipes(epochs=3), seeds=2, tolerance=20.0, freeze_at=(0, 1), spend=4.0), store)


def advisers(store: Store) -> list[Row]:
    return rows_of(Advisers(recipes(depth=3), seeds=2), store)


def advisers_pretrained(store: Store) -> list[Row]:
    norm = recipes(shift="invert", model_args={"norm": True})
    return rows_of(Advisers(norm, {"shift": "none", "epochs": 1}, seeds=2, tolerances=(5.0,)), store)


def finetune(store: Store) -> list[Row]:
    found = recipes(shift="invert", depth=3)
    return rows_of(Finetune(found, {"shift": "none", "epochs": 1}, seeds=2, select="test", together=True), store)


def finetune_sweep(store: Store) -> list[Row]:
    found = recipes(shift="permute-labels", lr=[0.05, 0.2])
    return rows_of(
        Finetune(found, {"shift": "none", "optimizer": "adam", "lr": 0.01}, seeds=2, select="test", budget=0.9), store
    )


def finetune_file(store: Store) -> list[Row]:
    from safetensors.torch import save_file

    found = recipes()
    save_file(Initial(found[0].network, 9).load(store), "start.safetensors")
    return rows_of(Finetune(found, "start.safetensors", seeds=2, select="test"), store)


def fraction(store: Store) -> list[Row]:
    return rows_of(Fraction(recipes(), seeds=2, select="test", shares=(1.0, 0.5, 0.25)), store)


def fraction_norms(store: Store) -> list[Row]:
    study = Fraction(
        recipes(model_args={"norm": True}),
        seeds=2,
        select="test",
        shares=(0.5,),
        of=("filters", "weights"),
        rest=("initial", "zero"),
        norms=("learned", "frozen"),
        classifier=("learned", "share"),
        only=("norms", "biases"),
    )
    return rows_of(study, store)


def classifier(store: Store) -> list[Row]:
    return rows_of(Classifier(recipes(), seeds=2, select="test", kinds=("hadamard", "orthogonal", "frozen")), store)


def align(store: Store) -> list[Row]:
    return rows_of(DeepLinear(widths=(3,), steps=4, seeds=2), store)


def align_digits(store: Store) -> list[Row]:
    return rows_of(
        DeepLinear("digits", (3, 8), 60, (4,), init=("balanced",), freeze_layers=(1,), steps=3, seeds=2), store
    )


def align_dense(store: Store) -> list[Row]:
    return rows_of(Align(recipes(), seeds=2), store)


def ticket(store: Store) -> list[Row]:
    return rows_of(Ticket(recipes(), seeds=2, levels=2), store)


def ticket_variants(store: Store) -> list[Row]:
    variants = ("fresh weights", "random mask", "random mask and fresh weights", "frozen", "complement")
    held_out = recipes(validation=100)
    study = Ticket(held_out, seeds=2, levels=2, rate=0.5, output_rate=0.0, variants=variants, at=(2,))
    return rows_of(study, store)


def ticket_stability(store: Store) -> list[Row]:
    whole = recipes(examples=None, batch_size=100)  # stability and examples exclude each other
    study = Ticket(whole, seeds=2, levels=2, rewind="1ep", variants=("random mask",), at=(1, 2), stability=True)
    return rows_of(study, store)


def ticket_one_shot(store: Store) -> list[Row]:
    study = Ticket(recipes(), seeds=2, levels=2, scope="global", rewind="3it", one_shot=True, variants=())
    return rows_of(study, store)


def transfer(store: Store) -> list[Row]:
    found = recipes(shift=["none", "invert"]) + recipes(optimizer="adam", lr=0.01)
    return rows_of(Carry(found, seeds=2, levels=2, rate=0.5, at=(2,)), store)


def dimension_search(store: Store) -> list[Row]:
    study = Dimension(
        recipes(), seeds=2, split="test", thresholds=(0.9, 0.5), global_baseline=0.3, resolution=1.0, max_d=400
    )
    return rows_of(study, store)


def dimension_grid(store: Store) -> list[Row]:
    return rows_of(
        Dimension(recipes(), seeds=2, split="test", grid=(10, 50), kind="sparse", exclude=("*.bias",), said=True), store
    )


def dimension_layers(store: Store) -> list[Row]:
    study = Dimension(
        recipes(), seeds=2, split="test", grid=(10, 40), kind="dense", layers=("fc*",), others="trained", stop_every=1
    )
    return rows_of(study, store)


# Of a paper's claims only the numbers are pinned: their wording may change.


def claims(paper: Any, study: Any, store: Store) -> list[Row]:
    """The numbers of a paper's claims, on a small run of its study."""
    told = (asdict(claim) for claim in paper.claims(study, rows_of(study, store)))
    return [{name: claim[name] for name in ("measured", "ci95", "n", "within")} for claim in told]


def reproduce_fc18(store: Store) -> list[Row]:
    study = replace(fc18.study(0.01, 2), recipes=recipes(epochs=1, validation=100))
    return claims(fc18, study, store)


def reproduce_fdrc19(store: Store) -> list[Row]:
    whole = recipes(examples=None, batch_size=100, validation=100)
    return claims(fdrc19, replace(fdrc19.study(0.01, 2), recipes=whole), store)


def reproduce_hhs18(store: Store) -> list[Row]:
    found = recipes(model=["fcn"], data=["digits"])
    return claims(hhs18, replace(hhs18.study(0.01, 2), recipes=found), store)


def reproduce_jt18(store: Store) -> list[Row]:
    return claims(jt18, jt18.study(0.005, 2), store)


def reproduce_lee23(store: Store) -> list[Row]:
    found = recipes(shift=list(lee23.SHIFTS), lr=[0.05, 0.2])
    return claims(lee23, replace(lee23.study(0.01, 2), recipes=found, pretrained={"epochs": 1}, select="test"), store)


def reproduce_lfly18(store: Store) -> list[Row]:
    longer = {"examples": 400, "batch_size": 20, "optimizer": "adam", "lr": 0.01}
    found = recipes(**longer) + recipes(**longer, model="lenet", widths=None, depth=None, fit="1x16x16")
    return claims(lfly18, replace(lfly18.study(0.01, 2), recipes=found, global_baseline=0.7, max_d=100), store)


def reproduce_mypt19(store: Store) -> list[Row]:
    shift = ["none", "invert"]
    found = recipes(shift=shift, batch_size=50)
    found += recipes(shift=shift, batch_size=50, optimizer="adam", lr=0.01)
    return claims(mypt19, replace(mypt19.study(0.01, 1), recipes=found, optimizers=()), store)


def reproduce_rt18(store: Store) -> list[Row]:
    study = replace(rt18.study(0.01, 2), recipes=recipes(model_args={"norm": True}), select="test")
    return claims(rt18, study, store)


def reproduce_zbs19(store: Store) -> list[Row]:
    return claims(zbs19, replace(zbs19.study(0.01, 2), recipes=recipes(), draws=1), store)


STUDIES: dict[str, Callable[[Store], list[Row]]] = {
    study.__name__: study
    for study in (
        train,
        train_sweep,
        train_freeze,
        train_freeze_at,
        train_norms,
        train_ticket,
        map_layers,
        map_together,
        map_freeze_at,
        map_blocks,
        map_sweep,
        search,
        advisers,
        advisers_pretrained,
        finetune,
        finetune_sweep,
        finetune_file,
        fraction,
        fraction_norms,
        classifier,
        align,
        align_digits,
        align_dense,
        ticket,
        ticket_variants,
        ticket_stability,
        ticket_one_shot,
        transfer,
        dimension_search,
        dimension_grid,
        dimension_layers,
        reproduce_fc18,
        reproduce_fdrc19,
        reproduce_hhs18,
        reproduce_jt18,
        reproduce_lee23,
        reproduce_lfly18,
        reproduce_mypt19,
        reproduce_rt18,
        reproduce_zbs19,
    )
}


@cache
def rounding() -> dict[str, str]:
    """How floats are rounded: torch's version, and a digest of gradients of products, convolutions and an LSTM."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    digest = hashlib.sha256()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for inputs, part in (
            *((torch.randn(n, a), nn.Linear(a, b)) for n in (5, 128) for a, b in ((64, 256), (256, 10), (784, 300))),
            (torch.randn(32, 1, 28, 28), nn.Conv2d(1, 6, 5)),
            (torch.randn(16, 20, 24), nn.LSTM(24, 48, batch_first=True)),
        ):
            outputs = part(inputs)
            (outputs[0] if isinstance(outputs, tuple) else outputs).log_softmax(-1).square().sum().backward()
            for parameter in part.parameters():
                digest.update(parameter.grad.numpy().tobytes())  # type: ignore[union-attr]
        digest.update(torch.linalg.svdvals(torch.randn(96, 64)).numpy().tobytes())
    torch.set_num_threads(threads)
    return {"torch": str(torch.__version__), "arithmetic": digest.hexdigest()[:16]}


def differences(pinned: Row, row: Row, exact: bool) -> list[str]:
    """What is not as pinned in a row, column by column."""
    found = []
    for column, old in pinned.items():
        name = RENAMED.get(column, column)
        name = name if name in row else column
        if name not in row:
            found.append(f"{column}: no such column")
        elif not (same(old, row[name]) if exact else column not in ACCURACIES or near(old, row[name])):
            found.append(f"{column}: {row[name]!r}, pinned {old!r}")
    return found


def same(old: Any, new: Any) -> bool:
    """Whether two JSON values are equal, floats to 1e-6 of their size."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-12)
    return type(old) is type(new) and old == new


def near(old: float | None, new: float | None) -> bool:
    """Whether two accuracies are about the same."""
    return old == new or (old is not None and new is not None and abs(old - new) <= 0.03)


@pytest.mark.parametrize("name", STUDIES)
def test_rows_are_as_pinned(name, tmp_path, monkeypatch):
    pinned = json.loads((PINS / "rows" / f"{name}.json").read_text())
    exact = pinned["recorded_on"] == rounding()
    if name in SEARCHES and not exact:
        pytest.skip("another processor or torch: rounding decides what a search tries next")
    monkeypatch.chdir(tmp_path)
    rows = json.loads(json.dumps(STUDIES[name](open_store(tmp_path / "store"))))
    assert len(rows) == len(pinned["rows"])
    for place, (old, new) in enumerate(zip(pinned["rows"], rows, strict=True)):
        assert not differences(old, new, exact), f"row {place} of {name}"


def test_every_pinned_study_is_run():
    assert {path.stem for path in (PINS / "rows").glob("*.json")} == STUDIES.keys()


def record(names: list[str]) -> None:
    """Write the pins that are not there yet, and those that are named."""
    torch.set_num_threads(1)
    (PINS / "rows").mkdir(parents=True, exist_ok=True)
    old = json.loads((PINS / "keys.json").read_text()) if (PINS / "keys.json").exists() else {}
    keys = {name: value.key for name, value in values().items()}
    keys = keys if "keys" in names else {**keys, **old}
    (PINS / "keys.json").write_text(json.dumps(keys, indent=1) + "\n")
    for name, study in STUDIES.items():
        path = PINS / "rows" / f"{name}.json"
        if path.exists() and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            rows = study(open_store(Path(folder, "store")))
            os.chdir(PINS)
        lines = ",\n".join(json.dumps(row) for row in rows)
        path.write_text(f'{{"recorded_on": {json.dumps(rounding())}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record what keys and rows are now.")
    parser.add_argument("--record", nargs="*", metavar="PIN", required=True, help="keys, or names of studies")
    record(parser.parse_args().record)
