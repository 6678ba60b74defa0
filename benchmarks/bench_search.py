"""How close ``letitgo search`` comes to the best set: against all subsets, and against other ways of searching.

``python benchmarks/bench_search.py truth STORE`` trains every subset of five small networks under six seeds, and of the
first at other widths and depths, and writes ``docs/results/search-subsets`` (about 50 minutes of a core; MNIST and
Fashion-MNIST from ``LETITGO_DATA``). ``… table`` reads these rows and prints the tables of docs/search.md; ``… rules``
those of docs/advisers.md, in which the order of each rule of ``letitgo advisers`` stands in place of the search's own.
``… units STORE`` writes what these rules read again. ``… judged STORE`` runs the command on the networks on digits.
``… depth STORE`` counts what a search spends on deeper networks.
"""

from __future__ import annotations

import csv
import itertools
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import inf, sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from letitgo import Advisers, Executor, Recipe, Search, compute, open_store
from letitgo.plan import At
from letitgo.report.numbers import decimal, percent, points
from letitgo.studies.advisers.study import RULES, SCORED
from letitgo.studies.options import By, holding_out
from letitgo.studies.search.strategy import Units, following, ranked
from letitgo.studies.search.study import ALLOWED, ALLOWED_EARLY, EARLY, JUDGED, sets_tried
from letitgo.studies.statistics import ci95, spearman
from letitgo.studies.subject import Subject

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "search-subsets"
SHORT: dict[str, Any] = {"epochs": 10, "batch_size": 64}
NETWORKS: dict[str, dict[str, Any]] = {
    "fcn": {"widths": "64", "depth": 5, "model_args": {"init": "he"}, **SHORT},
    "residual": {"model": "nets:residual", **SHORT},
    "conv": {"model": "nets:convolutions", **SHORT},
}
OTHERS: dict[str, dict[str, Any]] = {
    name: {"data": name, "examples": 10_000, "widths": "128", "depth": 3, "epochs": 5, "batch_size": 64}
    for name in ("mnist", "fashion_mnist")
}
SIZES: dict[str, dict[str, Any]] = {
    f"fcn-{depth}x{width}": NETWORKS["fcn"] | {"widths": width, "depth": depth}
    for depth, width in ((5, "16"), (5, "32"), (5, "128"), (5, "256"), (2, "64"), (3, "64"), (7, "64"))
}
"""Of the first, other widths and depths: for docs/findings.md alone."""
HELD_OUT = {"mnist": 2000, "fashion_mnist": 2000}
"""Held-out examples, where they are not the 287 of the digits."""
SEEDS, SPEND = 6, 2.0
"""Seeds; trainings to spend besides the baseline's."""
TOLERANCES = (0.005, 0.01, 0.02)


# Every subset


def by_of(name: str) -> By:
    return "block" if name == "residual" else "layer"


def truth(root: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, fields in (NETWORKS | OTHERS | SIZES).items():
        store = open_store(Path(root) / name)
        of = Subject(holding_out(Recipe(**fields)), 2 * SEEDS)
        with Executor(store, 0) as executor:
            _write(RESULTS / f"{name}-sets.csv", list(_sets(of, by_of(name), executor)))
    scores(root)


def _sets(of: Subject, by: By, executor: Executor) -> Iterator[dict[str, Any]]:
    units = {unit.name: unit.parameters for unit in of.units(by=by)}
    every = [chosen for size in range(len(units) + 1) for chosen in itertools.combinations(units, size)]
    for i, recipe in enumerate(of.seeds):
        states = {
            chosen: of.scheduled({0: [name for unit in chosen for name in units[unit]]} if chosen else {}, recipe)
            for chosen in (every if i < SEEDS else [()])
        }
        found = {chosen: of.evaluations(recipe, state, "validation", "test") for chosen, state in states.items()}
        for chosen, state in states.items():
            third = state.run.at_epoch(round(recipe.epochs / EARLY)) if isinstance(state, At) else state
            found[chosen]["third"] = of.evaluation(recipe, third, "validation")
        executor.compute([one for own in found.values() for one in own.values()])
        for chosen, own in found.items():
            accuracies = {name: one.result(executor.store)["accuracy"] for name, one in own.items()}
            saved = 1 - of.trainings(states[chosen])
            yield {"seed": i, "set": " ".join(chosen), "saved": round(saved, 4)} | {
                name: round(value, 4) for name, value in accuracies.items()
            }


def scores(root: str) -> None:
    """What the rules of ``letitgo advisers`` read of each unit under each seed."""
    for name, fields in (NETWORKS | OTHERS).items():
        store = open_store(Path(root) / name)
        outcome = compute(Advisers(Recipe(**fields), seeds=SEEDS, by=by_of(name)), store)
        rows = [row for row in outcome.study.seed_rows(store) if row["row"] == "unit"]  # type: ignore[union-attr]
        _write(RESULTS / f"{name}-units.csv", [_scored(row) for row in sorted(rows, key=lambda row: row["seed"])])


def _scored(row: dict[str, Any]) -> dict[str, Any]:
    """To five digits."""
    read = {rule: None if row[rule] is None else float(f"{row[rule]:.5g}") for rule in SCORED}
    return {name: row[name] for name in ("seed", "unit", "parameters")} | read


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Searches among the rows


class Known:
    """A network all of whose subsets were trained."""

    def __init__(self, name: str) -> None:
        rows = list(csv.DictReader((RESULTS / f"{name}-sets.csv").open()))
        epochs = (NETWORKS | OTHERS)[name]["epochs"]
        self.third, self.held_out = round(epochs / EARLY) / epochs, HELD_OUT.get(name, 287)
        sets = {row["set"]: Units(row["set"].split()) for row in rows}
        self.saved = {sets[row["set"]]: float(row["saved"]) for row in rows}
        self.held: dict[tuple[Units, str], dict[int, float]] = defaultdict(dict)
        test: dict[Units, list[float]] = defaultdict(list)
        for row in rows:
            for when in ("validation", "third"):
                self.held[sets[row["set"]], when][int(row["seed"])] = float(row[when])
            test[sets[row["set"]]].append(float(row["test"]))
        self.test = test
        self.drop = {units: fmean(test[Units()]) - fmean(own) for units, own in test.items()}
        scored = list(csv.DictReader((RESULTS / f"{name}-units.csv").open()))
        self.units = list(dict.fromkeys(row["unit"] for row in scored))
        self.scores: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for row in scored:
            for rule, score in self._told(row).items():
                self.scores[int(row["seed"])][rule][row["unit"]] = score

    def _told(self, row: dict[str, str]) -> dict[str, float]:
        """How harmful each rule says that freezing a unit is; infinite where it says nothing, so it is tried last."""
        seed, place, unit = int(row["seed"]), self.units.index(row["unit"]), Units([row["unit"]])
        return {rule: float(row[rule] or inf) for rule in (*SCORED, "parameters")} | {
            "first": 1.0 + place,
            "last": float(len(self.units) - place),
            "random": random.Random(f"{seed} {row['unit']}").random(),
            "one_seed": self.test[Units()][seed] - self.test[unit][seed],
        }

    def agreement(self, rule: str) -> float:
        """Rank correlation of a rule with what freezing a unit adds to the drop, mean over the seeds it is read under.

        That is the mean over all sets without the unit, and over the other seeds.
        """
        found = []
        for seed in range(SEEDS):
            accuracy = {units: fmean(self.test[units][i] for i in range(SEEDS) if i != seed) for units in self.saved}
            told = {unit: score for unit, score in self.scores[seed][rule].items() if score < inf}
            added = [
                fmean(accuracy[units] - accuracy[units | {unit}] for units in self.saved if unit not in units)
                for unit in told
            ]
            found.append(spearman(list(told.values()), added) or 0.0)
        return fmean(found)

    def tried(self, units: Units, seeds: Sequence[int], tolerance: float, left: float) -> tuple[float, float] | None:
        """What trying a set costs, and how far its drop is beyond what it is allowed, as the search has it.

        None where too little is left to spend.
        """
        whole = 1 - self.saved[units]
        share = self.third if units != Units(self.units) else 1.0
        if share * whole > left:
            return None
        if (early := self._excess(units, seeds, tolerance, "third", ALLOWED_EARLY)) > 0:
            return share * whole, early
        if whole > left:
            return share * whole, self._excess(units, seeds, tolerance, "third", ALLOWED)
        return whole, self._excess(units, seeds, tolerance, "validation", ALLOWED)

    def _excess(self, units: Units, seeds: Sequence[int], tolerance: float, when: str, allowed: float) -> float:
        before, after = (fmean(self.held[group, when][i] for i in seeds) for group in (Units(), units))
        error = sqrt(sum(p * (1 - p) for p in (before, after)) / self.held_out)
        return before - after - tolerance - allowed * error

    def best(self, tolerance: float) -> float:
        return max(saved for units, saved in self.saved.items() if self.drop[units] <= tolerance)


Propose = Callable[[dict[Units, float]], Units | None]


def by_rule(rule: str, saving: bool) -> Callable[[Known, Sequence[int]], Propose]:
    """The search with the order of a rule: of what is saved for the harm it tells of, or of that harm alone."""

    def make(known: Known, seeds: Sequence[int]) -> Propose:
        harm = {unit: fmean(known.scores[i][rule][unit] for i in seeds) for unit in known.units}
        order = ranked(harm, known.saved.__getitem__) if saving else sorted(harm, key=harm.__getitem__)
        return lambda excess: following(order, excess)

    return make


def prefixes(known: Known, seeds: Sequence[int]) -> Propose:
    def propose(excess: dict[Units, float]) -> Units | None:
        low, high = 0, len(known.units) + 1
        while high - low > 1:
            middle = (low + high) // 2
            tried = Units(known.units[:middle])
            if tried not in excess:
                return tried
            low, high = (middle, high) if excess[tried] <= 0 else (low, middle)
        return None

    return propose


def greedy(known: Known, seeds: Sequence[int]) -> Propose:
    def propose(excess: dict[Units, float]) -> Units | None:
        good = Units()
        for unit in sorted(known.units, key=lambda unit: -known.saved[Units([unit])]):
            if good | {unit} not in excess:
                return good | {unit}
            good = good | {unit} if excess[good | {unit}] <= 0 else good
        return None

    return propose


def alone(known: Known, seeds: Sequence[int]) -> Propose:
    def propose(excess: dict[Units, float]) -> Units | None:
        for unit in known.units:
            if Units([unit]) not in excess:
                return Units([unit])
        together = Units(unit for unit in known.units if excess[Units([unit])] <= 0)
        return None if together in excess or not together else together

    return propose


def at_random(known: Known, seeds: Sequence[int]) -> Propose:
    order = list(known.saved)
    random.Random(str(seeds)).shuffle(order)
    return lambda excess: next((units for units in order if units and units not in excess), None)


WAYS: dict[str, tuple[Callable[[Known, Sequence[int]], Propose], int, float]] = {
    "`search`": (by_rule("rise", saving=True), 1, SPEND),
    "`search --search-seeds 3`": (by_rule("rise", saving=True), 3, SPEND),
    "`search --spend 4`": (by_rule("rise", saving=True), 1, 3.0),
    "`search --spend 5`": (by_rule("rise", saving=True), 1, 4.0),
    "order of Auto-RGN": (by_rule("relative_gradient", saving=False), 1, SPEND),
    "prefixes": (prefixes, 1, SPEND),
    "greedy, one by one": (greedy, 1, SPEND),
    "random sets": (at_random, 1, SPEND),
    "all robust alone": (alone, 1, 99.0),
}
RULED = {
    (rule, saving, spend): (by_rule(rule, saving), 1, spend)
    for rule in RULES
    for spend in (SPEND, 3.0)
    for saving in (False, True)
}


def search(known: Known, way: Any, seeds: Sequence[int], tolerance: float) -> dict[str, float]:
    """One search; the test set judges as if it had any number of seeds, up to four sets."""
    make, _, left = (WAYS | RULED)[way]
    propose, excess, refused, first, spent = make(known, seeds), dict[Units, float](), list[Units](), None, 0.0
    while True:
        while (units := propose(excess)) is not None:
            if (found := known.tried(units, seeds, tolerance, left - spent)) is None:
                break
            spent, excess[units] = spent + found[0], found[1]
        if way == "all robust alone":
            passed = [max((units for units in excess), key=len)]
        else:
            passed = [units for units in excess if excess[units] <= 0]
        chosen = max(passed, key=known.saved.__getitem__, default=Units())
        first = chosen if first is None else first
        refused.append(chosen)
        if known.drop[chosen] <= tolerance or len(refused) == JUDGED or way == "all robust alone":
            break
        excess[chosen] = 1.0
    final = chosen if known.drop[chosen] <= tolerance else Units()
    return {
        "beyond": float(known.drop[first] > tolerance),
        "worst": max(0.0, known.drop[first] - tolerance),
        "judged": known.saved[final] / known.best(tolerance),
        "spent": 1 + spent,
    }


def table(names: Sequence[str]) -> None:
    columns = [f"{name}, {100 * tolerance:g}" for name in names for tolerance in TOLERANCES]
    print(f"| way | trainings | beyond the tolerance | by how much | {' | '.join(columns)} | mean |")
    print("| --- |" + " ---: |" * (4 + len(columns)))
    networks = [Known(name) for name in names]
    for way, (_, count, _) in WAYS.items():
        found = [
            [search(known, way, seeds, tolerance) for seeds in itertools.combinations(range(SEEDS), count)]
            for known in networks
            for tolerance in TOLERANCES
        ]
        every = [one for own in found for one in own]
        means = [fmean(one["judged"] for one in own) for own in found]
        said = [f"{fmean(one['spent'] for one in every):.1f}", percent(fmean(one["beyond"] for one in every))]
        said.append(f"{100 * max(one['worst'] for one in every):.1f}")
        print("| " + " | ".join([way, *said, *(f"{mean:.2f}" for mean in means), f"**{fmean(means):.2f}**"]) + " |")


def rules(names: Sequence[str]) -> None:
    """Each rule against what freezing a unit adds; the search with its order, alone and for what is saved.

    The last column is how far the better of its orders is behind that of the search for three trainings, with the 95 %
    interval over the seeds searched under.
    """
    print(f"| rule | {' | '.join(names)} | 3 trainings, alone | for the saving | 4, alone | for the saving | behind |")
    print("| --- |" + " ---: |" * (5 + len(names)))
    every = [Known(name) for name in names]
    reached = {
        way: [
            fmean(search(known, way, (seed,), tolerance)["judged"] for known in every for tolerance in TOLERANCES)
            for seed in range(SEEDS)
        ]
        for way in RULED
    }
    default = reached["rise", True, SPEND]
    for rule in sorted(RULES, key=lambda rule: -fmean(reached[rule, True, SPEND])):
        shown = [f"{known.agreement(rule):.2f}" for known in every]
        shown += [f"{fmean(reached[rule, saving, spend]):.2f}" for spend in (SPEND, 3.0) for saving in (False, True)]
        best = max((reached[rule, saving, SPEND] for saving in (False, True)), key=fmean)
        behind = [a - b for a, b in zip(default, best, strict=True)]
        print("| " + " | ".join([RULES[rule].says, *shown, decimal(fmean(behind), ci95(behind))]) + " |")


def judged(root: str) -> None:
    """The command on the networks on digits, under the first seed, against the rows."""
    print("| network | tolerance | answer | saves, of the best | drop | over all seeds |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name, fields in NETWORKS.items():
        known = Known(name)
        for tolerance in TOLERANCES:
            study = Search(Recipe(**fields), tolerance=100 * tolerance, by=by_of(name))
            found = study.answer(compute(study, Path(root) / name).rows)
            if found is None:
                print(f"| {name} | {100 * tolerance:g} | nothing surely | 0.00 | | |")
                continue
            units = Units(found["frozen"])
            drop = points(found["drop_mean"], found["drop_ci95"])
            share = f"{known.saved[units] / known.best(tolerance):.2f}"
            said = [name, f"{100 * tolerance:g}", ", ".join(found["frozen"]), share, drop, points(known.drop[units])]
            print("| " + " | ".join(said) + " |")


# Depth


def depth(root: str) -> None:
    print("| network | layers | sets tried | trainings | saves | drop |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, layers in itertools.product(("plain", "residual"), (8, 16, 32, 64)):
        fields: dict[str, Any] = {"widths": "64", "depth": layers - 1, "model_args": {"norm": True}}
        if name == "residual":
            fields = {"model": "nets:residual", "model_args": {"depth": layers - 2}}
            fields |= {"lr": 0.01} if layers == 64 else {}  # it diverges at the default rate
        outcome = compute(Search(Recipe(**SHORT, **fields), tolerance=2.0, max_seeds=6, by=by_of(name)), root)
        tried = sets_tried(outcome.rows)
        saves, drop = "–", "–"
        for row in outcome.rows:
            if row["chosen"]:
                saves, drop = percent(row["saved"]), points(row["drop_mean"], row["drop_ci95"])
        spent = tried[-1]["spent"] if tried else 1.0
        print(f"| {name} | {layers} | {len(tried)} | {spent:.1f} | {saves} | {drop} |", flush=True)
        print(outcome.answers[0], file=sys.stderr)


if __name__ == "__main__":
    what, *given = sys.argv[1:] or ["table"]
    if what in ("table", "rules"):
        show = {"table": table, "rules": rules}[what]
        show(list(NETWORKS))
        print()
        show(list(OTHERS))
    else:
        {"truth": truth, "units": scores, "judged": judged, "depth": depth}[what](
            given[0] if given else tempfile.mkdtemp()
        )
