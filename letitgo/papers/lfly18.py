"""LFLY18: how few dimensions are enough for MNIST.

The protocol is that of the released code: He's initialization, Adam at a fixed rate with β₂ = 0.99, 100 epochs of
50,000 images, accuracy on the test images after the last epoch, which the code calls validation. Its penalty of
1e-4 ‖θ‖² on the weight matrices stands here as a decay of 2e-4 on all that is learned, z in a subspace. The code takes
pixels as its file holds them, which was not released: with 50,000 images for training it was most likely the MNIST of
that split, whose pixels are between 0 and 1. Projections are sparse, as the paper's of fully connected networks at
these d; its LeNet had Fastfood. A shortened run begins at a higher rate, at most ``FASTEST``, and lowers it to 0, so
that the sum of all rates is the paper's from a fifth of its length on.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, scaled
from letitgo.recipes import Recipe
from letitgo.studies.dimension.study import Dimension

TITLE = "Li, Farkhoor, Liu and Yosinski: Measuring the intrinsic dimension of objective landscapes (arXiv:1804.08838)"
EPOCHS, RATE, FASTEST = 100, 0.001, 0.01
NETWORKS = {"fcn": "FC 784-200-200-10", "lenet": "LeNet"}
BANDS = {
    ("fcn", "global"): (700, 850),
    ("fcn", "own"): (525, 575),
    ("lenet", "global"): (275, 315),
    ("lenet", "own"): (275, 275),
}
"""What the released results say of d_int90, by network and baseline: the least and the greatest of their seeds."""
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
    return Dimension(recipes, seeds, kind="sparse", resolution=0.05)


def claims(study: Dimension, rows: list[dict[str, Any]]) -> list[Claim]:
    """What the networks reach in full, and d_int90."""
    epochs = study.recipes[0].epochs
    short = f"{epochs} epochs in place of {EPOCHS}" if epochs < EPOCHS else ""
    told = []
    for row in rows:
        model = row["model"]
        if row["row"] == "baseline":
            mean = row["accuracy_mean"]
            near = None if mean is None else abs(mean - REACHED[model]) <= NEAR
            note = "; ".join(filter(None, [f"within {100 * NEAR:g} points is the same", short]))
            quantity, paper = f"{NETWORKS[model]}, accuracy trained in full", f"{REACHED[model]:g}"
            told.append(Claim(quantity, paper, mean, row["accuracy_ci95"], row["n"], near, note))
        elif row["row"] == "answer":
            low, high = BANDS[model, row["baseline"]]
            found = row["d"] is not None
            between = f"between {row['low']:,} and {row['d']:,}" if found else f"not reached up to {row['low']:,}"
            told.append(
                Claim(
                    f"{NETWORKS[model]}, d_int90, {row['baseline']} baseline",
                    f"{low} to {high}" if low < high else str(low),
                    row["d"],
                    None,
                    row["n"],
                    found and row["low"] < high and low <= row["d"],
                    "; ".join(filter(None, [between, short])),
                )
            )
    return told
