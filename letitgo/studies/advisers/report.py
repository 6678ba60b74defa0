"""What the rows of a tournament of advisers say."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from letitgo.report import TEST, Column, N, Report, Section, Table, numbers, words
from letitgo.report.grammar import pivot
from letitgo.report.pictures import GREY, PALETTE, Panel, Picture, Rule, points
from letitgo.studies.advisers.study import RULES, SCORED
from letitgo.studies.finetune.report import before, pretraining

if TYPE_CHECKING:
    from letitgo.studies.advisers.study import Advisers
    from letitgo.studies.subject import Subject

Row = dict[str, Any]

CONTROLS = ("random", "one_seed")
"""What the rules are compared with."""
DEFAULT = "rise"
"""The rule that ``letitgo search`` ranks by."""
WORTH = (
    Column("says", "rule"),
    Column(
        "correlation",
        "rank correlation",
        "Spearman's, of the rule under one seed with the mean drops under the others; intervals end at -1 and 1.",
        numbers.correlation,
    ),
    Column(
        "regret",
        "regret",
        "Drop of what it calls most harmless, minus the least drop of all, in points.",
        numbers.points,
    ),
    Column(
        "trainings",
        "trainings",
        "What it costs under one seed, in trainings of the whole network.",
        numbers.significant,
    ),
)
UNITS = (
    Column("unit", "frozen"),
    Column("parameters", "parameters", "Weights that are frozen.", numbers.count),
    Column("saved", "saves", "Share of the training arithmetic that freezing it alone saves.", numbers.percent),
    TEST,
    Column("drop", "drop", "Baseline minus this on the test set, in points, paired by seed.", numbers.points),
    N,
)
SCORES = (Column("unit", "frozen"), *(Column(name, RULES[name].says, shown=numbers.significant) for name in SCORED))
SOURCE = (
    "Auto-RGN: Lee et al. (arXiv:2210.11466). Fisher information: Lodha et al. (arXiv:2310.17041). Signal to noise: "
    "Hartford et al., Spectrum (arXiv:2406.06623). Block influence: Men et al., ShortGPT (arXiv:2403.03853). Put back: "
    "Zhang, Bengio and Singer (arXiv:1902.01996)."
)


def report(study: Advisers, rows: Sequence[Row]) -> Report:
    """The report of a tournament of advisers."""
    sections = [
        _section(study, of, found)
        for of, (_, part) in zip(study.subjects, words.groups(study, rows), strict=True)
        if (found := [row for row in part if row["n"]]) and found[0]["row"] == "baseline"
    ]
    return Report("advisers", study.QUESTION, sections, _note(study), SOURCE)


def _note(study: Advisers) -> str:
    unit = words.metric_of(study).unit
    return (
        f"Each rule is read under one of {study.seeds} seeds and held against the mean drops in {unit} under the "
        "others, each layer frozen alone from the start; means over seeds with 95 % intervals (Student's t). The "
        "intervals are about the seed that a rule is read under: the drops it is held against are nearly the same. At "
        "a tolerance as many layers are taken as are within it, those that the rule calls most harmless: forgone is "
        "the share of the saving of those within it that the rule leaves out, each layer's saving alone added up; "
        "excess is how far the most harmful layer taken is beyond it."
    )


def _section(study: Advisers, of: Subject, rows: list[Row]) -> Section:
    metric, base = words.metric_of(study), rows[0]
    units = [row for row in rows if row["row"] == "unit"]
    rules = sorted((_said(row) for row in rows if row["row"] == "rule"), key=_place)
    at_tolerances = _at_tolerances(study, [_said(row) for row in rows if row["row"] == "tolerance"], rules)
    tables = [
        Table(words.judged_by(metric, WORTH), rules, "What freezing each layer costs, foreseen"),
        *at_tolerances,
        Table(words.judged_by(metric, UNITS), units, "Each layer frozen alone"),
        Table(SCORES, units, "What rules read; more is said to be more harmful"),
    ]
    if section := words.unlearned(study, of.recipe, base, Table(tables[-2].columns, [base, *units])):
        return section
    heading, details = words.heading(of.recipe, study.swept), words.resolved(of.recipe)
    if study.pretrained is not None:
        heading, details = (
            f"{heading}, pretrained: {before(study.finetune, of)}",
            details | pretraining(study.finetune, of),
        )
    pictures = {"correlation": _correlations(rules)} if any(_known(row) for row in rules) else {}
    said = _sentences(study, base, units, rules)
    return Section(heading, _answer(rules, units), said, tables, 1 + len(at_tolerances), pictures, details)


def _said(row: Row) -> Row:
    return row | {"says": RULES[row["rule"]].says}


def _known(row: Row) -> bool:
    return row["correlation_mean"] is not None


def _place(row: Row) -> tuple[bool, float]:
    """The order of the table: the rules, best first, then what they are compared with."""
    value = row["correlation_mean"]
    return row["rule"] in CONTROLS, -value if value is not None else 2.0


def _at_tolerances(study: Advisers, rows: list[Row], rules: Sequence[Row]) -> list[Table]:
    """Rules down, tolerances across; nothing where no layer is within any."""
    if all(row["forgone_mean"] is None and row["excess_mean"] is None for row in rows):
        return []
    columns, unit = [WORTH[0]], words.metric_of(study).unit
    for tolerance in study.tolerances:
        columns.append(Column(f"{tolerance:g} forgone", f"{tolerance:g}: forgone", shown=numbers.percent))
        columns.append(Column(f"{tolerance:g} excess", "excess", shown=numbers.points))
    plain = [{name: value for name, value in row.items() if not name.endswith("_ci95")} for row in rows]
    wide = {
        row["says"]: row for row in pivot(plain, ["says"], lambda row: f"{row['tolerance']:g}", ("forgone", "excess"))
    }
    return [Table(columns, [wide[row["says"]] for row in rules], f"At tolerances, {unit}")]


def _answer(rules: Sequence[Row], units: Sequence[Row]) -> str:
    known = {row["rule"]: row for row in rules if _known(row)}
    best = next((row for name, row in known.items() if name not in CONTROLS), None)
    if best is None:
        return "Nothing was ranked: the drops of the layers are not known under two seeds, or are all the same."
    ceiling = known.get("one_seed")
    if ceiling is None or ceiling["correlation_mean"] <= (ceiling["correlation_ci95"] or 0.0):
        agree = "" if ceiling is None else f" (rank correlation {_correlation(ceiling)})"
        return f"No rule can be judged: the seeds do not agree on which layers are harmful to freeze{agree}."
    return (
        f"Of the cheap rules, {best['says']} agrees best with what freezing each of {len(units)} layers costs: rank "
        f"correlation {_correlation(best)}. Measured under one seed it is {_correlation(ceiling)}."
    )


def _correlation(row: Row) -> str:
    return numbers.correlation(row["correlation_mean"], row["correlation_ci95"])


def _sentences(study: Advisers, base: Row, units: Sequence[Row], rules: Sequence[Row]) -> list[str]:
    metric = words.metric_of(study)
    said = [f"Baseline: {words.reached(base, metric)}, n = {base['n']}."]
    if measured := sorted((row for row in units if row["drop_mean"] is not None), key=lambda row: row["drop_mean"]):
        least, most = measured[0], measured[-1]
        said.append(
            f"Frozen alone, {least['unit']} costs {words.cost(least, metric.unit)} and {most['unit']} "
            f"{words.cost(most, metric.unit)}."
        )
    order = [row["rule"] for row in rules if row["rule"] not in CONTROLS and _known(row)]
    if DEFAULT in order:
        own = next(row for row in rules if row["rule"] == DEFAULT)
        said.append(
            f"The rule that letitgo search ranks by ({own['says']}) is number {1 + order.index(DEFAULT)} of "
            f"{len(order)}, at {_correlation(own)}."
        )
    partly = [row for row in rules if row["ranked_mean"] is not None and row["ranked_mean"] < len(units)]
    if partly:
        names = words.listed([f"{row['says']} {row['ranked_mean']:g}" for row in partly])
        said.append(f"Not every rule ranks all {len(units)}: {names}.")
    if order:
        said.append(
            f"The correlation of a random order of {len(units)} has a deviation of {1 / sqrt(len(units) - 1):.2f}."
        )
    return said


def _correlations(rules: Sequence[Row]) -> Picture:
    places = [row["says"] for row in rules]
    own = [(i, row) for i, row in enumerate(rules) if _known(row)]
    marks: list[Any] = [Rule(0.0, upright=True)]
    for controls, colour, shape in ((False, PALETTE[0], "o"), (True, GREY, "d")):
        if drawn := [(i, row) for i, row in own if (row["rule"] in CONTROLS) == controls]:
            at = [i for i, _ in drawn]
            label = "for comparison" if controls else "rules"
            look: Row = {"colour": colour, "shape": shape, "label": label, "ends": (-1.0, 1.0)}
            marks.append(points([row for _, row in drawn], at, "correlation", sideways=True, **look))
    panel = Panel(marks, x="rank correlation with the measured drops", places=places, xlim=(-1.05, 1.05))
    return Picture([[panel]], "How each rule's ranks agree with the measured cost of freezing each layer alone.")
