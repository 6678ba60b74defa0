"""FC18: LeNet-300-100 on MNIST, pruned layer by layer and put back to its initial weights, level by level.

The paper trains 50,000 steps of 60 examples; whole epochs of the 55,000 examples that 5,000 held out leave are 917
steps, so 55 of them, 50,435 steps, are the nearest. The convolutional networks on CIFAR-10 are not part of this.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, claim, inside, scaled
from letitgo.recipes import Recipe
from letitgo.studies.ticket.study import Ticket

TITLE = "Frankle and Carbin: The lottery ticket hypothesis (arXiv:1803.03635)"
EPOCHS = 55
LEVELS = 18
"""Down to 1.85 % of the weights."""
SPREAD = 0.002
"""Over seeds, of the paper's test accuracies, a fraction: a smaller difference is none."""

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
    short = "; a shortened run has its least loss nearer to its end" if study.recipes[0].epochs < EPOCHS else ""
    ticket21, fresh21 = found[7, "ticket"], found[7, "fresh weights"]
    above = "accuracy above the original at 13.5 %, {}, points"
    back, read = "0: back at the original", f"read as at most {100 * SPREAD:g} points"
    slower = "early-stop step of fresh weights at 21.1 %, of the ticket's"
    worse = "fresh weights below the ticket at 21.1 %, early-stop step, points"
    over, under = "read as surely above {}", "read as surely below 1"
    told = [
        _left(found[level, "ticket"], level, paper) for level, paper in ((3, 51.3), (7, 21.1), (9, 13.5), (15, 3.6))
    ]
    told += [
        claim(
            "early-stop step at 21.1 %, of the original's",
            "0.62",
            ticket21,
            "stop_ratio",
            high=1,
            factor=1,
            note=under + short,
        )
    ]
    for end, column, paper in (("early-stop step", "stop_drop", "+0.3"), ("end of training", "drop", "+0.35")):
        told.append(
            claim(above.format(end), paper, found[9, "ticket"], column, high=0, factor=-100, note=over.format(0))
        )
    for end, column in (("early-stop step", "stop_drop"), ("end of training", "drop")):
        told.append(claim(f"drop at 3.6 %, {end}, points", back, found[15, "ticket"], column, high=SPREAD, note=read))
    told.append(claim(slower, "2.51", fresh21, "stop_ratio_ticket", low=1, factor=1, note=over.format(1) + short))
    told.append(claim(worse, "0.5", fresh21, "stop_below_ticket", low=0, note=over.format(0)))
    for level in AT:
        if level >= 7:
            quantity = f"drop of fresh weights, level {level}, points"
            row = found[level, "fresh weights"]
            told.append(claim(quantity, "from 21.1 % (level 7) on", row, "drop", 0, note=over.format(0)))
    return told


def _left(row: Row, level: int, paper: float) -> Claim:
    share = None if row["density"] is None else 100 * row["density"]
    within = inside(share, None, paper - 0.1, paper + 0.1, sure=True)
    return Claim(f"weights left after {level} levels, %", f"{paper}", share, None, row["n"], within)
