"""One run through the engine against the same training in a hand-written loop. Goal: at most 1.05, the same weights."""

import hand
import torch

from letitgo.training import train

torch.set_num_threads(1)
recipe = hand.mnist(epochs=1)
inputs = recipe.dataset.split("train").batch(slice(None))
ratios, same = [], True
for turn in range(16):
    ours, theirs = hand.fresh(recipe), hand.fresh(recipe)
    took = {}
    for who in ("engine", "plain") if turn % 2 else ("plain", "engine"):  # neither always goes first
        if who == "engine":
            took[who] = hand.seconds(lambda module=ours: list(train(module, recipe, [recipe.steps])))
        else:
            took[who] = hand.seconds(lambda module=theirs: hand.train(module, recipe, inputs))
    engine, plain = took["engine"], took["plain"]
    ratios.append(engine / plain)
    same &= all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
print(
    f"engine / hand-written loop, one epoch: {hand.median(ratios):.3f} (median of {len(ratios)}, "
    f"{min(ratios):.3f} to {max(ratios):.3f}); the same weights to the bit: {same}"
)
