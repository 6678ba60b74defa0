"""Phrases that all reports share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from letitgo.recipes import Recipe
from letitgo.recipes.metrics import ACCURACY
from letitgo.report.grammar import NEW, TEST, Column, Section, Table
from letitgo.report.numbers import decimal, percent, points, significant

if TYPE_CHECKING:
    from letitgo.recipes.data import Data
    from letitgo.recipes.splits import SplitName
    from letitgo.recipes.tasks import Metric

Row = dict[str, Any]

_NAMED = ("model", "data", "epochs", "iterations", "seed")
SCALED: dict[str, SplitName] = {"examples": "train", "test_examples": "test"}
"""Fields of a recipe that leave out some of the examples of a split."""
OTHER = "test_"
"""Begins the names of the other numbers that a task of the user's own gives."""
_UNSET: Any = (None, {}, ())
_OF_THE_SEEDS = "Intervals are about other seeds on these test examples; ± new is about new test examples too."


def heading(recipe: Recipe, swept: Sequence[str] = (), without: Sequence[str] = ()) -> str:
    """The conditions of a result in one line: network, data, length, and every field that is not the default.

    Where it is of some of the examples alone, it says so.

    Args:
        recipe: What was trained.
        swept: Fields that are named in any case.
        without: Fields that are not named.
    """
    own = recipe.own is not None
    found = [recipe.model if own or "data" in without else f"{recipe.model} on {recipe.data}", length(recipe)]
    without = (*without, "task") if own else without
    for field in dataclasses.fields(recipe):  # type: ignore[arg-type]
        value, name = getattr(recipe, field.name), field.name.replace("_", "-")
        default = None if field.default is dataclasses.MISSING else field.default
        is_default = value == default or (default is None and value in _UNSET)
        if field.name in swept and field.name not in _NAMED[:4]:
            found.append(f"{name} {value}")
        elif field.name in SCALED and field.name not in without and value:
            split = SCALED[field.name]
            found.append(f"scaled down to {examples(recipe, split)} {split.replace('train', 'training')} examples")
        elif field.name not in (*_NAMED, *without) and not is_default:
            found.append(f"{name} {_plain(value)}")
    return ", ".join(found)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {item}" for name, item in value.items()) + ")"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def length(recipe: Recipe) -> str:
    """``30 epochs``, or ``500 iterations``."""
    if recipe.iterations:
        return f"{recipe.iterations:,} iteration{'s' if recipe.iterations > 1 else ''}"
    return "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"


def groups(study: Any, rows: Sequence[Row]) -> Iterator[tuple[Recipe, list[Row]]]:
    """The rows of each recipe of a sweep; the recipe is as it was trained, with what is held out."""
    for recipe, trained in zip(study.recipes, study.trained, strict=True):
        yield trained, [row for row in rows if all(row[name] == getattr(recipe, name) for name in study.swept)]


def metric_of(study: Any) -> Metric:
    """What the task of a study's recipes is judged by."""
    return study.recipes[0].dataset.task.metric


def share_of(study: Any) -> Metric:
    """The share that a study compares networks by, where it takes one."""
    found = study.recipes[0].dataset.task.share
    assert found is not None, "checked by the study"
    return found


def within(tolerance: float, unit: str = "points") -> str:
    """A tolerance with its unit: ``1 point``."""
    return f"{tolerance:g} {unit.removesuffix('s') if tolerance == 1 else unit}"


def of_the_error(study: Any, base: Row) -> list[str]:
    """The tolerance as a share of the baseline's error: a point of 98.4 % is two thirds more errors."""
    if metric_of(study).name != "accuracy" or not study.tolerance or (error := 1 - base["accuracy_mean"]) <= 0:
        return []
    share = percent(study.tolerance / 100 / error)
    return [f"The tolerance of {within(study.tolerance)} is {share} of the baseline's error."]


def over_seeds(study: Any) -> str:
    """How many seeds the means are over, and what the intervals are."""
    if study.seeds != "auto":
        means = f"Means over {study.seeds} seeds with 95 % intervals (Student's t)."
        return f"{means} {_OF_THE_SEEDS} {_chosen_on(study)}".rstrip()
    shared = " divided by the number of verdicts" if study.familywise else ""
    return (
        "Means over seeds with 95 % intervals (Student's t): as many seeds as each verdict needs, at most "
        f"{study.max_seeds}; twice as many of a baseline. Intervals of drops hold over all looks at a growing number "
        f"of seeds: a verdict errs in at most 5 %{shared}. Drops are paired by seed where runs share a trained state. "
        "Elsewhere they are differences of means, with one variance for all runs that seem to have the same. "
        f"{_OF_THE_SEEDS} {_chosen_on(study)}"
    ).rstrip()


def _chosen_on(study: Any) -> str:
    """What choices are read from; nothing of a study without any."""
    if not hasattr(study, "select"):
        return ""
    if study.chooses_on == "test":
        return "What is advised was chosen by the test numbers shown, which flatters it."
    return "What is advised was chosen on held-out training examples; all numbers shown are of the test set."


def nearness(study: Any, unit: str, of: str = "") -> str:
    """What has to be so for a row to be chosen: ``surely within 1 point``, ``within 1 point on held-out examples``."""
    sure = "surely " if study.chooses_on == "test" else ""
    return f"{sure}within {within(study.tolerance, unit)}{f' of {of}' if of else ''}{on_held_out(study)}"


def on_test(study: Any) -> str:
    """`` on the test set``, where something else was said of held-out examples."""
    return " on the test set" if study.chooses_on == "validation" else ""


def on_held_out(study: Any) -> str:
    """`` on held-out examples``; nothing where choices are read from the test set."""
    return " on held-out examples" if study.chooses_on == "validation" else ""


def held_out_drop(study: Any) -> list[Column]:
    """The column of what choices are read from besides the drop on the test set, if anything."""
    says = "The drop on the held-out examples, which choices are read from."
    return [Column("validation_drop", "held-out drop", says, points)][: len(study.held_out)]


def judgement(row: Row) -> str:
    """The verdict on the test set of what was chosen, where it is not robust: ``, undecided on the test set``."""
    return "" if row["verdict"] == "robust" else f", {row['verdict']} on the test set"


def still_undecided(study: Any, rows: Sequence[Row], name: Callable[[Row], str]) -> list[str]:
    """A sentence on what more seeds would decide; nothing where all is decided.

    Args:
        study: Its ``seeds`` and ``tolerance``.
        rows: With verdicts.
        name: What a row is called.
    """
    left = [row for row in rows if row["verdict"] == "undecided"]
    if not left:
        return []
    if study.seeds != "auto":
        return [f"Undecided at n = {max(row['n'] for row in left)}: more seeds (--seeds) may decide."]
    unit = metric_of(study).unit
    near = [f"{name(row)}, {_between(row, study.tolerance, unit)}" for row in left if row["drop_ci95"] is not None]
    more = "" if len(near) <= 3 else f"; and {len(near) - 3} more"
    return [f"Near the tolerance of {within(study.tolerance, unit)}: {'; '.join(near[:3])}{more}."] if near else []


def for_new_examples(study: Any, rows: Sequence[Row], name: Callable[[Row], str]) -> list[str]:
    """A sentence on the widest interval for new test examples; nothing where there is no interval at all.

    Args:
        study: Its recipes.
        rows: Those that the answer is about.
        name: What a row is called.
    """
    judged = [row for row in rows if row["verdict"] and row["drop_ci95"] is not None]
    known = [row for row in judged if row["drop_new_ci95"] is not None]
    if not known:
        return ["No interval for new test examples: results do not say which were right."] if judged else []
    row = max(known, key=lambda row: row["drop_new_ci95"])
    new, old = points(row["drop_new_ci95"]), points(row["drop_ci95"])
    wider = f", not ± {old}" if new != old else " too"
    return [f"For new test examples the interval of {name(row)} is ± {new} {metric_of(study).unit}{wider}."]


def _between(row: Row, tolerance: float, unit: str) -> str:
    """The interval of a drop, and how many seeds would decide."""
    mean, half = row["drop_mean"], row["drop_ci95"]
    gap = abs(mean - tolerance / 100)
    needed = ceil(row["n"] * (half / gap) ** 2) if gap else None
    more = f" (about {needed:,} would decide)" if needed and needed < 1000 else ""
    return f"{points(mean - half)} to {points(mean + half)} {unit} at {row['n']} seeds{more}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas and an *and*; their number where there are more than ``most``."""
    if len(names) > most:
        return f"{len(names)} of them"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"


def verdicts(rows: Sequence[Row], name: str = "layer", verdict: str = "verdict") -> str:
    """How many rows have which verdict, the few by name: ``2 robust (fc2 and fc3), 1 undecided (fc4)``."""
    found = []
    for kind in ("robust", "critical", "undecided"):
        names = [str(row[name]) for row in rows if row[verdict] == kind]
        if names:
            found.append(f"{len(names)} {kind}" + (f" ({listed(names)})" if len(names) <= 6 else ""))
    return ", ".join(found)


def cost(row: Row, unit: str = "points") -> str:
    """What a row costs: ``0.31 ± 0.12 points``; a gain where it is below zero."""
    return f"{points(row['drop_mean'], row['drop_ci95'])} {unit}"


def reached(row: Row, metric: Metric) -> str:
    """What a row's networks reach on the test split: ``97.31 ± 0.12 % test accuracy``, ``14.40 test perplexity``."""
    return f"{value(row, metric)} test {metric.name}"


def value(row: Row, metric: Metric) -> str:
    """The number alone: ``97.31 ± 0.12 %``, ``14.40``."""
    [column] = judged_by(metric, [TEST])
    return column.cell(row) + (" %" if metric.share else "")


def lost(metric: Metric) -> str:
    """What a drop is one of: ``drop in test accuracy, points``; ``rise in test perplexity, per cent``."""
    return f"{'drop' if metric.more_is_better else 'rise'} in test {metric.name}, {metric.unit}"


def judged_by(metric: Metric, columns: Sequence[Column]) -> list[Column]:
    """Columns as they are for a metric: in place of accuracies its own numbers, and drops in its unit."""
    columns = [column for column in columns if metric.share or column is not NEW]
    if metric.name == "accuracy":
        return columns
    name, shown = metric.name, points if metric.share else decimal
    says = f"How much worse the {name} is, paired by seed, in {metric.unit}."
    changes: dict[str, dict[str, Any]] = {
        "accuracy": {"name": name, "head": f"test {name}", "says": f"Test {name}.", "shown": shown},
        "train_accuracy": {"name": f"train_{name}", "head": f"training {name}", "says": "", "shown": shown},
        "drop": {"says": says},
        "train_drop": {"says": f"The same in training {name}."},
    }
    return [dataclasses.replace(column, **changes.get(column.name, {})) for column in columns]


def told(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Columns without those of training accuracy that no row has, and with what else a task of the user's own tells."""
    found = {name for row in rows for name, value in row.items() if value is not None}
    kept = [
        column
        for column in columns
        if column.name not in ("train_accuracy", "gap", "loss") or found & {column.name, f"{column.name}_mean"}
    ]
    return kept + [Column(name, name.replace("_", " "), shown=significant) for name in other_numbers(rows)]


def other_numbers(rows: Sequence[Row]) -> list[str]:
    """Names of what else a task of the user's own tells."""
    own = {name.removesuffix("_mean") for row in rows for name in row if name.startswith(OTHER)}
    return sorted(name for name in own if not name.endswith("_ci95"))


def unlearned(study: Any, recipe: Recipe, base: Row, table: Table) -> Section | None:
    """The section of a recipe whose baseline has not learned, with all numbers and no advice; None of one that has."""
    data, metric = recipe.dataset, metric_of(study)
    if f"{metric.name}_mean" not in base:
        metric = ACCURACY
    mean, half = base[f"{metric.name}_mean"], base[f"{metric.name}_ci95"]
    if mean is None or data.learned(metric, mean, half):
        return None
    answer = (
        f"No verdicts: the baseline's {reached(base, metric)} (n = {base['n']}) is not surely better than "
        f"{ignoring_inputs(data, metric)}. Train longer, change the learning rate, or add seeds."
    )
    return Section(
        heading(recipe, study.swept), answer, tables=[table], shown=0, details=resolved(recipe), unlearned=True
    )


def ignoring_inputs(data: Data, metric: Metric) -> str:
    """What has to be beaten for a network to have learned: ``11.35 %, what a prediction that …``."""
    constant = data.constant(metric)
    shown = f"{points(constant)} %" if metric.share else decimal(constant)
    return f"{shown}, what a prediction that ignores the inputs reaches"


def examples(recipe: Recipe, split: SplitName) -> str:
    """How many examples of a split a recipe takes, and of how many where it takes only some."""
    count, there = (f"{len(data.split(split)):,}" for data in (recipe.dataset, recipe.dataset.unsampled))
    return count if count == there else f"{count} of {there}"


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Everything that a recipe says, defaults filled in, for a page."""
    fields = {name: value for name, value in recipe.fields().items() if value not in _UNSET}
    for name in ("optimizer_args", "model_args", "lr", "momentum", "weight_decay", "nesterov"):
        fields.pop(name, None)
    network, data = recipe.network, recipe.dataset
    if recipe.own is not None:
        return {name: fields[name] for name in ("task", "epochs", "seed")} | network.args
    return {
        **fields,
        "network": ", ".join(f"{name} = {value}" for name, value in network.args.items()),
        "optimizer arguments": ", ".join(f"{name} = {value}" for name, value in recipe.all_optimizer_args.items()),
        "steps": f"{recipe.steps:,} ({recipe.steps_per_epoch:,} per epoch)",
        "examples": f"{examples(recipe, 'train')} for training, {examples(recipe, 'test')} for testing",
        "digest of the data": data.digest[:16],
    }
