"""How close ``letitgo search`` comes to the best set: against all subsets, and against other ways of searching.

``python benchmarks/bench_search.py truth STORE`` trains every subset of five small networks under six seeds and writes
``docs/results/search-subsets`` (about 25 minutes of a core; MNIST and Fashion-MNIST from ``LETITGO_DATA``). ``… table``
reads these rows and prints the tables of docs/search.md. ``… judged STORE`` runs the command on the networks on digits.
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
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from letitgo import Evaluation, Executor, Gradients, Graft, Recipe, Search, compute, open_store
from letitgo.plan import At
from letitgo.report.numbers import percent, points
from letitgo.studies.options import holding_out
from letitgo.studies.search.strategy import Units, following, ranked
from letitgo.studies.search.study import ALLOWED, ALLOWED_EARLY, EARLY, JUDGED, sets_tried
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
HELD_OUT = {"mnist": 2000, "fashion_mnist": 2000}
"""Held-out examples, where they are not the 287 of the digits."""
SEEDS, SPEND = 6, 2.0
"""Seeds; trainings to spend besides the baseline's."""
TOLERANCES = (0.005, 0.01, 0.02)


# Every subset


def units_of(of: Subject) -> dict[str, tuple[str, ...]]:
    by = "block" if "residual" in of.recipe.model else "layer"
    return {unit.name: unit.parameters for unit in of.units(by=by)}


def truth(root: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, fields in (NETWORKS | OTHERS).items():
        store = open_store(Path(root) / name)
        of = Subject(holding_out(Recipe(**fields)), 2 * SEEDS)
        with Executor(store, 0) as executor:
            _write(RESULTS / f"{name}-sets.csv", list(_sets(of, executor)))
            _write(RESULTS / f"{name}-units.csv", list(_units(of, executor)))


def _sets(of: Subject, executor: Executor) -> Iterator[dict[str, Any]]:
    units = units_of(of)
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


def _units(of: Subject, executor: Executor) -> Iterator[dict[str, Any]]:
    for i, recipe in enumerate(of.seeds[:SEEDS]):
        run = of.baseline(recipe)
        final, gradients = Evaluation.under(recipe, run.final, "validation"), Gradients(run.at(0), recipe)
        for unit, names in units_of(of).items():
            back = [Evaluation.under(recipe, Graft(run.final, names, run.at_epoch(at)), "validation") for at in (0, 1)]
            executor.compute([final, gradients, *back])
            squares = gradients.result(executor.store)
            norm = sum(fmean(squares[name]["gradients"]) for name in names)
            size = sum(squares[name]["weights"] for name in names)
            rise = fmean(one.result(executor.store)["loss"] for one in back) - final.result(executor.store)["loss"]
            yield {"seed": i, "unit": unit, "rise": round(rise, 5), "gradient": round(sqrt(norm / size), 5)}


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
        self.drop = {units: fmean(test[Units()]) - fmean(own) for units, own in test.items()}
        self.scores: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: {"rise": {}, "gradient": {}})
        for row in csv.DictReader((RESULTS / f"{name}-units.csv").open()):
            for score in ("rise", "gradient"):
                self.scores[int(row["seed"])][score][row["unit"]] = float(row[score])
        self.units = list(self.scores[0]["rise"])

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


def searching(known: Known, seeds: Sequence[int]) -> Propose:
    harm = {unit: fmean(known.scores[i]["rise"][unit] for i in seeds) for unit in known.units}
    order = ranked(harm, known.saved.__getitem__)
    return lambda excess: following(order, excess)


def by_gradient(known: Known, seeds: Sequence[int]) -> Propose:
    score = {unit: fmean(known.scores[i]["gradient"][unit] for i in seeds) for unit in known.units}
    order = sorted(score, key=score.__getitem__)
    return lambda excess: following(order, excess)


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
    "`search`": (searching, 1, SPEND),
    "`search --search-seeds 3`": (searching, 3, SPEND),
    "`search --spend 4`": (searching, 1, 3.0),
    "`search --spend 5`": (searching, 1, 4.0),
    "order of Auto-RGN": (by_gradient, 1, SPEND),
    "prefixes": (prefixes, 1, SPEND),
    "greedy, one by one": (greedy, 1, SPEND),
    "random sets": (at_random, 1, SPEND),
    "all robust alone": (alone, 1, 99.0),
}


def search(known: Known, way: str, seeds: Sequence[int], tolerance: float) -> dict[str, float]:
    """One search; the test set judges as if it had any number of seeds, up to four sets."""
    make, _, left = WAYS[way]
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


def judged(root: str) -> None:
    """The command on the networks on digits, under the first seed, against the rows."""
    print("| network | tolerance | answer | saves, of the best | drop | over all seeds |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name, fields in NETWORKS.items():
        known = Known(name)
        for tolerance in TOLERANCES:
            by: Any = "block" if name == "residual" else "layer"
            study = Search(Recipe(**fields), tolerance=100 * tolerance, by=by)
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
    for name, layers in itertools.product(("plain", "residual"), (8, 16, 32)):
        fields: dict[str, Any] = {"widths": "64", "depth": layers - 1, "model_args": {"norm": True}}
        if name == "residual":
            fields = {"model": "nets:residual", "model_args": {"depth": layers - 2}}
        by: Any = "block" if name == "residual" else "layer"
        outcome = compute(Search(Recipe(**SHORT, **fields), tolerance=2.0, max_seeds=6, by=by), root)
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
    if what == "table":
        table(list(NETWORKS))
        print()
        table(list(OTHERS))
    else:
        {"truth": truth, "judged": judged, "depth": depth}[what](given[0] if given else tempfile.mkdtemp())
