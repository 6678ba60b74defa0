"""What the rows of a search for the intrinsic dimension say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from letitgo.report import Column, N, Report, Section, Table, numbers
from letitgo.report.pictures import GREY, PALE, PALETTE, Band, Panel, Picture, Points, Rule, grid, points
from letitgo.report.words import groups, heading, listed, resolved, unlearned

if TYPE_CHECKING:
    from letitgo.studies.dimension.study import Dimension

Row = dict[str, Any]

SOURCE = (
    "Li, Farkhoor, Liu and Yosinski, Measuring the intrinsic dimension of objective landscapes, ICLR 2018, "
    "arXiv:1804.08838; scales for layers: Aghajanyan et al., arXiv:2012.13255."
)
BASELINES = {"own": ("the network's own baseline", PALETTE[1]), "global": ("the global baseline", PALETTE[4])}


def report(study: Dimension, rows: Sequence[Row]) -> Report:
    """The report of a study of dimensions."""
    sections = [_section(study, recipe, part) for recipe, part in groups(study, rows)]
    if len(sections) > 1:
        sections.insert(0, _over_sweep(study, rows))
    stop = (
        f"Accuracy is measured every {study.stop_every} epochs, and the best counts. Training at a d ends once the "
        "mean exceeds every target, or is more than half the way to it and would not reach it at twice its recent pace."
        if study.stop_every
        else "Accuracy is that of the last epoch."
    )
    judged = (
        "; the baseline and what is found are then judged on the test set" if study.searched_on == "validation" else ""
    )
    note = (
        "Training in a random subspace, θ = θ₀ + P z: only the d numbers z are learned. The intrinsic dimension is the "
        "least d whose mean accuracy exceeds the threshold times the baseline; d_int90 is that for a threshold of 0.9. "
        f"The bracket is read off the means over {study.seeds} seeds at the d tried. The fitted d is where a line in "
        "log d, through the d tried around it, crosses the threshold. "
        f"Each seed draws its own initial weights, data order and projection ({study.kind}). {stop} Accuracy is on the "
        f"{_split(study)} set{judged}. Intervals are 95 % (Student's t)."
    )
    return Report("dimension", study.QUESTION, sections, note, SOURCE)


def _split(study: Dimension) -> str:
    return {"train": "training", "validation": "held-out"}.get(study.searched_on, study.searched_on)


def _kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["row"] == kind]


def _section(study: Dimension, recipe: Any, rows: Sequence[Row]) -> Section:
    answers = _kind(rows, "answer")
    layered = bool(study.layers)
    tables = [_answers(study, answers)] if answers else []
    tables.append(_tried(study, rows))
    base = next((row for row in _kind(rows, "baseline") if row["n"]), None)
    told = base if not base or study.searched_on == "test" else _on_test(base)
    if told and study.searched_on != "train" and (section := unlearned(study, recipe, told, tables[-1])):
        return section
    pictures = {"layers": _layers(answers)} if layered and any(row["d"] for row in answers) else {}
    if any(row["d"] for row in _kind(rows, "d")):
        pictures["accuracy"] = _accuracy(study, rows)
    return Section(
        heading(recipe, study.swept) + (f", other layers {study.others}" if layered else ""),
        _layered(answers) if layered else _answer(answers[0]) if answers else "Nothing is decided: runs are missing.",
        _layer_sentences(answers) if layered else _sentences(answers) + _judgement(answers, base),
        tables,
        1 if layered else len(tables),
        pictures,
        resolved(recipe),
    )


def asked(row: Row) -> str:
    """What an answer is about: ``90 % of the network's own baseline (88.46 %)``."""
    return f"{100 * row['threshold']:g} % of {BASELINES[row['baseline']][0]} ({100 * row['target']:.2f} %)"


def _answer(row: Row) -> str:
    """An answer for a whole network."""
    if row["fitted_d"]:
        share = numbers.percent(row["fitted_d"] / row["D"])
        return (
            f"About {numbers.count(row['fitted_d'])} of {row['D']:,} dimensions ({share}; 95 % interval "
            f"{_interval(row)}) are enough for {asked(row)}. {_bracket(row)}"
        )
    accuracy = numbers.points(row["accuracy_mean"], row["accuracy_ci95"])
    early = " (given up before the last epoch)" if row["stopped"] == "given up" else ""
    if row["d"] is None:
        reach = "all there are" if row["low"] == row["D"] else f"the most tried, of {row['D']:,}"
        return (
            f"{row['low']:,} dimensions, {reach}, are not enough{early} for {asked(row)}: the best is {accuracy} % at "
            f"d = {row['best_d']:,}."
        )
    if row["d"] == 0:
        return f"0 dimensions are enough for {asked(row)}: {accuracy} % are reached without the subspace."
    share = numbers.percent(row["d"] / row["D"])
    return (
        f"On average over the seeds, {row['d']:,} of {row['D']:,} dimensions ({share}) are enough for {asked(row)}; "
        f"{row['low']:,} are not{early}."
    )


def _interval(row: Row) -> str:
    return f"{numbers.count(row['fitted_low'])} to {numbers.count(row['fitted_high'])}"


def _bracket(row: Row) -> str:
    """Between which of the d tried a fitted answer was found."""
    if row["d"] is None:
        accuracy = numbers.points(row["accuracy_mean"], row["accuracy_ci95"])
        return f"None of those tried is, on average over the seeds: the best is {accuracy} % at d = {row['best_d']:,}."
    return f"Of those tried, {row['d']:,} are enough on average over the seeds; {row['low']:,} are not."


def _sentences(answers: Sequence[Row]) -> list[str]:
    said = []
    bits = answers[0]["bits_per_label"] if answers and answers[0]["d"] else None
    if bits is not None:
        learned = f"{answers[0]['d']:,} dimensions are {bits:,.4g} bits per training label"
        said.append(f"{learned}, at 32 bits for each number learned.")
    said += [_answer(row) for row in answers[1:] if row["d"] is None]
    if any(row["d"] is None and row["low"] == row["D"] for row in answers):
        said.append("More epochs or a higher learning rate may be needed: d = D is not enough either.")
    if answers and answers[0]["n"] < 2:
        said.append("One seed: the spread is not known.")
    return said


def _on_test(row: Row) -> Row:
    """A row of a baseline or an answer with its accuracy on the test set."""
    return row | {name: row.get(f"test_{name}") for name in ("accuracy_mean", "accuracy_ci95")}


def _judgement(answers: Sequence[Row], base: Row | None) -> list[str]:
    """What is found, on the test set, where it was searched on held-out examples."""
    known = [row for row in answers if row.get("test_accuracy_mean") is not None]
    if not base or not known:
        return []
    reached = {row["best_d"]: numbers.points(row["test_accuracy_mean"], row["test_accuracy_ci95"]) for row in known}
    full = numbers.points(base["test_accuracy_mean"], base["test_accuracy_ci95"])
    said = ", ".join(f"{accuracy} % at d = {d:,}" for d, accuracy in reached.items())
    return [f"On the test set: {said}; {full} % trained in full."]


def _layered(answers: Sequence[Row]) -> str:
    """One answer for all layers, to the first question."""
    if not answers:
        return "Nothing is decided: runs are missing."
    first = [row for row in answers if all(row[name] == answers[0][name] for name in ("threshold", "baseline"))]
    needs = {
        "no dimension": sum(row["d"] == 0 for row in first),
        _span([row["d"] for row in first if row["d"]]): sum(bool(row["d"]) for row in first),
        "more than were tried": sum(row["d"] is None for row in first),
    }
    parts = [f"{count} {'needs' if count == 1 else 'need'} {what}" for what, count in needs.items() if count]
    what = f"{100 * first[0]['threshold']:g} % of {BASELINES[first[0]['baseline']][0]}"
    return f"Of {len(first)} layers searched one at a time, {listed(parts)}, for {what}."


def _span(found: Sequence[int]) -> str:
    if not found:
        return "none"
    return f"{min(found):,}" if min(found) == max(found) else f"{min(found):,} to {max(found):,}"


def _seeds(found: Sequence[int | None], _: float | None = None) -> str:
    """The least d of each seed by itself."""
    reached = [d for d in found if d is not None]
    never = f", {len(found) - len(reached)} never" if len(reached) < len(found) else ""
    return _span(reached) + never


def _layer_sentences(answers: Sequence[Row]) -> list[str]:
    drops = {row["layer"]: row["frozen_drop_mean"] for row in answers if row["frozen_drop_mean"] is not None}
    if not drops:
        return []
    least, most = (numbers.points(end(drops.values())) for end in (min, max))
    span = least if least == most else f"{least} to {most}"
    return [f"Frozen at initialization with all others trained, a layer costs {span} points of accuracy."]


def _dimension(value: float | None, half: float | None = None) -> str:
    return "not reached" if value is None else numbers.count(value)


def _answers(study: Dimension, rows: Sequence[Row], swept: Sequence[str] = ()) -> Table:
    columns = [Column(name, name.replace("_", " ")) for name in swept]
    columns += [Column("layer", "layer")] if study.layers else []
    columns += [
        Column("D", "D", "Number of weights that are projected.", numbers.count),
        Column("asked", "asked", "What is to be exceeded."),
        Column("low", "not enough", "The d tried below, which does not exceed it.", numbers.count),
        Column("d", "enough", "The least d tried that exceeds it.", _dimension),
        Column(
            "fitted",
            "fitted",
            "The d where a line through those tried around it crosses what is asked, and its 95 % interval.",
        ),
    ]
    if study.layers:
        about = "Baseline minus the layer frozen at its initialization with all others trained, in points."
        columns.append(Column("frozen_drop", "frozen drop", about, numbers.points))
    else:
        columns.append(Column("accuracy", "accuracy, %", "At the d that is enough, or the best.", numbers.points))
        columns.append(Column("seed_d", "each seed", "The least d tried that is enough for a seed by itself.", _seeds))
    shown = [
        row | {"asked": f"{100 * row['threshold']:g} % of {row['baseline']}", "fitted": _fitted(row)} for row in rows
    ]
    return Table(columns, shown)


def _fitted(row: Row) -> str:
    return f"{numbers.count(row['fitted_d'])} ({_interval(row)})" if row["fitted_d"] else numbers.NONE


def _tried(study: Dimension, rows: Sequence[Row]) -> Table:
    columns = [Column("layer", "layer")] if study.layers else []
    columns += [
        Column("d", "d", "Number of dimensions.", lambda d, _: "in full" if d is None else numbers.count(d)),
        Column("accuracy", f"{_split(study)}, %", f"Accuracy on the {_split(study)} set.", numbers.points),
        Column("accuracies", "of each seed, %", "", lambda values, _: " ".join(f"{100 * v:.2f}" for v in values)),
        Column("epoch", "epoch", "When it was measured.", numbers.count),
        Column("stopped", "stopped", "Why training ended before the last epoch."),
        N,
    ]
    columns = [column for column in columns if column.name != "stopped" or study.stop_every]
    return Table(columns, [row for row in rows if row["row"] != "answer"], "every dimension tried")


def _accuracy(study: Dimension, rows: Sequence[Row]) -> Picture:
    """Accuracy against d, a panel for each layer."""
    names = dict.fromkeys(row["layer"] for row in rows)
    panels = [_curve(study, [row for row in rows if row["layer"] == name], name) for name in names]
    across = min(3, len(panels))
    caption = (
        f"Accuracy on the {_split(study)} set against the dimension of the subspace: each seed, and their mean with "
        "its 95 % interval. Shaded: from the last d that is not enough to the first that is. "
        "Diamonds at the foot: the fitted d, with its 95 % interval."
    )
    return Picture([panels[i : i + across] for i in range(0, len(panels), across)], caption)


def _curve(study: Dimension, rows: Sequence[Row], title: str) -> Panel:
    """Accuracy against d on a logarithmic axis."""
    tried = [row for row in _kind(rows, "d") if row["d"]]
    marks: list[Any] = []
    for row, label, colour in (
        (_kind(rows, "baseline")[0], "trained in full", GREY),
        (next((row for row in _kind(rows, "d") if row["d"] == 0), None), "d = 0", PALE),
    ):
        if row and row["n"]:
            marks.append(Rule(100 * row["accuracy_mean"], label=label, colour=colour))
    for i, row in enumerate(_kind(rows, "answer")):
        name, colour = BASELINES[row["baseline"]]
        label = f"{100 * row['threshold']:g} % of {name}"
        marks.append(Rule(100 * row["target"], label=label, colour=colour, line=":"))
        if row["d"]:
            marks.append(Band(max(row["low"], 0.7), row["d"], colour))
        if row["fitted_d"]:
            place = 4 + 4 * i
            ends: Row = {"colour": colour, "shape": "|", "line": "-"}
            marks.append(Points([row["fitted_low"], row["fitted_high"]], [place, place], **ends))
            marks.append(Points([row["fitted_d"]], [place], colour=colour, shape="D"))
    each = [(row["d"], 100 * accuracy) for row in tried for accuracy in row["accuracies"]]
    marks.append(Points([d for d, _ in each], [y for _, y in each], label="seeds", colour=PALETTE[0], hollow=True))
    marks.append(points(tried, "d", "accuracy", 100, label="mean", colour=PALETTE[0], shape="", line="-"))
    return Panel(
        marks,
        title,
        f"d (D = {rows[0]['D']:,})",
        f"{_split(study)} accuracy, %",
        xlog=True,
        ylim=(0, 102),
        ticks=_ticks([row["d"] for row in tried]),
    )


def _ticks(tried: Sequence[int]) -> list[int]:
    """Round numbers along a logarithmic axis, few enough for a narrow panel."""
    fine = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    inside = [tick for tick in fine if tried and min(tried) <= tick <= max(tried)]
    return inside if len(inside) <= 4 else [tick for tick in inside if str(tick).startswith("1")]


def _layers(answers: Sequence[Row]) -> Picture:
    """The interval of each layer's answer, to the first question."""
    first = [row for row in answers if all(row[name] == answers[0][name] for name in ("threshold", "baseline"))]
    places = [row["layer"] for row in first]
    marks = []
    for i, row in enumerate(first):
        if row["d"]:
            look: Row = {"colour": PALETTE[0], "shape": "|", "line": "-"}
            marks.append(Points([max(row["low"], 0.7), row["d"]], [i, i], **look))
    sizes = Points([row["D"] for row in first], [*range(len(first))], colour=GREY, shape="d", label="D, all weights")
    panel = Panel([*marks, sizes], x="dimensions", places=places, xlog=True)
    what = f"{100 * first[0]['threshold']:g} % of {BASELINES[first[0]['baseline']][0]}"
    return Picture(
        [[panel]], f"From the last d that is not enough to the first that is, for {what}. No bar: 0 or none."
    )


def _over_sweep(study: Dimension, rows: Sequence[Row]) -> Section:
    """All answers of a sweep, and the first of each network: over widths and depths, or along D."""
    answers = _kind(rows, "answer")
    first = [row for row in answers if row["threshold"] == study.thresholds[0] and row["baseline"] == "own"]
    pictures = {}
    if len(first) > 1 and not study.layers:
        pictures["sweep"] = _grid(first) if {*study.swept} == {"widths", "depth"} else _line(first)
    return Section(f"Over {', '.join(study.swept)}", tables=[_answers(study, answers, study.swept)], pictures=pictures)


def _grid(rows: Sequence[Row]) -> Picture:
    widths, depths = (sorted({row[name] for row in rows}, key=int) for name in ("widths", "depth"))
    look: Row = {"shown": "{:,.0f}", "log": True}
    cells = grid(rows, "widths", "depth", lambda row: row["d"] or None, "dimensions", widths, depths, **look)
    panel = Panel([cells], x="hidden layers", y="units of each", places=widths, steps=[str(depth) for depth in depths])
    return Picture(
        [[panel]], f"Dimensions that are enough for {100 * rows[0]['threshold']:g} % of the network's own baseline."
    )


def _line(rows: Sequence[Row]) -> Picture:
    reached = [row for row in rows if row["d"]]
    look: Row = {"colour": PALETTE[0], "shape": "_", "line": "-"}
    marks = [Points([row["D"]] * 2, [max(row["low"], 1), row["d"]], **look) for row in reached]
    panel = Panel(marks, x="weights, D", y="dimensions", xlog=True, ylog=True)
    caption = (
        f"Dimensions that are enough for {100 * rows[0]['threshold']:g} % of the network's own baseline, by number of "
        "weights. A bar runs from the last d that is not enough to the first that is."
    )
    return Picture([[panel]], caption)
