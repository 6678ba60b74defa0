"""Training code of one's own: a script alone against the same script as a task under letitgo.

The script is the plain loop of ``examples/``, on the digits. The task's time is that of one run with its states written
to a store, frozen tensors compared after each epoch, and without the evaluation, which both would do. Rounds alternate
which comes first; reported are the median ratio and its quartiles. One thread, CPU time.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from letitgo.execute.training import carry_out
from letitgo.plan import Initial, Run
from letitgo.recipes import Recipe
from letitgo.store import open_store
from letitgo.weights import seeded, trainable_names

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import plain_loop

torch.set_num_threads(1)
ROUNDS, EPOCHS = 15, 20


class Longer(plain_loop.Digits):
    """The example, trained for longer."""

    epochs = EPOCHS


def alone(task: Longer) -> None:
    torch.manual_seed(0)
    model = task.model()
    for _ in task.train(model, 0):
        pass


def under(recipe: Recipe) -> None:
    run = Run(Initial(recipe.network, 0), trainable_names(seeded(recipe.network, 0)), recipe)
    with tempfile.TemporaryDirectory() as folder:
        carry_out(run, open_store(folder), [EPOCHS])


def seconds(work, *args) -> float:
    begin = time.process_time()
    work(*args)
    return time.process_time() - begin


if __name__ == "__main__":
    task, recipe = Longer(), Recipe(task=Longer())
    ratios: list[float] = []
    alone(task)
    under(recipe)
    for i in range(ROUNDS):
        if i % 2:
            mine = seconds(under, recipe)
            theirs = seconds(alone, task)
        else:
            theirs = seconds(alone, task)
            mine = seconds(under, recipe)
        ratios.append(mine / theirs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"task over script alone: {middle:.3f} ({low:.3f} to {high:.3f}), {theirs:.2f} s alone, {EPOCHS} epochs")
