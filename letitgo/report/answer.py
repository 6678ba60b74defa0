"""The answer in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from letitgo.recipes import Recipe
from letitgo.studies.map import Map

Row = dict[str, Any]


class Swept(Protocol):
    """A study over the recipes of a sweep."""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What is trained on."""
        ...

    @property
    def swept(self) -> tuple[str, ...]:
        """Names of the recipe fields that differ."""
        ...


def points(mean: float | None, half: float | None = None) -> str:
    """A fraction in points, with the half-width of its interval: ``0.31 ± 0.12``."""
    if mean is None:
        return "–"
    return f"{round(100 * mean, 2) + 0.0:.2f}" + (f" ± {100 * half:.2f}" if half is not None else "")


def groups(study: Swept, rows: Sequence[Row]) -> Iterator[tuple[Recipe, list[Row]]]:
    """The rows of each recipe of a sweep."""
    for recipe in study.recipes:
        yield recipe, [row for row in rows if all(row[name] == getattr(recipe, name) for name in study.swept)]


def heading(study: Swept, recipe: Recipe) -> str:
    """One line on a recipe: the network, the data, and what a sweep varies."""
    swept = [name for name in study.swept if name not in ("shift", "examples")]
    varied = ", ".join(f"{name.replace('_', '-')} {getattr(recipe, name)}" for name in swept)
    noise = f" with {100 * recipe.label_noise:g} % label noise" if recipe.label_noise else ""
    some = "" if recipe.examples is None else f"{recipe.examples:,} examples of "
    how = {
        "none": "",
        "invert": ", inverted",
        "noise": ", under noise",
        "permute-labels": ", labels permuted",
        "permute-pixels": ", pixels permuted",
    }
    data = f"{some}{recipe.data}{how[recipe.shift]}{noise}"
    return f"{recipe.model} on {data}, {length(recipe)}" + (f", {varied}" if varied else "")


def length(recipe: Recipe) -> str:
    """``30 epochs``."""
    return "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"


def answers(study: Map, rows: Sequence[Row]) -> list[str]:
    """What the rows of one recipe say, a sentence per question."""
    rows = [row for row in rows if row["n"]]
    layers = [row for row in rows if row["scope"] == "layer"]
    within = f"{100 * study.tolerance:g} point" + ("" if study.tolerance == 0.01 else "s")
    questions = {
        "frozen": f"Frozen at initialization in training (harmless if the drop is within {within})",
        "reinitialised": "Put back to initialization after training",
        "rerandomised": "Drawn afresh after training",
    }
    said = []
    for kind, question in questions.items():
        rows_of = [row for row in layers if row["intervention"] == kind and row["epoch"] in (0, None)]
        parts = [
            f"{verdict} {', '.join(names)}"
            for verdict in ("robust", "critical", "undecided")
            if (names := [row["layer"] for row in rows_of if row["verdict"] == verdict])
        ]
        if parts:
            said.append(f"{question}: {'; '.join(parts)}.")
    for row in rows:
        if row["scope"] == "robust":
            what = "frozen at initialization" if row["intervention"] == "frozen" else "put back to initialization"
            said.append(
                f"Robust one by one, together {what}: {row['layer'].removeprefix('robust ')} costs "
                f"{points(row['drop_mean'], row['drop_ci95'])} points: {row['verdict']}."
            )
    free = [
        row for row in rows if row["intervention"] == "frozen" and row["verdict"] == "robust" and row["saved"] > 0.005
    ]
    if free:
        best = max(free, key=lambda row: row["saved"])
        since = f"from epoch {best['epoch']} on" if best["epoch"] else "from the start"
        said.append(
            f"The harmless freeze that saves most: {best['layer']} {since}, {100 * best['saved']:.0f} % of the "
            f"training arithmetic for {points(best['drop_mean'], best['drop_ci95'])} points."
        )
    told = [row for row in layers if row["intervention"] == "frozen" or row["epoch"] in (0, None)]
    if any(row["verdict"] == "undecided" for row in told):
        said.append(f"Undecided at n = {max(row['n'] for row in layers)}: more seeds (--seeds) may tell.")
    return said
