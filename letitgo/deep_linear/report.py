"""What the rows of ``deep-linear`` say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from letitgo.report import Column, N, Report, Section, Table, numbers
from letitgo.report.pictures import GREY, PALETTE, Grid, Panel, Picture, Rule, series

if TYPE_CHECKING:
    from letitgo.deep_linear.study import DeepLinear

Row = dict[str, Any]

SOURCE = (
    "Ji and Telgarsky, Gradient descent aligns the layers of deep linear networks (arXiv:1810.02032). "
    "Frozen layers are no part of their theorem."
)
RATIO, ALIGNED = "‖W‖₂ / ‖W‖_F", "|⟨v, u⟩| with the layer above"
ROUNDING = 1e-12
STEPS = {"risk": "a step in inverse proportion to the risk", "constant": "a constant step"}
LOOKS = {
    "balanced": {"colour": PALETTE[2]},
    "zero first layer": {"colour": PALETTE[4]},
    "default": {"colour": PALETTE[0]},
    "one layer": {"colour": GREY, "line": "--"},
}
COLUMNS = (
    Column("case", "case"),
    Column("step", "step", "The last recorded step that every seed reached.", numbers.count),
    Column("least_ratio", "ratio ≥", "Least ‖W‖₂/‖W‖_F of the layers that train; 1 is rank one.", numbers.significant),
    Column("least_adjacent", "aligned ≥", "Least |⟨v,u⟩| of adjacent layers; 1 is aligned.", numbers.significant),
    Column("angle", "angle, °", "Of the product to the maximum-margin direction.", numbers.significant),
)
MORE = (
    *COLUMNS[:2],
    Column("margin", "margin", "Of the product, as a share of the largest.", numbers.significant),
    Column("risk", "risk", "Mean logistic loss, in nats.", numbers.significant),
    Column("ratios", "‖W‖₂/‖W‖_F of each layer"),
    Column("adjacents", "|⟨v,u⟩| of each layer"),
    Column("angle_left", "angle left, °", "To the best that a frozen first layer leaves.", numbers.significant),
    Column("drift", "drift", "Largest spectral norm by which W_{k+1}ᵀW_{k+1} − W_kW_kᵀ moved.", numbers.significant),
    N,
)


def report(study: DeepLinear, rows: Sequence[Row]) -> Report:
    """The report of deep linear networks."""
    rows = [row for row in rows if row["n"]]
    ends = [_line(case, end) for case in cases(rows) if (end := last(rows, **case))]
    tables = [Table(COLUMNS, ends), Table(MORE, ends, "Layer by layer")]
    sections = [
        Section(heading(study), _answer(rows), _sentences(rows), tables, 1, _pictures(study, rows), _details(study))
    ]
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). Convergence with the theorem's own step "
        f"goes with the logarithm of time, so the other cases use {STEPS[study.rule]}, factor {study.step_size:g}, "
        "which is not the theorem's."
    )
    return Report("deep-linear", study.QUESTION, sections if rows else [], note, SOURCE)


def heading(study: DeepLinear) -> str:
    """The network and its data in one line, with what is not the default."""
    first, second, *_ = (*study.classes, 0, 0)
    data = "synthetic points" if study.data == "synthetic" else f"classes {first} and {second} of {study.data}"
    hidden = "×".join(map(str, study.widths)) or "none"
    more = f", initial weights × {study.scale:g}" if study.scale != 1 else ""
    more += f", {study.examples:,} examples at most" if study.data != "synthetic" else ""
    return f"linear network, hidden layers {hidden}, one output, on {data}, {study.steps:,} steps{more}"


def last(rows: Iterable[Row], **where: Any) -> dict[str, Row]:
    """Of one case, the rows of the last step that all its seeds reached, by layer."""
    found = [row for row in rows if row["n"] and all(row[name] == value for name, value in where.items())]
    full = max((row["n"] for row in found), default=0)
    step = max((row["step"] for row in found if row["n"] == full), default=None)
    return {row["layer"]: row for row in found if row["step"] == step}


def cases(rows: Iterable[Row], *kinds: str) -> list[dict[str, Any]]:
    """What tells the cases apart, each once; all kinds by default."""
    names = ("case", "start", "frozen", "rule", "rate")
    found = dict.fromkeys(tuple(row[name] for name in names) for row in rows if not kinds or row["case"] in kinds)
    return [dict(zip(names, key, strict=True)) for key in found]


def named(case: dict[str, Any]) -> str:
    """A case in words."""
    if case["case"] == "one layer":
        return "one layer (logistic regression)"
    if case["case"] == "frozen":
        return f"layer {case['frozen']} frozen"
    return f"{case['start']}" + ("" if case["case"] == "far" else f", theorem × {case['rate']:g}")


def _line(case: dict[str, Any], end: dict[str, Row]) -> Row:
    network, layers = end["network"], [row for name, row in end.items() if name != "network"]
    free = [row for row in layers if row["layer"] != str(case["frozen"])]
    return network | {
        "case": named(case),
        "least_ratio": min((row["ratio_mean"] for row in free if row["ratio_mean"] is not None), default=None),
        "least_adjacent": min((v for row in layers[:-1] if (v := row["adjacent_mean"]) is not None), default=None),
        "ratios": _joined(layers, "ratio_mean"),
        "adjacents": _joined(layers[:-1], "adjacent_mean"),
    }


def _joined(rows: Sequence[Row], name: str) -> str:
    return " ".join("–" if row[name] is None else f"{row[name]:.4f}" for row in rows)


def _answer(rows: Sequence[Row]) -> str:
    """How far the layers align, from the start that gets furthest."""
    ends = [_line(case, end) for case in cases(rows, "far") if (end := last(rows, **case))]
    best = max(ends, key=lambda line: line["least_ratio"] or 0, default=None)
    if best is None:
        return ""
    least = best["least_adjacent"]
    aligned = "" if least is None else f", adjacent layers align to at least {least:.4f}"
    angle = numbers.significant(best["angle_mean"], best["angle_ci95"])
    return (
        f"From the {best['case']} start every layer ends with ‖W‖₂/‖W‖_F of at least {best['least_ratio']:.4f}"
        f"{aligned}, and the product {angle}° from the maximum-margin direction."
    )


def _sentences(rows: Sequence[Row]) -> list[str]:
    pace = [row for row in rows if row["case"] == "theorem" and row["layer"] == "network"]
    said = []
    if pace:
        drift = max(row["drift_mean"] for row in pace)
        first, second = (
            max((row[f"{name}_max"] for row in pace if row[f"{name}_max"] is not None), default=None)
            for name in ("rank_excess", "adjacent_excess")
        )
        said.append(
            f"With the theorem's step, at every recorded step: the first inequality of Lemma 2 {_held(first, drift)}, "
            f"the second {_held(second, drift)}."
        )
        for start in dict.fromkeys(row["start"] for row in pace):
            whole, half = (last(pace, start=start, rate=rate).get("network") for rate in (1.0, 0.5))
            if whole and half and whole["drift_mean"] and half["drift_mean"]:
                said.append(
                    f"From the {start} start the invariants drift by {whole['drift_mean']:.2g}, and by "
                    f"{half['drift_mean']:.2g} with half the step for twice as many."
                )
    return said


def _held(excess: float | None, drift: float) -> str:
    if excess is None:
        return "is empty for one layer"
    if abs(excess) < ROUNDING:
        return "holds with equality up to rounding"
    if excess <= 0:
        return f"holds, with {-excess:.2g} to spare"
    return f"is missed by {excess:.1g}" + (", within the drift of the invariants" if excess <= drift else "")


def _pictures(study: DeepLinear, rows: Sequence[Row]) -> dict[str, Picture]:
    called = ((row, row["start"] if row["case"] == "far" else row["case"]) for row in rows)
    shifted = [row | {"at": row["step"] + 1, "name": name} for row, name in called]
    far = [row for row in shifted if row["case"] == "far"]
    drawn = {}
    if far:
        drawn["layers"] = _layers(study, far)
        drawn["direction"] = _direction([row for row in shifted if row["case"] in ("far", "one layer")])
    if pace := [row for row in shifted if row["case"] == "theorem" and row["layer"] == "network"]:
        drawn["drift"] = _drift(pace)
    if cases(rows, "frozen"):
        drawn["frozen"] = _frozen_grid(study, rows)
    return drawn


def _layers(study: DeepLinear, far: Sequence[Row]) -> Picture:
    """Ratio and adjacent alignment of each layer over steps, a column for each start."""
    starts = list(dict.fromkeys(row["start"] for row in far))
    pairs = zip(study.widths, [*study.widths[1:], 1], strict=True)
    floor = max(map(min, pairs), default=1) ** -0.5
    lines = []
    for name, label in (("ratio", RATIO), ("adjacent", ALIGNED)):
        panels = []
        for start in starts:
            own = [row | {"layer": f"layer {row['layer']}"} for row in far if row["start"] == start]
            own = [row for row in own if row["layer"] != "layer network"]
            marks = [*([Rule(floor, line=":")] if name == "ratio" else []), *series(own, "at", name, "layer", shape="")]
            y = label if start == starts[0] else ""
            panels.append(Panel(marks, f"{start} start", "step + 1", y, xlog=True, ylim=(0, 1.03)))
        lines.append(panels)
    caption = "Each layer along training. Dotted: the least ratio that the widest hidden layers could have."
    return Picture(lines, caption)


def _direction(rows: Sequence[Row]) -> Picture:
    """Risk, angle to the maximum-margin direction and margin over steps."""
    network = [row for row in rows if row["layer"] == "network"]
    wanted = (
        ("risk", "risk, nats", True),
        ("angle", "angle to maximum margin, °", True),
        ("margin", "share of the margin", False),
    )
    panels = [
        Panel(
            [*([Rule(2, line=":")] if name == "angle" else []), *series(network, "at", name, "name", LOOKS, shape="")],
            "",
            "step + 1",
            label,
            xlog=True,
            ylog=log,
        )
        for name, label, log in wanted
    ]
    return Picture([panels], "Where the product goes, with the longer step. Dotted: 2°.")


def _drift(pace: Sequence[Row]) -> Picture:
    """Drift of the invariants with the theorem's step and with half of it, and how far Lemma 2 is missed."""
    rows = [
        row | {"at": row["step"] * row["rate"] + 1, "name": f"{row['start']}, step × {row['rate']:g}"} for row in pace
    ]
    looks = {row["name"]: LOOKS[row["start"]] | {"line": "-" if row["rate"] == 1 else "--"} for row in rows}
    moved = [row for row in rows if row["drift_mean"]]
    panels = [
        Panel(
            series(moved, "at", "drift", "name", looks, shape=""),
            "",
            "step × factor + 1",
            "drift",
            xlog=True,
            ylog=True,
        )
    ]
    for name, title in (("rank_excess", "Lemma 2, first"), ("adjacent_excess", "Lemma 2, second")):
        worst = [row | {"missed_mean": row[f"{name}_max"], "missed_ci95": None} for row in rows if row["rate"] == 1]
        marks = [Rule(0, line="-"), *series(worst, "at", "missed", "name", looks, shape="")]
        panels.append(Panel(marks, title, "step + 1", "missed by", xlog=True))
    return Picture([panels], "With the theorem's step. Right: the worst of seeds and layers; below 0 it holds.")


def _frozen_grid(study: DeepLinear, rows: Sequence[Row]) -> Picture:
    """Where training ends with each layer frozen."""
    default = cases([row for row in rows if row["start"] == "default"], "far")
    compared = [*default, *cases(rows, "frozen")]
    places = ["nothing frozen" if case["frozen"] is None else named(case) for case in compared]
    ends = [last(rows, **case) for case in compared]
    panels = []
    for name, label, count in (("ratio", RATIO, study.depth), ("adjacent", ALIGNED, study.depth - 1)):
        if count:
            values = [[end[str(k + 1)][f"{name}_mean"] if end else None for k in range(count)] for end in ends]
            mark = Grid(values, label, "{:.3f}", low=0, high=1)
            panels.append(Panel([mark], x="layer", places=places, steps=[str(k + 1) for k in range(count)]))
    return Picture([panels], "The end of training with each layer frozen in turn, from PyTorch's initialization.")


def _details(study: DeepLinear) -> Row:
    return {
        "data": study.data,
        "hidden layers": "×".join(map(str, study.widths)),
        "loss": "logistic, mean over all examples; no bias; float64",
        "steps": f"{study.steps:,} (twice as many with half the theorem's step)",
        "longer step": f"{STEPS[study.rule]}, factor {study.step_size:g}",
        "factor of the initial weights": f"{study.scale:g}",
        "seeds": f"{study.seed} to {study.seed + study.seeds - 1}",
    }
