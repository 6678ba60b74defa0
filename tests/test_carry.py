"""Tickets on other data and under other optimisers: what they start from, what they are compared with, the report."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from statistics import fmean
from typing import Any, NamedTuple, cast

import pytest
import torch
from helpers import bits, pictures, small_recipe, write_dataset

from letitgo.cli.main import run
from letitgo.cli.tables import stdout_console
from letitgo.errors import BadRequest
from letitgo.papers import mypt19
from letitgo.plan import Evaluation, Initial, Kept, Masked
from letitgo.report.pictures import BLACK, PALE, PALETTE, Grid, Points
from letitgo.report.terminal import to_terminal
from letitgo.store import Store
from letitgo.studies.carry.options import FRESH, RANDOM, SCRAMBLED
from letitgo.studies.carry.report import report
from letitgo.studies.carry.study import DENSE, OWN, TICKET, Carry, place
from letitgo.studies.compute import compute, estimate
from letitgo.studies.ticket.study import Ticket

pytestmark = pytest.mark.usefixtures("all_learned")

SMALL = {"widths": "8", "depth": 2, "batch_size": 256, "epochs": 2}
RECIPES = (
    small_recipe(**SMALL, optimizer="sgd", lr=0.1),
    small_recipe(**SMALL, optimizer="adam", lr=0.01, shift="invert", weight_decay=0.1),
)
STUDY = Carry(RECIPES, seeds=2, levels=2, rate=0.5, rewind="3it", controls=(FRESH, SCRAMBLED, RANDOM))


class Spot(NamedTuple):
    """Which ticket is trained where: indices of recipes, and the level and variant."""

    source: int
    target: int
    level: int
    variant: str


def spots(study):
    """The spot of each row, from its labels."""
    places = [place(recipe) for recipe in study.trained]
    found = []
    for of in study.subjects:
        for cells in study.cells(of, Store("nowhere")):
            for spot in cells:
                label = spot.labels
                target = places.index((label["target_data"], label["target_optimizer"]))
                source = (label["source_data"], label["source_optimizer"])
                own = places.index(source) if label["level"] else target
                found.append(Spot(own, target, label["level"], label["variant"]))
    return found


SPOTS = spots(STUDY)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study, computed: its store and its rows."""
    store = Store(tmp_path_factory.mktemp("store"))
    outcome = compute(STUDY, store)
    assert not outcome.failures
    return store, outcome.rows


def base_of(spot):
    start = STUDY.run(*spot, 0).start
    assert isinstance(start, Masked)
    return start.base


def mask_of(study, spot, i=0):
    trains = study.run(*spot, i).trains
    assert isinstance(trains, Kept)
    return trains.mask


def kept(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_there_is_a_row_for_each_ticket_under_each_target():
    variants = [(OWN, FRESH, SCRAMBLED, RANDOM), (TICKET, FRESH, SCRAMBLED, RANDOM)]
    expected = [
        spot
        for target, source in ((0, 1), (1, 0))
        for spot in [
            Spot(target, target, 0, DENSE),
            *(
                Spot(which, target, level, variant)
                for level in (1, 2)
                for which, names in zip((target, source), variants, strict=True)
                for variant in names
            ),
        ]
    ]
    assert expected == SPOTS


def test_a_ticket_starts_from_its_sources_weights_on_its_mask_and_zero_elsewhere(done):
    store, _ = done
    for spot in SPOTS:
        if spot.variant not in (OWN, TICKET):
            continue
        for i in range(2):
            source, target = STUDY.tickets[spot.source], STUDY.subjects[spot.target]
            rewound = source.of.baseline(source.of.seeds[i]).at(3).load(store)
            run_of = STUDY.run(*spot, i)
            start, masks = run_of.start.load(store), source.mask(spot.level, source.of.seeds[i]).load(store)
            assert set(masks) == {"fc1.weight", "fc2.weight"}
            assert bits(start) == bits({n: x.where(masks[n], 0) if n in masks else x for n, x in rewound.items()})
            assert (run_of.begin, run_of.recipe) == (0, target.seeds[i])  # the target's clock, from its first step


def test_what_is_pruned_stays_exactly_zero_and_the_rest_moves(done):
    store, _ = done
    for spot in SPOTS:
        if spot.level == 0:
            continue
        run_of, masks = STUDY.run(*spot, 1), mask_of(STUDY, spot, 1).load(store)
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
            ticket = Spot(source, target, level, OWN if source == target else TICKET)
            fresh, scrambled, random = (ticket._replace(variant=name) for name in (FRESH, SCRAMBLED, RANDOM))
            masks = {spot: mask_of(STUDY, spot).load(store) for spot in (ticket, fresh, scrambled, random)}
            assert kept(masks[ticket]) == kept(masks[fresh]) == kept(masks[scrambled]) == kept(masks[random])
            assert bits(masks[scrambled]) == bits(masks[random])
            assert base_of(scrambled) == base_of(ticket)  # the weights that the ticket starts from
            assert all(torch.equal(masks[ticket][name], masks[fresh][name]) for name in masks[ticket])
            assert not torch.equal(masks[ticket]["fc1.weight"], masks[random]["fc1.weight"])
            starts = {spot: STUDY.run(*spot, 0).start.load(store) for spot in (ticket, fresh, random)}
            drawn = base_of(fresh)
            assert isinstance(drawn, Initial)
            assert drawn == base_of(random)
            assert drawn.seed not in (0, 1)
            for spot in (fresh, random):
                own = masks[spot]["fc1.weight"]
                assert torch.equal(starts[spot]["fc1.weight"], drawn.load(store)["fc1.weight"] * own)
                assert not torch.equal(starts[spot]["fc3.weight"], starts[ticket]["fc3.weight"])


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


def test_what_the_study_of_tickets_trained_is_not_trained_again(store):
    lottery = Ticket(
        RECIPES, seeds=1, levels=2, rate=0.5, output_rate=0.0, scope="global", rewind="0", variants=(FRESH, RANDOM)
    )
    assert not compute(lottery, store).failures
    study = Carry(RECIPES, seeds=1, levels=2, rate=0.5, rewind="0")
    own = [spot for spot in spots(study) if spot.source == spot.target]
    for spot in own:
        of = lottery.subjects[spot.target]
        variant = TICKET if spot.variant == OWN else spot.variant
        assert study.run(*spot, 0) == lottery.tickets[of].run(spot.level, variant, of.seeds[0])
    takes = estimate(study, store, 1)
    assert takes.runs - takes.runs_stored == len(spots(study)) - len(own)


def test_rewound_to_a_later_step_only_the_own_ticket_is_trained_again_on_the_whole_schedule():
    tickets, recipe = STUDY.tickets[0], STUDY.subjects[0].seeds[0]
    for level in (1, 2):
        ours = STUDY.run(0, 0, level, OWN, 0)
        found = tickets.run(level, "ticket", recipe)
        assert (ours.start, ours.trains, ours.recipe) == (found.start, found.trains, found.recipe)
        assert (ours.begin, found.begin) == (0, 3)
        for control in (FRESH, RANDOM):
            assert STUDY.run(0, 0, level, control, 0) == tickets.run(level, control, recipe)


def test_rows_are_paired_by_seed(done):
    store, rows = done
    assert len(rows) == len(SPOTS)

    def accuracies(spot):
        return [
            Evaluation.under(STUDY.subjects[spot.target].seeds[i], STUDY.run(*spot, i).final, "test").result(store)[
                "accuracy"
            ]
            for i in range(2)
        ]

    for spot, row in zip(SPOTS, rows, strict=True):
        ends = [(row[f"{end}_data"], row[f"{end}_optimizer"]) for end in ("source", "target")]
        assert ends == [place(RECIPES[spot.source]) if spot.level else (None, None), place(RECIPES[spot.target])]
        assert (row["variant"], row["level"], row["n"]) == (spot.variant, spot.level, 2)
        own = accuracies(spot)
        assert row["accuracy_mean"] == pytest.approx(fmean(own))
        assert (row["accuracy_min"], row["accuracy_max"]) == (min(own), max(own))
        others = {"everything": Spot(spot.target, spot.target, 0, DENSE)}
        if spot.level:
            others["own"] = Spot(spot.target, spot.target, spot.level, OWN)
            others["random"] = spot._replace(variant=RANDOM)
        for name in ("own", "random", "everything"):
            if others.get(name, spot) == spot:
                assert row[f"above_{name}_mean"] is None
                continue
            differences = [a - b for a, b in zip(own, accuracies(others[name]), strict=True)]
            assert row[f"above_{name}_mean"] == pytest.approx(fmean(differences))
            half = 12.7062 * abs(differences[0] - differences[1]) / 2
            assert row[f"above_{name}_ci95"] == pytest.approx(half, rel=1e-4, abs=1e-12)


def test_sources_and_targets_are_named_by_data_or_optimiser():
    both = Carry(RECIPES, sources=("digits invert",), targets=("sgd:0.1",))
    assert both.pairs == [(0, 0), (1, 0)]  # the target's own ticket too
    assert Carry(RECIPES, targets=("adam",)).pairs == [(1, 1), (0, 1)]
    assert Carry(RECIPES, sources=("digits",)).pairs == [(0, 0), (1, 1), (0, 1)]
    with pytest.raises(BadRequest, match=r"targets names 'mnist', which is none of .*: adam, adam:0.01, digits, "):
        assert Carry(RECIPES, targets=("mnist",)).pairs
    halves = [small_recipe(half=half, examples=100) for half in "ab"]
    assert [place(recipe)[0] for recipe in halves] == ["digits:a 100", "digits:b 100"]
    assert Carry((*halves, RECIPES[1]), targets=("digits",), sources=("adam",)).pairs == [
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
    study = Carry([small_recipe(data=data, **fit) for data in two_sets], seeds=1, levels=1, rewind="1it")
    outcome = compute(study, store)
    assert not outcome.failures
    assert all(row["n"] == 1 for row in outcome.rows)
    for source, target in ((0, 1), (1, 0)):
        spot = Spot(source, target, 1, TICKET)
        run_of, recipe = study.run(*spot, 0), study.recipes[target]
        start, head = run_of.start.load(store), recipe.network.layers["fc4"]
        own = Initial(recipe.network, recipe.seed).load(store)
        rewound = study.subjects[source].baseline(study.recipes[source]).at(1).load(store)
        assert bits({name: start[name] for name in head}) == bits({name: own[name] for name in head})
        assert torch.equal(start["fc1.bias"], rewound["fc1.bias"])
        mask = mask_of(study, spot).load(store)
        assert torch.equal(start["fc2.weight"], rewound["fc2.weight"] * mask["fc2.weight"])
        assert "fc4.weight" not in mask
        assert {*head} <= {*run_of.moves}
        assert run_of.final.load(store)["fc4.weight"].shape == (recipe.dataset.classes, 16)


def test_what_cannot_be_carried_is_refused(two_sets):
    same = small_recipe(), small_recipe(momentum=0.5)
    grey, colour = (small_recipe(data=data) for data in two_sets)
    for make, words in (
        (lambda: Carry(RECIPES[:1]), "one recipe has nowhere to carry a ticket: give several"),
        (
            lambda: Carry(RECIPES, controls=cast("Any", ("random",))),
            "controls is 'random': did you mean random mask",
        ),
        (lambda: Carry(RECIPES, rate=1.0), "rate is 1.0: give less than 1"),
        (lambda: Carry(RECIPES, levels=2, at=(3,)), "at names level 3: give levels of 1 to 2"),
        (lambda: Carry(same).check(), "two recipes have the data digits and the optimiser sgd:0.05"),
        (lambda: Carry(RECIPES, rewind="2ep").check(), "rewind is 2ep: training ends at step 12"),
        (
            lambda: Carry((small_recipe(epochs=1), small_recipe(epochs=1, lr=0.2))).check(),
            r"rewind is 1ep: training ends at step \d+ \(epoch 1\), so nothing is left to train: give more epochs, or",
        ),
        (
            lambda: Carry((colour, grey)).check(),
            "are 1x6x5 and those of .* 3x8x9: bring them to one shape, as with fit",
        ),
    ):
        with pytest.raises(BadRequest, match=words):
            make()
    for make, words in (
        (lambda: Carry(RECIPES, optimizers=("sgd:0.1", "adam:0.01")), "leave out optimizer and lr"),
        (lambda: Carry(small_recipe(), optimizers=("sgd:0.1",)), "one recipe has nowhere to carry a ticket"),
        (lambda: Carry(small_recipe(), optimizers=("sgd:0.1", ":3")), "optimizers has ':3': give a name and its lr"),
        (lambda: Carry(small_recipe(), optimizers=("sgd:0.1", "adam:x")), "optimizers has 'adam:x': give a name"),
    ):
        with pytest.raises(BadRequest, match=words):
            make()
    other = dataclasses.replace(RECIPES[1], widths="16")
    with pytest.raises(BadRequest, match=r"has shape \(16, 64\), that of 'fcn' here \(8, 64\)"):
        Carry((RECIPES[0], other)).check()


def test_optimisers_multiply_the_recipes():
    halves = [small_recipe(half=half) for half in "ab"]
    study = Carry(halves, optimizers=("sgd:0.1", "adam:0.001", "rmsprop"))
    wanted = [{"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adam", "lr": 0.001}, {"optimizer": "rmsprop"}]
    assert list(study.trained) == [dataclasses.replace(half, **fields) for fields in wanted for half in halves]
    assert list(study.recipes) == halves
    assert Carry(halves).trained == study.recipes


def test_the_answer_counts_what_is_clear():
    def row(source, target, own, random, level=2, variant=TICKET):
        ends = {
            f"{end}_{what}": name
            for end, names in (("source", source), ("target", target))
            for what, name in zip(("data", "optimizer"), names, strict=True)
        }
        differences = {"above_own_mean": own, "above_own_ci95": own if own is None else 0.01}
        differences |= {"above_random_mean": random, "above_random_ci95": random if random is None else 0.02}
        rest = {"accuracy_mean": 0.9, "accuracy_ci95": 0.1, "n": 3, "layers": ""}
        empty = "fc1.weight" if level == 2 else ""
        return {**ends, "variant": variant, "level": level, "density": 0.035, "empty": empty, **differences, **rest}

    a, b, c = ("mnist", "sgd"), ("mnist", "adam"), ("other", "sgd")
    rows = [
        row(a, b, -0.005, 0.1),
        row(a, c, -0.02, 0.01),
        row(c, a, 0.03, 0.05),
        row(c, b, 0, 0.05),
        row(b, a, 0, 0, 1),
        *(row(target, target, None, None, 0, DENSE) for target in (a, b, c)),
    ]
    assert report(STUDY, rows).answers == [
        "With 3.5 % of the weights, 1 of 4 carried tickets are clearly worse than the target's own, and 3 clearly "
        "better than a random one.",
        "With 3.5 % of the weights, from other data, same optimiser: -2.00 to 3.00 points against the target's own "
        "ticket, 1.00 to 5.00 against a random one.",
        "With 3.5 % of the weights, from another optimiser, same data: -0.50 points against the target's own ticket, "
        "10.00 against a random one.",
        "With 3.5 % of the weights, from other data and another optimiser: 0.00 points against the target's own "
        "ticket, 5.00 against a random one.",
        "With 3.5 % of the weights, from another optimiser, same data: 0.00 points against the target's own ticket, "
        "0.00 against a random one.",
        "Some tickets have layers without any weight: fc1.weight.",
    ]


def test_the_tables_have_a_line_for_each_ticket_and_mark_what_is_clear(done):
    _, rows = done
    [section] = report(STUDY, rows).sections
    assert [table.title.partition(": ")[0] for table in section.tables[: section.shown]] == [
        *("trained under digits, sgd:0.1", "trained under digits invert, adam:0.01"),
    ]
    for table in section.tables[: section.shown]:
        assert [row["variant"] for row in table.rows] == [OWN, SCRAMBLED, TICKET, SCRAMBLED] * 2
        for row in table.rows:
            worse, better = ([column.verdict_of(row) for column in table.columns][k] for k in (3, 4))
            middle, half = row["above_own_mean"], row["above_own_ci95"]
            assert worse == ("critical" if middle is not None and middle + half < 0 else None)
            assert better == ("robust" if row["above_random_mean"] > row["above_random_ci95"] else None)


def test_halves_are_no_emoji_and_masks_at_random_have_lines(done, capsys):
    _, rows = done
    told = {"source_data": "digits:a", "target_data": "digits:a"}
    halves = [row | {name: told[name] for name in told if row[name]} for row in rows]
    to_terminal(stdout_console(), report(STUDY, halves))
    said = capsys.readouterr().out
    assert "digits:a" in said
    assert "random mask, weights of digits:a" in said


def test_the_matrix_and_the_curves_show_the_rows(done):
    _, rows = done
    [section] = report(STUDY, rows).sections
    panels = [line[0] for line in section.pictures["matrix"].panels]
    assert [panel.title for panel in panels] == ["56 % of the weights left", "34 % of the weights left"]
    targets = ["digits, sgd:0.1", "digits invert, adam:0.01"]
    for level, panel in enumerate(panels, start=1):
        [grid] = panel.marks
        assert isinstance(grid, Grid)
        assert panel.steps == ["digits\nsgd:0.1", "digits invert\nadam:0.01"]
        assert panel.places == [
            *(f"ticket of {name}" for name in targets),
            *("own mask, fresh weights", "random mask, own weights", "random mask, fresh weights"),
        ]
        for spot, row in zip(SPOTS, rows, strict=True):
            if spot.level != level or (spot.source != spot.target and spot.variant != TICKET):
                continue
            line = {FRESH: 2, SCRAMBLED: 3, RANDOM: 4}.get(spot.variant, spot.source)
            above = 0.0 if spot.variant == OWN else row["above_own_mean"]
            assert grid.values[line][spot.target] == pytest.approx(100 * above)
    curves = [panel for line in section.pictures["weights"].panels for panel in line]
    assert [panel.title for panel in curves] == targets
    for target, panel in enumerate(curves):
        lines = {mark.label: mark for mark in panel.marks if isinstance(mark, Points)}
        assert len(lines) == 5
        assert [mark.colour for mark in panel.marks if not isinstance(mark, Points)] == [BLACK]
        own = [row for spot, row in zip(SPOTS, rows, strict=True) if spot.target == target and spot.variant == OWN]
        line = lines[f"ticket of {targets[target]}"]
        assert line.x == [100 * row["density"] for row in own]
        assert line.y == [100 * row["accuracy_mean"] for row in own]


def test_many_sources_share_one_colour_and_the_own_ticket_stands_out(done):
    _, rows = done
    names = [f"data{i}" for i in range(len(PALETTE) + 1)]
    more = [row | {"source_data": name} for row in rows for name in names if row["variant"] == TICKET]
    [section] = report(STUDY, [*rows, *more]).sections
    for panel in (panel for line in section.pictures["weights"].panels for panel in line):
        lines = [mark for mark in panel.marks if isinstance(mark, Points)]
        assert [mark.colour for mark in lines if mark.label == "own ticket"] == [PALETTE[0]]
        others = [mark.colour for mark in lines if mark.label == "ticket of another"]
        assert others == [PALE] * (len(names) + 1)


COMMAND = [
    *("carry", "--shift", "none,invert", "--optimizers", "sgd:0.1,adam:0.01", "--targets", "digits"),
    *("--widths", "8", "--epochs", "1", "--batch-size", "512", "--levels", "1", "--rewind", "1it"),
    *("--seeds", "1", "--workers", "0"),
]


def test_the_command_writes_rows_and_a_report(tmp_path, capsys):
    folder = tmp_path / "report"
    assert run([*COMMAND, "--report", str(folder), "--format", "json"]) == 0
    written = json.loads(capsys.readouterr().out)
    rows = written["rows"]
    assert len(written["recipes"]) == 2
    targets = {("digits", "sgd:0.1"), ("digits", "adam:0.01")}
    assert {(row["target_data"], row["target_optimizer"]) for row in rows} == targets
    assert len(rows) == 2 * (1 + 4 * 3)
    assert {file.name for file in folder.iterdir()} == {
        "carry.html",
        *(f"carry-matrix.{kind}" for kind in ("png", "svg", "pdf")),
    }
    page = (folder / "carry.html").read_text(encoding="utf-8")
    for words in ("random mask, fresh weights", "One seed cannot say"):
        assert words in page
    assert run([*COMMAND, "--report", "none", "--format", "csv", "--controls", "none"]) == 0
    fewer = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["variant"] for row in fewer} == {DENSE, OWN, TICKET}
    assert run([*COMMAND, "--report", "none"]) == 0
    shown = capsys.readouterr().out
    assert "trained under digits, adam:0.01: everything reaches" in shown
    assert "One seed cannot say whether carried tickets do as well as the target's own." in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizers", "sgd:0.1,:3"], "optimizers has ':3': give a name and its lr, as in sgd:0.1"),
        (["--optimizers", "sgd:0.1,adam:abc"], "optimizers has 'adam:abc': give a name and its lr"),
        (["--optimizers", "sgd,adam", "--lr", "0.1"], "leave out optimizer and lr"),
        (["--data", "digits"], "one recipe has nowhere to carry a ticket"),
        (["--shift", "none,invert", "--fit", "8x8"], "fit is '8x8': write channels (1 or 3), height and width"),
        (["--shift", "none,invert", "--at", "x"], "at is 'x': give a whole number"),
    ],
)
def test_what_the_command_refuses_is_one_sentence(options, words, capsys):
    assert run(["carry", "--report", "none", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("letitgo: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("noise_for_images")
def test_claims_of_mypt19():
    study = mypt19.study(0.01, 2)
    assert [recipe.epochs for recipe in study.trained] == [2] * 4
    assert spots(study)[-1] == Spot(2, 3, 15, RANDOM)

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
