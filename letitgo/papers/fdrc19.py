"""FDRC19: how stable a ticket is to pruning and to the order of the data, on LeNet-300-100 and MNIST.

The tickets are those of FC18, which both papers share. What the paper is known for, rewinding to an early step, it
shows on ResNet-20, VGG-19 and ImageNet, where tickets from initial weights fail; on LeNet they do not, so it cannot be
shown here. ``letitgo ticket --rewind 500it`` does it on any network.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, claim, fc18
from letitgo.studies.ticket.study import Ticket

TITLE = "Frankle, Dziugaite, Roy and Carbin: Stabilizing the lottery ticket hypothesis (arXiv:1903.01611)"
LEVEL = 10
"""10.7 % of the weights."""

Row = dict[str, Any]

PAPER = {
    "order_l2": ("distance between two orders of the data", 20.7, 58.6),
    "pruning_l2": ("distance to the pruned whole network", 48.1, 75.7),
    "order_angle": ("angle between two orders of the data, degrees", 22.7, 49.2),
    "pruning_angle": ("angle to the pruned whole network, degrees", 53.1, 83.6),
}
"""Column → what it is, of the ticket, and of a random mask with as many weights in each layer."""


def study(scale: float, seeds: int) -> Ticket:
    """The tickets of FC18 down to 10.7 %; there a random mask, and both under another order of the data."""
    return Ticket(
        (fc18.recipe(scale),), seeds=seeds, levels=LEVEL, variants=("random mask",), at=(LEVEL,), stability=True
    )


def claims(study: Ticket, rows: list[Row]) -> list[Claim]:
    """A ticket is more stable than a random mask, and reaches more."""
    found = {row["variant"]: row for row in rows if row["level"] == LEVEL}
    ticket, chance = found["ticket"], found["random mask"]
    told = []
    for column, (what, of_ticket, of_chance) in PAPER.items():
        sure = None
        if min(ticket["n"], chance["n"]) > 1:
            sure = ticket[f"{column}_max"] < chance[f"{column}_min"]
        less = f"{of_ticket}, {of_chance / of_ticket:.1f} times less than a random mask"
        told += [
            _spread(f"ticket: {what}", less, ticket, column, sure, "; read as every seed's below every random mask's"),
            _spread(f"random mask: {what}", f"{of_chance}", chance, column, None, ""),
        ]
    near = f"read as within {100 * fc18.SPREAD:g} points, the paper's spread"
    for name, paper, row in (("ticket", 0.983, ticket), ("random mask", 0.975, chance)):
        limits = paper - fc18.SPREAD, paper + fc18.SPREAD
        told.append(claim(f"{name}: test accuracy, %", f"{100 * paper:g}", row, "accuracy", *limits, note=near))
    return told


def _spread(quantity: str, paper: str, row: Row, column: str, within: bool | None, note: str) -> Claim:
    mean, low, high = (row[f"{column}_{of}"] for of in ("mean", "min", "max"))
    seeds = "nothing measured" if mean is None else f"{low:.3g} to {high:.3g} over seeds"
    return Claim(quantity, paper, mean, None, row["n"], within, seeds + note)
