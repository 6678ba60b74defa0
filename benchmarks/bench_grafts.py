"""CPU time of evaluating the grafts of a map over evaluating each from its first layer. Goal: at most 0.7.

A layer of ResNet-20 put back or drawn afresh changes nothing before it, so all grafts of one base share what the layers
before gave. Results have to be the same.
"""

import time

import torch

from letitgo.plan import Evaluation, Graft, Initial, shared
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.training import CPU
from letitgo.weights import seeded, units

torch.set_num_threads(1)
recipe = Recipe(model="resnet20", data="cifar10", test_examples=256)
base, store = Initial(recipe.network, 0), Store("/nowhere")
blocks = units(seeded(recipe.network, 0), list(recipe.network.layers), "block")
names = [tuple(name for layer in block for name in recipe.network.layers[layer]) for block in blocks.values()]
asked = [
    Evaluation(Graft(base, own, Initial(recipe.network, seed)), recipe.dataset, "test")
    for own in names
    for seed in range(1, 4)
]


def evaluated(limit: int) -> tuple[float, list[dict[str, object]]]:
    """CPU seconds and results, with outputs kept up to a size."""
    shared.SHARED_BYTES = limit
    shared.forget()
    begin = time.process_time()
    with CPU.entered():
        found = [evaluation.compute(store) for evaluation in asked]
    return time.process_time() - begin, found


(together, first), (alone, second) = evaluated(2**29), evaluated(0)
same = "the same" if first == second else "OTHER"
print(f"{len(asked)} grafts: {together:.1f} s / {alone:.1f} s = {together / alone:.2f}, {same} results")
