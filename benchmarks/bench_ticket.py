"""A lottery of 5 levels × 4 epochs: LeNet-300-100 on MNIST, batch 128, SGD 0.1; evaluation and checkpoints included.

Goals: a run at least 4 times faster than ``open_lth``, and the study of two seeds on two cores 8 times, side by side
with a loop built as that program's is: samples loaded one by one, masks multiplied onto the weights at each forward
pass, the test set and a checkpoint after each epoch. (The program itself needs torchvision, whose transforms do what is
done here by hand, and more.) A masked step at most 1.10 of the dense one. Takes about six minutes.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import hand
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from letitgo import Recipe, Ticket, compute, copied, entries, hold, magnitude_masks, open_store, prunable
from letitgo.training import train
from letitgo.weights import Selection, load_state, parameter_names

EPOCHS, LEVELS = 4, 5

recipe = Recipe(
    model="lenet-300-100", data="mnist", epochs=EPOCHS, optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant"
)


class OneByOne(Dataset):
    """Images through Pillow, as torchvision's transforms take them."""

    def __init__(self, split: str) -> None:
        self.inputs, self.labels = recipe.dataset.split(split).inputs[:, 0], recipe.dataset.split(split).labels.numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, np.int64]:
        image = Image.fromarray(self.inputs[row].numpy())
        pixels = torch.from_numpy(np.array(image)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).clone().sub_(0.1307).div_(0.3081), self.labels[row]


def one_by_one(folder: str, density: float) -> None:
    """The loop of ``open_lth``, masks that keep a share of the weights included."""
    module = recipe.network()
    masks = {
        name: mask.float()
        for name, mask in magnitude_masks(module, dict.fromkeys(prunable(module), 1 - density)).items()
    }
    loaders = DataLoader(OneByOne("train"), 128, shuffle=True), DataLoader(OneByOne("test"), 128)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def masked_outputs(inputs: Tensor) -> Tensor:
        for name, parameter in module.named_parameters():
            if name in masks:
                parameter.data *= masks[name]
        return module(inputs)

    for _ in range(EPOCHS):
        for inputs, labels in loaders[0]:
            optimizer.zero_grad()
            cross_entropy(masked_outputs(inputs), labels).backward()
            optimizer.step()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=UserWarning)
                schedule.step()
        right, loss = torch.tensor(0.0), torch.tensor(0.0)
        with torch.no_grad():
            for inputs, labels in loaders[1]:
                outputs = masked_outputs(inputs)
                right += torch.sum(outputs.argmax(1) == labels)
                loss += cross_entropy(outputs, labels) * len(labels)
        torch.save([module.state_dict(), optimizer.state_dict(), float(right), float(loss)], Path(folder, "checkpoint"))


def study(seeds: int) -> Ticket:
    """Tickets alone, as open_lth finds them: 20 % of all weights but the last layer's."""
    return Ticket((recipe,), seeds=seeds, levels=LEVELS, scope="global", variants=())


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


def pieces() -> None:
    """What a masked step does besides, alone; and what a step takes that has hardly any arithmetic in it."""
    mask = torch.rand(300 * 784) < 0.9
    index, whole, factor = mask.nonzero().squeeze(1), torch.randn(len(mask)), mask.float()
    values = whole[index]
    for name, do in (
        ("gathering 90 %", lambda: whole.index_select(0, index)),
        ("scattering 90 %", lambda: whole.scatter_(0, index, values)),
        ("multiplying by a mask", lambda: whole * factor),
    ):
        told = [1000 * hand.seconds(do) for _ in range(500)]
        print(f"{name}: {hand.median(told):.3f} ms")

    small = Recipe(
        model="fcn", widths="2", data="digits", epochs=9, batch_size=2, optimizer="sgd", lr=0.001, momentum=0.0
    )
    module, split, steps = small.network(), small.dataset.split("train"), 2000
    optimizer = small.make_optimizer(module.parameters())
    inputs, labels = split.batch(torch.arange(2)), split.labels[:2]

    def bare() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(module(inputs), labels).backward()
            optimizer.step()

    told = [(hand.seconds(bare), hand.seconds(lambda: [*train(module, small, [steps])])) for _ in range(9)]
    calls, loop = (1000 * hand.median([one[k] for one in told]) / steps for k in (0, 1))
    print(f"a step of four layers of two units: {calls:.3f} ms of torch's calls, {loop:.3f} in the loop here")


if __name__ == "__main__":
    torch.set_num_threads(1)
    hand.mnist(1)  # says what is missing
    recipe.dataset.split("train")
    if "steps" not in sys.argv:
        runs = (LEVELS + 1) * EPOCHS
        theirs, alone = [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(3):
                theirs.append(hand.seconds(lambda: one_by_one(folder, 0.5)) / EPOCHS)
                alone.append(lottery(1, 0) / runs)
                print(
                    f"one core: {theirs[-1]:.2f} s per epoch one by one, {alone[-1]:.2f} here: "
                    f"{theirs[-1] / alone[-1]:.1f} times as fast"
                )
            theirs.append(hand.seconds(lambda: one_by_one(folder, 0.5)) / EPOCHS)
        both, told = lottery(2, 2), 2 * runs * hand.median(theirs)
        print(f"two seeds on two cores: {both:.1f} s, one by one {told:.1f}: {told / both:.1f} times as fast")
    masked()
    pieces()
