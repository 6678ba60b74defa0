"""ZBS19: the fully connected network 3×256 on MNIST.

The paper trains about 100 epochs with SGD and a piecewise constant rate, and gives its numbers as heat-maps only, so
what is held against the measurements is what it says in words.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, inside, percent, scaled
from letitgo.recipes import Recipe
from letitgo.studies.map.study import Map

TITLE = "Zhang, Bengio and Singer: Are all layers created equal? (arXiv:1902.01996)"
EPOCHS = 100
DRAWS = 10
"""Fresh draws of a layer under each seed."""
CHANCE, NEAR = 0.9, 0.05
"""Test error of a guess, and how far from it is still the same, fractions."""


def study(scale: float, seeds: int) -> Map:
    """FCN 3×256 on MNIST; each layer put back to its initial weights, and drawn afresh."""
    return Map(
        Recipe(data="mnist", epochs=scaled(EPOCHS, scale)),
        seeds=seeds,
        select="test",
        freeze_at=(),
        reinit_at=(0,),
        draws=DRAWS,
    )


def claims(study: Map, rows: list[dict[str, Any]]) -> list[Claim]:
    """The first layer is critical, the later ones are not, and a fresh draw of any layer ends at chance."""
    found = {(row["layer"], row["intervention"]): row for row in rows if row["epoch"] in (0, None)}
    layers = [row["layer"] for row in rows if row["scope"] == "layer" and row["intervention"] == "rerandomised"]
    told = []
    for layer in layers:
        put_back, first = found[layer, "reinitialised"], layer == layers[0]
        told.append(
            Claim(
                f"drop when {layer} is re-initialised, points",
                "ruinous" if first else "harmless",
                *percent(put_back["drop_mean"], put_back["drop_ci95"]),
                put_back["n"],
                {"critical": first, "robust": not first}.get(put_back["verdict"]),
                f"robust is a drop within {study.tolerance:g} points",
            )
        )
        drawn = found[layer, "rerandomised"]
        error = None if drawn["accuracy_mean"] is None else 1 - drawn["accuracy_mean"]
        told.append(
            Claim(
                f"test error when {layer} is re-randomised, %",
                "chance, 90",
                *percent(error, drawn["accuracy_ci95"]),
                drawn["n"],
                inside(error, drawn["accuracy_ci95"], CHANCE - NEAR, CHANCE + NEAR),
                f"read as within {100 * NEAR:g} points",
            )
        )
    return told
