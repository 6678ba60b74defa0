"""Ways to fine-tune a small vision transformer: what ``letitgo search`` advises beside LoRA and others, at equal cost.

A step of each way costs another share of the arithmetic. So each trains for as many epochs as ten epochs of the advised
set pay for. Learning rates are chosen on held-out examples under a seed that is not used again. Five seeds; each draws
its own training examples.

    python benchmarks/finetuning.py          # the rows of docs/finetuning
    python benchmarks/finetuning.py show     # the table and the figure, from the rows

Needs ``LETITGO_DATA`` with mnist and fashion_mnist, transformers, and peft.
"""

from __future__ import annotations

import copy
import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

import letitgo
from letitgo.report.files import to_files
from letitgo.report.numbers import percent, points
from letitgo.report.pictures import PALETTE, Panel, Picture, Points
from letitgo.studies.statistics import ci95
from letitgo.weights.layers import layers
from letitgo.weights.units import units

FOLDER = Path(__file__).parent.parent / "docs" / "finetuning"
WORK = Path("letitgo-finetuning")
EPOCHS, BATCH, EXAMPLES, HELD_OUT, TESTED = 10, 32, 1_000, 1_000, 4_000
TASKS = {
    "noise": {"data": "mnist", "shift": "noise"},
    "inverted": {"data": "mnist", "shift": "invert"},
    "Fashion-MNIST": {"data": "fashion_mnist"},
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BUDGET = 0.3
"""Share of the arithmetic that the search is to save; LoRA saves about as much."""
RANKS = (2, 8)
SEEDS = range(1, 6)


def images(split: str, **of: str) -> tuple[Tensor, Tensor]:
    """Images as a network takes them, shape (n, 1, 28, 28), and labels."""
    data = letitgo.Recipe(**of).dataset.split(split)
    return data.batch(slice(None)), data.labels


class Tune:
    """Fine-tuning on a shift of MNIST, from a network that learned MNIST."""

    epochs = EPOCHS

    def __init__(self, name: str = "noise", rate: float = 1e-3) -> None:
        torch.set_num_threads(1)
        self.rate = rate
        self.pool, self.test = images("train", **TASKS[name]), images("test", **TASKS[name])
        self.old = images("test", data="mnist")

    def model(self) -> nn.Module:
        return ViTForImageClassification(
            ViTConfig(
                hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96, patch_size=7,
                image_size=28, num_channels=1, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip

    def examples(self, seed: int) -> tuple[Tensor, Tensor]:
        """Training examples of a seed. The last of the pool are held out."""
        inputs, labels = self.pool
        chosen = torch.randperm(len(labels) - HELD_OUT, generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
        return inputs[chosen], labels[chosen]

    def train(self, model: nn.Module, seed: int, resume: Any = None) -> Iterator[Any]:
        optimizer = torch.optim.Adam(letitgo.trainable(model), lr=self.rate)
        done = 0
        if resume is not None:
            optimizer.load_state_dict(resume["optimizer"])
            done = resume["done"]
        for epoch in range(done, self.epochs):
            run_epoch(model, optimizer, self.examples(seed), self.rate, epoch, self.epochs)
            yield {"optimizer": optimizer.state_dict(), "done": epoch + 1}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        correct = right(model, *(part[:TESTED] for part in self.test))
        return {"accuracy": correct.float().mean(), "correct": correct, "old": self.before(model)}

    def before(self, model: nn.Module) -> float:
        return float(right(model, *(part[:TESTED] for part in self.old)).float().mean())

    def validate(self, model: nn.Module) -> dict[str, Any]:
        correct = right(model, *(part[-HELD_OUT:] for part in self.pool))
        return {"accuracy": correct.float().mean(), "correct": correct}


def run_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], rate: float, epoch: int, of: float
) -> None:
    """One epoch, or the part of one that is left of training; the learning rate falls to zero at its end."""
    inputs, labels = data
    steps = len(labels) // BATCH
    for step, rows in enumerate(torch.randperm(len(labels)).split(BATCH)):
        progress = (epoch + step / steps) / of
        if progress >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - progress)
        optimizer.zero_grad()
        cross_entropy(model(inputs[rows]).logits, labels[rows]).backward()
        optimizer.step()


@torch.no_grad()
def right(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Which answers are right."""
    return torch.cat([model(inputs[i : i + 500]).logits.argmax(1) for i in range(0, len(labels), 500)]) == labels


@dataclass(frozen=True)
class Way:
    """A way to fine-tune, and what a step of it takes as a share of a step that trains everything.

    Attributes:
        name: As in the table.
        trains: In words.
        prepare: Has a network, given in its pretrained weights, train in this way only.
        share: Of the counted arithmetic.
        memory: Of the counted peak; None where it is not counted.
    """

    name: str
    trains: str
    prepare: Callable[[nn.Module], object]
    share: float
    memory: float | None


def ways(start: nn.Module, task: Tune, advised: tuple[str, ...], saved: float) -> list[Way]:
    """All ways, each at what it costs. ``advised`` are the blocks that the search freezes, which saves ``saved``."""
    batch = task.examples(0)[0][:BATCH]
    peak = letitgo.memory(start, batch).peak
    own = blocks(start)

    def freezing(name: str, chosen: Iterable[str]) -> Way:
        frozen = letitgo.select(start, *[layer for block in chosen for layer in own[block]])
        trains = ", ".join(block for block in own if block not in chosen)
        counted = letitgo.cost(start, batch, frozen)
        memory = counted.frozen_memory.peak / peak
        return Way(name, trains, lambda model: letitgo.freeze(model, frozen), counted.share, memory)

    whole = Way("everything", ", ".join(own), lambda _: None, 1.0, 1.0)
    found = [whole, freezing("advised", advised), freezing("last layer", tuple(own)[:-1])]
    gradients = relative_gradients(start, task)
    order = sorted(own, key=gradients.__getitem__)  # the smallest are frozen first
    by_gradient = (freezing("Auto-RGN", order[:count]) for count in range(1, len(order)))
    found.append(next(way for way in by_gradient if 1 - way.share >= saved))
    everything = letitgo.step_cost(start, batch)
    for rank in RANKS:
        counted = letitgo.lora_cost(start, batch, rank)
        share = (counted.step.forward + counted.step.backward) / (everything.forward + everything.backward)
        prepare = partial(adapt, rank=rank)
        found.append(Way(f"LoRA {rank}", "adapters, classifier", prepare, share, counted.memory.peak / peak))
    found.append(Way("random entries", "a tenth of each weight, biases", hold_some, 1.0, None))
    return found


def blocks(model: nn.Module) -> dict[str, list[str]]:
    """The embedding, four blocks and the output layer → their layers."""
    return units(model, layers(model), by="block")


def relative_gradients(start: nn.Module, task: Tune) -> dict[str, float]:
    """Block → norm of its gradient at the start over that of its weights (Lee et al., arXiv:2210.11466)."""
    model = copy.deepcopy(start)
    inputs, labels = task.examples(0)
    cross_entropy(model(inputs).logits, labels).backward()
    found = {}
    for block, own in blocks(model).items():
        parameters = [model.get_parameter(name) for name in letitgo.select(model, *own)]
        gradients = [p.grad for p in parameters if p.grad is not None]
        found[block] = float(nn.utils.get_total_norm(gradients) / nn.utils.get_total_norm(parameters))
    return found


def adapt(model: nn.Module, rank: int) -> None:
    """Adapters beside each linear layer but the output layer, which trains as it is."""
    import peft

    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and name != "classifier"]
    peft.get_peft_model(
        model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, modules_to_save=["classifier"])
    )


def hold_some(model: nn.Module) -> letitgo.Held:
    return letitgo.hold(model, letitgo.fraction(model, 0.1, of="weights", seed=0) | letitgo.biases(model))


def tuned(task: Tune, start: nn.Module, way: Way, seed: int, rate: float, epochs: float) -> nn.Module:
    """The network after fine-tuning for some epochs, the last of which may be a part of one."""
    model = copy.deepcopy(start)
    torch.manual_seed(seed)
    held = way.prepare(model)  # held as long as it is referred to
    optimizer = torch.optim.Adam(letitgo.trainable(model), lr=rate)
    for epoch in range(ceil(epochs)):
        run_epoch(model, optimizer, task.examples(seed), rate, epoch, epochs)
    if isinstance(held, letitgo.Held):
        held.release()
    return model


def pretrained() -> Path:
    """A file of the network after four epochs on MNIST."""
    path = WORK / "mnist.pt"
    if not path.exists():
        WORK.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model, data = Tune().model(), images("train", data="mnist")
        optimizer = torch.optim.Adam(model.parameters())
        for epoch in range(4):
            run_epoch(model, optimizer, data, 2e-3, epoch, 4)
        torch.save({"state_dict": model.state_dict()}, path)
    return path


def compared(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one task."""
    torch.manual_seed(0)
    task, path = Tune(name), pretrained()
    start = task.model()
    start.load_state_dict(torch.load(path)["state_dict"])
    recipe = letitgo.Recipe(task="finetuning:Tune", model_args={"name": name})
    search = letitgo.Search(recipe, pretrained=str(path), budget=BUDGET, by="block", seeds=3)
    outcome = letitgo.compute(search, store=WORK / "store")
    answer = search.answer(outcome.rows)
    yield {
        "task": name, "way": "no training", "seed": 0, "accuracy": float(task.evaluate(start)["accuracy"]),
        "old_accuracy": task.before(start), "arithmetic": 0,
    }  # fmt: skip
    budget = EPOCHS * (1 - answer["saved"])
    for way in ways(start, task, tuple(answer["frozen"]), answer["saved"]):
        epochs = budget / way.share
        chosen = max(RATES, key=lambda rate: validated(task, start, way, rate, epochs))
        print(name, way.name, way.trains, f"{way.share:.3f} of a step, {epochs:.1f} epochs, rate {chosen}", flush=True)
        for seed in SEEDS:
            model = tuned(task, start, way, seed, chosen, epochs)
            found = task.evaluate(model)
            yield {
                "task": name, "way": way.name, "trains": way.trains, "seed": seed, "rate": chosen, "epochs": epochs,
                "accuracy": float(found["accuracy"]), "old_accuracy": found["old"], "step": way.share,
                "arithmetic": way.share * epochs / EPOCHS, "memory": way.memory,
            }  # fmt: skip


def validated(task: Tune, start: nn.Module, way: Way, rate: float, epochs: float) -> float:
    return float(task.validate(tuned(task, start, way, 0, rate, epochs))["accuracy"])


def write() -> None:
    """Compute the rows."""
    FOLDER.mkdir(exist_ok=True)
    rows = [row for name in TASKS for row in compared(name)]
    with (FOLDER / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show() -> None:
    """Print the table and draw the figure, of the rows that are there."""
    with (FOLDER / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    of: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        of.setdefault(row["task"], {}).setdefault(row["way"], []).append(row)
    print("| new task | way | trains | a step | its memory | epochs | new task | old task |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, found in of.items():
        for way, own in found.items():
            measured = (points(*spread(own, key)) for key in ("accuracy", "old_accuracy"))
            step, memory = (percent(number(own[0][key])) for key in ("step", "memory"))
            epochs = own[0]["epochs"] and f"{float(own[0]['epochs']):.1f}"
            print("| " + " | ".join([name, way, own[0]["trains"], step, memory, epochs, *measured]) + " |")
    to_files({FOLDER / "ways": picture(of)})


def spread(own: list[dict[str, str]], key: str) -> tuple[float, float | None]:
    values = [float(row[key]) for row in own]
    return fmean(values), ci95(values)


def number(text: str) -> float | None:
    return float(text) if text else None


def picture(of: dict[str, dict[str, list[dict[str, str]]]]) -> Picture:
    """Accuracy, forgetting, arithmetic and memory: a panel each, a place for each way, a colour for each task."""
    names = list(next(iter(of.values())))
    panels = []
    measures = {
        "accuracy": "new task, %",
        "old_accuracy": "old task, %",
        "step": "arithmetic of a step over everything's",
        "memory": "memory of a step over everything's",
    }
    for key, label in measures.items():
        marks = []
        for i, (task, found) in enumerate(of.items()):
            there = [(j, found[way]) for j, way in enumerate(names) if found[way][0][key]]
            factor = 100 if key.endswith("accuracy") else 1
            values = [spread(own, key) for _, own in there]
            halves = [factor * (half or 0) if factor > 1 else None for _, half in values]
            places = [j + 0.2 * (i - 1) for j, _ in there]
            look = {"label": task if key == "accuracy" else "", "colour": PALETTE[i], "shape": "osD"[i]}
            marks.append(Points([factor * mean for mean, _ in values], places, halves, sideways=True, **look))
        panels.append(Panel(marks, x=label, places=names))
    caption = "Ways to fine-tune a small vision transformer at equal arithmetic; 95 % intervals over five seeds."
    return Picture([panels[:2], panels[2:]], caption)


if __name__ == "__main__":
    show() if sys.argv[1:] == ["show"] else write()
