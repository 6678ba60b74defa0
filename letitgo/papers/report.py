"""A paper's claims beside what was measured, as the outcome of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from letitgo.papers import Paper, shortened
from letitgo.report import Column, N, Report, Section, Table, numbers
from letitgo.store import Store
from letitgo.studies.outcome import Outcome

Row = dict[str, Any]

ENOUGH = 0.1
"""Share of a paper's training from which its claims are judged."""
NOT_LEARNED = "a baseline did not learn"
AGREES = {True: "robust", False: "critical", None: "undecided"}
"""The mark of a claim: borne out, contradicted, or not to be told from this run."""
LEGEND = {"robust": "borne out", "critical": "contradicted", "undecided": "cannot tell"}
COLUMNS = (
    Column("quantity", "quantity"),
    Column("paper", "paper"),
    Column("measured", "measured", "Mean over seeds with its 95 % interval.", numbers.significant, "agrees"),
    N,
    Column("note", "note"),
)


@dataclass(frozen=True)
class Comparison:
    """A paper's study, whose report is the paper's claims beside the measurements.

    Attributes:
        paper: The paper.
        study: Its protocol, possibly shortened.
        whole: The same at full length.
    """

    paper: Paper
    study: Any
    whole: Any

    @property
    def recipes(self) -> Sequence[Any]:
        """What is trained on; nothing where the study has no recipe."""
        return getattr(self.study, "recipes", ())

    def view(self, outcome: Outcome) -> Outcome:
        """The outcome with a row for each claim."""
        claims = [dataclasses.asdict(claim) for claim in self.paper.claims(self.study, outcome.rows)]
        if shortened(self.study, self.whole)[0] < ENOUGH:
            claims = [claim | {"within": None} for claim in claims]
        elif any(part.unlearned for part in self.study.report(outcome.rows).sections):
            claims = [claim | {"within": None, "note": NOT_LEARNED} for claim in claims]
        return dataclasses.replace(outcome, rows=claims, study=self)  # type: ignore[arg-type]

    def seed_rows(self, store: Store) -> list[Row]:
        """The values of each seed of the study."""
        return self.study.seed_rows(store)

    def report(self, rows: Sequence[Row]) -> Report:
        """The claims, and how many are borne out."""
        shown = [row | {"agrees": AGREES[row["within"]], "measured_ci95": row["ci95"]} for row in rows]
        counts = {kind: sum(row["within"] is kind for row in rows) for kind in AGREES}
        answer = (
            f"Of {len(rows)} claims, {counts[True]} are borne out (✓), {counts[False]} are not (✗), and {counts[None]} "
            "cannot be told from this run (?)."
        )
        share, length = shortened(self.study, self.whole)
        if any(row["note"] == NOT_LEARNED for row in rows):
            answer = f"None of {len(rows)} claims is judged: {NOT_LEARNED}."
        elif share < ENOUGH:
            answer = f"Too short to judge any of {len(rows)} claims: a run needs a tenth of the paper's length."
        heading = ", ".join(filter(None, (self.paper.TITLE, length)))
        section = Section(heading, answer, tables=[Table(COLUMNS, shown, legend=LEGEND)])
        return Report("reproduce", "What a paper claims, beside what was measured", [section], source=self.paper.TITLE)
