"""Tables for a terminal, and numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from letitgo.report.answer import answers, groups, heading, points
from letitgo.studies.map import Map

_COLOURS = {"robust": "green", "critical": "red", "undecided": "yellow", None: "default"}
Row = dict[str, Any]


def amount(number: float) -> str:
    """A large number with its unit prefix: ``12.3 G``."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} E"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def column_name(row: Row) -> str:
    """What an intervention is called at the head of a column."""
    if row["intervention"] == "frozen":
        return "frozen" if row["epoch"] == 0 else f"frozen from {row['epoch']}"
    if row["intervention"] == "reinitialised":
        return "re-initialised" if row["epoch"] == 0 else f"back to epoch {row['epoch']}"
    return "re-randomised"


def show_map(console: Console, study: Map, rows: list[Row]) -> None:
    """The map for a person: a table per recipe, and the answer in words."""
    for recipe, part in groups(study, rows):
        console.print(f"\n[bold]{escape(heading(study, recipe))}[/bold]")
        base = next(row for row in part if row["intervention"] == "baseline")
        console.print(
            f"baseline: test accuracy {points(base['accuracy_mean'], base['accuracy_ci95'])} %, training accuracy "
            f"{points(base['train_accuracy_mean'])} %, {base['parameters']:,} parameters, n = {base['n']}"
        )
        for title, scopes in (("drop in test accuracy, points", ("layer",)), ("the same for sets of layers", None)):
            chosen = [row for row in part if row["scope"] in scopes] if scopes else _sets(part)
            if chosen:
                console.print(_drops(title, chosen))
        for sentence in answers(study, part):
            console.print(escape(sentence))


def _sets(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["scope"] not in ("all", "layer")]


def _drops(title: str, rows: Sequence[Row]) -> Table:
    """Layers down, interventions across; of the re-initialised ones the first epoch, the report has them all."""
    shown = [row for row in rows if row["intervention"] != "reinitialised" or row["epoch"] == 0]
    columns = list(dict.fromkeys(column_name(row) for row in shown))
    table = Table(title=title, title_justify="left", title_style="dim", pad_edge=False)
    table.add_column("layer")
    table.add_column("parameters", justify="right")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("freezing saves", justify="right")
    table.add_column("moved by (L2, L∞)", justify="right")
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = {column_name(row): row for row in shown if row["layer"] == layer}
        frozen, first = own.get("frozen"), next(iter(own.values()))
        moved = own.get("re-initialised", frozen)
        cells = []
        for column in columns:
            row = own.get(column)
            colour = _COLOURS[row["verdict"]] if row else "default"
            cells.append(f"[{colour}]{points(row['drop_mean'], row['drop_ci95'])}[/]" if row else "")
        saved = f"{100 * frozen['saved']:.0f} %" if frozen else ""
        far = f"{moved['distance_l2']:.3f}, {moved['distance_linf']:.2f}" if moved and moved["n"] else ""
        table.add_row(escape(layer), f"{first['parameters']:,}", *cells, saved, far)
    return table


def show_train(console: Console, rows: list[Row]) -> None:
    """Training runs for a person: one line each."""
    table = Table(pad_edge=False)
    names = [name for name in (rows[0] if rows else {}) if name != "epoch" or any(row["epoch"] for row in rows)]
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name == "frozen" else "right")
    for row in rows:
        table.add_row(*(f"{row[name]:.4f}" if isinstance(row[name], float) else f"{row[name]}" for name in names))
    console.print(table)


def show_claims(console: Console, title: str, shortened: str, rows: list[Row]) -> None:
    """What a paper says against what was measured, a line each."""
    table = Table(title=escape(", ".join(filter(None, (title, shortened)))), title_justify="left", pad_edge=False)
    for name in ("quantity", "paper", "measured", "n", "within", "note"):
        table.add_column(name, justify="right" if name in ("measured", "n") else "left")
    for row in rows:
        colour, within = {True: ("green", "yes"), False: ("red", "no"), None: ("yellow", "cannot tell")}[row["within"]]
        measured = "–" if row["measured"] is None else f"{row['measured']:.4g}"
        measured += "" if row["ci95"] is None else f" ± {row['ci95']:.2g}"
        cells = (measured, str(row["n"]), f"[{colour}]{within}[/]", escape(row["note"]))
        table.add_row(escape(row["quantity"]), escape(row["paper"]), *cells)
    console.print(table)
