"""Tickets on other data and under other optimisers: what they start from, what they are held against, what is told."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from statistics import fmean
from typing import Any, cast

import pytest
import torch
from helpers import bits, pictures, small_recipe, write_dataset
from letitgo.report.transfer import curves, matrix, transfer_answers
from letitgo.studies.transfer import FRESH, OWN, RANDOM, TICKET, Cell, Transfer, place

from letitgo.cli.main import run
from letitgo.errors import BadRequest
from letitgo.papers import mypt19
from letitgo.plan import Evaluation, Initial, Masked
from letitgo.store import Store
from letitgo.studies.compute import compute, estimate
from letitgo.studies.ticket import DENSE, Lottery

SMALL = {"widths": "8", "depth": 2, "batch_size": 256, "epochs": 2}
RECIPES = (
    small_recipe(**SMALL, optimizer="sgd", lr=0.1),
    small_recipe(**SMALL, optimizer="adam", lr=0.01, shift="invert", weight_decay=0.1),
)
STUDY = Transfer(RECIPES, seeds=2, levels=2, rate=0.5, rewind="3it")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study, computed: its store and its rows."""
    store = Store(tmp_path_factory.mktemp("store"))
    outcome = compute(STUDY, store)
    assert not outcome.failures
    return store, outcome.rows


def base_of(cell):
    start = STUDY.run(cell, 0).start
    assert isinstance(start, Masked)
    return start.base


def kept(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_there_is_a_cell_for_each_ticket_under_each_target():
    variants = [(OWN, FRESH, RANDOM), (TICKET, FRESH, RANDOM)]
    expected = [
        cell
        for target, source in ((0, 1), (1, 0))
        for cell in [
            Cell(target, target, 0, DENSE),
            *(
                Cell(which, target, level, variant)
                for level in (1, 2)
                for which, names in zip((target, source), variants, strict=True)
                for variant in names
            ),
        ]
    ]
    assert STUDY.cells == expected


def test_a_ticket_starts_from_its_sources_weights_on_its_mask_and_zero_elsewhere(done):
    store, _ = done
    for cell in STUDY.cells:
        if cell.variant not in (OWN, TICKET):
            continue
        for i in range(2):
            source, target = STUDY.parts[cell.source], STUDY.parts[cell.target]
            rewound = source.dense(source.seeds[i]).at(3).load(store)
            run_of = STUDY.run(cell, i)
            start, masks = run_of.start.load(store), source.mask(cell.level, source.seeds[i]).load(store)
            assert set(masks) == {"fc1.weight", "fc2.weight"}
            assert bits(start) == bits({n: x.where(masks[n], 0) if n in masks else x for n, x in rewound.items()})
            assert (run_of.begin, run_of.recipe) == (0, target.seeds[i])  # the target's clock, from its first step


def test_what_is_pruned_stays_exactly_zero_and_the_rest_moves(done):
    store, _ = done
    for cell in STUDY.cells:
        if cell.level == 0:
            continue
        run_of, masks = STUDY.run(cell, 1), STUDY.mask(cell, 1).load(store)
        start, final = run_of.start.load(store), run_of.final.load(store)
        for name, mask in masks.items():
            assert not final[name][~mask].any()
            assert not torch.signbit(final[name][~mask]).any()
        for name in ("fc2.weight", "fc3.weight", "fc3.bias"):
            assert not torch.equal(final[name], start[name])


def test_controls_are_apart_and_have_as_many_weights_in_each_layer_as_the_ticket_beside_them(done):
    store, _ = done
    for source, target in STUDY.pairs:
        for level in (1, 2):
            ticket = Cell(source, target, level, OWN if source == target else TICKET)
            fresh, random = ticket._replace(variant=FRESH), ticket._replace(variant=RANDOM)
            masks = {cell: STUDY.mask(cell, 0).load(store) for cell in (ticket, fresh, random)}
            assert kept(masks[ticket]) == kept(masks[fresh]) == kept(masks[random])
            assert all(torch.equal(masks[ticket][name], masks[fresh][name]) for name in masks[ticket])
            assert not torch.equal(masks[ticket]["fc1.weight"], masks[random]["fc1.weight"])
            starts = {cell: STUDY.run(cell, 0).start.load(store) for cell in (ticket, fresh, random)}
            drawn = base_of(fresh)
            assert isinstance(drawn, Initial)
            assert drawn == base_of(random)
            assert drawn.seed not in (0, 1)
            for cell in (fresh, random):
                own = masks[cell]["fc1.weight"]
                assert torch.equal(starts[cell]["fc1.weight"], drawn.load(store)["fc1.weight"] * own)
                assert not torch.equal(starts[cell]["fc3.weight"], starts[ticket]["fc3.weight"])


def test_a_level_leaves_what_its_rate_says(done):
    _, rows = done
    sizes = 64 * 8 + 8 * 8  # the output layer is not pruned
    left = {1: sizes - round(sizes * 0.5)}
    left[2] = left[1] - round(left[1] * 0.5)
    for row in rows:
        if row["level"]:
            assert row["weights_left"] == left[row["level"]] + 80
            assert row["layers"].endswith("fc3.weight 1")
    assert {row["weights_left"] for row in rows if row["variant"] == DENSE} == {sizes + 80}


def test_what_the_lottery_trained_is_not_trained_again(store):
    lottery = Lottery(
        RECIPES, seeds=1, levels=2, rate=0.5, output_rate=0.0, scope="global", rewind="0", variants=(FRESH, RANDOM)
    )
    assert not compute(lottery, store).failures
    study = Transfer(RECIPES, seeds=1, levels=2, rate=0.5, rewind="0")
    own = [cell for cell in study.cells if cell.source == cell.target]
    for cell in own:
        part = lottery.parts[cell.target]
        variant = TICKET if cell.variant == OWN else cell.variant
        assert study.run(cell, 0) == part.run(cell.level, variant, part.seeds[0])
    told = estimate(study, store, 1)
    assert told.runs - told.runs_stored == len(study.cells) - len(own)


def test_rewound_to_a_later_step_only_the_own_ticket_is_trained_again_on_the_whole_schedule():
    lottery = STUDY.lottery.parts[0]
    for level in (1, 2):
        ours = STUDY.run(Cell(0, 0, level, OWN), 0)
        found = lottery.run(level, "ticket", lottery.seeds[0])
        assert (ours.start, ours.trains, ours.recipe) == (found.start, found.trains, found.recipe)
        assert (ours.begin, found.begin) == (0, 3)
        for control in (FRESH, RANDOM):
            assert STUDY.run(Cell(0, 0, level, control), 0) == lottery.run(level, control, lottery.seeds[0])


def test_rows_are_paired_by_seed(done):
    store, rows = done
    assert len(rows) == len(STUDY.cells)

    def accuracies(cell):
        return [
            Evaluation.under(STUDY.parts[cell.target].seeds[i], STUDY.run(cell, i).final, "test").result(store)[
                "accuracy"
            ]
            for i in range(2)
        ]

    for cell, row in zip(STUDY.cells, rows, strict=True):
        ends = [(row[f"{end}_data"], row[f"{end}_optimizer"]) for end in ("source", "target")]
        assert ends == [place(RECIPES[cell.source]) if cell.level else (None, None), place(RECIPES[cell.target])]
        assert (row["variant"], row["level"], row["n"]) == (cell.variant, cell.level, 2)
        own = accuracies(cell)
        assert row["accuracy_mean"] == pytest.approx(fmean(own))
        assert (row["accuracy_min"], row["accuracy_max"]) == (min(own), max(own))
        others = {"everything": Cell(cell.target, cell.target, 0, DENSE)}
        if cell.level:
            others["own"] = Cell(cell.target, cell.target, cell.level, OWN)
            others["random"] = cell._replace(variant=RANDOM)
        for name in ("own", "random", "everything"):
            if others.get(name, cell) == cell:
                assert row[f"above_{name}_mean"] is None
                continue
            differences = [a - b for a, b in zip(own, accuracies(others[name]), strict=True)]
            assert row[f"above_{name}_mean"] == pytest.approx(fmean(differences))
            half = 12.7062 * abs(differences[0] - differences[1]) / 2
            assert row[f"above_{name}_ci95"] == pytest.approx(half, rel=1e-4, abs=1e-12)


def test_sources_and_targets_are_named_by_data_or_optimiser():
    both = Transfer(RECIPES, sources=("digits invert",), targets=("sgd:0.1",))
    assert both.pairs == [(0, 0), (1, 0)]  # the target's own ticket too
    assert Transfer(RECIPES, targets=("adam",)).pairs == [(1, 1), (0, 1)]
    assert Transfer(RECIPES, sources=("digits",)).pairs == [(0, 0), (1, 1), (0, 1)]
    with pytest.raises(BadRequest, match=r"targets names 'mnist', which is none of .*: adam, adam:0.01, digits, "):
        assert Transfer(RECIPES, targets=("mnist",)).pairs
    halves = [small_recipe(half=half, examples=100) for half in "ab"]
    assert [place(recipe)[0] for recipe in halves] == ["digits:a 100", "digits:b 100"]
    assert Transfer((*halves, RECIPES[1]), targets=("digits",), sources=("adam",)).pairs == [
        *((0, 0), (2, 0), (1, 1), (2, 1), (2, 2)),
    ]


@pytest.fixture
def two_sets(tmp_path):
    """Grey images of 6×5 in 3 classes, and coloured ones of 8×9 in 5."""
    made = []
    for name, size, channels, classes in (("grey", (6, 5), 1, 3), ("colour", (8, 9), 3, 5)):
        labels = [i % classes for i in range(60)]
        splits = {split: (pictures(60, size, channels, seed), labels) for seed, split in enumerate(("train", "test"))}
        made.append(str(write_dataset(tmp_path / name, splits, classes)))
    return made


def test_another_class_count_has_an_output_layer_drawn_by_the_targets_own_law(two_sets, store):
    fit = {"fit": "1x6x5", "batch_size": 16, "epochs": 1}
    study = Transfer(tuple(small_recipe(data=data, **fit) for data in two_sets), seeds=1, levels=1, rewind="1it")
    outcome = compute(study, store)
    assert not outcome.failures
    assert all(row["n"] == 1 for row in outcome.rows)
    for source, target in ((0, 1), (1, 0)):
        cell = Cell(source, target, 1, TICKET)
        run_of, recipe = study.run(cell, 0), study.recipes[target]
        start, head = run_of.start.load(store), recipe.network.layers["fc4"]
        own = Initial(recipe.network, recipe.seed).load(store)
        rewound = study.parts[source].dense(study.recipes[source]).at(1).load(store)
        assert bits({name: start[name] for name in head}) == bits({name: own[name] for name in head})
        assert torch.equal(start["fc1.bias"], rewound["fc1.bias"])
        mask = study.mask(cell, 0).load(store)
        assert torch.equal(start["fc2.weight"], rewound["fc2.weight"] * mask["fc2.weight"])
        assert "fc4.weight" not in mask
        assert {*head} <= {*run_of.moves}
        assert run_of.final.load(store)["fc4.weight"].shape == (recipe.dataset.classes, 16)


def test_what_cannot_be_carried_is_refused(two_sets):
    same = small_recipe(), small_recipe(momentum=0.5)
    grey, colour = (small_recipe(data=data) for data in two_sets)
    for make, words in (
        (lambda: Transfer(RECIPES[:1]), "one recipe has nowhere to carry a ticket: give several"),
        (
            lambda: Transfer(RECIPES, controls=cast("Any", ("random mask",))),
            "controls names 'random mask': did you mean",
        ),
        (lambda: Transfer(RECIPES, rate=1.0), "rate is 1: give a share above 0 and below 1"),
        (lambda: Transfer(RECIPES, levels=2, at=(3,)), "at names level 3: give levels of 1 to 2"),
        (lambda: Transfer(same).check(), "two recipes have the data digits and the optimiser sgd:0.05"),
        (lambda: Transfer(RECIPES, rewind="2ep").check(), "rewind is 2ep: training ends at step 12"),
        (
            lambda: Transfer((colour, grey)).check(),
            "are 1x6x5 and those of .* 3x8x9: bring them to one shape, as with fit",
        ),
    ):
        with pytest.raises(BadRequest, match=words):
            make()
    other = dataclasses.replace(RECIPES[1], widths="16")
    with pytest.raises(BadRequest, match=r"has shape \(16, 64\), that of 'fcn' here \(8, 64\)"):
        Transfer((RECIPES[0], other)).check()


def test_answers_count_what_is_sure():
    def row(source, target, own, random, level=2, variant=TICKET):
        ends = {
            f"{end}_{what}": name
            for end, names in (("source", source), ("target", target))
            for what, name in zip(("data", "optimizer"), names, strict=True)
        }
        return {
            **ends,
            **{
                "variant": variant,
                "level": level,
                "density": 0.035,
                "n": 3,
                "empty": "fc1.weight" if level == 2 else "",
            },
            **{"above_own_mean": own, "above_own_ci95": 0.01, "above_random_mean": random, "above_random_ci95": 0.02},
        }

    a, b, c = ("mnist", "sgd"), ("mnist", "adam"), ("other", "sgd")
    rows = [
        row(a, b, -0.005, 0.1),
        row(a, c, -0.02, 0.01),
        row(c, a, 0.03, 0.05),
        row(c, b, 0, 0.05),
        row(b, a, 0, 0, 1),
    ]
    assert transfer_answers(rows) == [
        "With 3.5 % of the weights, 1 of 4 tickets found elsewhere are surely worse than the target's own, "
        "and 3 of 4 surely better than a random ticket.",
        "From other data, same optimiser: -2.00 to 3.00 points against the target's own ticket, "
        "1.00 to 5.00 against a random one.",
        "From the other optimiser, same data: -0.50 points against the target's own ticket, "
        "10.00 against a random one.",
        "From other data and another optimiser: 0.00 points against the target's own ticket, "
        "5.00 against a random one.",
        "With 3.5 % of the weights, 0 of 1 tickets found elsewhere are surely worse than the target's own, "
        "and 0 of 1 surely better than a random ticket.",
        "From the other optimiser, same data: 0.00 points against the target's own ticket, 0.00 against a random one.",
        "Some tickets have layers without any weight: fc1.weight.",
    ]


def test_the_matrix_and_the_curves_tell_the_rows(done):
    _, rows = done
    panels = matrix(rows).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["56.1 % of the weights", "34.1 % of the weights"]
    for level, panel in enumerate(panels, start=1):
        names = [label.get_text() for label in panel.get_yticklabels()]
        told = [
            f"ticket of digits{shift}, {optimizer}" for shift, optimizer in (("", "sgd:0.1"), (" invert", "adam:0.01"))
        ]
        assert names == [*told, "own mask, fresh weights", "random mask and fresh weights", "everything"]
        cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in panel.texts}
        assert len(cells) == 5 * 2
        for cell, row in zip(STUDY.cells, rows, strict=True):
            accuracy = f"{100 * row['accuracy_mean']:.2f}\n"
            if cell.level == level and cell.variant in (OWN, TICKET):
                assert cells[cell.source, cell.target].startswith(accuracy)
                assert (cells[cell.source, cell.target] == f"{accuracy}own") == (cell.variant == OWN)
            if cell.level == level and cell.source == cell.target and cell.variant in (FRESH, RANDOM):
                assert cells[2 + (cell.variant == RANDOM), cell.target].startswith(accuracy)
            if cell.variant == DENSE:
                assert cells[4, cell.target].startswith(accuracy)
    for panel, target in zip(curves(rows).axes, range(2), strict=True):
        drawn = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        assert len(drawn) == 5
        own = [
            row for cell, row in zip(STUDY.cells, rows, strict=True) if cell.target == target and cell.variant == OWN
        ]
        [line] = [
            handle[0] for label, handle in drawn.items() if label == f"ticket of {', '.join(place(RECIPES[target]))}"
        ]
        means = sorted((100 * row["density"], 100 * row["accuracy_mean"]) for row in own)
        assert line.get_xydata().flatten().tolist() == pytest.approx([number for pair in means for number in pair])


COMMAND = [
    *("transfer", "--shift", "none,invert", "--optimizers", "sgd:0.1,adam:0.01", "--targets", "digits"),
    *("--widths", "8", "--epochs", "1", "--batch-size", "512", "--levels", "1", "--rewind", "1it"),
    *("--seeds", "1", "--workers", "0"),
]


def test_the_command_tells_rows_and_writes_a_report(tmp_path, capsys):
    folder = tmp_path / "report"
    assert run([*COMMAND, "--report", str(folder), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["rows"]
    assert len(told["recipes"]) == 4
    targets = {("digits", "sgd:0.1"), ("digits", "adam:0.01")}
    assert {(row["target_data"], row["target_optimizer"]) for row in rows} == targets
    assert len(rows) == 2 * (1 + 4 * 3)
    assert {file.name for file in folder.iterdir()} == {
        *("tickets-transfer.html", "tickets-transfer-matrix.png", "tickets-transfer-matrix.svg"),
    }
    page = (folder / "tickets-transfer.html").read_text(encoding="utf-8")
    for words in ("random mask and fresh weights", "of 6 tickets found elsewhere"):
        assert words in page
    assert run([*COMMAND, "--report", "none", "--format", "csv", "--controls", "none"]) == 0
    fewer = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["variant"] for row in fewer} == {DENSE, OWN, TICKET}
    assert run([*COMMAND, "--report", "none"]) == 0
    shown = capsys.readouterr().out
    assert "trained under digits, adam:0.01: everything reaches" in shown
    assert "of 6 tickets found elsewhere" in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizers", "sgd:0.1,:3"], "optimizers is 'sgd:0.1,:3': give names, each with its lr"),
        (["--optimizers", "sgd:0.1,adam:abc"], "optimizers has 'adam:abc': 'abc' is no learning rate"),
        (["--optimizers", "sgd,adam", "--lr", "0.1"], "lr and optimizers are both given"),
        (["--data", "digits"], "one recipe has nowhere to carry a ticket"),
        (["--shift", "none,invert", "--fit", "8x8"], "fit is '8x8': write channels (1 or 3), height and width"),
        (["--shift", "none,invert", "--at", "x"], "at is 'x': give whole numbers"),
    ],
)
def test_what_the_command_refuses_is_one_sentence(options, words, capsys):
    assert run(["transfer", "--report", "none", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("letitgo: ")
    assert words in error
    assert error.count("\n") == 1


def test_claims_of_mypt19():
    study = mypt19.study(0.01, 2)
    assert [recipe.epochs for recipe in study.recipes] == [2] * 4
    assert study.cells[-1] == Cell(2, 3, 15, RANDOM)

    def row(level, own, random, source=("mnist", "sgd:0.1"), target=("fashion_mnist", "sgd:0.1")):
        return {
            **{"source_data": source[0], "source_optimizer": source[1], "target_data": target[0]},
            **{"target_optimizer": target[1], "variant": TICKET, "level": level, "n": 2},
            **{"above_own_mean": own, "above_own_ci95": 0.002, "above_random_mean": random, "above_random_ci95": 0.003},
        }

    both = ("fashion_mnist", "adam:0.0003")
    rows = [row(15, -0.005, 0.05), row(15, -0.02, -0.01), row(3, 0, 0.005), row(3, 0, 0.02), row(15, 0, 0, target=both)]
    assert [claim.within for claim in mypt19.claims(study, rows)] == [True, True, False, False, True, False, None]
    for one in rows:
        one["above_random_ci95"] = one["above_own_ci95"] = None
    assert {claim.within for claim in mypt19.claims(study, rows)} == {None}
