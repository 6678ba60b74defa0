"""What the rows of tickets say."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from letitgo.report import Column, N, Report, Section, Table, numbers, pivot
from letitgo.report.pictures import GREY, PALETTE, Panel, Picture, Rule, series
from letitgo.report.words import groups, heading, judged_by, listed, resolved, share_of, unlearned

if TYPE_CHECKING:
    from letitgo.studies.ticket.study import Ticket

Row = dict[str, Any]

SOURCE = "Frankle and Carbin (arXiv:1803.03635); Frankle, Dziugaite, Roy and Carbin (arXiv:1903.01611)."
DENSE = "everything"
NAMES = {
    "ticket": "ticket",
    "fresh weights": "same mask, fresh weights",
    "random mask": "random mask, original weights",
    "random mask and fresh weights": "random mask, fresh weights",
    "frozen": "pruned weights frozen where they started",
    "complement": "what was pruned trained, the ticket frozen",
}
"""The variants in words, the same everywhere."""
HEADS = {
    "ticket": "ticket",
    "fresh weights": "fresh weights",
    "random mask": "random mask",
    "random mask and fresh weights": "both random",
    "frozen": "frozen",
    "complement": "complement",
}
"""The variants as heads of columns."""
LOOKS = {
    variant: {"label": HEADS[variant], "colour": colour, "shape": shape, "line": line}
    for variant, (colour, shape, line) in {
        "ticket": (PALETTE[2], "o", "-"),
        "fresh weights": (PALETTE[1], "s", "--"),
        "random mask": (PALETTE[4], "^", "--"),
        "random mask and fresh weights": (GREY, "v", ":"),
        "frozen": (PALETTE[0], "D", "-."),
        "complement": (PALETTE[6], "P", ":"),
    }.items()
}
ACROSS = 4
"""Variants side by side in a table of 80 columns."""
LEGEND = {"critical": "clearly worse than all weights: the whole interval of the drop is above 0"}
ALL_NUMBERS = (
    Column("level", "level", "How often was pruned.", numbers.count),
    Column("name", "trained"),
    Column("weights_left", "weights left", "Weights that train, of all that pruning is about.", numbers.count),
    Column("density", "share", "The same as a share.", numbers.percent),
    Column("accuracy", "test, %", "Test accuracy at the end.", numbers.points),
    Column("drop", "drop", "All weights minus this, paired by seed, in points.", numbers.points),
    Column("below_ticket", "below ticket", "The level's ticket minus this, paired, in points.", numbers.points),
    Column("stop", "early stop", "Step of least loss on the held-out examples.", numbers.count),
    Column("stop_accuracy", "test then, %", "Test accuracy at that step.", numbers.points),
    N,
)
LEVELS = 6
"""Levels side by side in the table of layers."""
STABILITY = (
    *ALL_NUMBERS[:2],
    ALL_NUMBERS[3],
    Column("pruning_l2", "to pruning, L2", "Distance from the whole network.", numbers.significant),
    Column("pruning_angle", "°", "The same as an angle.", numbers.significant),
    Column("order_l2", "to data order, L2", "Distance between two orders of the data.", numbers.significant),
    Column("order_angle", "order, °", "The same as an angle.", numbers.significant),
)


def report(study: Ticket, rows: Sequence[Row]) -> Report:
    """The report of tickets."""
    sections = [
        _section(study, recipe, found)
        for recipe, part in groups(study, rows)
        if (found := [row for row in part if row["n"]]) and found[0]["variant"] == DENSE
    ]
    back = "their initial values" if study.rewind == "0" else f"where they were after {study.rewind}"
    how = "the trained network is pruned once to each level's density" if study.one_shot else "level by level"
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). Magnitude pruning {how}, "
        f"{study.scope}-wise; kept weights go back to {back}; biases and norms are not pruned. Fresh weights train for "
        "the full length. A drop is paired: the same seed with all weights, minus this."
    )
    return Report("ticket", study.QUESTION, sections, note, SOURCE)


def _section(study: Ticket, recipe: Any, rows: list[Row]) -> Section:
    rows = [row | {"name": NAMES.get(row["variant"], DENSE), "below": _below(row)} for row in rows]
    pruned = [row for row in rows if row["level"]]
    tickets = [row for row in rows if row["variant"] == "ticket"]
    stable = [row for row in rows if row["order_l2_mean"] is not None]
    share = share_of(study)
    tables = [*_levels(pruned, share.name), *([_layers(tickets)] if tickets else [])]
    shown = len(tables)
    tables.append(Table(judged_by(share, ALL_NUMBERS), rows, "All numbers"))
    tables += [Table(STABILITY, stable, "Stability")] if stable else []
    if section := unlearned(study, recipe, rows[0], tables[shown]):
        return section
    pictures = {"accuracy": _against_weights(rows, share.name, f"test {share.name}, %", 100)}
    if rows[0]["stop_mean"] is not None:
        pictures["stop"] = _against_weights(rows, "stop", "step of least validation loss", 1)
        pictures["stop-accuracy"] = _against_weights(rows, "stop_accuracy", f"test {share.name} at that step, %", 100)
    if stable:
        pictures["stability"] = _stability(rows, stable)
    said = _sentences(rows, tickets, stable)
    return Section(
        heading(recipe, study.swept),
        _answer(rows, tickets, share.name),
        said,
        tables,
        shown,
        pictures,
        resolved(recipe),
    )


def _levels(pruned: Sequence[Row], share: str) -> list[Table]:
    """Levels down, variants across; as many tables as fit the variants."""
    wide = pivot(pruned, ("level",), lambda row: row["variant"], (share, "below"))
    shares = {row["level"]: row["density"] for row in pruned if row["variant"] == "ticket"}
    rows = [row | {"density": shares.get(row["level"])} for row in wide]
    variants = list(dict.fromkeys(row["variant"] for row in pruned))
    tables = []
    for some in (variants[i : i + ACROSS] for i in range(0, len(variants), ACROSS)):
        columns = [Column("level", "level", shown=numbers.count), Column("density", "left", shown=numbers.percent)]
        for variant in some:
            head, says = HEADS[variant], NAMES[variant]
            columns.append(Column(f"{variant} {share}", head, says, numbers.points, f"{variant} below"))
        tables.append(Table(columns, rows, f"test {share}, %", LEGEND))
    return tables


def _layers(tickets: Sequence[Row]) -> Table:
    """Layers down; what each level's ticket of the first seed leaves of them across, the last level among them."""
    chosen = tickets[:: -max(1, ceil(len(tickets) / LEVELS))][::-1]
    shares = [dict(part.rsplit(" ", 1) for part in row["layers"].split(", ") if part) for row in chosen]
    columns = [Column("layer", "layer")]
    columns += [Column(f"{row['level']}", f"level {row['level']}", "", numbers.percent) for row in chosen]
    rows: list[Row] = [
        {"layer": layer} | {f"{row['level']}": float(own[layer]) for row, own in zip(chosen, shares, strict=True)}
        for layer in (shares[0] if shares else ())
    ]
    return Table(columns, rows, "weights left of each layer, first seed")


def _below(row: Row) -> str | None:
    """The mark of a cell whose drop below all weights is clearly above 0."""
    if row["variant"] == DENSE or row["drop_ci95"] is None:
        return None
    return "critical" if row["drop_mean"] - row["drop_ci95"] > 0 else None


def _share(row: Row) -> str:
    return f"{100 * row['density']:.3g} %"


def _answer(rows: Sequence[Row], tickets: Sequence[Row], share: str) -> str:
    """How few weights, trained alone from their start, are not clearly worse than all."""
    base, last = rows[0], _reaches(tickets)
    reached = numbers.points(base[f"{share}_mean"], base[f"{share}_ci95"])
    whole = f"all {base['weights_left']:,} weights ({reached} %)"
    if not tickets or tickets[0]["drop_ci95"] is None:
        return f"One seed cannot say how few weights do as well as {whole}."
    if last is None:
        return f"No ticket does as well as {whole}: each is clearly worse."
    drop = numbers.points(last["drop_mean"], last["drop_ci95"])
    end = ", the last level" if last is tickets[-1] else ""
    return (
        f"Down to {_share(last)} of the weights{end}, trained alone, tickets are not clearly worse than {whole}: the "
        f"drop is {drop} points."
    )


def _reaches(rows: Sequence[Row]) -> Row | None:
    """The last of the levels, from the first on without a gap, at which the drop is not clearly above zero."""
    last = None
    for row in rows:
        if row["below"] or row["drop_ci95"] is None:
            break
        last = row
    return last


def _sentences(rows: Sequence[Row], tickets: Sequence[Row], stable: Sequence[Row]) -> list[str]:
    said = []
    for variant in dict.fromkeys(row["variant"] for row in rows if row["level"]):
        own = [row for row in rows if row["variant"] == variant]
        if own[0]["drop_ci95"] is not None:
            said.append(_how_far(own))
    if empty := [f"{row['empty']} at level {row['level']}" for row in tickets if row["empty"]]:
        said.append(f"Nothing is left of {'; '.join(empty)}.")
    if tickets and tickets[0]["stop_ratio_mean"] is not None:
        said.append(_how_early(min(tickets, key=lambda row: row["stop_ratio_mean"])))
    return said + [_how_stable(row) for row in stable if row["level"] == stable[-1]["level"]]


def _how_far(rows: Sequence[Row]) -> str:
    """Where one variant is clearly worse than all weights, and where better."""
    name = NAMES[rows[0]["variant"]]
    worse = [_share(row) for row in rows if row["below"] == "critical"]
    better = [_share(row) for row in rows if row["drop_mean"] + row["drop_ci95"] < 0]
    where = "at every level" if len(worse) == len(rows) else f"at {listed(worse)}" if worse else "at no level"
    more = f", clearly better at {listed(better)}" if better else ""
    return f"{name[0].upper()}{name[1:]}: clearly worse than all weights {where}{more}."


def _how_early(row: Row) -> str:
    """The level with the earliest least loss."""
    ratio, half = row["stop_ratio_mean"], row["stop_ratio_ci95"]
    if ratio >= 1:
        return "At no level is the loss on the held-out examples least before it is with all weights."
    sure = "" if half is not None and ratio + half < 1 else ", which is not clearly earlier"
    return (
        f"The loss on the held-out examples is least after {numbers.decimal(ratio, half)} of the steps that all "
        f"weights take, at {_share(row)} of the weights{sure}; no other level is earlier."
    )


def _how_stable(row: Row) -> str:
    """The stability of one variant."""
    names = ("order_l2", "order_angle", "pruning_l2", "pruning_angle")
    apart, angle, pruned, turned = (row[f"{name}_mean"] for name in names)
    return (
        f"Stability at {_share(row)}, {NAMES[row['variant']]}: two orders of the data end {apart:.3g} apart "
        f"({angle:.3g}°); trained, it is {pruned:.3g} ({turned:.3g}°) from the whole network."
    )


def _against_weights(rows: Sequence[Row], column: str, label: str, factor: float) -> Picture:
    """A column against the share of weights left, falling along a log axis, a line for each variant, as in FC18."""
    base = Rule(factor * rows[0][f"{column}_mean"], label="all weights", line=":")
    panel = _panel(rows, [base, *_lines(rows, column, factor)], label)
    return Picture([[panel]], f"{label[0].upper()}{label[1:]} against the weights left: means with 95 % intervals.")


def _lines(rows: Sequence[Row], column: str, factor: float = 1) -> list[Any]:
    """A line for each variant; that of tickets begins at all weights."""
    shown = [row | {"x": 100 * row["density"]} for row in rows]
    shown = [row | {"variant": "ticket"} if row["variant"] == DENSE else row for row in shown]
    return series(shown, "x", column, "variant", LOOKS, factor)


def _panel(rows: Sequence[Row], marks: Sequence[Any], label: str, title: str = "", **limits_of_y: Any) -> Panel:
    shares = sorted({round(100 * row["density"], 4) for row in rows if row["density"]}, reverse=True)
    own = {round(100 * row["density"], 4) for row in rows if row["variant"] in (DENSE, "ticket")}
    levels = sorted(own, reverse=True)
    pad = 1.1 * (shares[0] / shares[-1]) ** 0.03
    ticks = levels[:: max(1, -(-len(levels) // 8))]
    limits = (pad * shares[0], shares[-1] / pad)
    return Panel(marks, title, "weights left, %", label, xlog=True, xlim=limits, ticks=ticks, **limits_of_y)


def _stability(rows: Sequence[Row], stable: Sequence[Row]) -> Picture:
    """Stability to pruning and to the order of the data against the share of weights left (FDRC19)."""
    panels = [
        [
            _panel(stable, _lines(stable, f"{kind}_{name}"), label, title, ylim=(0, None))
            for name, label in (("l2", "distance"), ("angle", "angle, degrees"))
        ]
        for kind, title in (("pruning", "to pruning"), ("order", "to the order of the data"))
    ]
    caption = (
        "Distance and angle, on the weights kept, between the whole network and the pruned one trained in the same "
        "order (above), and between two trainings of the pruned one in different orders (below): lower is more stable."
    )
    return Picture(panels, caption)
