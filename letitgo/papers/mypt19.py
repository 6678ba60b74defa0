"""MYPT19: one ticket wins on other data and under other optimisers too.

The paper prunes VGG19 and ResNet50 on natural images. LeNet-300-100 on MNIST and Fashion-MNIST stands in for them,
under the paper's optimisers, so what is held against the measurements is what the paper says in words. The learning
rate goes down by this program's steps, and pruning ends at round 15 of the paper's 30: after 30 some 330 of the 265,200
pruned weights would be left.
"""

from __future__ import annotations

from typing import Any

from letitgo.papers import Claim, claim, scaled
from letitgo.studies.carry.options import RANDOM
from letitgo.studies.carry.study import TICKET, Carry
from letitgo.studies.sweep import sweep

TITLE = "Morcos, Yu, Paganini and Tian: One ticket to win them all (arXiv:1906.02773)"
EPOCHS = 160
OPTIMIZERS = ("sgd:0.1", "adam:0.0003")
EARLY, LATE = 3, 15
"""Rounds that leave 51 and 3.5 % of the weights."""
CLOSE = 0.01
"""What “close to” and “hardly better” are taken to mean, a fraction."""


def study(scale: float, seeds: int) -> Carry:
    """MNIST and Fashion-MNIST under SGD and Adam; 20 % pruned globally at each level, rewound to epoch 1."""
    epochs = max(2, scaled(EPOCHS, scale))  # rewinding to epoch 1 asks for a second one
    recipes = sweep(
        model="lenet-300-100", data=("mnist", "fashion_mnist"), batch_size=512, weight_decay=1e-4, epochs=epochs
    )
    return Carry(tuple(recipes), optimizers=OPTIMIZERS, seeds=seeds, levels=LATE, at=(EARLY, LATE), controls=(RANDOM,))


def claims(study: Carry, rows: list[dict[str, Any]]) -> list[Claim]:
    """Carried over data or optimisers alone, a ticket is close to the target's own and better than a random one."""
    told = []
    for row in rows:
        data, optimizer = (row[f"source_{what}"] != row[f"target_{what}"] for what in ("data", "optimizer"))
        if row["variant"] != TICKET or data == optimizer:
            continue
        source, target = (f"{row[f'{end}_data']}, {row[f'{end}_optimizer']}" for end in ("source", "target"))
        name = f"{source} → {target}, level {row['level']}: against {{}} ticket, points"
        own, random = name.format("its own"), name.format("a random")
        if row["level"] == LATE:
            told.append(claim(own, "close to it", row, "above_own", low=-CLOSE, note=_READ))
            told.append(claim(random, "better", row, "above_random", low=0))
        else:
            told.append(claim(random, "hardly better so early", row, "above_random", high=CLOSE, note=_READ))
    why = "both data sets here have 60,000 examples and 10 classes; nor are there natural images or deep networks"
    return [*told, Claim("tickets of larger data sets carry over better", "yes", None, None, 0, None, why)]


_READ = f"read as {100 * CLOSE:g} point"
