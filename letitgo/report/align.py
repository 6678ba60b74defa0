"""What is told of the alignment of layers: tables, sentences, figures, the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import length
from letitgo.report.figures import STYLE

if TYPE_CHECKING:
    from letitgo.studies.align import Align, AlignDense
    from letitgo.studies.compute import Outcome

Row = dict[str, Any]

SOURCE = (
    "Ji and Telgarsky, “Gradient descent aligns the layers of deep linear networks” (arXiv:1810.02032). "
    "Frozen layers are no part of their theorem."
)
RATIO = r"$\|W\|_2\,/\,\|W\|_F$"
ROUNDING = 1e-12
STEPS = {
    "theorem": "the theorem’s step",
    "risk": "a step in inverse proportion to the risk",
    "constant": "a constant step",
}
COLOURS = {"balanced": "#2a7f62", "zero first layer": "#c58b1b", "default": "#3b5f8f"}


def number(mean: float | None, half: float | None = None, digits: int = 4) -> str:
    """A mean and the half-width of its interval."""
    if mean is None:
        return "–"
    spread = "" if half is None else f" ± {half:.0f}" if half >= 1 else f" ± {half:.1g}"
    return f"{mean:.{digits}g}{spread}"


def last(rows: Iterable[Row], **where: Any) -> dict[str, Row]:
    """Of one case, the rows of the last step that all its seeds reached, by layer."""
    found = [row for row in rows if row["n"] and all(row[name] == value for name, value in where.items())]
    full = max((row["n"] for row in found), default=0)
    step = max((row["step"] for row in found if row["n"] == full), default=None)
    return {row["layer"]: row for row in found if row["step"] == step}


def cases(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What tells the cases apart, each once."""
    names = ("case", "start", "frozen", "rule", "rate")
    return [
        dict(zip(names, key, strict=True)) for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows)
    ]


def named(case: dict[str, Any]) -> str:
    """A case in words."""
    if case["case"] == "one layer":
        return "one layer (logistic regression)"
    if case["case"] == "frozen":
        return f"layer {case['frozen']} frozen"
    return f"{case['start']}" + ("" if case["case"] == "far" else f", theorem’s step × {case['rate']:g}")


def summary(rows: Sequence[Row]) -> list[Row]:
    """A line for each case, at its end."""
    lines = []
    for case in cases(rows):
        end = last(rows, **case)
        if not end:
            continue
        network, layers = end["network"], [row for name, row in end.items() if name != "network"]
        lines.append(
            {
                "case": named(case),
                "step": f"{network['step']:,}",
                "risk": number(network["risk_mean"], digits=2),
                "‖W‖₂/‖W‖_F": _joined(layers, "ratio_mean"),
                "|⟨v,u⟩|": _joined(layers[:-1], "adjacent_mean"),
                "angle, °": number(network["angle_mean"], network["angle_ci95"], 3),
                "margin": number(network["margin_mean"], network["margin_ci95"], 3),
                "drift": number(network["drift_mean"], digits=2),
                "n": str(network["n"]),
            }
        )
    return lines


def _joined(rows: Sequence[Row], name: str) -> str:
    return " ".join("–" if row[name] is None else f"{row[name]:.4f}" for row in rows)


def heading(study: Align) -> str:
    """One line on the network and its data."""
    data = (
        study.data
        if study.data == "synthetic"
        else f"classes {study.classes[0]} and {study.classes[1]} of {study.data}"
    )
    hidden = "×".join(map(str, study.widths)) or "none"
    return f"Linear network of {study.depth} layer{'s' * (study.depth > 1)} (hidden: {hidden}), one output, on {data}"


def answers(rows: Sequence[Row]) -> list[str]:
    """What the rows say, in sentences."""
    said = []
    for case in cases(rows):
        end = last(rows, **case)
        if case["case"] != "far" or not end:
            continue
        network, layers = end["network"], [row for name, row in end.items() if name != "network"]
        ratios = [row["ratio_mean"] for row in layers if row["ratio_mean"] is not None]
        adjacent = [row["adjacent_mean"] for row in layers[:-1] if row["adjacent_mean"] is not None]
        aligned = f", adjacent layers align to at least {min(adjacent):.4f}" if adjacent else ""
        said.append(
            f"From the {case['start']} start the least ratio ‖W‖₂/‖W‖_F ends at {min(ratios):.4f}{aligned}, and the "
            "product is "
            f"{number(network['angle_mean'], network['angle_ci95'], 3)}° from the maximum-margin direction, with "
            f"{100 * (network['margin_mean'] or 0):.1f} % of its margin."
        )
    pace = [row for row in rows if row["case"] == "theorem" and row["layer"] == "network" and row["n"]]
    if pace:
        worst = {
            name: max((row[f"{name}_max"] for row in pace if row[f"{name}_max"] is not None), default=None)
            for name in ("rank_excess", "adjacent_excess")
        }
        drift = max(row["drift_mean"] for row in pace)
        said.append(
            f"With the theorem’s step, at every recorded step: the first inequality of Lemma 2 "
            f"{_held(worst['rank_excess'], drift)}, the second {_held(worst['adjacent_excess'], drift)}."
        )
        for start in dict.fromkeys(row["start"] for row in pace):
            whole, half = (last(pace, start=start, rate=rate).get("network") for rate in (1.0, 0.5))
            if whole and half and whole["drift_mean"] and half["drift_mean"]:
                said.append(
                    f"From the {start} start the invariants drift by {whole['drift_mean']:.2g}, and by "
                    f"{half['drift_mean']:.2g} with half the step for twice as many: "
                    f"{whole['drift_mean'] / half['drift_mean']:.2f} times less."
                )
    said += [_frozen(rows, case) for case in cases(rows) if case["case"] == "frozen" and last(rows, **case)]
    return said


def _held(excess: float | None, drift: float) -> str:
    if excess is None:
        return "is empty for one layer"
    if abs(excess) < ROUNDING:
        return "holds with equality up to rounding"
    if excess <= 0:
        return f"holds, with {-excess:.2g} to spare"
    return f"is missed by {excess:.1g}" + (", within the drift of the invariants" if excess <= drift else "")


def _frozen(rows: Sequence[Row], case: dict[str, Any]) -> str:
    end = last(rows, **case)
    network, layers = end["network"], [row for name, row in end.items() if name != "network"]
    ratios = [
        row["ratio_mean"] for row in layers if row["layer"] != str(case["frozen"]) and row["ratio_mean"] is not None
    ]
    text = (
        f"With layer {case['frozen']} frozen at its initialization the trained layers reach a ratio of at least "
        f"{min(ratios):.3f}, and the product ends {number(network['angle_mean'], network['angle_ci95'], 3)}° from the "
        f"maximum-margin direction, with {number(network['margin_mean'], network['margin_ci95'], 3)} of its margin"
    )
    if network["angle_left_mean"] is not None:
        left = number(network["angle_left_mean"], network["angle_left_ci95"], 3)
        text += f"; it is {left}° from that direction among the outputs of the frozen layer"
    return text + "."


def show_align(console: Console, study: Align, rows: list[Row]) -> None:
    """The study of deep linear networks for a person: where each case ends, and the answer in words."""
    console.print(f"\n[bold]{escape(heading(study))}[/bold]")
    table = Table(pad_edge=False)
    lines = summary(rows)
    for name in lines[0] if lines else ():
        table.add_column(escape(name), justify="left" if name == "case" else "right")
    for line in lines:
        table.add_row(*map(escape, line.values()))
    console.print(table)
    for sentence in answers(rows):
        console.print(escape(sentence))


def _line(ax: Any, rows: Sequence[Row], name: str, band: bool = True, **style: Any) -> None:
    """A quantity over steps, with its interval over seeds where there is room for it."""
    shown = [row for row in rows if row[f"{name}_mean"] is not None]
    steps = np.array([row["step"] for row in shown]) + 1
    means = np.array([row[f"{name}_mean"] for row in shown])
    halves = np.array([row[f"{name}_ci95"] or 0.0 for row in shown])
    ax.plot(steps, means, lw=1.2, **style)
    if band:
        ax.fill_between(steps, means - halves, means + halves, alpha=0.12, lw=0, color=style.get("color"))


def _series(rows: Sequence[Row], layer: str, **where: Any) -> list[Row]:
    return [row for row in rows if row["layer"] == layer and row["n"] and all(row[k] == v for k, v in where.items())]


def layers_figure(study: Align, rows: Sequence[Row]) -> Figure:
    """Ratio and adjacent alignment of each layer over steps, a column per start."""
    far = [row for row in rows if row["case"] == "far"]
    starts = list(dict.fromkeys(row["start"] for row in far))
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, study.depth))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.1 + 2.4 * len(starts), 4.2))
        panels = figure.subplots(2, len(starts), sharex=True, sharey="row", squeeze=False)
        for column, start in zip(panels.T, starts, strict=True):
            for ax, name in zip(column, ("ratio", "adjacent"), strict=True):
                ax.set_xscale("log")
                for place in range(study.depth - (name == "adjacent")):
                    label = f"layer {place + 1}"
                    _line(ax, _series(far, str(place + 1), start=start), name, color=colours[place], label=label)
                ax.set_ylim(0, 1.03)
            widest = (
                max(min(pair) for pair in zip(study.widths, [*study.widths[1:], 1], strict=True)) if study.widths else 1
            )
            column[0].axhline(widest**-0.5, color="0.6", lw=0.8, ls=":")
            column[0].set_title(f"{start} start")
            column[1].set_xlabel("step + 1")
        panels[0, 0].set_ylabel(RATIO)
        panels[1, 0].set_ylabel(r"$|\langle v, u\rangle|$ with the layer above")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure


def direction_figure(rows: Sequence[Row]) -> Figure:
    """Risk, angle to the maximum-margin direction and margin over steps, a line per start."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.7))
        panels = figure.subplots(1, 3)
        wanted = (
            ("risk", "risk, nats"),
            ("angle", "angle to maximum margin, °"),
            ("margin", "margin / maximum margin"),
        )
        for ax, (name, title) in zip(panels, wanted, strict=True):
            ax.set_xscale("log")
            if name != "margin":
                ax.set_yscale("log")
            for case in cases(row for row in rows if row["case"] in ("far", "one layer")):
                single = case["case"] == "one layer"
                style = {"color": "0.45", "ls": "--"} if single else {"color": COLOURS[case["start"]]}
                label = "one layer" if single else case["start"]
                _line(ax, _series(rows, "network", **case), name, band=name == "margin", label=label, **style)
            ax.set(xlabel="step + 1", ylabel=title)
        panels[1].axhline(2, color="0.6", lw=0.8, ls=":")
        panels[2].set_ylim(-0.05, 1.05)
        figure.legend(
            *panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4, loc="outside upper center"
        )
    return figure


def drift_figure(rows: Sequence[Row]) -> Figure:
    """Drift of the invariants with the theorem's step and with half of it, and the slack of Lemma 2."""
    pace = [row for row in rows if row["case"] == "theorem"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.8))
        drift, first, second = figure.subplots(1, 3)
        drift.set(xscale="log", yscale="log", ylabel="drift of the invariants", xlabel="step × factor + 1")
        for ax, title in ((first, "Lemma 2, first"), (second, "Lemma 2, second")):
            ax.set(xscale="log", xlabel="step × factor + 1", title=title)
            ax.axhline(0, color="0.6", lw=0.8)
            ax.set_ylabel("missed by")
        for case in cases(pace):
            series = [{**row, "step": row["step"] * row["rate"]} for row in _series(pace, "network", **case)]
            style = {"color": COLOURS[case["start"]], "ls": "-" if case["rate"] == 1 else "--"}
            moved = [row for row in series if row["drift_mean"]]
            _line(drift, moved, "drift", band=False, label=f"{case['start']}, step × {case['rate']:g}", **style)
            for ax, name in ((first, "rank_excess_max"), (second, "adjacent_excess_max")):
                told = [row for row in series if row[name] is not None and case["rate"] == 1]
                ax.plot([row["step"] + 1 for row in told], [row[name] for row in told], lw=1.2, **style)
        figure.legend(
            *drift.get_legend_handles_labels(), frameon=False, fontsize=7.5, ncols=3, loc="outside upper center"
        )
    return figure


def frozen_figure(study: Align, rows: Sequence[Row]) -> Figure:
    """Where training ends with each layer frozen: ratios, adjacent alignment; and the angle over steps."""
    compared = [
        case for case in cases(rows) if case["case"] == "frozen" or (case["case"], case["start"]) == ("far", "default")
    ]
    names = ["nothing" if case["frozen"] is None else f"layer {case['frozen']}" for case in compared]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.4 + 0.36 * max(4, len(compared))))
        *tables, angle = figure.subplots(1, 3, width_ratios=[study.depth, max(1, study.depth - 1), 4])
        for ax, name, columns, title in (
            (tables[0], "ratio", study.depth, RATIO),
            (tables[1], "adjacent", study.depth - 1, r"$|\langle v, u\rangle|$"),
        ):
            ends = [last(rows, **case) for case in compared]
            grid = np.array(
                [[np.nan if not end else end[str(k + 1)][f"{name}_mean"] for k in range(columns)] for end in ends],
                dtype=float,
            )
            ax.imshow(grid, cmap="Blues", vmin=0.4, vmax=1, aspect="auto")
            for (i, j), value in np.ndenumerate(grid):
                if np.isfinite(value):
                    mark = "*" if name == "ratio" and compared[i]["frozen"] == j + 1 else ""
                    ax.text(
                        j,
                        i,
                        f"{value:.3f}{mark}",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if value > 0.8 else "black",
                    )
            marks = [f"{k + 1}" if name == "ratio" else f"{k + 1}–{k + 2}" for k in range(columns)]
            ax.set_xticks(range(columns), marks)
            ax.set_yticks(range(len(names)), names if name == "ratio" else [""] * len(names))
            ax.set(title=title, xlabel="layer" if name == "ratio" else "layers")
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        tables[0].set_ylabel("frozen at initialization")
        angle.set(xscale="log", yscale="log", xlabel="step + 1", ylabel="angle to maximum margin, °")
        colours = ["black", *mpl.colormaps["viridis"](np.linspace(0, 0.9, max(1, len(compared))))]
        for case, name in zip(compared, names, strict=True):
            colour = colours[case["frozen"] or 0]
            _line(angle, _series(rows, "network", **case), "angle", band=False, color=colour, label=name)
        angle.legend(frameon=False, fontsize=7.5, title="frozen", title_fontsize=7.5)
    return figure


def write_align_report(study: Align, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``align.html`` and its figures into a folder; see :func:`letitgo.report.page.write_report`."""
    from letitgo.report.page import Section, write_report

    rows = outcome.rows
    kinds = {row["case"] for row in rows if row["n"]}
    drawn: dict[str, tuple[Figure, str]] = {}
    if "far" in kinds:
        drawn["layers"] = (
            layers_figure(study, rows),
            "Each layer along training, with its interval over seeds. Dotted: the least ratio that the widest hidden "
            "layers could have.",
        )
        drawn["direction"] = (
            direction_figure(rows),
            f"With {STEPS[study.rule]}, which is not the theorem’s: with the theorem’s own, convergence of the "
            "direction goes with the logarithm of time. Dotted: 2°.",
        )
    if "theorem" in kinds:
        drawn["drift"] = (
            drift_figure(rows),
            "With the theorem’s step. Left: largest spectral norm by which W_{k+1}ᵀW_{k+1} − W_kW_kᵀ has moved; half "
            "the step, twice as many. Right: by how much each inequality of Lemma 2 is missed at worst, over seeds and "
            "layers; below 0 it holds.",
        )
    if "frozen" in kinds:
        drawn["frozen"] = (
            frozen_figure(study, rows),
            "Each layer frozen at its initialization in turn (*), PyTorch’s own law. Outside the theorem.",
        )
    about = {
        "data": study.data,
        "hidden layers": "×".join(map(str, study.widths)),
        "loss": "logistic, mean over all examples; no bias; float64",
        "steps": f"{study.steps:,} (twice as many with half the theorem’s step)",
        "longer step": f"{STEPS[study.rule]}, factor {study.rate:g}",
        "factor of the initial weights": f"{study.scale:g}",
        "seeds": f"{study.seed} to {study.seed + study.seeds - 1}",
    }
    section = Section(heading(study), answers(rows), drawn, {"Where each case ends": summary(rows)}, about)
    note = (
        f"Mean over {study.seeds} seeds; ± is the half-width of the 95 % interval (Student’s t). Margin: of the "
        "product, as a share of the largest. Drift: of the invariants; a frozen layer breaks those it takes part in."
    )
    return write_report("align", "Do the layers align?", note, [section], outcome, folder, command, SOURCE)


def dense_groups(study: AlignDense, rows: Sequence[Row]) -> Iterable[tuple[Any, list[Row]]]:
    """The rows of each recipe of a sweep."""
    for recipe in study.recipes:
        own = [row for row in rows if row["n"] and all(row[name] == getattr(recipe, name) for name in study.swept)]
        yield recipe, own


def dense_summary(rows: Sequence[Row]) -> list[Row]:
    """A line for each frozen layer and dense layer, at the beginning and the end of training."""
    first = {row["layer"]: row for row in rows if row["epoch"] == 0}
    end = max((row["epoch"] for row in rows), default=0)
    return [
        {
            "frozen": row["frozen"] or "nothing",
            "layer": row["layer"],
            "floor": number(row["floor"], digits=3),
            "ratio at the start": number(first[row["layer"]]["ratio_mean"], digits=3) if row["layer"] in first else "–",
            "ratio at the end": number(row["ratio_mean"], row["ratio_ci95"], 3),
            "|⟨v,u⟩| at the end": number(row["adjacent_mean"], row["adjacent_ci95"], 3),
            "‖W‖_F": number(row["frobenius_mean"], digits=3),
            "training loss": number(row["train_loss_mean"], digits=3),
            "test accuracy, %": number(
                100 * row["accuracy_mean"], 100 * row["accuracy_ci95"] if row["accuracy_ci95"] else None
            ),
            "n": str(row["n"]),
        }
        for row in rows
        if row["epoch"] == end
    ]


def dense_answers(rows: Sequence[Row]) -> list[str]:
    """What the rows of one recipe say, in sentences."""
    first = {row["layer"]: row for row in rows if row["epoch"] == 0 and row["frozen"] is None}
    end = max((row["epoch"] for row in rows), default=0)
    final = {row["layer"]: row for row in rows if row["epoch"] == end and row["frozen"] is None}
    told = [
        f"{layer} {first[layer]['ratio_mean']:.3f} → {number(row['ratio_mean'], row['ratio_ci95'], 3)}"
        for layer, row in final.items()
        if layer in first and row["ratio_mean"] is not None and first[layer]["ratio_mean"] is not None
    ]
    return [
        f"‖W‖₂/‖W‖_F over {end} epochs: {'; '.join(told)}.",
        "These layers have activations between them and the network several outputs: the theorem says nothing of them, "
        "and they need not reach 1.",
    ]


def show_dense(console: Console, study: AlignDense, rows: list[Row]) -> None:
    """The study of a network's dense layers for a person."""
    for recipe, part in dense_groups(study, rows):
        console.print(f"\n[bold]{escape(_dense_heading(study, recipe))}[/bold]")
        table = Table(pad_edge=False)
        lines = dense_summary(part)
        for name in lines[0] if lines else ():
            table.add_column(escape(name), justify="left" if name in ("frozen", "layer") else "right")
        for line in lines:
            table.add_row(*map(escape, line.values()))
        console.print(table)
        for sentence in dense_answers(part) if lines else ():
            console.print(escape(sentence))


def _dense_heading(study: AlignDense, recipe: Any) -> str:
    varied = ", ".join(f"{name.replace('_', '-')} {getattr(recipe, name)}" for name in study.swept)
    return f"Dense layers of {recipe.model} on {recipe.data}, {length(recipe)}" + (f", {varied}" if varied else "")


def dense_figure(rows: Sequence[Row]) -> Figure:
    """Ratio and adjacent alignment over epochs, and the ratio against the training loss."""
    shown = [row for row in rows if row["frozen"] is None]
    layers = list(dict.fromkeys(row["layer"] for row in shown))
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 2.8))
        ratio, adjacent, loss = figure.subplots(1, 3)
        for layer, colour in zip(layers, colours, strict=True):
            own = [row for row in shown if row["layer"] == layer]
            epochs = [row["epoch"] for row in own]
            for ax, name in ((ratio, "ratio"), (adjacent, "adjacent")):
                means = [row[f"{name}_mean"] for row in own]
                if None not in means:
                    halves = [row[f"{name}_ci95"] or 0 for row in own]
                    ax.errorbar(epochs, means, halves, fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=layer)
            ratio.axhline(own[0]["floor"], color=colour, lw=0.8, ls=":")
            if all(row["train_loss_mean"] for row in own):
                loss.plot(
                    [row["train_loss_mean"] for row in own],
                    [row["ratio_mean"] for row in own],
                    "o-",
                    ms=3,
                    lw=1,
                    color=colour,
                )
        ratio.set(ylabel=RATIO, xlabel="epoch", ylim=(0, None))
        adjacent.set(ylabel=r"$|\langle v, u\rangle|$ with the layer above", xlabel="epoch", ylim=(0, 1.03))
        loss.set(ylabel=RATIO, xlabel="training loss, nats", xscale="log", ylim=(0, None))
        loss.invert_xaxis()
        figure.legend(*ratio.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure


def write_dense_report(study: AlignDense, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``align.html`` and its figures into a folder; see :func:`letitgo.report.page.write_report`."""
    from letitgo.report.page import Section, resolved, write_report

    sections = []
    for place, (recipe, rows) in enumerate(dense_groups(study, outcome.rows), start=1):
        if not rows:
            continue
        mark = f"dense-{place}" if len(study.recipes) > 1 else "dense"
        caption = "Mean over seeds, with 95 % intervals. Dotted: the least ratio a matrix of this shape can have."
        about = {**resolved(recipe), "seeds": f"{recipe.seed} to {recipe.seed + study.seeds - 1}"}
        table = {"Where training ends": dense_summary(rows)}
        sections.append(
            Section(
                _dense_heading(study, recipe), dense_answers(rows), {mark: (dense_figure(rows), caption)}, table, about
            )
        )
    note = f"Mean over {study.seeds} seeds; ± is the half-width of the 95 % interval (Student’s t)."
    return write_report("align", "Do the dense layers align?", note, sections, outcome, folder, command, SOURCE)
