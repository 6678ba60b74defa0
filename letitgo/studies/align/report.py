"""What the rows of ``align`` say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from letitgo.report import TEST, Column, N, Report, Section, Table, numbers
from letitgo.report.pictures import Panel, Picture, grid
from letitgo.report.words import groups, heading, length, resolved

if TYPE_CHECKING:
    from letitgo.studies.align.study import Align

Row = dict[str, Any]

SOURCE = "Ji and Telgarsky, Gradient descent aligns the layers of deep linear networks (arXiv:1810.02032)."
COLUMNS = (
    Column("layer", "layer"),
    Column("floor_mean", "floor", "The least ratio that a matrix of this shape can have.", numbers.significant),
    Column("begin", "at start", "‖W‖₂/‖W‖_F before training.", numbers.significant),
    Column("ratio", "‖W‖₂/‖W‖_F", "1 where the matrix has rank one.", numbers.significant),
    Column("adjacent", "|⟨v,u⟩|", "Alignment of the top singular vectors with the layer above.", numbers.significant),
    Column("frobenius", "‖W‖_F", "Frobenius norm at the end.", numbers.significant),
)
FROZEN = (
    Column("frozen", "frozen", "The layer that stays at its initialization."),
    *COLUMNS[:2],
    *COLUMNS[3:],
    Column("train_loss", "training loss", "In nats.", numbers.significant),
    TEST,
    N,
)


def report(study: Align, rows: Sequence[Row]) -> Report:
    """The report of the alignment of dense layers."""
    sections = [
        _section(study, recipe, [row for row in part if row["n"]])
        for recipe, part in groups(study, rows)
        if _is_trained(part)
    ]
    note = (
        f"Means over {study.seeds} seeds with 95 % intervals (Student's t). These layers have activations between them "
        "and the network has several outputs: the theorem says nothing of them, and they need not reach 1."
    )
    return Report("align", study.QUESTION, sections, note, SOURCE)


def _is_trained(rows: Sequence[Row]) -> bool:
    """Whether the network with nothing frozen came to the end of training under any seed."""
    last = max(row["epoch"] for row in rows)
    return any(row["n"] for row in rows if row["epoch"] == last and row["frozen"] is None)


def _section(study: Align, recipe: Any, rows: list[Row]) -> Section:
    whole = [row for row in rows if row["frozen"] is None]
    first = {row["layer"]: row for row in whole if row["epoch"] == 0}
    end = [row for row in rows if row["epoch"] == max(row["epoch"] for row in whole)]
    final = [row | {"begin": first[row["layer"]]["ratio_mean"]} for row in end if row["frozen"] is None]
    rose = [row for row in final if row["ratio_mean"] is not None and row["ratio_mean"] > (row["begin"] or 0)]
    answer = f"Over {length(recipe)} ‖W‖₂/‖W‖_F rises in {len(rose)} of {len(final)} dense layers"
    if rose:
        top = max(rose, key=lambda row: row["ratio_mean"])
        answer += f"; {top['layer']} ends highest, at {numbers.significant(top['ratio_mean'], top['ratio_ci95'])}"
    tables = [Table(COLUMNS, final)]
    if frozen := [row for row in end if row["frozen"] is not None]:
        tables.append(Table(FROZEN, frozen, "With one dense layer frozen"))
    pictures = {"layers": _along(whole)}
    return Section(heading(recipe, study.swept), f"{answer}.", (), tables, 1, pictures, resolved(recipe))


def _along(rows: Sequence[Row]) -> Picture:
    """Ratio and alignment by layer and epoch."""
    layers, epochs = (list(dict.fromkeys(row[name] for row in rows)) for name in ("layer", "epoch"))
    shown = epochs if len(epochs) <= 12 else [epochs[round(i * (len(epochs) - 1) / 11)] for i in range(12)]
    panels = [
        Panel(
            [
                grid(
                    rows,
                    "layer",
                    "epoch",
                    lambda row, key=key: row[f"{key}_mean"],
                    label,
                    layers,
                    shown,
                    low=0,
                    high=1,
                    shown="{:.2f}",
                )
            ],
            x="epoch",
            places=layers,
            steps=[str(epoch) for epoch in shown],
        )
        for key, label in (("ratio", "‖W‖₂ / ‖W‖_F"), ("adjacent", "|⟨v, u⟩| with the layer above"))
    ]
    return Picture([panels], "Each dense layer along training, mean over seeds.")
