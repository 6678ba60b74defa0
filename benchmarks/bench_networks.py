"""ResNet-20 with augmentation and a small BERT: the engine over hand-written loops, frozen blocks over the floor.

Goals: at most 1.05 for the engine over the loop, and 1.15 for a step with a prefix of blocks frozen over its counted
floor. Seconds are of the processor. The loop and the engine take steps in turn, frozen prefixes turns of a few steps.
"""

import time
from collections.abc import Iterable, Iterator

import hand
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from letitgo import Recipe, freeze, step_cost
from letitgo.recipes.batches import Batches
from letitgo.studies.subject import Subject
from letitgo.training import train
from letitgo.weights import Selection, StepCost, parameter_names

torch.set_num_threads(1)
ROUNDS, WARM, TURN, PAIRS = 3, 2, 4, {"resnet20": 24, "bert": 80}
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}

RECIPES = {
    "resnet20": Recipe(model="resnet20", data="cifar10", examples=4096, augment="flip+crop", schedule="constant"),
    "bert": Recipe(
        model="transformers:bert",
        model_args=SIZES,
        data="python-manual",
        batch_size=32,
        optimizer="adamw",
        schedule="constant",
    ),
}


def augmented(images: Tensor) -> Tensor:
    """Half of the images mirrored, all of them moved by up to 4 pixels."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)
    windows = pad(images, (4, 4, 4, 4)).unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    down, right = torch.randint(9, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def by_hand(name: str) -> Iterator[None]:
    """The loop that a person would write; pauses after each step."""
    recipe, module = RECIPES[name], hand.fresh(RECIPES[name]).train()
    split = recipe.dataset.split("train")
    inputs, order = split.batch(slice(None)), Batches(recipe).order(0)
    labels, optimizer = split.labels, torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    if name == "bert":
        module = plain_bert(recipe)
        optimizer = torch.optim.AdamW(module.parameters())
    for step in range(WARM + PAIRS[name]):
        rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        optimizer.zero_grad()
        if name == "bert":
            loss = cross_entropy(module(input_ids=inputs[rows]).logits.flatten(0, -2), labels[rows].flatten())
        else:
            loss = cross_entropy(module(augmented(inputs[rows])), labels[rows])
        loss.backward()
        optimizer.step()
        yield


def plain_bert(recipe: Recipe) -> nn.Module:
    """The network as transformers builds it, without letitgo."""
    from transformers import AutoModelForCausalLM, BertConfig

    config = BertConfig(**SIZES, vocab_size=recipe.dataset.outputs, is_decoder=True, use_cache=False)
    return AutoModelForCausalLM.from_config(config).train()


def by_engine(name: str, stops: Iterable[int], frozen: tuple[str, ...] = ()) -> Iterator[None]:
    """The same in the engine; pauses at the stops."""
    module = hand.fresh(RECIPES[name])
    freeze(module, Selection(frozen, parameter_names(module)))
    return (None for _ in train(module, RECIPES[name], stops))


def seconds(moments: Iterator[None]) -> float:
    """Of the processor, up to the next pause."""
    begin = time.process_time()
    next(moments)
    return time.process_time() - begin


def over_hand(name: str) -> None:
    """Print the ratio of the engine to the loop."""
    steps = WARM + PAIRS[name]
    ways = {"engine": by_engine(name, range(1, steps + 1)), "hand": by_hand(name)}
    turns = [{way: seconds(ways[way]) for way in sorted(ways, reverse=bool(step % 2))} for step in range(steps)]
    ratios = sorted(took["engine"] / took["hand"] for took in turns[WARM:])
    low, high = (ratios[len(ratios) * part // 4] for part in (1, 3))
    spread = f"median of {len(ratios)} pairs of steps, quartiles {low:.3f} and {high:.3f}"
    print(f"{name}: engine / hand-written loop {hand.median(ratios):.3f} ({spread})")


def of_a_turn(name: str, frozen: tuple[str, ...]) -> float:
    """Seconds of a few steps after warming up."""
    moments = by_engine(name, (WARM, WARM + TURN), frozen)
    next(moments)
    return seconds(moments)


def over_floor(name: str) -> None:
    """Print the time of a step over its floor, both as shares of the full step, for each prefix of blocks."""
    recipe = RECIPES[name]
    blocks = Subject(recipe).units(by="block")
    prefixes = [tuple(n for block in blocks[:i] for n in block.parameters) for i in range(len(blocks))]

    def counted(frozen: tuple[str, ...]) -> StepCost:
        module = hand.fresh(recipe)
        freeze(module, Selection(frozen, parameter_names(module)))
        return step_cost(module, recipe.dataset.sample)

    floors = [counted(prefix).whole / counted(()).whole for prefix in prefixes]
    rounds = [[of_a_turn(name, prefix) for prefix in prefixes] for _ in range(ROUNDS)]
    print(f"{name}, frozen up to: share of the full step's time, counted share, one over the other")
    for i, floor in enumerate(floors[1:], start=1):
        share = hand.median([took[i] / took[0] for took in rounds])
        print(f"  {blocks[i - 1].name:12} {share:.3f} {floor:.3f} {share / floor:.3f}")


over_hand("bert")
over_hand("resnet20")
over_floor("resnet20")
