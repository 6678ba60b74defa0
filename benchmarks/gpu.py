"""On a GPU: do bits repeat, and how quick are training and evaluation? Says so where there is none.

``--device cpu --quick`` runs all of it at a tiny size, to see that it works. Goal: engine over hand-written loop 1.05.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import hand
import torch
from torch.nn.functional import cross_entropy, pad

from letitgo import Evaluation, Initial, Place, Recipe, Run
from letitgo.errors import BadRequest
from letitgo.execute.jobs import measure
from letitgo.execute.training import carry_out
from letitgo.plan.choices import Subspace
from letitgo.store import Store
from letitgo.training import train
from letitgo.weights import parameter_names, seeded

WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"memory_format": "channels-last"},
    {"precision": "bf16"},
    {"precision": "bf16", "memory_format": "channels-last"},
)
"""How networks are computed."""


def run_of(recipe: Recipe, **fields: Any) -> Run:
    names = parameter_names(seeded(recipe.network, 0))
    return Run(**{"start": Initial(recipe.network, recipe.seed), "trains": names, "recipe": recipe, **fields})


def trained(run: Run, place: Place, stops: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """The last state, after being stopped at some steps and begun again from the store."""
    with tempfile.TemporaryDirectory() as folder:
        for stop in (*stops, run.recipe.steps):
            carry_out(run, Store(folder), [stop], place)
        return run.final.load(Store(folder))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def checks(small: Recipe, text: Recipe | None, place: Place) -> None:
    """Print a table of what has to repeat itself to the bit."""
    print("| the same bits | |\n| --- | --- |")

    def told(what: str, answer: bool) -> None:
        print(f"| {what} | {'yes' if answer else '**no**'} |", flush=True)

    networks = [small.fields() | way for way in WAYS]
    pooling = () if text is None else ({"model": "vgg11"}, {"model": "resnet18"})
    networks += [small.fields() | each for each in pooling]
    for fields in [*networks, *([text.fields()] if text else [])]:
        run = run_of(Recipe(**fields))
        whole = trained(run, place)
        name = f"{fields['model']} {fields['precision']} {fields['memory_format']}"
        told(f"{name}: trained twice", same(whole, trained(run, place)))
        told(f"{name}: stopped and gone on", same(whole, trained(run, place, (run.recipe.steps // 2,))))
    run = run_of(small)
    first = next(iter(small.network.layers.values()))
    frozen = trained(run_of(small, trains=tuple(name for name in run.trains if name not in first)), place)
    told("a frozen layer and its start", same({name: frozen[name] for name in first}, run.start.load(Store("unused"))))
    subspace = run_of(small, trains=Subspace(50, "fastfood", 0, run.trains))
    told("a subspace, stopped and gone on", same(trained(subspace, place), trained(subspace, place, (2,))))


def by_hand(module: torch.nn.Module, recipe: Recipe, place: Place) -> None:
    """What a person writes: data on the device, augmentation by the batch, autocast."""
    split = recipe.dataset.split("train").to(place.device)
    mean, deviation, size = split.mean, split.deviation, split.inputs.shape[-1]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(split), device=place.device)
        for begin in range(0, len(order), recipe.batch_size):
            rows = order[begin : begin + recipe.batch_size]
            images, several = split.inputs[rows], torch.arange(len(rows), device=place.device)
            images = torch.where(torch.rand(len(rows), 1, 1, 1, device=place.device) < 0.5, images.flip(-1), images)
            down, right = torch.randint(9, (2, len(rows)), device=place.device)
            images = pad(images, (4,) * 4).unfold(2, size, 1).unfold(3, size, 1)[several, :, down, right]
            optimizer.zero_grad()
            with place.autocast(recipe.precision):
                loss = cross_entropy(module(images.float().sub_(mean).div_(deviation)), split.labels[rows])
            loss.backward()
            optimizer.step()


def seconds(work: Callable[[], Any], place: Place, turns: int) -> float:
    """Median time of a call, the device's work included."""

    def once() -> None:
        work()
        if place.kind == "cuda":
            torch.cuda.synchronize(place.device)

    once()
    return hand.median([hand.seconds(once) for _ in range(turns)])


def times(recipe: Recipe, place: Place, turns: int) -> None:
    """Print a table of ResNet-20 with augmentation: an epoch through the engine and by hand, and an evaluation."""
    print(
        "\n| resnet20, an epoch | engine, s | by hand, s | ratio | evaluation, s |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for way in WAYS:
        own = Recipe(**recipe.fields() | way)
        initial = run_of(own).start
        with tempfile.TemporaryDirectory() as folder, place.entered():
            store = Store(folder)
            module = place.bring(initial.module(store), own.memory_format)
            engine = seconds(lambda r=own, m=module: list(train(m, r, [r.steps], place=place)), place, turns)
            plain = seconds(lambda r=own, m=module: by_hand(m, r, place), place, turns)
            test = Evaluation.under(own, initial, "test")
            evaluated = seconds(lambda value=test, to=store: measure(value, to, place), place, turns)
        name = f"{own.precision}, {own.memory_format}"
        print(f"| {name} | {engine:.3f} | {plain:.3f} | {engine / plain:.3f} | {evaluated:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args()
    place = Place(options.device)
    try:
        place.check()
    except BadRequest as error:
        print(f"no GPU here, nothing is measured: {error}")
        sys.exit(0)
    if not options.quick and not os.environ.get("LETITGO_DATA"):
        sys.exit("set LETITGO_DATA to a folder that holds cifar10 in the hub's layout")
    few: Any = (
        {"data": "digits", "batch_size": 16, "test_examples": 32, "model_args": {"width": 2}}
        if options.quick
        else {"data": "cifar10"}
    )
    whole = Recipe(model="resnet20", augment="flip+crop", schedule="constant", epochs=1, **few)
    size = 32 if options.quick else 2000
    small = Recipe(**whole.fields() | {"examples": size, "epochs": 2})
    text = None if options.quick else Recipe(model="lstm", data="python-manual", examples=size, epochs=2)
    checks(small, text, place)
    times(Recipe(**whole.fields() | {"examples": size}) if options.quick else whole, place, 1 if options.quick else 5)
    name = torch.cuda.get_device_name(place.device) if place.kind == "cuda" else place.device
    print(f"\n{name}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
