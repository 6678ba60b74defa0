"""RT18: most of a network stays at its random values.

The paper trains wide residual networks and others on CIFAR. LeNet with norms on Fashion-MNIST stands in for them, with
a length of our own, so what is held against the measurements is what the paper says in words, and not its numbers.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, percent, scaled
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
        (recipe,), seeds=seeds, shares=(0.25, 0.1), norms=("learned", "frozen"), only=("norms", "layers"), controls=True
    )


def claims(study: Fraction, rows: list[dict[str, Any]]) -> list[Claim]:
    """A fraction suffices; of layers alone a middle one does best; norms are worth more than as many random values."""
    told = []
    for row in rows:
        if row["policy"] == "filters" and row["norms"] == "learned":
            told.append(
                Claim(
                    f"drop with {100 * row['share']:g} % of the filters learned, points",
                    "a few points",
                    *percent(row["drop_mean"], row["drop_ci95"]),
                    row["n"],
                    _below(row["drop_mean"], row["drop_ci95"], FEW_POINTS),
                    f"read as at most {100 * FEW_POINTS:g} points; norms and classifier learned",
                )
            )
    norms = next(row for row in rows if row["policy"] == "norms only")
    mean, half = norms["above_random_mean"], norms["above_random_ci95"]
    told.append(
        Claim(
            "accuracy of norms only above as many random values, points",
            "far above (arXiv:2003.00152)",
            *percent(mean, half),
            norms["n"],
            None if mean is None else _below(-mean, half, 0.0),
            "classifier frozen",
        )
    )
    alone = [row for row in rows if row["policy"].endswith(" only") and row["policy"] != "norms only" and row["n"]]
    if alone:
        best = max(alone, key=lambda row: row["accuracy_mean"])
        ends = (alone[0]["policy"], alone[-1]["policy"])
        told.append(
            Claim(
                "accuracy of the best layer alone, %",
                "a middle layer",
                *percent(best["accuracy_mean"], best["accuracy_ci95"]),
                best["n"],
                best["policy"] not in ends,
                f"it is {best['policy'].removesuffix(' only')}, {best['learned']:,} values; norms frozen",
            )
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


def _below(mean: float | None, half: float | None, limit: float) -> bool | None:
    """Whether the whole interval is at most the limit; None where it lies on both sides."""
    if mean is None or half is None:
        return None
    if mean + half <= limit:
        return True
    return False if mean - half > limit else None
