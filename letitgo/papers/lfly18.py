"""LFLY18: how few dimensions are enough for MNIST.

The protocol is that of the released code: He's initialization, Adam at a fixed rate with β₂ = 0.99, 100 epochs of
50,000 images, accuracy on the test images after the last epoch, which the code calls validation: so d is searched on
the test set here too. Its penalty of
1e-4 ‖θ‖² on the weight matrices stands here as a decay of 2e-4 on all that is learned, z in a subspace. The code takes
pixels as its file holds them, which was not released: with 50,000 images for training it was most likely the MNIST of
that split, whose pixels are between 0 and 1. Projections are sparse, as the paper's of fully connected networks at
these d; its LeNet had Fastfood. A shortened run begins at a higher rate, at most ``FASTEST``, and lowers it to 0, so
that the sum of all rates is the paper's from a fifth of its length on.
"""

from __future__ import annotations

from math import inf
from typing import Any

from letitgo.papers import Claim, inside, scaled
from letitgo.recipes import Recipe
from letitgo.studies.dimension.study import Dimension

TITLE = "Li, Farkhoor, Liu and Yosinski: Measuring the intrinsic dimension of objective landscapes (arXiv:1804.08838)"
EPOCHS, RATE, FASTEST = 100, 0.001, 0.01
NETWORKS = {"fcn": "FC 784-200-200-10", "lenet": "LeNet"}
BANDS = {
    ("fcn", "global"): (700, 900),
    ("fcn", "own"): (575, 650),
    ("lenet", "global"): (275, 290),
    ("lenet", "own"): (260, 275),
}
"""Where the released results have d_int90, by network and baseline: above the first d of their grid, at most at the
second. The three runs of FC 784-200-200-10 reach 90 % at 725, 900 and 900, and 90 % of their baseline at 600, 650 and
650; LeNet's three are the same to 0.1 points."""
REACHED = {"fcn": 0.981, "lenet": 0.991}
"""Accuracy of the networks trained in full."""
NEAR = 0.005
"""How far from it is still the same, a fraction."""


def study(scale: float, seeds: int) -> Dimension:
    """Both networks on MNIST, d_int90 against their own baselines and against an accuracy of 1."""
    epochs = scaled(EPOCHS, scale)
    shared = {
        "data": "mnist",
        "examples": 50_000,
        "pixels": "unit",
        "optimizer": "adam",
        "optimizer_args": {"betas": [0.9, 0.99]},
        "weight_decay": 2e-4,
        "lr": RATE if epochs == EPOCHS else min(FASTEST, 2 * RATE * EPOCHS / epochs),
        "schedule": "constant" if epochs == EPOCHS else "cosine",
        "epochs": epochs,
        "model_args": {"init": "he"},
    }
    recipes = (Recipe(model="fcn", widths="200x200", **shared), Recipe(model="lenet", **shared))
    return Dimension(recipes, seeds, kind="sparse", resolution=0.05, split="test")


def claims(study: Dimension, rows: list[dict[str, Any]]) -> list[Claim]:
    """What the networks reach in full, and d_int90."""
    epochs = study.recipes[0].epochs
    short = f"{epochs} epochs in place of {EPOCHS}" if epochs < EPOCHS else ""
    told = []
    for row in rows:
        model = row["model"]
        if row["row"] == "baseline":
            mean = row["accuracy_mean"]
            near = inside(mean, row["accuracy_ci95"], REACHED[model] - NEAR, REACHED[model] + NEAR)
            note = "; ".join(filter(None, [f"within {100 * NEAR:g} points is the same", short]))
            quantity, paper = f"{NETWORKS[model]}, accuracy trained in full", f"{REACHED[model]:g}"
            told.append(Claim(quantity, paper, mean, row["accuracy_ci95"], row["n"], near, note))
        elif row["row"] == "answer":
            low, high = BANDS[model, row["baseline"]]
            found = row["d"] is not None
            between = f"between {row['low']:,} and {row['d']:,}" if found else f"not reached up to {row['low']:,}"
            fitted = row["fitted_d"] and (
                f"fitted {row['fitted_d']:,.0f}, 95 % interval {row['fitted_low']:,.0f} to {row['fitted_high']:,.0f}"
            )
            told.append(
                Claim(
                    f"{NETWORKS[model]}, d_int90, {row['baseline']} baseline",
                    f"above {low}, at most {high}",
                    row["d"],
                    None,
                    row["n"],
                    _overlap(row["low"], row["d"] if found else inf, low, high),
                    "; ".join(filter(None, [between, fitted, short])),
                )
            )
    return told


def _overlap(above: int, reached: float, low: int, high: int) -> bool | None:
    """Whether the measured bracket lies in the paper's; None where they overlap in part."""
    if reached <= low or above >= high:
        return False
    return True if low <= above and reached <= high else None
