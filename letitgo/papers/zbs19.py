"""ZBS19: the fully connected network 3×256 on MNIST.

The paper trains about 100 epochs with SGD and a piecewise constant rate, and gives its numbers as heat-maps only, so
what is held against the measurements is what it says in words.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, percent, scaled
from letitgo.recipes import Recipe
from letitgo.studies.map.study import Map

TITLE = "Zhang, Bengio and Singer: Are all layers created equal? (arXiv:1902.01996)"
EPOCHS = 100


def study(scale: float, seeds: int) -> Map:
    """FCN 3×256 on MNIST; each layer put back to its initial weights, and drawn afresh."""
    return Map(Recipe(data="mnist", epochs=scaled(EPOCHS, scale)), seeds=seeds, reinit_at=(0,))


def claims(study: Map, rows: list[dict[str, Any]]) -> list[Claim]:
    """The first layer is critical, the later ones are not, and a fresh draw of any layer ends at chance."""
    found = {(row["layer"], row["intervention"]): row for row in rows if row["epoch"] in (0, None)}
    layers = [row["layer"] for row in rows if row["scope"] == "layer" and row["intervention"] == "rerandomised"]
    chance = 0.9
    told = []
    for layer in layers:
        put_back, drawn = found[layer, "reinitialised"], found[layer, "rerandomised"]
        first = layer == layers[0]
        told.append(
            Claim(
                f"drop when {layer} is re-initialised, points",
                "ruinous" if first else "harmless",
                *percent(put_back["drop_mean"], put_back["drop_ci95"]),
                put_back["n"],
                None if put_back["verdict"] == "undecided" else (put_back["verdict"] == "critical") is first,
                f"robust is a drop within {study.tolerance:g} points",
            )
        )
        error = None if drawn["accuracy_mean"] is None else 1 - drawn["accuracy_mean"]
        wide = drawn["accuracy_ci95"] is None or drawn["accuracy_ci95"] > 0.2
        within = None if error is None or wide else error + drawn["accuracy_ci95"] >= chance
        told.append(
            Claim(
                f"test error when {layer} is re-randomised, %",
                "chance, 90",
                *percent(error, drawn["accuracy_ci95"]),
                drawn["n"],
                within,
            )
        )
    return told
