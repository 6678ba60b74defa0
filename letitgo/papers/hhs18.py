"""HHS18: a classifier that is not learned.

The paper trains ResNet56 and DenseNet on CIFAR and ResNet50, DenseNet169 and ShuffleNet on ImageNet. What is held
against measurements here is what it says of all of them, on the fully connected network and LeNet.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, claim, scaled
from letitgo.studies.classifier.study import Classifier
from letitgo.studies.sweep import sweep

TITLE = "Hoffer, Hubara and Soudry: Fix your classifier (arXiv:1801.04540)"
EPOCHS = 30


def study(scale: float, seeds: int) -> Classifier:
    """FCN 3×256 and LeNet on MNIST and Fashion-MNIST, a learned classifier against both fixed ones."""
    data = ["mnist", "fashion_mnist"]
    recipes = sweep(model=["fcn", "lenet"], data=data, epochs=scaled(EPOCHS, scale))
    return Classifier(tuple(recipes), seeds=seeds, select="test")


def claims(study: Classifier, rows: list[dict[str, Any]]) -> list[Claim]:
    """Test accuracy is not lost, training accuracy is, and the scale grows."""
    told = []
    for row in rows:
        if row["classifier"] == "learned":
            continue
        model, data = (row.get(name, getattr(study.recipes[0], name)) for name in ("model", "data"))
        what = f"{row['classifier']}, {model} on {data}"
        little = "little or none (ResNet56 on CIFAR-10: −0.11 points)"
        limit, note = study.tolerance / 100, f"little is {study.tolerance:g} points"
        told += [
            claim(f"drop in test accuracy, points: {what}", little, row, "drop", high=limit, note=note),
            claim(f"drop in training accuracy, points: {what}", "training error is higher", row, "train_drop", low=0),
            claim(f"growth of the scale: {what}", "it grows", row, "growth", low=1, factor=1),
        ]
    return told
