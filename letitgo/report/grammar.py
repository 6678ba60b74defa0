"""A report as data: sections of sentences, tables and pictures. Renderers turn it into text, a page or figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from letitgo.report import numbers
from letitgo.report.pictures import Picture

Row = dict[str, Any]

MARKS = {"robust": "✓", "critical": "✗", "undecided": "?"}
"""What stands beside a number for its verdict, so that colour is never the only sign."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Key in the row, or the stem of ``NAME_mean`` and ``NAME_ci95``.
        head: What stands above it.
        says: What it means, in a sentence; for the page and the documents.
        shown: How its numbers are written, one of :mod:`letitgo.report.numbers`.
        verdict: Key of the verdict that marks it; none by default.
    """

    name: str
    head: str
    says: str = ""
    shown: Callable[..., str] = numbers.text
    verdict: str = ""

    @property
    def left(self) -> bool:
        """Whether it holds words."""
        return self.shown is numbers.text

    def cell(self, row: Row) -> str:
        """What it shows of a row."""
        if self.name not in row and f"{self.name}_mean" not in row:
            return ""
        value = row[self.name] if self.name in row else row[f"{self.name}_mean"]
        shown = self.shown(value, row.get(f"{self.name}_ci95"))
        mark = MARKS.get(self.verdict_of(row) or "")
        return f"{shown} {mark}" if mark else shown

    def verdict_of(self, row: Row) -> str | None:
        """The verdict that marks it in a row."""
        return row.get(self.verdict) if self.verdict else None


N = Column("n", "n", "Number of seeds.", numbers.count)
TEST = Column("accuracy", "test, %", "Test accuracy, with the 95 % interval over seeds.", numbers.points)
TRAINING = Column("train_accuracy", "training, %", "Training accuracy.", numbers.points)

NEW = Column(
    "drop_new_ci95", "± new", "Half-width of the drop's 95 % interval for new test examples too.", numbers.points
)


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        columns: From left to right.
        rows: From top to bottom.
        title: What they are.
        legend: What the marks of its verdicts mean, where they are not those of a layer.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""
    legend: Mapping[str, str] = field(default_factory=dict)

    @property
    def meaning(self) -> dict[str, str]:
        """Verdict → what its mark means, of the verdicts that mark a cell."""
        found = {column.verdict_of(row) for column in self.columns if column.verdict for row in self.rows}
        return {name: self.legend.get(name, name) for name in MARKS if name in found}


@dataclass(frozen=True)
class Section:
    """The report of one recipe, or of what several have in common.

    Attributes:
        heading: Its conditions, in one line.
        answer: The answer, in one sentence.
        sentences: What else the rows say.
        tables: The first holds the verdicts and fits 80 columns; a terminal shows ``shown`` of them, the page all.
        shown: How many tables a terminal shows.
        pictures: Name of the file → picture.
        details: What was trained, name → value.
        code: Where the answer may be used → the lines that do it.
        unlearned: Its baseline has not learned, so that nothing is judged.
    """

    heading: str
    answer: str = ""
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    shown: int = 1
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    unlearned: bool = False

    @property
    def main(self) -> list[Table]:
        """The tables with rows that a terminal shows."""
        return [table for table in self.tables[: self.shown] if table.rows]

    @property
    def more(self) -> list[Table]:
        """The other tables with rows."""
        return [table for table in self.tables[self.shown :] if table.rows]


@dataclass(frozen=True)
class Report:
    """What the rows of a study say.

    Attributes:
        name: Of the study, its command, page and document.
        title: The question.
        sections: The answers.
        note: How to read the numbers.
        source: The papers.
    """

    name: str
    title: str
    sections: Sequence[Section]
    note: str = ""
    source: str = ""

    @property
    def answers(self) -> list[str]:
        """All sentences, the answer of each section first."""
        return [text for part in self.sections for text in (part.answer, *part.sentences) if text]

    @property
    def columns(self) -> list[Column]:
        """All columns that have an explanation, each once."""
        tables = (table for part in self.sections for table in part.tables)
        return list({column.head: column for table in tables for column in table.columns if column.says}.values())

    @property
    def pictures(self) -> dict[str, Picture]:
        """All pictures, by file name without its ending; numbered where several sections have one of that name."""
        several = sum(bool(part.pictures) for part in self.sections) > 1
        return {
            f"{self.name}-{name}" + (f"-{number}" if several else ""): picture
            for number, part in enumerate(self.sections, start=1)
            for name, picture in part.pictures.items()
        }


def by_block(rows: Iterable[Row]) -> list[Row]:
    """Rows with the name of each block once, above its layers: ``layer1.0``, then ``conv1`` and ``bn1`` indented.

    Args:
        rows: With ``layer``, in the network's order, and ``scope``; where that is not ``layer``, rows stay as they are.
    """
    found: list[Row] = []
    for block, members in groupby(rows, lambda row: row["scope"] == "layer" and row["layer"].rpartition(".")[0]):
        own = list(members)
        if block and len(own) > 1:
            found.append({"layer": block})
            own = [row | {"layer": "\xa0\xa0" + row["layer"].rpartition(".")[2]} for row in own]
        found += own
    return found


def pivot(rows: Iterable[Row], down: Sequence[str], across: Callable[[Row], str], values: Sequence[str]) -> list[Row]:
    """Rows side by side: one for each value of ``down``, with ``ACROSS VALUE_mean``, ``ACROSS VALUE_ci95``, ….

    Args:
        rows: Tidy rows.
        down: Columns that stay.
        across: The group of a row, which becomes the first word of its columns.
        values: Columns, or stems of ``_mean`` and ``_ci95``, that are put side by side.
    """
    wide: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        own = wide.setdefault(tuple(row[name] for name in down), {name: row[name] for name in down})
        for name in values:
            for suffix in ("", "_mean", "_ci95"):
                if name + suffix in row:
                    own[f"{across(row)} {name}{suffix}"] = row[name + suffix]
    return list(wide.values())
