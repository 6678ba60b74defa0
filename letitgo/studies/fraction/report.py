"""What the rows of learned fractions say."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from letitgo.recipes import Recipe
from letitgo.report import NEW, TEST, TRAINING, Column, N, Report, Section, Table, numbers, words
from letitgo.report.pictures import BLACK, GREY, PALETTE, Band, Panel, Picture, Points, Rule, judged, points, series

if TYPE_CHECKING:
    from letitgo.recipes.tasks import Metric
    from letitgo.studies.fraction.study import Fraction

Row = dict[str, Any]
Tasks = list[tuple[str, list[Row]]]

TITLE = "How much of a network has to be learned?"
SOURCE = "Rosenfeld and Tsotsos (arXiv:1802.00844); Frankle, Schwab and Morcos (arXiv:2003.00152)."
RANDOM, PER_UNIT = "random values", "random values per unit"
TASKS = 10
"""Tasks on one base for which storage is added up."""
WIDEST = 6
"""Columns that fit a terminal."""
FEW = 8
"""Names beside points of a figure, at most."""

NAME = Column("what", "learned")
VALUES = Column("learned", "values", "Values that may move.", numbers.count)
DROP = Column("drop", "drop", "Baseline minus this, in points.", numbers.points, "verdict")
ABOVE = Column(
    "above_random", "above random", "This minus as many random values, paired by seed, in points.", numbers.points
)
STORED = Column(
    "delta_bytes_mean", "stored", "Size of the saved difference from the base, with index and buffers.", numbers.size
)
CONDITIONS = (
    Column("rest", "rest", "What becomes of the rest of a layer of which a share is learned."),
    Column("norms", "norms", "What becomes of the norms."),
    Column("classifier", "classifier", "What becomes of the last layer."),
)
ALL_NUMBERS = (
    NAME,
    *CONDITIONS,
    VALUES,
    Column("moved_max", "moved", "Values that differ afterwards, in the seed with the most.", numbers.count),
    TEST,
    TRAINING,
    DROP,
    NEW,
    ABOVE,
    STORED,
    N,
)


def report(study: Fraction, rows: Sequence[Row]) -> Report:
    """The report of learned fractions."""
    measured = [
        (recipe, [row | {"what": what(row)} for row in part if row["n"]])
        for recipe, part in words.groups(study, rows)
        if part and part[0]["n"]
    ]
    sections = [_section(study, recipe, part) for recipe, part in measured]
    sections = [*_own_rates(study, measured), *sections]
    sections += [_tasks_section(study, tasks) for tasks in on_one_base(measured)]
    limit = words.within(study.tolerance, words.metric_of(study).unit)
    note = (
        f"{words.over_seeds(study)} A drop is everything learned, minus this. "
        "Random values are as many as a policy learns, chosen from the whole network. "
        f"Robust: the whole interval of the drop is below {limit}; gains count. Critical: the whole interval is "
        "beyond. Undecided: neither. Whatever is not learned stays as drawn, except where the rest is zero."
    )
    return Report("fraction", TITLE, sections, note, SOURCE)


def what(row: Row) -> str:
    """What is learned: ``10 % of filters``, ``norms only``."""
    return row["policy"] if row["share"] is None else f"{100 * row['share']:g} % of {row['policy']}"


def conditions(row: Row, among: Sequence[Row] = ()) -> str:
    """What becomes of the rest, the norms and the classifier where a share is learned.

    Args:
        row: Of a share.
        among: Rows that it is told from: only what differs among them is named.
    """
    names = [name for name in ("rest", "norms", "classifier") if not among or len({one[name] for one in among}) > 1]
    return ", ".join(f"{name} {row[name]}" for name in names if row[name] != "none")


def _kinds(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of shares, and those of one part alone."""
    shares = [row for row in rows if row["share"] is not None]
    return shares, [row for row in rows if row["policy"].endswith(" only") and row["share"] is None]


def _section(study: Fraction, recipe: Recipe, rows: list[Row]) -> Section:
    shares, alone = _kinds(rows)
    metric = words.metric_of(study)
    [drop] = words.judged_by(metric, [DROP])
    varied = [column for column in CONDITIONS if len({row[column.name] for row in shares}) > 1]
    tables = []
    if shares:
        title = "a share of each layer" + ("" if varied else f" ({conditions(shares[0])})")
        tables.append(Table([NAME, *varied, VALUES, drop, ABOVE, STORED][:WIDEST], shares, title))
    if alone:
        beside = [row for row in rows if row["policy"] == PER_UNIT]
        tables.append(Table([NAME, VALUES, drop, ABOVE, STORED], alone + beside, "one part alone, the rest as drawn"))
    shown = len(tables)
    tables.append(Table([*words.judged_by(metric, ALL_NUMBERS), *words.held_out_drop(study)], rows, "All numbers"))
    if section := words.unlearned(study, recipe, rows[0], tables[-1]):
        return section
    pictures = {"accuracy": _accuracy(rows, metric.name)} if metric.share else {}
    pictures["storage"] = _storage(rows)
    if alone:
        pictures["alone"] = _alone(study, alone)
    return Section(
        words.heading(recipe, study.swept),
        _answer(study, shares + alone),
        _sentences(study, rows),
        tables,
        shown,
        pictures,
        words.resolved(recipe),
    )


def _own_rates(study: Fraction, measured: Sequence[tuple[Recipe, list[Row]]]) -> list[Section]:
    """Each policy at the learning rate that is best for it on held-out examples, where several were tried.

    One rate for all compares the rates as well: few values take a larger one.
    """
    if "lr" not in study.swept or not study.held_out:
        return []
    metric, groups = words.metric_of(study), dict[tuple[str, ...], list[tuple[Recipe, list[Row]]]]()
    for recipe, rows in (each for each in measured if each[0].lr is not None):
        others = tuple(f"{name} {getattr(recipe, name)}" for name in study.swept if name != "lr")
        groups.setdefault(others, []).append((recipe, rows))
    return [_at_own_rates(study, metric, others, group) for others, group in groups.items() if len(group) > 1]


def _at_own_rates(
    study: Fraction, metric: Metric, others: Sequence[str], group: Sequence[tuple[Recipe, list[Row]]]
) -> Section:
    best: dict[tuple[Any, ...], Row] = {}
    held_out, sign = f"validation_{metric.name}_mean", 1 if metric.more_is_better else -1
    for _, rows in group:
        for row in (row for row in rows if row[held_out] is not None):
            name = (row["what"], *(row[column.name] for column in CONDITIONS), row["learned"])
            if name not in best or sign * row[held_out] > sign * best[name][held_out]:
                best[name] = row
    tried = sorted({recipe.lr for recipe, _ in group if recipe.lr is not None})
    random = {row["learned"]: row for row in best.values() if row["policy"] == RANDOM}
    shown = [
        row | {"random": beside and f"{words.value(beside, metric)} at {beside['lr']:g}", "beside": beside}
        for row in best.values()
        if row["policy"] != RANDOM
        for beside in [random.get(row["learned"])]
    ]
    columns = [
        *(NAME, VALUES, Column("lr", "rate", "Learning rate, the best on held-out examples.", numbers.significant)),
        *words.judged_by(metric, [TEST]),
        Column("random", "random values", "As many random values at the rate that is best for them."),
    ]
    ends = [row["what"] for row in best.values() if row["lr"] in (tried[0], tried[-1])]
    said = [f"Rates tried: {', '.join(f'{rate:g}' for rate in tried)}."]
    if ends:
        said.append(f"The best is the least or the largest tried for {words.listed(list(dict.fromkeys(ends)))}.")
    title = ", ".join(["Each at its own learning rate", *others])
    pictures = {"rates": _by_rate(metric, [row for _, rows in group for row in rows])} if metric.share else {}
    return Section(title, _apart(metric, shown), said, [Table(columns, shown)], pictures=pictures)


def _by_rate(metric: Metric, rows: Sequence[Row]) -> Picture:
    """A line for each policy; where values at random have several numbers, for each of them."""
    several = len({row["learned"] for row in rows if row["policy"] == RANDOM}) > 1
    lines = [
        row | {"line": f"{row['learned']:,} {row['what']}" if several and row["policy"] == RANDOM else row["what"]}
        for row in sorted(rows, key=lambda row: row["lr"])
    ]
    marks, rates = series(lines, "lr", metric.name, "line", factor=100), sorted({row["lr"] for row in rows})
    panel = Panel(marks, x="learning rate", y=f"test {metric.name}, %", xlog=True, ticks=rates)
    says = "a line for each policy: means and 95 % intervals over seeds"
    return Picture([[panel]], f"Test {metric.name} against the learning rate, {says}.")


def _apart(metric: Metric, rows: Sequence[Row]) -> str:
    """Which policies are better and worse than as many random values, by intervals that do not overlap."""
    sides: dict[str, list[str]] = {"better": [], "worse": []}
    for row in rows:
        ends = [_interval(metric, one) for one in (row, row["beside"]) if one is not None]
        if len(ends) == 2 and (ends[0][0] > ends[1][1] or ends[0][1] < ends[1][0]):
            higher = ends[0][0] > ends[1][1]
            sides["better" if higher is metric.more_is_better else "worse"].append(row["what"])
    found = [f"{side} than as many random values: {words.listed(names)}" for side, names in sides.items() if names]
    if not found:
        return "At the rate of each, no part is clearly better or worse than as many random values."
    return f"At the rate of each, clearly {'; clearly '.join(found)}."


def _interval(metric: Metric, row: Row) -> tuple[float, float]:
    mean, half = row[f"{metric.name}_mean"], row[f"{metric.name}_ci95"]
    return (mean - half, mean + half) if half is not None else (-inf, inf)


def _answer(study: Fraction, rows: Sequence[Row]) -> str:
    """The fewest values that are surely within the tolerance."""
    unit = words.metric_of(study).unit
    best = _best(study, rows)
    if best is None:
        least = min(rows, key=lambda row: row[f"{study.chosen}drop_mean"], default=None)
        among = "" if least is None else f"; the least drop is {words.cost(least, unit)}, with {least['what']}"
        return f"No part is {words.nearness(study, unit, 'everything learned')}{among}."
    share = numbers.percent(best["learned"] / best["parameters"])
    how = "" if best["share"] is None else f" ({conditions(best)})"
    values = f"{best['learned']:,} of {best['parameters']:,} values ({share})"
    return f"Learn {best['what']}{how}: {values} cost {words.cost(best, unit)}{words.judgement(best)}."


def _best(study: Fraction, rows: Sequence[Row]) -> Row | None:
    return min(filter(study.passes, rows), key=lambda row: row["learned"], default=None)


def _sentences(study: Fraction, rows: Sequence[Row]) -> list[str]:
    shares, alone = _kinds(rows)
    base, metric, best = rows[0], words.metric_of(study), _best(study, shares + alone)

    def named(row: Row) -> str:
        return f"{row['what']} ({row['learned']:,} values)"

    said = words.for_new_examples(study, [best] if best else shares + alone, named)
    said += [
        f"Everything learned: {words.reached(base, metric)}, {base['learned']:,} values, n = {base['n']}.",
        *words.of_the_error(study, base),
    ]
    for name, own in (("Shares", shares), ("One part alone", alone)):
        if own:
            said.append(f"{name}: {words.verdicts(own, 'what')}.")
    if against := [row for row in shares + alone if row["above_random_ci95"] is not None]:
        said.append(_against_random(against))
    if alone:
        best = min(alone, key=lambda row: row[f"{study.chosen}drop_mean"])
        said.append(f"Best alone: {best['what']}, {words.reached(best, metric)} with {best['learned']:,} values.")
    if kept := [row for row in shares if row["share"] < 1]:
        said.append(_kept(min(kept, key=lambda row: abs(row["share"] - 0.1))))
    return said + words.still_undecided(study, rows, named)


def _against_random(rows: Sequence[Row]) -> str:
    counts = {"better": [], "worse": [], "undecided": []}
    for row in rows:
        mean, half = row["above_random_mean"], row["above_random_ci95"]
        side = "better" if mean > half else "worse" if mean < -half else "undecided"
        counts[side].append(row["what"])
    found = [
        f"{len(names)} {side}" + (f" ({words.listed(names)})" if len(names) <= 6 else "")
        for side, names in counts.items()
        if names
    ]
    return f"Compared with as many random values: {', '.join(found)}."


def _kept(row: Row) -> str:
    part, full = row["delta_bytes_mean"], row["whole_bytes_mean"]
    return (
        f"Saved beside its base, {row['what']} takes {numbers.size(part)}, {numbers.percent(part / full)} of the whole "
        f"network's {numbers.size(full)}; {TASKS} tasks on one base would take {numbers.size(TASKS * part)} "
        f"instead of {numbers.size(TASKS * full)}."
    )


def _lines(rows: Sequence[Row]) -> dict[str, tuple[list[Row], dict[str, Any]]]:
    """Each line of the figures: its name, rows, and looks. Everything learned ends lines of shares and of controls."""
    base, (shares, alone) = rows[0], _kinds(rows)
    lines: dict[str, tuple[list[Row], dict[str, Any]]] = {}
    colours: dict[tuple[str, str], str] = {}
    if controls := [row for row in rows if row["policy"] == RANDOM]:
        lines[RANDOM] = ([base, *controls], {"colour": GREY, "line": "-", "hollow": True})
    for row in shares:
        colour = colours.setdefault((row["norms"], row["classifier"]), PALETTE[len(colours) % len(PALETTE)])
        shape, line = "s" if row["policy"] == "weights" else "o", "--" if row["rest"] == "zero" else "-"
        look = {"colour": colour, "shape": shape, "line": line}
        name = ", ".join(filter(None, (row["policy"], conditions(row, shares))))
        lines.setdefault(name, ([base], look))[0].append(row)
    named = {"norms only": "^", "biases only": "v", "classifier only": "P", PER_UNIT: "x"}
    units = [row for row in alone if row["policy"] not in named]
    for row in rows:
        if row["policy"] in named:
            lines[row["policy"]] = ([row], {"colour": BLACK, "shape": named[row["policy"]]})
    if units:
        notes = [row["policy"].removesuffix(" only") for row in units] if len(units) <= FEW else []
        lines["one layer only"] = (units, {"colour": PALETTE[4], "shape": "D", "notes": notes})
    return lines


def _drawn(rows: Sequence[Row], y: str, factor: float) -> list[Points]:
    marks = []
    for name, (own, look) in _lines(rows).items():
        ordered = sorted(own, key=lambda row: row["learned"]) if look.get("line") else own
        marks += series(ordered, "learned", y, looks={"": {"line": "", "label": name} | look}, factor=factor)
    return marks


def _accuracy(rows: Sequence[Row], name: str) -> Picture:
    lines = _drawn(rows, name, 100)
    ends = [
        y + sign * (half or 0) for line in lines for y, half in zip(line.y, line.half, strict=True) for sign in (-1, 1)
    ]
    limits = max(0.0, min(ends) - 1), min(101.0, max(ends) + 1)
    rule = Rule(100 * rows[0][f"{name}_mean"], label="everything learned")
    panel = Panel([rule, *lines], x="learned values", y=f"test {name}, %", xlog=True, ylim=limits)
    return Picture([[panel]], f"Test {name} against the number of learned values: means and 95 % intervals over seeds.")


def _storage(rows: Sequence[Row]) -> Picture:
    ends = [min(row["learned"] for row in rows), max(row["learned"] for row in rows)]
    four = Points(ends, [4 * end / 1000 for end in ends], label="4 bytes for each value", shape="", line=":")
    whole = Rule(rows[0]["whole_bytes_mean"] / 1000, label="the whole network")
    marks = [whole, four, *_drawn(rows, "delta_bytes", 1e-3)]
    panel = Panel(marks, x="learned values", y="saved difference, kB", xlog=True, ylog=True)
    return Picture([[panel]], "Size of the saved difference from the base, index and running statistics included.")


def _alone(study: Fraction, rows: Sequence[Row]) -> Picture:
    """A line for each part, which stays readable where a network has many layers."""
    names = [row["policy"].removesuffix(" only") for row in rows]
    marks = [Band(0, study.tolerance, label="within the tolerance"), Rule(0, upright=True, line="-"), *judged(rows)]
    panels = [Panel(marks, x=words.lost(words.metric_of(study)), places=names)]
    if study.controls:
        above = points(rows, range(len(rows)), "above_random", 100, sideways=True)
        panels.append(Panel([Rule(0, upright=True, line="-"), above], x="above random values, points", places=names))
    return Picture([panels], "One part learned alone: mean drops with 95 % intervals over seeds.")


def on_one_base(measured: Sequence[tuple[Recipe, list[Row]]]) -> list[Tasks]:
    """For each network that several data sets of a sweep share: the data sets, with the rows of each."""
    bases: dict[str, Tasks] = {}
    for recipe, rows in measured:
        bases.setdefault(recipe.network.key, []).append((recipe.data, rows))
    several = [tasks for tasks in bases.values() if len({data for data, _ in tasks}) == len(tasks) > 1]
    return [tasks for tasks in several if len({tuple(row["what"] for row in rows) for _, rows in tasks}) == 1]


def together(study: Fraction, tasks: Tasks) -> list[Row]:
    """What each policy takes to be stored for all the tasks, in bytes, and whether it may be advised for all."""
    found = []
    for several in zip(*(rows for _, rows in tasks), strict=True):
        row = several[0]
        if row["policy"] not in ("everything", RANDOM, PER_UNIT):
            sizes: Row = {name: sum(one[f"{name}_bytes_mean"] for one in several) for name in ("delta", "whole")}
            sizes["passes"] = all(map(study.passes, several))
            found.append({column.name: row[column.name] for column in (NAME, *CONDITIONS, VALUES)} | sizes)
    return found


def _tasks_section(study: Fraction, tasks: Tasks) -> Section:
    columns = (
        *(NAME, *CONDITIONS, VALUES),
        Column("delta", "differences", "Size of the saved differences of all tasks.", numbers.size),
        Column("whole", "networks", "Size of as many whole networks.", numbers.size),
    )
    names, found = " and ".join(data for data, _ in tasks), together(study, tasks)
    best = min((row for row in found if row["passes"]), key=lambda row: row["delta"], default=None)
    if best is None:
        answer = (
            f"No part is {words.nearness(study, words.metric_of(study).unit, 'everything learned')}, on every task."
        )
    else:
        answer = (
            f"Learn {best['what']} for each task: the differences of {len(tasks)} tasks take "
            f"{numbers.size(best['delta'])} beside one base, and as whole networks {numbers.size(best['whole'])}."
        )
    return Section(f"{len(tasks)} tasks on one base: {names}", answer, tables=[Table(columns, found)])
