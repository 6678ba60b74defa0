"""Fine-tuning: the answer in sentences, the table, the figures and the page, all from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.recipes import Recipe
from letitgo.report.answer import heading, length, points
from letitgo.report.figures import STYLE
from letitgo.report.page import Section, resolved, write_report
from letitgo.studies.compute import Outcome
from letitgo.studies.finetune import FineTune, Tuned, told

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, Any]

COLOURS = {"pretrained": "#2b5c8a", "initialization": "#b9873a"}
_STARTS = {"pretrained": "from the start", "initialization": "from initialization"}


def parts(study: FineTune, rows: Sequence[Row]) -> Iterator[tuple[Tuned, list[Row]]]:
    """The rows of each recipe of a sweep, those that rest on a seed."""
    for part in study.tuned:
        own = [row for row in rows if all(row[name] == getattr(part.recipe, name) for name in study.swept)]
        if any(row["n"] for row in own):
            yield part, [row for row in own if row["n"]]


def what(part: Tuned) -> str:
    """One line on a recipe: what was trained on, and what is fine-tuned on."""
    if part.source is None:
        return f"{heading(part.study, part.recipe)}, from {Path(str(part.study.file)).name}"
    return f"{heading(part.study, part.recipe)}, from {length(part.source)} on {named(part.source)}"


def named(recipe: Recipe) -> str:
    """The data of a recipe in words."""
    return Path(recipe.data).name


def answers(part: Tuned, rows: Sequence[Row]) -> list[str]:
    """What to freeze, how sure that is, and how the adviser did."""
    full, raw = _one(rows, "all"), _one(rows, "none")
    scratch = _one(rows, "all", "initialization")
    best = next((row for row in rows if row["recommended"]), None)
    if best is None or full is None:
        return []
    budget = part.study.budget
    within = "" if budget == 1 else f"Within {100 * budget:g} % of full fine-tuning's arithmetic: "
    said = [f"{within}{_advice(best)}: {points(best['accuracy_mean'], best['accuracy_ci95'])} % test accuracy"]
    if best["intervention"] != "all":
        said[0] += (
            f" for {100 * best['share']:.1f} % of the arithmetic, against "
            f"{points(full['accuracy_mean'], full['accuracy_ci95'])} % with everything trained: {_drop(best, part)}"
        )
    said = [f"{said[0]}.", *_sureness(rows, best)]
    alone = _best(row for row in rows if (row["intervention"], row["scope"]) == ("only", "layer"))
    if alone:
        said.append(
            f"Of single layers, {alone['layer']} is the best to train alone: {points(alone['accuracy_mean'])} %"
            + (f", {_lead(alone)}." if alone["lead_mean"] is not None else ".")
        )
    said += _adviser(rows, best)
    if raw and scratch:
        said.append(
            f"Without any training the start has {points(raw['accuracy_mean'], raw['accuracy_ci95'])} %; everything "
            f"trained from initialization, {points(scratch['accuracy_mean'], scratch['accuracy_ci95'])} %."
        )
    if raw and raw["accuracy_mean"] >= best["accuracy_mean"]:
        said.append("No fine-tuning that meets the budget does better than none.")
    if part.new_head:
        said.append(f"The last layer, {part.new_head}, is drawn anew: the start's is for other classes.")
    return said


def _advice(row: Row) -> str:
    if row["intervention"] == "all":
        return "Freeze nothing"
    if row["intervention"] == "frozen":
        return f"Freeze {row['layer']} and train the rest"
    return f"Train only {row['layer']} and freeze the rest"


def _drop(row: Row, part: Tuned) -> str:
    within = f"{100 * part.study.tolerance:g} point" + ("" if part.study.tolerance == 0.01 else "s")
    sense = {
        "robust": f"robust, the drop is within {within}",
        "critical": f"critical, the drop is beyond {within}",
        "undecided": f"undecided whether the drop is within {within}",
    }
    what = "drop" if row["drop_mean"] >= 0 else "gain"
    return f"a {what} of {points(abs(row['drop_mean']), row['drop_ci95'])} points ({sense[row['verdict']]})"


def _sureness(rows: Sequence[Row], best: Row) -> list[str]:
    """How far ahead of the next best, and how often it is chosen with a seed left out."""
    rivals = [row for row in rows if row["meets"] and row is not best and row["behind_mean"] is not None]
    rivals = [row for row in rivals if row["behind_ci95"] != 0 or row["behind_mean"] != 0]
    if best["n"] < 2:
        return ["How sure: one seed tells nothing of it; give more (--seeds)."]
    if not rivals:
        return ["Nothing else meets the budget."]
    next_best = min(rivals, key=lambda row: row["behind_mean"])
    gap, half = next_best["behind_mean"], next_best["behind_ci95"]
    apart = half is not None and gap > half
    return [
        f"How sure: the next best within the budget, {told(next_best['intervention'], next_best['layer'])}, is "
        f"{points(gap, half)} points behind, so the two {'differ' if apart else 'cannot be told apart'}; with each "
        f"seed left out in turn, the same is chosen {round(best['steady'] * best['n'])} times of {best['n']}."
    ]


def _lead(row: Row) -> str:
    half, gap = row["lead_ci95"], row["lead_mean"]
    apart = half is not None and gap > half
    return f"{points(gap, half)} points ahead of the next" + ("" if apart else ", so not to be told apart from it")


def _adviser(rows: Sequence[Row], best: Row) -> list[str]:
    row = next((row for row in rows if row["advised"]), None)
    if row is None:
        return ["The relative gradient norm (Auto-RGN) chooses no layer: training none alone meets the budget."]
    choice = f"The relative gradient norm (Auto-RGN) chooses to train only {row['layer']}"
    if row is best:
        rivals = any(r["meets"] and r["intervention"] == "only" and r is not best for r in rows)
        return [f"{choice}, {'which is what was found best' if rivals else 'the only one that meets the budget'}."]
    return [f"{choice}: {points(row['behind_mean'], row['behind_ci95'])} points behind the best."]


def _one(rows: Sequence[Row], kind: str, start: str = "pretrained") -> Row | None:
    return next((row for row in rows if (row["intervention"], row["start"]) == (kind, start)), None)


def _best(rows: Any) -> Row | None:
    own = [row for row in rows if row["start"] == "pretrained"]
    return max(own, key=lambda row: row["accuracy_mean"], default=None)


def show_finetune(console: Console, study: FineTune, rows: list[Row]) -> None:
    """The answer for a person: a table per recipe, and sentences."""
    for part, own in parts(study, rows):
        console.print(f"\n[bold]{escape(what(part))}[/bold]")
        console.print(_table(own))
        for sentence in answers(part, own):
            console.print(escape(sentence))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="test accuracy, %", title_justify="left", title_style="dim", pad_edge=False)
    table.add_column("")
    for name in ("trained", "arithmetic", "from the start", "drop", "from initialization", "‖g‖/‖θ‖"):
        table.add_column(name, justify="right")
    for row in (row for row in rows if row["start"] == "pretrained"):
        other = next((r for r in rows if _same(r, row) and r["start"] == "initialization"), None)
        mark = " ←" if row["recommended"] else ""
        table.add_row(
            escape(told(row["intervention"], row["layer"])) + mark,
            f"{row['trained']:,}",
            f"{100 * row['share']:.1f} %",
            points(row["accuracy_mean"], row["accuracy_ci95"]),
            "" if row["intervention"] == "all" else points(row["drop_mean"], row["drop_ci95"]),
            points(other["accuracy_mean"], other["accuracy_ci95"]) if other else "–",
            "" if row["gradient_mean"] is None else f"{row['gradient_mean']:.3g}",
        )
    return table


def _same(a: Row, b: Row) -> bool:
    return all(a[name] == b[name] for name in ("layer", "scope", "intervention"))


def layers(rows: Sequence[Row]) -> Figure:
    """Test accuracy with each layer trained alone or frozen, from either start; and what the adviser sees."""
    single = [row for row in rows if row["intervention"] in ("frozen", "only")]
    names = list(dict.fromkeys((row["scope"], row["layer"]) for row in single))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.5 + 0.3 * len(names)))
        norm, only, frozen = figure.subplots(1, 3, sharey=True, width_ratios=(0.8, 1, 1))
        for row in single:
            place = names.index((row["scope"], row["layer"]))
            if row["gradient_mean"] is not None:
                edge = "black" if row["advised"] else "none"
                norm.barh(place, row["gradient_mean"], xerr=row["gradient_ci95"], color="#8fa3b5", edgecolor=edge)
            ax = only if row["intervention"] == "only" else frozen
            shift = -0.12 if row["start"] == "pretrained" else 0.12
            half = 100 * (row["accuracy_ci95"] or 0)
            colour = COLOURS[row["start"]]
            size = 6 if row["recommended"] else 4
            style: dict[str, Any] = {"markeredgecolor": "black"} if row["recommended"] else {}
            ax.errorbar(
                100 * row["accuracy_mean"], place + shift, xerr=half, fmt="o", ms=size, capsize=2, color=colour, **style
            )
        for ax in (only, frozen):
            for kind, line in (("all", "-"), ("none", ":")):
                for start, colour in COLOURS.items():
                    row = _one(rows, kind, start)
                    if row:
                        ax.axvline(100 * row["accuracy_mean"], color=colour, lw=1, ls=line, zorder=0)
            low, high = ax.get_xlim()
            ax.set(xlabel="test accuracy, %", xlim=(max(low, -3), min(high, 103)))
        norm.set(title="relative gradient norm", xlabel=r"$\|g\|/\|\theta\|$ at the start", xlim=(0, None))
        only.set_title("only this is trained")
        frozen.set_title("this is frozen, the rest trained")
        norm.set_yticks(range(len(names)), [name for _, name in names])
        norm.set_ylim(len(names) - 0.5, -0.5)
        norm.tick_params(axis="y", length=0)
        figure.legend(handles=_handles(), frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    return figure


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], marker="o", ms=4, ls="", color=colour, label=_STARTS[start]) for start, colour in COLOURS.items()
    ]
    lines = [
        Line2D([], [], color="0.3", lw=1, ls="-", label="everything trained"),
        Line2D([], [], color="0.3", lw=1, ls=":", label="not trained"),
    ]
    return [*dots, *lines]


def cost(rows: Sequence[Row], budget: float) -> Figure:
    """Test accuracy against the arithmetic of each way to fine-tune, and the budget."""
    own = [row for row in rows if row["start"] == "pretrained"]
    kinds = {"none": ("x", "0.4"), "all": ("s", "black"), "frozen": ("o", "#2a7f62"), "only": ("D", "#b3362c")}
    names = {"none": "not trained", "all": "everything trained", "frozen": "frozen: …", "only": "trained alone: …"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6))
        ax = figure.subplots()
        seen = set()
        for row in own:
            mark, colour = kinds[row["intervention"]]
            label = None if row["intervention"] in seen else names[row["intervention"]]
            seen.add(row["intervention"])
            x, y = 100 * row["share"], 100 * row["accuracy_mean"]
            ax.errorbar(
                x, y, 100 * (row["accuracy_ci95"] or 0), fmt=mark, ms=4, lw=0.8, capsize=2, color=colour, label=label
            )
            if row["recommended"]:
                ax.plot(x, y, "o", ms=13, mfc="none", mec="black", mew=0.9, label="recommended")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -3), min(high, 103))
        _label(
            ax, [row for row in own if row["intervention"] in ("frozen", "only")], {k: c for k, (_, c) in kinds.items()}
        )
        if budget < 1:
            ax.axvline(100 * budget, color="0.5", lw=0.9, ls="--")
            ax.annotate(
                "budget",
                (100 * budget, 1),
                (3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color="0.4",
            )
        ax.set(
            xlabel="training arithmetic, % of full fine-tuning",
            ylabel="test accuracy, %",
            xlim=(-4, 122),
            xticks=range(0, 101, 20),
        )
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def _label(ax: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Names beside the points; where points crowd, one above the other, each with a line to its own."""
    low, high = ax.get_ylim()
    crowds: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row["share"]):
        if crowds and row["share"] - crowds[-1][-1]["share"] < 0.1:
            crowds[-1].append(row)
        else:
            crowds.append([row])
    for crowd in crowds:
        x, apart = 100 * max(row["share"] for row in crowd) + 3, 0.045 * (high - low)
        order = sorted(crowd, key=lambda row: row["accuracy_mean"])
        # What is near the top has to make room downwards, so the lowest begins low enough for all.
        y = min(100 * order[0]["accuracy_mean"], high - apart * len(order)) - apart
        for row in order:
            y = max(y + apart, min(100 * row["accuracy_mean"], high - apart * (len(order) - order.index(row))))
            ax.annotate(
                row["layer"],
                (100 * row["share"], 100 * row["accuracy_mean"]),
                (x, y),
                va="center",
                fontsize=7,
                color=colours[row["intervention"]],
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "0.6", "shrinkA": 0, "shrinkB": 2},
            )


def write_finetune_report(study: FineTune, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``transfer.html`` and PNG and SVG of each figure into a folder.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    sections = []
    for number, (part, rows) in enumerate(parts(study, outcome.rows), start=1):
        mark = f"-{number}" if len(study.recipes) > 1 else ""
        drawn = {
            f"layers{mark}": (
                layers(rows),
                "Left: the relative gradient norm of each layer at the start, on the first batches; outlined, the "
                "choice it makes. Middle and right: test accuracy with one layer trained alone, and with one frozen. "
                "Lines: everything trained, and no training, in the colour of the start; outlined, the recommendation.",
            ),
            f"cost{mark}": (
                cost(rows, study.budget),
                "Test accuracy from the start against counted training arithmetic, with 95 % intervals.",
            ),
        }
        tables = {"Every way to fine-tune, test accuracy in %": [_shown(row) for row in rows]}
        about = resolved(part.recipe) | _start(part)
        sections.append(Section(what(part), answers(part, rows), drawn, tables, about))
    return write_report(
        "transfer",
        "Which layers should be frozen in fine-tuning?",
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). A drop is paired: everything trained from "
        "the same start, minus this. A gain is what the start is worth: from it, minus from initialization. "
        f"Robust: the whole interval of the drop is within {100 * study.tolerance:g} points; critical: beyond; else "
        "undecided. What is recommended was chosen by the accuracies that are shown, so they flatter it a little.",
        sections,
        outcome,
        folder,
        command,
        "Lee et al., Surgical fine-tuning improves adaptation to distribution shifts (arXiv:2210.11466).",
    )


def _shown(row: Row) -> Row:
    marks = [name for name in ("recommended", "advised") if row[name]]
    return {
        "": told(row["intervention"], row["layer"]),
        "start": row["start"],
        "trained": f"{row['trained']:,}",
        "arithmetic": f"{100 * row['share']:.1f} %",
        "accuracy": points(row["accuracy_mean"], row["accuracy_ci95"]),
        "drop": "" if row["intervention"] == "all" else points(row["drop_mean"], row["drop_ci95"]),
        "verdict": row["verdict"] or "",
        "gain": points(row["gain_mean"], row["gain_ci95"]) if row["gain_mean"] is not None else "",
        "behind the best": points(row["behind_mean"], row["behind_ci95"]) if row["behind_mean"] is not None else "",
        "gradient": "" if row["gradient_mean"] is None else f"{row['gradient_mean']:.3g}",
        "n": row["n"],
        "marks": ", ".join(marks),
    }


def _start(part: Tuned) -> Row:
    if part.source is None:
        return {"start": Path(str(part.study.file)).name}
    source = resolved(part.source)
    same = resolved(part.recipe)
    return {f"start: {name}": value for name, value in source.items() if same.get(name) != value}
