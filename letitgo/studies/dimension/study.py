"""How few dimensions are enough? The values to compute, and the rows they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from itertools import zip_longest
from typing import Any

from letitgo.errors import BadRequest
from letitgo.plan import Absent, Evaluation, Stored
from letitgo.recipes.own import Own
from letitgo.report import Report
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.dimension.crossing import crossing
from letitgo.studies.dimension.options import DimensionOptions
from letitgo.studies.dimension.search import Looks, Search, Target, answered, average, best, results
from letitgo.studies.statistics import ci95, mean
from letitgo.studies.subject import Subject

Row = dict[str, Any]


class Dimension(DimensionOptions):
    """How few dimensions are enough? See :class:`DimensionOptions` for the options."""

    takes_own = True

    @property
    def searches(self) -> bool:
        """Whether results decide what else is computed."""
        return not self.grid

    @cached_property
    def asked(self) -> list[Search]:
        """One search for each recipe, or for each layer of each."""
        subjects = [Subject(recipe, self.seeds, self.statistics) for recipe in self.trained]
        return [
            Search(self, of, unit)
            for of in subjects
            for unit in (of.units(self.layers, by=self.by) if self.layers else [of.everything])
        ]

    def check(self) -> None:
        """Make sure that every recipe can be trained in a subspace.

        Raises:
            BadRequest: One cannot, a pattern matches nothing, or a dimension is outside its range.
        """
        for recipe in self.trained:
            check_recipe(recipe)
            if recipe.own is not None:
                _check_own(recipe.own, self.split)
            elif recipe.dataset.task.labels == "amounts":
                raise BadRequest(
                    f"dimension searches for a share of the baseline's accuracy: a regression has none, as that of "
                    f"{recipe.data!r}"
                )
        for search in self.asked:
            search.check()

    def report(self, rows: Sequence[Row]) -> Report:
        """What the rows say."""
        from letitgo.studies.dimension.report import report

        return report(self, rows)

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute: baselines, then round after round the dimensions that the searches ask for."""
        yield [value for search in self.asked for value in (*search.baselines(), *search.known(store))]
        tried: set[tuple[int, int]] = set()
        while asked := {(i, d) for i, search in enumerate(self.asked) for d in search.replay(store)[1]} - tried:
            tried |= asked
            for values in zip_longest(*(self.asked[i].looks(d, store) for i, d in sorted(asked)), fillvalue=()):
                yield [value for some in values for value in some]
        yield [value for search in self.asked for value in search.judged(store)]

    def rows(self, store: Store) -> list[Row]:
        """Of each search the baseline, each d, and the answers. Accuracies are fractions."""
        given = dict(zip(self.trained, self.recipes, strict=True))
        return [
            {**{name: getattr(given[search.of.recipe], name) for name in self.swept}, **row}
            for search in self.asked
            for row in _rows(search, store)
        ]

    def seed_rows(self, store: Store) -> list[Row]:
        """Of each search the accuracy of the baseline and of each d under each seed, where all seeds are there."""
        labels = (*self.swept, "row", "layer", "D", "d", "epoch")
        return [
            {**{name: row[name] for name in labels}, "seed": seed, "accuracy": accuracy}
            for row in self.rows(store)
            if row["row"] != "answer" and row["n"] == self.seeds
            for seed, accuracy in enumerate(row["accuracies"], row.get("seed", self.recipes[0].seed))
        ]


def _rows(search: Search, store: Store) -> Iterator[Row]:
    """The baseline, each d, and an answer for each accuracy to exceed."""
    found, _ = search.replay(store)
    base = results(map(search.baseline, search.of.seeds), store)
    yield _row(search, "baseline", None, search.of.recipe.epochs, base) | _judged(
        search, [search.baseline(recipe, search.shown) for recipe in search.of.seeds], store
    )
    for d in sorted(found):
        yield _row(search, "d", d, *best(found[d])) | {"stopped": _stopped(search, found[d], store)}
    for target in search.targets(store) if found else ():
        yield _answer(search, target, found, store)


def _answer(search: Search, target: Target, found: dict[int, Looks], store: Store) -> Row:
    low, high, shown = answered(target.accuracy, found)
    epoch, accuracies = best(found[shown])
    alone = [
        next((d for d in sorted(found) if best(found[d])[1][i] > target.accuracy), None)
        for i in range(len(search.of.seeds))
    ]
    judged = _judged(search, search.at(shown, epoch, search.shown), store)
    return _row(search, "answer", high, epoch, accuracies) | {
        **judged,
        "stopped": None if high == 0 else _stopped(search, found[low], store),
        "low": None if high == 0 else low,
        "threshold": target.threshold,
        "baseline": target.baseline,
        "target": target.accuracy,
        "best_d": shown,
        "seed_d": alone,
        **_fitted(search, target, found, store),
        "bits_per_label": None if high is None else _bits(search, high),
        **_frozen(search, store),
    }


def _fitted(search: Search, target: Target, found: dict[int, Looks], store: Store) -> Row:
    """The columns of the fitted crossing; none where trainings ended at different epochs, or nothing can be fitted."""
    near = answered(target.accuracy, found)[2]
    if search.study.stop_every or not near:
        return {}
    base = results(map(search.baseline, search.of.seeds), store) if target.baseline == "own" else []
    targets = [target.threshold * accuracy for accuracy in base] or [target.accuracy] * len(search.of.seeds)
    fitted = crossing({d: best(looks)[1] for d, looks in found.items()}, targets, near)
    return {f"fitted_{name}": value for name, value in asdict(fitted).items()} if fitted else {}


def _judged(search: Search, evaluations: Sequence[Evaluation], store: Store) -> Row:
    """The columns of what is found, on the test set; none where the search was on the split that is shown."""
    if search.shown == search.study.searched_on:
        return {}
    accuracies = results(evaluations, store)
    return {"test_accuracy_mean": mean(accuracies), "test_accuracy_ci95": ci95(accuracies)}


def _row(search: Search, kind: str, d: int | None, epoch: int, accuracies: list[float]) -> Row:
    return {
        "row": kind,
        "layer": search.layer,
        "others": search.study.others if search.layer else "",
        "kind": search.study.kind,
        "D": search.size,
        "d": d,
        **dict.fromkeys(("low", "threshold", "baseline", "target")),
        "accuracy_mean": mean(accuracies),
        "accuracy_ci95": ci95(accuracies),
        "accuracies": accuracies,
        "epoch": epoch,
        "stopped": None,
        "n": len(accuracies),
        **dict.fromkeys(
            (
                "best_d",
                "seed_d",
                "fitted_d",
                "fitted_low",
                "fitted_high",
                "bits_per_label",
                "frozen_drop_mean",
                "frozen_drop_ci95",
            )
        ),
    }


def _stopped(search: Search, looks: Looks, store: Store) -> str | None:
    """Why training ended before the last epoch."""
    if search.of.recipe.epochs in looks:
        return None
    reached = average(best(looks)[1])
    return "exceeded" if all(reached > target.accuracy for target in search.targets(store)) else "given up"


def _check_own(own: Own, split: str) -> None:
    """Refuse training code of the user's own that is not judged by what the search is about."""
    if own.metric.name != "accuracy":
        raise BadRequest(
            f"dimension searches for a share of the baseline's accuracy: the metric of {own.network.factory!r} is "
            f"{own.metric.name}"
        )
    if split == "train":
        raise BadRequest(
            f"split is 'train': the task {own.network.factory!r} says nothing of its training examples; give "
            "validation or test"
        )


def _bits(search: Search, d: int) -> float | None:
    """Bits learned for each training label; None where their number is known to code of the user's own alone."""
    if search.of.recipe.own is not None:
        return None
    return 32 * (d + search.of.size(search.besides)) / len(search.of.recipe.dataset.split("train"))


def _frozen(search: Search, store: Store) -> Row:
    """The drop in accuracy with the layer frozen at its initialization, over the seeds of which both are there."""
    if not search.layer:
        return {}
    drops = []
    for recipe in search.of.seeds:
        with suppress(Absent):
            full, frozen = (one.result(store) for one in (search.baseline(recipe, search.shown), search.frozen(recipe)))
            drops.append(full["accuracy"] - frozen["accuracy"])
    return {"frozen_drop_mean": mean(drops), "frozen_drop_ci95": ci95(drops)}
