"""A lottery of 5 levels × 4 epochs: LeNet-300-100 on MNIST, batch 128, SGD 0.1; evaluation and checkpoints included.

Goals: a run at least 4 times faster than 3.65 s per epoch, which `open_lth` needs on such a core; the study of two
seeds on two cores 8 times; a masked step at most 1.10 of the dense one. Takes about two minutes.
"""

import sys
import tempfile
from pathlib import Path

import hand
import torch

from letitgo import Lottery, Recipe, compute, copied, entries, hold, magnitude_masks, open_store, prunable
from letitgo.training import train
from letitgo.weights import Selection, load_state, parameter_names

EPOCHS, LEVELS, OPEN_LTH = 4, 5, 3.65

recipe = Recipe(
    model="lenet-300-100", data="mnist", epochs=EPOCHS, optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant"
)


def study(seeds: int) -> Lottery:
    """Tickets alone, as open_lth finds them: 20 % of all weights but the last layer's."""
    return Lottery((recipe,), seeds=seeds, levels=LEVELS, scope="global", variants=())


def lottery(seeds: int, workers: int) -> float:
    """Seconds of the study into an empty store."""
    with tempfile.TemporaryDirectory() as folder:

        def carry_out() -> None:
            assert not compute(study(seeds), open_store(Path(folder, "store")), workers).failures

        return hand.seconds(carry_out)


def masked() -> None:
    """Milliseconds a step at each density, in turns with the dense step."""
    steps, module = 200, recipe.network()
    state = copied(module)

    def step(density: float | None) -> float:
        load_state(module, state)
        if density is None:
            return hand.seconds(lambda: [*train(module, recipe, [steps])])
        names = parameter_names(module)
        masks = magnitude_masks(module, dict.fromkeys(prunable(module), 1 - density))
        rest = Selection(tuple(name for name in names if name not in masks), names)
        with hold(module, entries(module, masks) | rest):
            return hand.seconds(lambda: [*train(module, recipe, [steps])])

    densities = (0.9, 0.8, 0.64, 0.51, 0.41, 0.33, 0.1)
    found: dict[float, list[float]] = {density: [] for density in densities}
    dense = []
    for _ in range(9):
        for density in densities:
            before, own, after = step(None), step(density), step(None)
            found[density].append(own / ((before + after) / 2))
            dense.append(before / steps)
    print(f"dense step: {1000 * sorted(dense)[len(dense) // 2]:.2f} ms")
    for density, ratios in found.items():
        middle = sorted(ratios)[len(ratios) // 2]
        print(f"masked / dense at {density:.0%}: {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    hand.mnist(1)  # says what is missing
    recipe.dataset.split("train")
    if "steps" not in sys.argv:
        runs = LEVELS + 1
        alone = lottery(1, 0) / (runs * EPOCHS)
        print(f"one core: {alone:.2f} s per epoch; open_lth's {OPEN_LTH} s are {OPEN_LTH / alone:.1f} times that")
        both = lottery(2, 2)
        told = 2 * runs * EPOCHS * OPEN_LTH
        print(f"two seeds on two cores: {both:.1f} s; at {OPEN_LTH} s an epoch {told / both:.1f} times that")
    masked()
