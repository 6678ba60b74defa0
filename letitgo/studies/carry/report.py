"""What the rows of carried tickets say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from letitgo.report import Column, N, Report, Section, Table, numbers
from letitgo.report.pictures import BLACK, GREY, PALE, PALETTE, Grid, Panel, Picture, Rule, series
from letitgo.report.words import heading, judged_by, listed, resolved, share_of, unlearned
from letitgo.studies.carry.options import FRESH, RANDOM, SCRAMBLED
from letitgo.studies.carry.study import DENSE, OWN, TICKET, place

if TYPE_CHECKING:
    from letitgo.recipes.tasks import Metric
    from letitgo.studies.carry.study import Carry

Row = dict[str, Any]
Place = tuple[str, str]

SOURCE = "Morcos, Yu, Paganini and Tian, One ticket to win them all (arXiv:1906.02773)."
CONTROLS = {
    FRESH: "own mask, fresh weights",
    SCRAMBLED: "random mask, own weights",
    RANDOM: "random mask, fresh weights",
}
PANELS = 3
"""Levels in the figure of the matrix; the page has all of them in its tables."""
COLUMNS = (
    Column("source", "ticket of"),
    Column("density", "left", "Share of the weights left.", numbers.percent),
    Column("accuracy", "test, %", "Test accuracy under the target.", numbers.points),
    Column("above_own", "above own", "This minus the target's own ticket, in points.", numbers.points, "worse"),
    Column("above_random", "above random", "This minus a random ticket, in points.", numbers.points, "better"),
)
ALL_NUMBERS = (
    Column("source", "ticket of"),
    Column("target", "trained under"),
    Column("level", "level", "How often was pruned.", numbers.count),
    Column("variant", "trained"),
    *COLUMNS[1:3],
    Column("above_own", "above own", "", numbers.points),
    Column("above_random", "above random", "", numbers.points),
    Column("above_everything", "above everything", "This minus all weights, in points.", numbers.points),
    N,
)
LAYERS = (ALL_NUMBERS[0], ALL_NUMBERS[2], Column("layers", "kept of each layer"))
LEGEND = {"critical": "clearly worse than the target's own", "robust": "clearly better than a random ticket"}
VARIED = ("data", "half", "shift", "examples", "optimizer", "lr", "optimizer arguments", "digest of the data")
"""What the names of sources and targets stand for."""


def report(study: Carry, rows: Sequence[Row]) -> Report:
    """The report of carried tickets."""
    one_optimizer = len({place(recipe)[1] for recipe in study.trained}) == 1
    rows, sections = [_shown(row, one_optimizer) for row in rows if row["n"]], []
    for recipe in study.trained:
        here = [row for row in rows if _target(row) == place(recipe)]
        base = next((row for row in here if row["variant"] == DENSE), None)
        table = Table(judged_by(share_of(study), ALL_NUMBERS), here, "All numbers")
        if base and (section := unlearned(study, recipe, base, table)):
            sections.append(section)
            rows = [row for row in rows if row not in here]
    if rows:
        sections.insert(0, _section(study, rows))
    ahead = (
        ""
        if study.rewind == "0"
        else f" So it has the source's training up to {study.rewind}, which those with fresh weights lack."
    )
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t), not corrected for how many there are. "
        "Differences are paired by seed. A ticket is its source's mask and its source's weights at "
        f"{study.rewind}, and takes all of the target's steps, as the controls do.{ahead} A random ticket has a random "
        "mask, fresh weights, and as many weights in each layer as the ticket beside it. The output layer is not "
        "pruned."
    )
    return Report("carry", study.QUESTION, sections, note, SOURCE)


def _section(study: Carry, rows: Sequence[Row]) -> Section:
    carried = [row for row in rows if row["variant"] == TICKET]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    share = share_of(study)
    tables = [_under(rows, target, share) for target in targets]
    shown = len(tables)
    tables.append(Table(judged_by(share, ALL_NUMBERS), rows, "All numbers"))
    kept = [row for row in rows if row["variant"] == OWN]
    tables.append(Table(LAYERS, kept, "Layer by layer"))
    pictures = {"matrix": _matrix(rows, targets)} if carried else {}
    if len({row["level"] for row in rows if row["level"]}) > 1:
        pictures["weights"] = _curves(rows, targets, share.name)
    details = {name: value for name, value in resolved(study.trained[0]).items() if name not in VARIED}
    said = _sentences(rows, carried)
    return Section(_heading(study), _answer(carried), said, tables, shown, pictures, details)


def _heading(study: Carry) -> str:
    """The conditions: what all recipes share, the data, the optimisers, and the pruning."""
    places = [place(recipe) for recipe in study.trained]
    data, optimizers = (list(dict.fromkeys(one[k] for one in places)) for k in (0, 1))
    return (
        f"{heading(study.recipes[0], without=VARIED)}; {listed(list(map(short, data)))} under {listed(optimizers)}; "
        f"{study.levels} levels of {100 * study.rate:g} %, {study.scope}, rewound to {study.rewind}"
    )


def _shown(row: Row, one_optimizer: bool) -> Row:
    """A row with what its cells show; where all have one optimiser, the heading names it."""
    source, target = (
        short(where[0]) if one_optimizer else f"{short(where[0])}, {where[1]}"
        for where in (_source(row) if row["level"] else ("", ""), _target(row))
    )
    return row | {
        "source": source if row["level"] else "",
        "target": target,
        "worse": "critical" if surely(row, "own", -1) else None,
        "better": "robust" if surely(row, "random", 1) else None,
    }


def _source(row: Row) -> Place:
    return row["source_data"], row["source_optimizer"]


def _target(row: Row) -> Place:
    return row["target_data"], row["target_optimizer"]


def short(data: str) -> str:
    """Data without the folder that holds them."""
    return data.rpartition("/")[2]


def surely(row: Row, other: str, sign: int) -> bool:
    """Whether the whole interval of the difference is on one side of zero."""
    middle, half = row[f"above_{other}_mean"], row[f"above_{other}_ci95"]
    return half is not None and sign * middle - half > 0


def _under(rows: Sequence[Row], target: str, share: Metric) -> Table:
    """A line for each ticket trained under one target."""
    here = [row for row in rows if row["target"] == target]
    reached = numbers.points(here[0][f"{share.name}_mean"], here[0][f"{share.name}_ci95"])
    own = [
        row | {"source": f"random mask, weights of {row['source']}"} if row["variant"] == SCRAMBLED else row
        for row in here
        if row["variant"] in (OWN, TICKET, SCRAMBLED)
    ]
    title = f"trained under {target}: everything reaches {reached} %"
    return Table(judged_by(share, COLUMNS), own, title, LEGEND)


def _answer(carried: Sequence[Row]) -> str:
    """At the fewest weights, how many carried tickets do worse than the target's own, and better than random."""
    if not carried:
        return ""
    last = [row for row in carried if row["level"] == max(row["level"] for row in carried)]
    if last[0]["above_own_ci95"] is None:
        return "One seed cannot say whether carried tickets do as well as the target's own."
    worse = sum(surely(row, "own", -1) for row in last)
    said = (
        f"With {numbers.percent(last[0]['density'])} of the weights, {worse} of {len(last)} carried tickets are "
        "clearly worse than the target's own"
    )
    if any(row["above_random_ci95"] is not None for row in last):
        said += f", and {sum(surely(row, 'random', 1) for row in last)} clearly better than a random one"
    return f"{said}."


def _sentences(rows: Sequence[Row], carried: Sequence[Row]) -> list[str]:
    said = []
    for level in sorted({row["level"] for row in carried}, reverse=True):
        own = [row for row in carried if row["level"] == level]
        share = numbers.percent(own[0]["density"])
        said += [f"With {share} of the weights, {kind}: {_ranges(some)}." for kind, some in _kinds(own)]
    if empty := sorted({layer for row in rows for layer in row["empty"].split(", ") if layer}):
        said.append(f"Some tickets have layers without any weight: {', '.join(empty)}.")
    return said


def _kinds(carried: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    named = {
        (True, False): "from other data, same optimiser",
        (False, True): "from another optimiser, same data",
        (True, True): "from other data and another optimiser",
    }
    for differs, kind in named.items():
        own = [row for row in carried if (_differ(row, 0), _differ(row, 1)) == differs]
        if own:
            yield kind, own


def _differ(row: Row, which: int) -> bool:
    return _source(row)[which] != _target(row)[which]


def _ranges(own: Sequence[Row]) -> str:
    said = [f"{_range(own, 'own')} points against the target's own ticket"]
    if any(row["above_random_mean"] is not None for row in own):
        said.append(f"{_range(own, 'random')} against a random one")
    return ", ".join(said)


def _range(own: Sequence[Row], other: str) -> str:
    means = [row[f"above_{other}_mean"] for row in own if row[f"above_{other}_mean"] is not None]
    low, high = numbers.points(min(means, default=None)), numbers.points(max(means, default=None))
    return low if low == high else f"{low} to {high}"


def _matrix(rows: Sequence[Row], targets: Sequence[str]) -> Picture:
    """Difference from the target's own ticket: sources down, targets across, controls below; a panel for each level."""
    levels = sorted({row["level"] for row in rows if row["level"]})
    chosen = sorted({levels[round(i * (len(levels) - 1) / max(1, PANELS - 1))] for i in range(PANELS)})
    sources = list(dict.fromkeys(row["source"] for row in rows if row["level"]))
    places = [f"ticket of {source}" for source in sources]
    places += [text for control, text in CONTROLS.items() if any(row["variant"] == control for row in rows)]
    lines = []
    for level in chosen:
        own = [row for row in rows if row["level"] == level]
        found = {(_place(row), row["target"]): row for row in own if _place(row)}
        values = [[_points(found.get((place, target))) for target in targets] for place in places]
        mark = Grid(values, "points above the target's own", "{:+.2f}")
        title = f"{numbers.percent(own[0]['density'])} of the weights left"
        steps = [target.replace(", ", "\n") for target in targets]
        lines.append([Panel([mark], title, "trained under", places=places, steps=steps)])
    caption = (
        "Test accuracy minus that of the target's own ticket, in points, mean over seeds; the tables have the "
        "intervals. The controls have as many weights in each layer as the target's own ticket."
    )
    return Picture(lines, caption)


def _place(row: Row) -> str:
    """In which line of the matrix a row is; controls are those of the target's own ticket."""
    if row["variant"] in (OWN, TICKET):
        return f"ticket of {row['source']}"
    return CONTROLS[row["variant"]] if row["source"] == row["target"] else ""


def _points(row: Row | None) -> float | None:
    if row is None:
        return None
    return 0.0 if row["variant"] == OWN else None if row["above_own_mean"] is None else 100 * row["above_own_mean"]


def _curves(rows: Sequence[Row], targets: Sequence[str], share: str) -> Picture:
    """Test accuracy against the share of weights left, a panel for each target; few sources have a colour each."""
    sources = list(dict.fromkeys(row["source"] for row in rows if row["level"]))
    few = len(sources) <= len(PALETTE)
    looks: dict[str, dict[str, str]] = {
        f"ticket of {source}": {"colour": PALETTE[i]} if few else {"colour": PALE, "label": "ticket of another"}
        for i, source in enumerate(sources)
    }
    looks |= {
        text: {"colour": GREY, "line": line} for text, line in zip(CONTROLS.values(), ("--", ":", "-."), strict=True)
    }
    panels = []
    for target in targets:
        own = {} if few else {f"ticket of {target}": {"colour": PALETTE[0], "label": "own ticket"}}
        here = [row for row in rows if row["target"] == target and row["level"] and _place(row)]
        shown = [row | {"x": 100 * row["density"], "line": _place(row)} for row in here]
        base = next(row for row in rows if row["target"] == target and row["variant"] == DENSE)
        shares = sorted({row["x"] for row in shown}, reverse=True)
        marks = [
            Rule(100 * base[f"{share}_mean"], label=DENSE, colour=BLACK, line=":"),
            *series(shown, "x", share, "line", looks | own, 100),
        ]
        panels.append(
            Panel(
                marks,
                target,
                "weights left, %",
                f"test {share}, %",
                xlog=True,
                xlim=(1.1 * shares[0], shares[-1] / 1.1),
                ticks=shares,
            )
        )
    pairs = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    return Picture(pairs, f"Test {share} against the weights left, a panel for each target: means with 95 % intervals.")
