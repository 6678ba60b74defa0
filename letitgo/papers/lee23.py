"""Surgical fine-tuning: the first layer is the one to train under a shift of the inputs, the last under one of labels.

The paper fine-tunes a WideResNet trained on CIFAR-10 on 1,000 examples of CIFAR-10-C for 15 epochs. Here the fully
connected network trained on MNIST stands for it, under noise and with labels permuted: what is held against the
measurements is the pattern. As in the paper the learning rate is chosen for each way to fine-tune, here of two. Rates
and the best rival layer are chosen by accuracy on held-out examples, and judged on the test set.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, difference, inside, percent, scaled
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.sweep import sweep

TITLE = "Lee et al.: Surgical fine-tuning improves adaptation to distribution shifts (arXiv:2210.11466)"
EPOCHS = 15
RATES = (0.001, 0.01)
SHIFTS = {"noise": "first", "permute-labels": "last"}
"""Shift → the layer that the paper finds best."""


def study(scale: float, seeds: int) -> Finetune:
    """FCN 3×256 from MNIST to 1,000 examples under noise, and to 1,000 whose labels are permuted."""
    recipes = sweep(
        data="mnist",
        shift=tuple(SHIFTS),
        examples=1000,
        optimizer="adam",
        lr=RATES,
        epochs=scaled(EPOCHS, scale),
        batch_size=64,
    )
    pretrained = {"data": "mnist", "optimizer": "sgd", "epochs": 5, "batch_size": 128}
    return Finetune(tuple(recipes), pretrained, seeds=seeds, keep="none")


def claims(study: Finetune, rows: list[dict[str, Any]]) -> list[Claim]:
    """For each shift: the layer that the paper names is the best to train alone, and no worse than all."""
    told, chosen = [], f"{study.chosen}accuracy_mean"
    for shift, place in SHIFTS.items():
        own = [row for row in rows if (row["shift"], row["start"]) == (shift, "pretrained") and row["n"]]
        best: dict[tuple[str, str], dict[str, Any]] = {}
        for row in sorted(own, key=lambda row: row[chosen]):
            best[row["intervention"], row["layer"]] = row
        layers = list(dict.fromkeys(row["layer"] for row in own if row["intervention"] == "only"))
        if not layers:
            continue
        named = layers[0 if place == "first" else -1]
        alone = best["only", named]
        others = [best["only", layer] for layer in layers if layer != named]
        next_best = max(others, key=lambda row: row[chosen])
        told.append(_claim(f"{named} alone minus the best other layer alone ({next_best['layer']})", alone, next_best))
        told.append(_claim(f"{named} alone minus everything", alone, best["all", "all"], study.tolerance / 100))
    return told


def _claim(quantity: str, row: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0) -> Claim:
    """One way to fine-tune against another at other rates: the interval takes their seeds as independent."""
    lead, half = difference(row, other, "accuracy")
    return Claim(
        f"{row['shift']}: {quantity}, points",
        f"at least -{100 * tolerance:g}" if tolerance else "above 0",
        *percent(lead, half),
        row["n"],
        inside(lead, half, low=-tolerance),
        f"rates {row['lr']:g} and {other['lr']:g}",
    )
