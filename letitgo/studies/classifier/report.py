"""What the rows of fixed classifiers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from letitgo.recipes import Recipe
from letitgo.report import NEW, TEST, TRAINING, Column, N, Report, Section, Table, numbers, words
from letitgo.report.pictures import PALETTE, VERDICTS, Band, Panel, Picture, Points, Rule, judged

if TYPE_CHECKING:
    from letitgo.recipes.tasks import Metric
    from letitgo.studies.classifier.study import Classifier

Row = dict[str, Any]

TITLE = "Does the classifier need training?"
SOURCE = "Hoffer, Hubara and Soudry, Fix your classifier, ICLR 2018 (arXiv:1801.04540)."
NAMES = {
    "hadamard": "a fixed Hadamard matrix",
    "orthogonal": "a fixed orthogonal matrix",
    "frozen": "its initial weights",
    "cosine": "a learned cosine classifier",
}
SIDES = ("lower", "higher", "undecided")

NAME = Column("classifier", "classifier")
DROP = Column("drop", "drop", "Learned minus this in test accuracy, in points.", numbers.points, "verdict")
TRAIN_DROP = Column("train_drop", "training drop", "The same in training accuracy.", numbers.points)
SAVED = (
    Column("saved", "saves", "Share of the training arithmetic that is saved.", numbers.percent),
    Column("memory_saved", "memory", "Share of gradients and optimiser state that is saved.", numbers.percent),
)
ALL_NUMBERS = (
    *(NAME, Column("layer", "layer"), TEST),
    TRAINING,
    *(DROP, NEW, TRAIN_DROP),
    Column("fixed", "fixed", "Weights of the network that are fixed.", numbers.count),
    Column("fixed_share", "share", "Their share.", numbers.percent),
    *SAVED,
    Column("scales", "scale", "The learned scale at the beginning and at the end, mean over seeds."),
    N,
)


def report(study: Classifier, rows: Sequence[Row]) -> Report:
    """The report of fixed classifiers."""
    sections, replaced = [], []
    for recipe, part in words.groups(study, rows):
        if part and part[0]["n"]:
            varied = ", ".join(str(getattr(recipe, field)) for field in study.swept)
            own = [
                row | {"what": ": ".join(filter(None, (varied, row["classifier"])))}
                for row in part
                if row["verdict"] and row["n"]
            ]
            sections.append(_section(study, recipe, part, own))
            replaced += own
    if len(sections) > 1:
        fixed = _unlearned(replaced)
        counts = [f"{sum(row['verdict'] == kind for row in fixed)} {kind}" for kind in VERDICTS]
        answer = f"{len(fixed)} replacements of the classifier: {', '.join(counts)}."
        sections.insert(0, Section("All together", answer, pictures={"drops": _drops(study, replaced)}))
    metric = words.metric_of(study)
    drop = "accuracy minus this one's" if metric.share else f"{metric.name} against this one's, in {metric.unit}"
    limit = words.within(study.tolerance, metric.unit)
    note = (
        f"{words.over_seeds(study)} A drop is the learned classifier's {drop}. Robust: the whole interval is below "
        f"{limit}; gains count. Critical: the whole interval is beyond. Undecided: neither. Savings are counted, "
        "relative to training with the learned classifier. "
        "The scale multiplies features of norm one. Rows of an orthogonal matrix have norm "
        "one, those of a Hadamard matrix √features."
    )
    return Report("classifier", TITLE, sections, note, SOURCE)


def _section(study: Classifier, recipe: Recipe, rows: Sequence[Row], fixed: Sequence[Row]) -> Section:
    numbered = [row | {"scales": _scales(row["scale"])} for row in rows if row["n"]]
    metric = words.metric_of(study)
    everything = [*ALL_NUMBERS, *words.held_out_drop(study)]
    main, everything = (words.judged_by(metric, own) for own in ([NAME, TEST, DROP, TRAIN_DROP, *SAVED], everything))
    tables = [Table(main, fixed), Table(everything, numbered, "All numbers")]
    if section := words.unlearned(study, recipe, rows[0], tables[1]):
        return section
    pictures = {"drops": _drops(study, fixed)} if fixed and len(study.recipes) == 1 else {}
    if scaled := [row for row in fixed if row["scale"]]:
        pictures["scale"] = _scale(scaled)
    answer, sentences = _answer(study, fixed), _sentences(study, rows[0], fixed)
    return Section(words.heading(recipe, study.swept), answer, sentences, tables, 1, pictures, words.resolved(recipe))


def _scales(scale: list[float] | None) -> str:
    return f"{scale[0]:.2f} → {scale[-1]:.2f}" if scale else ""


def _answer(study: Classifier, fixed: Sequence[Row]) -> str:
    """The replacement that costs least where choices are read from, if it is within the tolerance there."""
    metric = words.metric_of(study)
    limit, worse = words.within(study.tolerance, metric.unit), words.lost(metric).partition(",")[0]
    best, fixed = _best(study, fixed), _unlearned(fixed)
    if best is not None and best["verdict"] != "robust":
        return (
            f"Undecided: {NAMES[best['classifier']]} is {words.nearness(study, metric.unit)}; the {worse} is "
            f"{words.cost(best, metric.unit)}{words.judgement(best)}."
        )
    if best is not None:
        saved = numbers.percent(best["memory_saved"])
        return (
            f"The classifier need not be learned: with {NAMES[best['classifier']]} the {worse} is "
            f"{words.cost(best, metric.unit)}, and {saved} of gradients and optimiser state is saved."
        )
    if fixed and all(row["verdict"] == "critical" for row in fixed):
        return f"The classifier is worth training: every replacement costs more than {limit}."
    return f"Undecided: no replacement of the classifier is {words.nearness(study, metric.unit)}."


def _best(study: Classifier, fixed: Sequence[Row]) -> Row | None:
    return min(filter(study.passes, _unlearned(fixed)), key=lambda row: row[f"{study.chosen}drop_mean"], default=None)


def _unlearned(replaced: Sequence[Row]) -> list[Row]:
    """The replacements that are not learned themselves."""
    return [row for row in replaced if row["classifier"] != "cosine"]


def _sentences(study: Classifier, base: Row, fixed: Sequence[Row]) -> list[str]:
    metric, best = words.metric_of(study), _best(study, fixed)

    def name(row: Row) -> str:
        return row["classifier"]

    said = words.for_new_examples(study, [best] if best else fixed, name)
    said += [
        f"Learned classifier: {words.reached(base, metric)}, {base['parameters']:,} weights, n = {base['n']}.",
        *words.of_the_error(study, base),
    ]
    if fixed:
        said.append(f"Test {metric.name}: {words.verdicts(fixed, 'classifier')}.")
        sides = {side: [row["classifier"] for row in fixed if _side(metric, row) == side] for side in SIDES}
        found = [f"{side} with {words.listed(names)}" for side, names in sides.items() if names]
        said.append(f"Training {metric.name}: {', '.join(found)}.")
    return said + words.still_undecided(study, fixed, name)


def _side(metric: Metric, row: Row) -> str:
    """Whether the training metric is surely lower or higher than with the learned classifier."""
    drop, half = row["train_drop_mean"], row["train_drop_ci95"]
    return SIDES[2] if half is None or abs(drop) <= half else SIDES[0 if (drop > 0) is metric.more_is_better else 1]


def _drops(study: Classifier, rows: Sequence[Row]) -> Picture:
    names, metric = [row["what"] for row in rows], words.metric_of(study)
    axis = words.lost(metric).replace(f" in test {metric.name}", "")
    band = Band(0, study.tolerance, label="within the tolerance")
    test = Panel([band, Rule(0, upright=True, line="-"), *judged(rows)], f"test {metric.name}", axis, places=names)
    halves = [None if row["train_drop_ci95"] is None else 100 * row["train_drop_ci95"] for row in rows]
    means = [100 * row["train_drop_mean"] for row in rows]
    train = Points(means, range(len(rows)), halves, sideways=True)
    panels = [test, Panel([Rule(0, upright=True, line="-"), train], f"training {metric.name}", axis, places=names)]
    return Picture([panels], "Cost of replacing the learned classifier: mean drops with 95 % intervals over seeds.")


def _scale(rows: Sequence[Row]) -> Picture:
    panels = []
    for row, colour in zip(rows, PALETTE, strict=False):
        epochs = range(len(row["scale"]))
        line = Points(epochs, row["scale"], colour=colour, line="-")
        steps = [str(epoch) for epoch in epochs] if len(epochs) <= 12 else ()
        panels.append(Panel([line], row["classifier"], "epoch", "scale", steps=steps))
    return Picture([panels], "The learned scale over training, mean over seeds.")
