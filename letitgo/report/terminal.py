"""Reports in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from letitgo.report.grammar import MARKS, Report, Table

COLOURS = {"robust": "green", "critical": "red", "undecided": "yellow"}


def to_terminal(console: Console, report: Report) -> None:
    """Each section: its conditions, the answer, the main tables, and the sentences."""
    for section in report.sections:
        console.print(f"\n[dim]{escape(section.heading)}[/dim]")
        if section.answer:
            console.print(f"[bold]{escape(section.answer)}[/bold]")
        for table in section.main:
            console.print(to_rich(table))
            if marks := [f"[{COLOURS[name]}]{MARKS[name]}[/] {says}" for name, says in table.meaning.items()]:
                console.print("   ".join(marks))
        for sentence in section.sentences:
            console.print(escape(sentence))
        for where, lines in section.code.items():
            console.print(f"[dim]{escape(where)}[/dim]")
            console.print(escape(lines), soft_wrap=True)


def to_rich(table: Table) -> RichTable:
    """A table for a terminal."""
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="dim", box=None, pad_edge=False)
    for column in table.columns:
        justify = "left" if column.left else "right"
        shown.add_column(escape(column.head), justify=justify, overflow="fold", no_wrap=not column.left)
    for row in table.rows:
        cells = []
        for column in table.columns:
            colour = COLOURS.get(column.verdict_of(row) or "")
            cells.append(f"[{colour}]{escape(column.cell(row))}[/]" if colour else escape(column.cell(row)))
        shown.add_row(*cells)
    return shown
