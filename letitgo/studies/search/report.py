"""What the rows of a search say."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from letitgo.report import NEW, TEST, Column, N, Report, Section, Table, numbers, words
from letitgo.report.pictures import BLACK, GREY, PALETTE, Band, Panel, Picture, Points, points
from letitgo.studies.search.study import ALLOWED_EARLY, sets_tried, spans
from letitgo.studies.search.translate import translated

if TYPE_CHECKING:
    from letitgo.studies.search.study import Search

Row = dict[str, Any]

WIDE = 34
"""Characters of a set in the main table."""


def _short(value: str) -> str:
    return value if len(value) <= WIDE else f"{value[: WIDE - 1]}…"


SAVED = Column("saved", "saves", "Share that freezing saves.", numbers.percent)
HELD_OUT = Column(
    "validation_drop", "held-out drop", "The drop on held-out examples, by which sets are tried.", numbers.points
)
UNTIL = Column(
    "until",
    "trained to",
    "The epoch that a set was trained to, where not to the end: it could not come back, or nothing was left to spend. "
    "Its held-out drop is from the baseline there.",
    numbers.count,
)
SPENT = Column("spent", "spent", "Trainings under one seed up to there, the baseline's included.", numbers.decimal)
FRONTIER = (
    Column("set", "frozen", "What is frozen, from the start where no epoch is named."),
    SAVED,
    HELD_OUT,
    UNTIL,
    Column("drop", "drop", "Baseline minus this on the test set, in points.", numbers.points, verdict="verdict"),
)
ALL_NUMBERS = (
    Column("row", "row"),
    Column("step", "step", "In the order of trying, or of judging.", numbers.count),
    Column("set", "frozen"),
    Column("parameters", "parameters", "Weights that are frozen in the end.", numbers.count),
    SAVED,
    UNTIL,
    SPENT,
    Column(
        "rise", "rise in loss", "Of the trained network, with the layer put back to early weights.", numbers.significant
    ),
    HELD_OUT,
    TEST,
    Column("drop", "drop", "Baseline minus this on the test set, in points.", numbers.points, verdict="verdict"),
    NEW,
    N,
)


def report(study: Search, rows: Sequence[Row]) -> Report:
    """The report of a search."""
    sections = [
        _section(study, i, found)
        for i, (_, part) in enumerate(words.groups(study, rows))
        if (found := [row for row in part if row["n"]]) and found[0]["row"] == "baseline"
    ]
    return Report("search", study.QUESTION, sections, _note(study))


def _note(study: Search) -> str:
    seeds = f"{study.seeds} seeds" if study.seeds != "auto" else f"as many seeds as that takes, {study.most} at most"
    under = f"{study.tries} seeds" if study.tries > 1 else "one seed"
    spent = "Trainings are the arithmetic of training, in that of training the whole network once."
    if study.tolerance is None:
        return (
            f"Sets that save {numbers.percent(study.budget)} are tried under {under} and compared on held-out training "
            "examples; one that costs more than the best so far after a third of training is stopped there. The best "
            f"is measured on the test set under {study.most} seeds, against twice as many baselines, with a 95 % "
            f"interval and no verdict. {spent}"
        )
    within = words.within(study.tolerance, words.metric_of(study).unit)
    return (
        f"Sets are tried under {under} and compared on held-out training examples, where their drop may be "
        f"one standard error of those examples beyond the tolerance. A set whose drop is {ALLOWED_EARLY:g} of "
        "them beyond it after a third of training is stopped there. Of those that pass, what saves most is judged on "
        f"the test set, until one is robust: its whole interval is below {within}. Sets are judged under {seeds}, "
        "against twice as many baselines. All looks at all sets judged call one robust that is not with a probability "
        "of 5 % at most: the first set has half of it, each one after half of what the one before had. "
        f"{spent}"
    )


def _section(study: Search, number: int, rows: list[Row]) -> Section:
    recipe, of, metric = study.trained[number], study.subjects[number], words.metric_of(study)
    base = rows[0]
    tried = sets_tried(rows)
    judged = {str(row["frozen"]): row for row in rows if row["row"] == "judged"}
    drops = ("drop_mean", "drop_ci95", "verdict")
    frontier = [
        row | {name: judged.get(str(row["frozen"]), {}).get(name) for name in drops}
        for row in sorted(tried, key=lambda row: -row["saved"])
    ]
    short = [row | {"set": _short(str(row["set"]))} for row in frontier]
    tables = [
        Table(words.judged_by(metric, FRONTIER), short, words.lost(metric)),
        Table(words.judged_by(metric, ALL_NUMBERS), rows, "All numbers"),
    ]
    if section := words.unlearned(study, recipe, base, tables[-1]):
        return section
    chosen = next((row for row in rows if row["chosen"]), None)
    return Section(
        words.heading(recipe, study.swept) + ("" if study.pretrained is None else ", pretrained"),
        _answer(study, rows, chosen),
        _sentences(study, rows, chosen),
        tables,
        1,
        {"frontier": _frontier(study, frontier, chosen)} if tried else {},
        words.resolved(recipe),
        translated(of, of.units(study.layers, study.blocks, study.by), chosen["frozen"]) if chosen else {},
    )


def _answer(study: Search, rows: Sequence[Row], chosen: Row | None) -> str:
    unit = words.metric_of(study).unit
    tolerance = words.within(study.tolerance or 0.0, unit)
    tried = sets_tried(rows)
    judged = [row for row in rows if row["row"] == "judged"]
    if chosen is None and not judged:
        ended = [row for row in tried if row["until"] is None]
        least = min(ended or tried, key=lambda row: row["validation_drop_mean"], default=None)
        if least is None:
            return "Nothing was tried: the baseline and what is to be saved leave nothing to spend on a first set."
        if study.budget is not None:
            return f"Nothing was trained to the end: {least['set']} would save {numbers.percent(least['saved'])}."
        alone = {unit for row in tried if len(row["frozen"]) == 1 for unit in row["frozen"]}
        settled = alone.issuperset(_all_units(rows))
        count = "the one set" if len(tried) == 1 else f"none of {len(tried)} sets"
        none = f"{count} tried is {'not ' if len(tried) == 1 else ''}within {tolerance} on held-out examples"
        early = f", at epoch {least['until']}" if least["until"] else ""
        cost = f"{least['set']} costs {numbers.points(least['validation_drop_mean'])} {unit} there{early}"
        if settled:
            return f"Nothing may be frozen: {none}; {cost}."
        return f"Nothing was found that may be frozen: {none}; {cost}. More to spend (--spend) tries smaller sets."
    if chosen is None:
        return _unsure(study, judged, tolerance, unit)
    each = f" under each of {study.tries} seeds" if study.tries > 1 else ""
    spent = f"found for {tried[-1]['spent']:.1f} trainings{each}"
    costs = f"costs {words.cost(chosen, unit)}"
    if chosen["frozen"].keys() >= set(_all_units(rows)):
        whole = "the untrained network" if study.pretrained is None else "the pretrained network as it is"
        return f"Everything may stay frozen {_when(chosen)}: {whole} {costs}; {spent}."
    return (
        f"Freeze {_told(chosen, rows)}: saves {numbers.percent(chosen['saved'])} of {_what(study)}, {costs}; {spent}."
    )


def _unsure(study: Search, judged: Sequence[Row], tolerance: str, unit: str) -> str:
    """That no set is surely within the tolerance, and how many seeds might say so."""
    best = min(judged, key=lambda row: row["drop_mean"])
    count = f"{best['n']} seed{'s' * (best['n'] != 1)}"
    sentence = f"No set is surely within {tolerance}: {best['set']} costs {words.cost(best, unit)} at {count}"
    if best["verdict"] == "critical" or best["drop_ci95"] is None:
        return f"{sentence}."
    room = (study.tolerance or 0.0) / 100 - best["drop_mean"]
    if room <= 0:
        return f"{sentence}. More seeds would hardly help: the mean is beyond the tolerance."
    needed = ceil(best["n"] * (best["drop_ci95"] / room) ** 2)
    return f"{sentence}: about {needed:,} would tell ({'--max-seeds' if study.seeds == 'auto' else '--seeds'})."


def _all_units(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(unit for row in rows if row["row"] == "unit" for unit in row["frozen"]))


def _when(row: Row) -> str:
    last = max(row["frozen"].values())
    return f"from epoch {last} on" if last else "from the start"


def _told(row: Row, rows: Sequence[Row]) -> str:
    """A set in the answer: ``fc1 and fc2 from the start and fc3 from epoch 4``."""
    parts = [
        f"{words.listed(names, 99)} {f'from epoch {epoch}' if epoch else 'from the start'}"
        for epoch, names in spans(row["frozen"], _all_units(rows)).items()
    ]
    return " and ".join(parts)


def _what(study: Search) -> str:
    return {
        "arithmetic": "the training arithmetic",
        "memory": "the most that a training step holds in memory",
        "parameters": "the trained parameters",
    }[study.save]


def _sentences(study: Search, rows: Sequence[Row], chosen: Row | None) -> list[str]:
    base, metric = rows[0], words.metric_of(study)
    judged = [row for row in rows if row["row"] == "judged"]
    said = [f"Baseline: {words.reached(base, metric)}, n = {base['n']}.", *words.of_the_error(study, base)]
    if judged and study.budget is not None:
        said.append(f"{judged[-1]['trainings']:.1f} trainings in all, the search and all baselines included.")
    elif judged:
        count = "1 set was" if len(judged) == 1 else f"{len(judged)} sets were"
        said.append(
            f"{count} judged on the test set, for {judged[-1]['trainings']:.1f} trainings in all, the search and "
            f"all baselines included{'; a wrong choice has a probability of at most 5 %' if chosen else ''}."
        )
        others = [row for row in judged if not row["chosen"]]
        if chosen and others:
            said.append(f"Judged, and not surely within the tolerance: {'; '.join(row['set'] for row in others)}.")
    ranked = sorted(
        (row for row in rows if row["row"] == "unit" and row["rise_mean"] is not None and row["step"] is None),
        key=lambda row: row["rise_mean"],
    )
    names = list(dict.fromkeys(name for row in ranked for name in row["frozen"]))
    if len(names) > 1:
        said.append(f"Put back to early weights, {names[0]} does least harm and {names[-1]} most.")
    if chosen:
        said += [*_beyond(study, rows, chosen), *words.for_new_examples(study, [chosen], lambda row: row["set"])]
    return said


def _beyond(study: Search, rows: Sequence[Row], chosen: Row) -> list[str]:
    """Why a set is advised that is beyond the tolerance on held-out examples, if it is."""
    [*_, tried] = [row for row in sets_tried(rows) if row["frozen"] == chosen["frozen"]]
    drop = tried["validation_drop_mean"]
    if study.tolerance is None or drop is None or drop <= study.tolerance / 100:
        return []
    unit = words.metric_of(study).unit
    return [
        f"On held-out examples {chosen['set']} costs {numbers.points(drop)} {unit}. One standard error of these "
        "examples beyond the tolerance is let pass; the test set judged."
    ]


def _frontier(study: Search, tried: Sequence[Row], chosen: Row | None) -> Picture:
    """What each set tried saves against its drop on held-out examples, and on the test set where it was judged."""
    judged = [row for row in tried if row["drop_mean"] is not None]
    chosen_set = chosen and chosen["frozen"]
    low = min(0.0, *(100 * row["validation_drop_mean"] for row in tried))
    marks: list[Points | Band] = []
    if study.tolerance is not None:
        marks.append(Band(low, study.tolerance, label="within the tolerance"))
    for early, label, shape in ((False, "tried, held-out examples", "o"), (True, "the same early", "x")):
        if own := [row for row in tried if (row["until"] is not None) == early]:
            drops, saved = ([100 * row[name] for row in own] for name in ("validation_drop_mean", "saved"))
            notes = [str(row["step"]) for row in own]
            marks.append(Points(drops, saved, label=label, colour=GREY, shape=shape, notes=notes))
    for own, label, colour, shape in (
        ([row for row in judged if row["frozen"] != chosen_set], "judged, test set", BLACK, "d"),
        ([row for row in judged if row["frozen"] == chosen_set], "chosen, test set", PALETTE[0], "*"),
    ):
        if own:
            saved = [100 * row["saved"] for row in own]
            marks.append(points(own, saved, "drop", 100, sideways=True, label=label, colour=colour, shape=shape))
    panel = Panel(marks, x=words.lost(words.metric_of(study)), y=f"{_what(study).removeprefix('the ')} saved, %")
    return Picture([[panel]], "Every set tried, numbered in the order of trying.")
