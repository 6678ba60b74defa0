"""Surgical fine-tuning: the first layer is the one to train under a shift of the inputs, the last under one of labels.

The paper fine-tunes a WideResNet trained on CIFAR-10 on 1,000 examples of CIFAR-10-C for 15 epochs, with a learning
rate chosen for each block. Here LeNet trained on MNIST stands for it, with one rate for all layers: what is held
against the measurements is the pattern.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, scaled
from letitgo.studies.finetune import FineTune
from letitgo.studies.sweep import sweep

TITLE = "Lee et al.: Surgical fine-tuning improves adaptation to distribution shifts (arXiv:2210.11466)"
EPOCHS = 15
PRETRAINING = 5
SHIFTS = ("noise", "permute-labels")


def study(scale: float, seeds: int) -> FineTune:
    """LeNet from MNIST to 1,000 examples under noise, and to 1,000 whose labels are permuted."""
    recipes, swept = sweep(
        model="lenet",
        data="mnist",
        shift=SHIFTS,
        examples=1000,
        optimizer="adam",
        lr=0.003,
        epochs=scaled(EPOCHS, scale),
        batch_size=64,
    )
    start = {"data": "mnist", "optimizer": "sgd", "epochs": PRETRAINING, "batch_size": 128}
    return FineTune(tuple(recipes), start, swept=tuple(swept), seeds=seeds)


def claims(study: FineTune, rows: list[dict[str, Any]]) -> list[Claim]:
    """For each shift: the layer that the paper names is the best to train alone, and no worse than all."""
    told = []
    for shift in SHIFTS:
        alone = [
            row for row in rows if (row["shift"], row["start"], row["intervention"]) == (shift, "pretrained", "only")
        ]
        place, row = ("first", alone[0]) if shift == "noise" else ("last", alone[-1])
        lead, half = row["lead_mean"], row["lead_ci95"]
        told.append(
            Claim(
                f"lead of {row['layer']} over the best other layer trained alone, {shift}",
                f"above 0: train the {place}",
                lead,
                half,
                row["n"],
                None if half is None or abs(lead) <= half else lead > 0,
            )
        )
        told.append(
            Claim(
                f"drop from training all to training only {row['layer']}, {shift}",
                "at most 0",
                row["drop_mean"],
                row["drop_ci95"],
                row["n"],
                None if row["verdict"] == "undecided" else row["verdict"] == "robust",
                f"within {100 * study.tolerance:g} points",
            )
        )
    return told
