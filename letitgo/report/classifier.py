"""The learned classifier against fixed ones: table, sentences, figures, page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.recipes import Recipe
from letitgo.recipes.text import open_text
from letitgo.report.answer import length, points
from letitgo.report.figures import COLOURS, STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.report.table import _COLOURS
from letitgo.studies.classifier import FIXED, Classifier
from letitgo.studies.compute import Outcome
from letitgo.studies.language import LanguageClassifier

Row = dict[str, Any]

SOURCE = "Hoffer, Hubara and Soudry, Fix your classifier, ICLR 2018, arXiv:1801.04540."

_MARKS = {"hadamard": "o", "orthogonal": "s", "frozen": "^", "learned": "D", "tied": "v"}
_PAINT = {"hadamard": "#30638e", "orthogonal": "#c0632b", "frozen": "#6f6f6f", "learned": "#2a7f62", "tied": "#7b4f9d"}


def show_classifier(console: Console, study: Classifier, rows: Sequence[Row]) -> None:
    """A table per recipe, and the answer in words."""
    for recipe, part in _groups(study, rows):
        console.print(f"\n[bold]{escape(_heading(study, recipe))}[/bold]")
        table = _table([_shown(row) for row in part])
        for i, row in enumerate(part):
            table.rows[i].style = _COLOURS[row["verdict"]]
        console.print(table)
        for sentence in _answers(study, part):
            console.print(escape(sentence))


def write_classifier_report(study: Classifier, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``classifier.html`` and PNG and SVG of each figure into a folder.

    Raises:
        OSError: The folder cannot be written.
    """
    groups = [(recipe, part) for recipe, part in _groups(study, outcome.rows) if part[0]["n"]]
    labels = [_label(study, recipe) for recipe, _ in groups]
    figures = {
        "drops": (
            _drops(study, labels, [part for _, part in groups]),
            "What fixing the classifier costs in training and in test accuracy: mean of the paired drops with 95 % "
            "intervals over seeds. Dashed: the tolerance.",
        ),
    }
    if any(row["scale"] for row in outcome.rows):
        figures["scale"] = (
            _scales(labels, [part for _, part in groups]),
            "The learned scale over training, mean over seeds. It multiplies features of norm one; the rows of an "
            "orthogonal matrix have norm one too, those of a Hadamard matrix √features.",
        )
    first = Section("All together", figures=figures)
    sections = [
        Section(
            _heading(study, recipe),
            _answers(study, part),
            tables={"": [_shown(row) for row in part]},
            recipe=resolved(recipe),
        )
        for recipe, part in groups
    ]
    return write_report(
        "classifier",
        "Does the classifier need training?",
        "Accuracies in per cent, drops in points: the learned classifier's accuracy minus the fixed one's under the "
        "same seed, mean ± half of the 95 % interval (Student's t). Arithmetic and memory (gradients and the "
        "optimiser's state) are shares of those of training with the learned classifier, counted.",
        [first, *sections],
        outcome,
        folder,
        command,
        SOURCE,
    )


def show_language(console: Console, study: LanguageClassifier, rows: Sequence[Row]) -> None:
    """A table, and the answer in words."""
    console.print(_table([_shown_output(row) for row in rows]))
    for sentence in _language_answers(rows):
        console.print(escape(sentence))


def write_language_report(study: LanguageClassifier, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``classifier-text.html`` and PNG and SVG of its figure into a folder.

    Raises:
        OSError: The folder cannot be written.
    """
    train, test = open_text(study.text).numbers(study.vocabulary)
    about = {
        "text": f"{study.text}: {len(train):,} words for training, the last {len(test):,} for testing",
        "network": f"embedding, one LSTM layer, classifier; {study.width} units",
        "vocabulary": f"the {study.vocabulary - 1:,} most frequent words, all others taken for one",
        "optimizer": f"Adam at {study.lr:g}, falling linearly to nothing; gradients clipped to norm 1",
        "epochs": study.epochs,
    }
    section = Section(
        "A language model on words",
        _language_answers(outcome.rows),
        {
            "perplexity": (
                _perplexities(outcome.rows),
                "Test perplexity after each epoch: mean over seeds; the bars are 95 % intervals. Lower is better.",
            )
        },
        {"": [_shown_output(row) for row in outcome.rows]},
        about,
    )
    return write_report(
        "classifier-text",
        "Does the output of a language model need training?",
        "Perplexity is the exponential of the mean cross-entropy of the next word; training perplexity as met in the "
        "last epoch. A ratio is the same seed's perplexity over that with a learned output, mean ± half of the 95 % "
        "interval (Student's t). A tied output shares the weights of the embedding.",
        [section],
        outcome,
        folder,
        command,
        SOURCE,
    )


def _table(rows: Sequence[dict[str, str]]) -> Table:
    table = Table(pad_edge=False)
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def _shown_output(row: Row) -> dict[str, str]:
    scale = row["scale"]
    return {
        "output": row["output"],
        "learned weights": f"{row['parameters']:,}",
        "test perplexity": _plain(row["perplexity_mean"], row["perplexity_ci95"]),
        "training perplexity": _plain(row["train_perplexity_mean"], row["train_perplexity_ci95"]),
        "ratio in test": "" if row["output"] == "learned" else _plain(row["ratio_mean"], row["ratio_ci95"]),
        "scale": f"{scale[0]:.2f} to {scale[-1]:.2f}" if scale else "",
        "n": str(row["n"]),
    }


def _plain(mean: float | None, half: float | None) -> str:
    return "–" if mean is None else f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def _language_answers(rows: Sequence[Row]) -> list[str]:
    told = []
    for row in rows:
        if row["output"] not in FIXED or not row["n"]:
            continue
        ratio, half = row["ratio_mean"], row["ratio_ci95"]
        if half is None or abs(ratio - 1) <= half:
            verdict = "not told apart from learning it"
        else:
            verdict = "worse than learning it" if ratio > 1 else "better than learning it"
        told.append(
            f"A fixed {row['output']} output leaves {_plain(ratio, half)} times the test perplexity of a learned one: "
            f"{verdict}."
        )
    return told


def _perplexities(rows: Sequence[Row]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.0))
        ax = figure.subplots()
        for row in rows:
            if row["n"]:
                curve, half = row["perplexities"], row["perplexity_ci95"] or 0
                epochs, kind = range(1, len(curve) + 1), row["output"]
                ax.plot(epochs, curve, marker=_MARKS[kind], ms=4, lw=1, color=_PAINT[kind], label=kind)
                ax.errorbar(epochs[-1], curve[-1], half, capsize=2, lw=1, color=_PAINT[kind])
        ax.set(xlabel="epoch", ylabel="test perplexity", yscale="log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(frameon=False, fontsize=8, loc="outside right center")
    return figure


def _groups(study: Classifier, rows: Sequence[Row]) -> Iterator[tuple[Recipe, list[Row]]]:
    for recipe in study.recipes:
        yield recipe, [row for row in rows if all(row[name] == getattr(recipe, name) for name in study.swept)]


def _label(study: Classifier, recipe: Recipe) -> str:
    epochs = [length(recipe)] if "epochs" in study.swept else []
    return ", ".join([recipe.model, recipe.data, *epochs, *_varied(study, recipe)])


def _heading(study: Classifier, recipe: Recipe) -> str:
    noise = f" with {100 * recipe.label_noise:g} % label noise" if recipe.label_noise else ""
    return ", ".join([f"{recipe.model} on {recipe.data}{noise}, {length(recipe)}", *_varied(study, recipe)])


def _varied(study: Classifier, recipe: Recipe) -> list[str]:
    told = ("model", "data", "epochs")
    return [f"{name.replace('_', '-')} {getattr(recipe, name)}" for name in study.swept if name not in told]


def _shown(row: Row) -> dict[str, str]:
    learned = row["classifier"] == "learned"
    scale = row["scale"]
    return {
        "classifier": row["classifier"],
        "training": points(row["train_accuracy_mean"], row["train_accuracy_ci95"]),
        "drop": "" if learned else points(row["train_drop_mean"], row["train_drop_ci95"]),
        "test": points(row["accuracy_mean"], row["accuracy_ci95"]),
        "drop in test": "" if learned else points(row["drop_mean"], row["drop_ci95"]),
        "fixed": f"{100 * row['fixed_share']:.2f} %",
        "arithmetic saved": f"{100 * row['saved']:.2f} %",
        "memory saved": f"{100 * row['memory_saved']:.2f} %",
        "scale": f"{scale[0]:.2f} to {scale[-1]:.2f}" if scale else "",
        "n": str(row["n"]),
    }


def _answers(study: Classifier, rows: Sequence[Row]) -> list[str]:
    within = f"{100 * study.tolerance:g} points"
    words = {
        "robust": f"the drop is within {within}, so it need not be learned",
        "critical": f"the drop is beyond {within}, so it is worth learning",
        "undecided": f"whether that is within {within} cannot be told from {rows[0]['n']} seeds",
    }
    return [
        f"{row['classifier'].capitalize()} instead of learned: training accuracy "
        f"{_change(row['train_drop_mean'], row['train_drop_ci95'])}, test accuracy "
        f"{_change(row['drop_mean'], row['drop_ci95'])}; {words[row['verdict']]}."
        for row in rows
        if row["verdict"] and row["n"]
    ]


def _change(drop: float, half: float | None) -> str:
    if half is None or abs(drop) <= half:
        return f"is not told apart (drop {points(drop, half)} points)"
    return f"{'falls' if drop > 0 else 'rises'} by {points(abs(drop), half)} points"


def _drops(study: Classifier, labels: Sequence[str], parts: Sequence[Sequence[Row]]) -> Figure:
    places = np.arange(len(parts))[::-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.3 + 0.55 * len(parts)))
        panels = figure.subplots(1, 2, sharey=True)
        for ax, (name, title) in zip(panels, (("train_drop", "training"), ("drop", "test")), strict=True):
            for i, kind in enumerate(study.kinds):
                own = [next(row for row in part if row["classifier"] == kind) for part in parts]
                means = [100 * row[f"{name}_mean"] for row in own]
                halves = [100 * (row[f"{name}_ci95"] or 0) for row in own]
                offset = 0.18 * ((len(study.kinds) - 1) / 2 - i)
                mark = {"fmt": _MARKS[kind], "color": _PAINT[kind], "label": kind}
                ax.errorbar(means, places + offset, xerr=halves, ms=4, lw=1, capsize=2, **mark)
            ax.axvline(0, color="black", lw=0.8)
            ax.set(title=f"drop in {title} accuracy", xlabel="points", ylim=(-0.6, len(parts) - 0.4))
            ax.set_yticks(places, labels)
        panels[1].axvline(100 * study.tolerance, color=COLOURS["robust"], lw=0.8, ls="--")
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return figure


def _scales(labels: Sequence[str], parts: Sequence[Sequence[Row]]) -> Figure:
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(parts)))
    kinds = list(dict.fromkeys(row["classifier"] for part in parts for row in part if row["scale"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(kinds) + 2.4, 2.8))
        panels = figure.subplots(1, len(kinds), squeeze=False)[0]
        for ax, kind in zip(panels, kinds, strict=True):
            for label, part, colour in zip(labels, parts, colours, strict=True):
                scale = next(row["scale"] for row in part if row["classifier"] == kind)
                if scale:
                    ax.plot(range(len(scale)), scale, "o-", ms=3, lw=1, color=colour, label=label)
            ax.set(title=kind, xlabel="epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("scale")
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure
