"""What came out of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from letitgo import weights
from letitgo.execute import Failure
from letitgo.plan.estimated import EXAMPLES
from letitgo.recipes.networks import Network
from letitgo.report import Report
from letitgo.report.numbers import duration
from letitgo.studies.usage import Usage
from letitgo.version import versions as versions_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from rich.console import Console

    from letitgo.store import Store
    from letitgo.studies.study import Study

UNMOVED = 4
"""Parameters that were trained and did not move, by name; the rest is counted."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a study.

    Attributes:
        rows: Tidy rows.
        failures: The jobs that failed; their rows are missing or rest on fewer seeds.
        usage: What it took, and where.
        study: The study.
        store: Where its results are.
        notes: A line about each file that the study wrote.
    """

    rows: list[dict[str, Any]]
    failures: list[Failure] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage, repr=False)
    study: Study | None = None
    store: Store | None = None
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def frame(self) -> pandas.DataFrame:
        """The rows as a DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows)

    @property
    def seeds(self) -> pandas.DataFrame:
        """The values of each seed as a DataFrame, read from the store; empty without one."""
        import pandas

        return pandas.DataFrame([] if self.study is None or self.store is None else self.study.seed_rows(self.store))

    @cached_property
    def said(self) -> Report:
        """The report as data."""
        if self.study is None:
            return Report("study", "", [])
        report, norms = self.study.report(self.rows), on_norms(self.study)
        if norms and (how := self.study.statistics) != "follow":  # type: ignore[attr-defined]
            named = [replace(part, heading=f"{part.heading}, statistics {how}") for part in report.sections]
            report = replace(report, sections=named)
        return replace(report, note=f"{report.note} {norms}".strip())

    @property
    def answers(self) -> list[str]:
        """What the rows say, a sentence each; the answer first."""
        return self.said.answers

    def show(self, console: Console | None = None) -> None:
        """Write the answers and the main tables to a terminal.

        Args:
            console: Where to; by default this process's, which is told what failed where there are no answers.
        """
        from rich.console import Console

        from letitgo.report.terminal import to_terminal

        for line in () if console or self.answers else by_cause(self.failures):
            print(f"Failed: {line}")
        console = console or Console(emoji=False)
        to_terminal(console, self.said)
        if still := of_unmoved(self.usage):
            console.print(f"T{still[1:]}.", highlight=False)

    def figures(self) -> dict[str, Figure]:
        """Every figure, by the name of its file."""
        from letitgo.report.draw import to_figure

        return {name: to_figure(picture) for name, picture in self.said.pictures.items()}

    def report(self, folder: str | Path, command: str = "", workers: int = 0) -> Path:
        """Write the HTML page, and each figure as PNG, SVG and PDF.

        Args:
            folder: Made if need be; files of an earlier report are overwritten.
            command: The command that makes the same report, for the page.
            workers: Number of processes that draw the figures; 0: this one alone.

        Returns:
            The path of the page.

        Raises:
            OSError: The folder cannot be written.
        """
        from letitgo.report.page import to_page

        about: Mapping[str, Any] = {
            "command": command,
            "took": took(self.usage),
            "versions": self.versions,
            "failures": by_cause(self.failures),
        }
        return to_page(self.said, folder, about, workers)

    @property
    def versions(self) -> dict[str, str]:
        """What is computed with here."""
        return versions_of(self.store.device if self.store else "cpu")

    def to_latex(self) -> str:
        """The main tables as LaTeX, for the ``booktabs`` package."""
        import pandas

        parts = []
        for section in self.said.sections:
            for table in section.main:
                shown = [[column.cell(row) for column in table.columns] for row in table.rows]
                frame = pandas.DataFrame(shown, columns=[column.head for column in table.columns])
                layout = "".join("l" if column.left else "r" for column in table.columns)
                parts.append(f"% {section.heading}\n" + frame.to_latex(index=False, escape=True, column_format=layout))
        text = "\n".join(parts)
        for sign, code in {
            "±": r"$\pm$",
            "✓": r"$\checkmark$",
            "✗": r"$\times$",
            "∞": r"$\infty$",
            "–": "--",
            "\xa0": "~",
        }.items():
            text = text.replace(sign, code)
        return text

    def __repr__(self) -> str:
        name = type(self.study).__name__ if self.study is not None else "study"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        first = f": {self.answers[0]}" if self.answers else ""
        return f"<Outcome of {name}, {len(self.rows)} rows{failed}{first}>"

    def _repr_html_(self) -> str:
        from letitgo.report.page import fragment

        return fragment(self.said)


def on_norms(study: Study) -> str:
    """What becomes of the running statistics of norms, where a network has any."""
    networks = {recipe.network for recipe in study.recipes} if hasattr(study, "statistics") else ()
    if not any(map(_has_statistics, networks)):
        return ""
    return {
        "follow": "Running statistics of norms follow the data, in frozen norms too; after few steps they lag.",
        "frozen": "Running statistics of frozen norms stay: from the initialization on, those of the training inputs.",
        "re-estimate": "All networks are evaluated with running statistics taken from "
        f"{EXAMPLES:,} training inputs under their own weights.",
    }[study.statistics]  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _has_statistics(network: Network) -> bool:
    return bool(weights.running_statistics(weights.seeded(network, 0)))


def by_cause(failures: Iterable[Failure]) -> list[str]:
    """A line for each cause: the first job that failed of it, how many more, and why."""
    causes: dict[str, list[str]] = {}
    for failure in failures:
        causes.setdefault(failure.why, []).append(failure.what)
    return [f"{what[0]}{f' and {len(what) - 1} more' if len(what) > 1 else ''}: {why}" for why, what in causes.items()]


def of_other_versions(usage: Usage) -> str:
    """How many results were computed with other versions than those here; empty if none."""
    found = ", ".join(f"{count:,} with {versions}" for versions, count in usage.other_versions.items())
    return f"of {usage.results:,} results, {found}: these may differ from those computed here" if found else ""


def of_unmoved(usage: Usage) -> str:
    """Which parameters were trained and did not move, and in how many runs; empty if none."""
    found = [f"{name} in {count:,}" for name, count in usage.unmoved.items()]
    if not found:
        return ""
    few = [*found[:UNMOVED], *([f"{len(found) - UNMOVED} more"] if len(found) > UNMOVED else [])]
    return (
        f"trained and did not move: {', '.join(few)} of {usage.trainings:,} training runs. No gradient reached them, "
        "or their updates were below the last bit"
    )


def took(usage: Usage) -> str:
    """What a study took, where, and what the store saved it, in sentences."""
    if not usage.results:
        return ""
    where = ", ".join(f"{name} {duration(seconds)}" for name, seconds in sorted(usage.core.items()))
    core = duration(sum(usage.core.values()))
    said = [f"Took {duration(usage.wall)}" + (f", and {core} of core time ({where})." if where else ".")]
    if usage.stored:
        said.append(
            f"{usage.stored:,} of {usage.results:,} results were in the store already, "
            f"which saved {duration(usage.saved)} of core time."
        )
    if usage.shared:
        said.append(f"Runs that start from another run's state saved {duration(usage.shared)} of core time.")
    if mixed := of_other_versions(usage):
        said.append(f"O{mixed[1:]}.")
    if still := of_unmoved(usage):
        said.append(f"T{still[1:]}.")
    return " ".join(said)
