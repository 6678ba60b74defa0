"""FC18: LeNet-300-100 on MNIST, pruned layer by layer and put back to its initial weights, level by level.

The paper trains 50,000 steps of 60 examples; whole epochs of the 55,000 examples that 5,000 held out leave are 917
steps, so 55 of them, 50,435 steps, are the nearest. The convolutional networks on CIFAR-10 are not part of this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from letitgo.papers import Claim, percent, scaled
from letitgo.recipes import Recipe
from letitgo.studies.ticket.study import Ticket

TITLE = "Frankle and Carbin: The lottery ticket hypothesis (arXiv:1803.03635)"
EPOCHS = 55
LEVELS = 18
"""Down to 1.85 % of the weights."""

Row = dict[str, Any]

AT = (3, 7, 9, 12, 15, 18)
"""The levels at which fresh weights are trained under the same mask: 51.3, 21.1, 13.5, 7.0, 3.6 and 1.85 %."""


def recipe(scale: float) -> Recipe:
    """LeNet-300-100 from Glorot's law on MNIST, 5,000 examples held out, Adam 1.2e-3, batches of 60."""
    return Recipe(
        model="lenet-300-100",
        model_args={"init": "glorot"},
        data="mnist",
        epochs=scaled(EPOCHS, scale),
        validation=5000,
        optimizer="adam",
        optimizer_args={"fused": True},
        lr=1.2e-3,
        schedule="constant",
        batch_size=60,
    )


def study(scale: float, seeds: int) -> Ticket:
    """20 % of each layer and 10 % of the last pruned at each of 18 levels; the same masks with fresh weights."""
    return Ticket((recipe(scale),), seeds=seeds, levels=LEVELS, variants=("fresh weights",), at=AT)


def claims(study: Ticket, rows: list[Row]) -> list[Claim]:
    """Tickets learn faster, end higher, and are back at the original at 3.6 %; fresh weights are slower and worse."""
    found = {(row["level"], row["variant"]): row for row in rows}
    scaled_down = study.recipes[0].epochs < EPOCHS
    short = "; a shortened run has its least loss nearer to its end" if scaled_down else ""
    ticket21, fresh21 = found[7, "ticket"], found[7, "fresh weights"]
    above = "accuracy above the original at 13.5 %, {}, points"
    slower = "early-stop step of fresh weights at 21.1 %, of the ticket's"
    worse = "fresh weights below the ticket at 21.1 %, early-stop step, points"
    return [
        *(_left(found[level, "ticket"], level, paper) for level, paper in ((3, 51.3), (7, 21.1), (9, 13.5), (15, 3.6))),
        _under("early-stop step at 21.1 %, of the original's", "0.62", ticket21, "stop_ratio", 1, 1, short),
        _under(above.format("early-stop step"), "+0.3", found[9, "ticket"], "stop_drop", 0, -100),
        _under(above.format("end of training"), "+0.35", found[9, "ticket"], "drop", 0, -100),
        _equal("drop at 3.6 %, early-stop step, points", found[15, "ticket"], "stop_drop"),
        _equal("drop at 3.6 %, end of training, points", found[15, "ticket"], "drop"),
        _over(slower, "2.51", fresh21, "stop_ratio_ticket", 1, 1, short),
        _over(worse, "0.5", fresh21, "stop_below_ticket", 0, 100),
        *(
            _over(f"drop of fresh weights, level {level}, points", "from 21.1 % (level 7) on", row, "drop", 0, 100)
            for level in AT
            if level >= 7 and (row := found[level, "fresh weights"])
        ),
    ]


def _left(row: Row, level: int, paper: float) -> Claim:
    share = None if row["density"] is None else 100 * row["density"]
    within = None if share is None else abs(share - paper) < 0.1
    return Claim(f"weights left after {level} levels, %", f"{paper}", share, None, row["n"], within)


def _under(quantity: str, paper: str, row: Row, column: str, limit: float, factor: float, note: str = "") -> Claim:
    """The claim that a column is surely below a limit; mean and interval are shown times a factor."""
    mean, half = row[f"{column}_mean"], row[f"{column}_ci95"]
    within = None
    if mean is not None and half is not None:
        within = True if mean + half < limit else False if mean - half > limit else None
    told = (None if mean is None else factor * mean, None if half is None else abs(factor) * half)
    side = "below" if factor > 0 else "above"
    return Claim(quantity, paper, *told, row["n"], within, f"read as surely {side} {limit}{note}")


def _over(quantity: str, paper: str, row: Row, column: str, limit: float, factor: float, note: str = "") -> Claim:
    """The claim that a column is surely above a limit."""
    turned = {**row, f"{column}_mean": None if row[f"{column}_mean"] is None else -row[f"{column}_mean"]}
    claim = _under(quantity, paper, turned, column, -limit, -factor)
    return replace(claim, note=f"read as surely above {limit}{note}")


def _equal(quantity: str, row: Row, column: str) -> Claim:
    mean, half = row[f"{column}_mean"], row[f"{column}_ci95"]
    within = None if mean is None or half is None else mean - half <= 0
    return Claim(
        quantity, "0: back at the original", *percent(mean, half), row["n"], within, "read as not surely above 0"
    )
