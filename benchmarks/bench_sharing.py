"""``--freeze-at 0,2,5,8`` of 10 epochs, sharing the baseline's checkpoints, against the same runs from scratch.

Goal: at most 0.65. One seed, one thread, the baseline counted on both sides. Takes about five minutes.
"""

import tempfile

import hand
import torch

from letitgo import Map, open_store
from letitgo.execute import Executor
from letitgo.plan import At

torch.set_num_threads(1)
recipe = hand.mnist(epochs=10)
since = (0, 2, 5, 8)
study = Map(recipe, seeds=1, freeze_at=since)
inputs = recipe.dataset.split("train").batch(slice(None))


def from_scratch() -> None:
    """Every run from its first epoch, by hand."""
    hand.train(hand.fresh(recipe), recipe, inputs)
    for layer in recipe.network.layers:
        for epoch in since:
            hand.train(hand.fresh(recipe), recipe, inputs, (layer,), epoch)


with tempfile.TemporaryDirectory() as folder:
    store = open_store(folder)
    cells = next(study.cells(study.subjects[0], store))
    ends = [cell.measures(recipe)["test"].state for cell in cells if cell.labels["saved"] is not None]
    runs = [state for state in ends if isinstance(state, At)]
    shared = hand.seconds(lambda: Executor(store).compute(runs))
scratch = hand.seconds(from_scratch)
steps = sum(run.run.recipe.steps - run.run.begin for run in runs) / (len(runs) * recipe.steps)
print(f"shared / from scratch: {shared / scratch:.2f} ({shared:.0f} s / {scratch:.0f} s, {len(runs)} runs)")
print(f"steps taken, shared / from scratch: {steps:.2f}")
