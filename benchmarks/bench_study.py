"""The map of FCN 3×256 on MNIST, 3 seeds, two workers, against the same runs by hand, one after another.

Goals: at least 1.85 × faster than one thread, at least 1.15 × faster than two threads. Takes about ten minutes;
an argument gives another number of epochs.
"""

import sys
import tempfile

import hand
import torch

from letitgo import Map, compute, open_store
from letitgo.execute import Executor
from letitgo.plan import At
from letitgo.studies.sweep import with_seed

recipe = hand.mnist(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 10)
study = Map((recipe,), reinit_at=(0,))
layers = list(recipe.network.layers)
inputs, labels = recipe.dataset.split("train").batch(slice(None)), recipe.dataset.split("train").labels
test = recipe.dataset.split("test")


def by_hand(threads: int) -> float:
    """The baseline and each frozen layer, three seeds, one after another, each evaluated on both splits."""

    def work() -> None:
        for seed in range(3):
            for frozen in [(), *((layer,) for layer in layers)]:
                seeded = with_seed(recipe, seed)
                module = hand.train(hand.fresh(seeded), seeded, inputs, frozen)
                hand.accuracy(module, inputs, labels)
                hand.accuracy(module, test.batch(slice(None)), test.labels)

    torch.set_num_threads(threads)
    return hand.seconds(work)


def runs_alone(workers: int, store: str) -> float:
    """The training runs of the study, without its measures."""
    values = [
        study.mapped[0].state(item, with_seed(recipe, seed)) for seed in range(3) for item in study.mapped[0].singles
    ]
    states = [value for value in values if isinstance(value, At)]
    return hand.seconds(lambda: Executor(open_store(store), workers).compute(states))


with tempfile.TemporaryDirectory() as folder:
    whole = hand.seconds(lambda: compute(study, f"{folder}/a", workers=2))
    one = by_hand(threads=1)
    two = by_hand(threads=2)
    parallel = runs_alone(2, f"{folder}/b")
    serial = runs_alone(0, f"{folder}/c")
print(
    f"whole study, two workers: {whole:.0f} s; its runs by hand on one thread {one:.0f} s, on two threads {two:.0f} s"
)
print(f"by hand, one thread / whole study: {one / whole:.2f}")
print(f"by hand, two threads / whole study: {two / whole:.2f}")
print(
    f"training runs alone, in this process / two workers: {serial / parallel:.2f} ({serial:.0f} s / {parallel:.0f} s)"
)
