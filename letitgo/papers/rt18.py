"""RT18: most of a network stays at its random values.

The paper trains wide residual networks and others on CIFAR. LeNet with norms on Fashion-MNIST stands in for them, with
a length of our own, so what is held against the measurements is what the paper says in words, and not its numbers. The
best of several layers is chosen by accuracy on held-out examples, and judged on the test set.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, claim, difference, inside, percent, scaled
from letitgo.recipes import Recipe
from letitgo.studies.fraction.study import Fraction

TITLE = "Rosenfeld and Tsotsos: Intriguing properties of randomly weighted networks (arXiv:1802.00844)"
EPOCHS = 30
FEW_POINTS = 0.05
"""What “a few points” is taken to mean, a fraction."""


def study(scale: float, seeds: int) -> Fraction:
    """LeNet with norms on Fashion-MNIST; 25 and 10 % of the filters, with norms learned and not; parts alone."""
    recipe = Recipe(
        model="lenet", model_args={"norm": True}, data="fashion_mnist", epochs=scaled(EPOCHS, scale), schedule="cosine"
    )
    return Fraction(
        (recipe,), seeds=seeds, shares=(0.25, 0.1), norms=("learned", "frozen"), only=("norms", "layers"), by="module"
    )


def claims(study: Fraction, rows: list[dict[str, Any]]) -> list[Claim]:
    """A fraction suffices; of layers alone a middle one does best; norms are worth more than as many random values."""
    told = []
    read = f"read as at most {100 * FEW_POINTS:g} points; norms and classifier learned"
    for row in rows:
        if row["policy"] == "filters" and row["norms"] == "learned":
            quantity = f"drop with {100 * row['share']:g} % of the filters learned, points"
            told.append(claim(quantity, "a few points", row, "drop", high=FEW_POINTS, note=read))
    norms = next(row for row in rows if row["policy"] == "norms only")
    quantity = "accuracy of norms only above as many random values, points"
    read = "read as surely above 0; classifier frozen"
    told.append(claim(quantity, "far above (arXiv:2003.00152)", norms, "above_random", low=0, note=read))
    alone = [row for row in rows if row["policy"].endswith(" only") and row["policy"] != "norms only" and row["n"]]
    if len(alone) > 2:
        ends, middle = (alone[0], alone[-1]), alone[1:-1]
        best, end = (max(some, key=lambda row: row[f"{study.chosen}accuracy_mean"]) for some in (middle, ends))
        lead, half = difference(best, end, "accuracy")
        names = [row["policy"].removesuffix(" only") for row in (best, end)]
        quantity = f"{names[0]} alone above {names[1]}, the better of the first and last layer, points"
        read = f"read as surely above 0; {best['learned']:,} values; norms frozen"
        told.append(
            Claim(quantity, "a middle layer is best", *percent(lead, half), best["n"], inside(lead, half, 0), read)
        )
    share = next(row for row in rows if row["policy"] == "filters" and row["share"] == 0.1)
    told.append(
        Claim(
            "stored of a network with 10 % of the filters learned",
            "only the learned fraction",
            None if share["delta_bytes_mean"] is None else share["delta_bytes_mean"] / share["whole_bytes_mean"],
            None,
            share["n"],
            None if share["delta_bytes_mean"] is None else share["delta_bytes_mean"] < 1.5 * 4 * share["learned"],
            f"{share['learned'] / share['parameters']:.3g} of the values are learned; read as at most half as much "
            "again, for the index and running statistics",
        )
    )
    return told
