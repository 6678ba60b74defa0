"""Time of a training step with layers frozen over the counted floor. Goal: at most 1.15 for each layer and prefix.

Both are shares of the full step: time over time, counted operations over counted operations. The floor is the forward
pass, the gradients of inputs above the first trainable layer and those of trainable weights. A frozen prefix whose
outputs are at hand goes below it; what is left of the arithmetic then is a floor of its own.
"""

import time

import hand
import torch

from letitgo import freeze, select, step_cost
from letitgo.recipes.batches import Batches
from letitgo.training import train
from letitgo.weights import StepCost

torch.set_num_threads(1)
recipe = hand.mnist(epochs=1)
batch = recipe.dataset.split("train").batch(slice(0, 128))
layers = list(recipe.network.layers)
choices = [(), *((layer,) for layer in layers), *(tuple(layers[:n]) for n in range(2, len(layers)))]
STEPS, ROUNDS = 300, 9


def steps(frozen: tuple[str, ...]) -> tuple[float, StepCost]:
    """Seconds for a step after warming up, and counted operations for an example."""
    module = hand.fresh(recipe)
    if frozen:
        freeze(module, select(module, *frozen))
    module.train()
    counted = step_cost(module, batch)
    moments = train(module, recipe, [20, 20 + STEPS])
    next(moments)
    begin = time.perf_counter()
    next(moments)
    return (time.perf_counter() - begin) / STEPS, counted


def bare(frozen: tuple[str, ...]) -> float:
    """Seconds for a step of a hand-written loop over what is left, on stored inputs of the right size."""
    rest = hand.fresh(recipe)[list(dict(hand.fresh(recipe).named_children())).index(frozen[-1]) + 2 :]
    inputs = torch.randn(len(order), 256)
    optimizer = torch.optim.SGD(rest.parameters(), lr=0.05, momentum=0.9)
    begin = 0.0
    for step in range(20 + STEPS):
        if step == 20:
            begin = time.perf_counter()
        rows = order[step * 128 : step * 128 + 128]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(rest(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    return (time.perf_counter() - begin) / STEPS


order, labels = Batches(recipe).order(0), recipe.dataset.split("train").labels
prefixes = [tuple(layers[:n]) for n in range(1, len(layers))]
rounds, bares = [], []
for _ in range(ROUNDS):
    rounds.append({choice: steps(choice) for choice in choices})
    bares.append({choice: bare(choice) for choice in prefixes})
print(f"share of a full step, median of {ROUNDS} rounds; bare: a hand-written loop over what a frozen prefix leaves")
rest = "   with outputs at hand: floor, time/floor; bare, time/bare"
print(f"{'frozen':14} {'time':>6} {'floor':>6} {'time/floor':>10}{rest}")
full = rounds[0][()][1]
for choice in choices[1:]:
    share = hand.median([times[choice][0] / times[()][0] for times in rounds])
    left = rounds[0][choice][1]
    floor, left_floor = (left.forward + left.backward) / full.step, left.step / full.step
    line = f"{'+'.join(choice):14} {share:6.3f} {floor:6.3f} {share / floor:10.3f}"
    if choice in prefixes:
        by_hand = hand.median([bares[i][choice] / rounds[i][()][0] for i in range(ROUNDS)])
        line += f"   {left_floor:6.3f} {share / left_floor:7.3f} {by_hand:6.3f} {share / by_hand:7.3f}"
    print(line)
