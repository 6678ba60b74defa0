"""``letitgo inspect``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from letitgo.cli.options import json_object
from letitgo.errors import BadRequest
from letitgo.recipes.recipe import BUILT_IN

if TYPE_CHECKING:
    from torch import nn

    from letitgo.recipes.structures import InputShape, Structure
    from letitgo.weights import Cost, Status

_REBUILT = 2 << 30
"""Bytes of weights up to which a network that cannot be counted without being computed is built for it."""


def inspect_model(
    model: Annotated[
        str,
        Parameter(
            help=f"{BUILT_IN}, an import path package.module:factory, timm:NAME, torchvision:NAME, or "
            "transformers: with a type of model, a config.json or a hub id"
        ),
    ],
    /,
    *,
    freeze: Annotated[
        list[str] | None, Parameter(negative="", help="pattern of what would be frozen; may be repeated")
    ] = None,
    input: Annotated[
        str | None,
        Parameter(help="shape of an example as in 1x3x224x224, or 1x128:int for whole numbers [default: if known]"),
    ] = None,
    model_args: Annotated[
        str | None, Parameter(help="arguments of the factory, or fields of the configuration, as JSON")
    ] = None,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="what is written to stdout")] = "table",
    debug: Annotated[bool, Parameter(negative="", show_default=False, help="show tracebacks of errors")] = False,
) -> int:
    """Tell of a network's layers what trains, what a training step costs, and what freezing some would save.

    Nothing is trained and no weights are fetched: operations are counted, where possible without computing them.
    Patterns are globs over the names of layers, blocks and parameters; a leading ! takes away.
    """
    args = {} if model_args is None else json_object("model-args", model_args)
    shape = None if input is None else _shape(input)

    import dataclasses

    from letitgo.cli.run import kept_from_stdout
    from letitgo.cli.tables import stdout_console, write
    from letitgo.recipes.structures import find_structure
    from letitgo.version import versions

    with kept_from_stdout():
        structure = find_structure(model, shape, args)
        table, example, cost, refusal = _look(structure, tuple(freeze or ()))
    if cost is None and (freeze or shape):
        raise refusal or BadRequest(
            "freezing saves as much as the input is large: give a shape, as in --input 1x3x224x224"
        )
    if cost is None:
        why = refusal or "no shape of an input is known"
        print(f"letitgo: no cost without an example: {why}; give a shape with --input", file=sys.stderr)
    lines = _costs(cost, example, freeze or []) if cost else []

    if format == "table":
        console = stdout_console()
        console.print(table)
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
    counted = cost and {**dataclasses.asdict(cost), "share": cost.share, "share_at_hand": cost.share_at_hand}
    rows = table.frame.to_dict(orient="records")
    about = {"model": model, "freeze": freeze or [], "example": example, "parameters": table.parameters}
    about |= {"trainable": table.trainable, "cost": counted, "versions": versions()}
    write(format, rows, {**about, "rows": rows})
    if format == "csv":
        print(table.summary, *lines, sep="\n", file=sys.stderr)
    return 0


def _look(structure: Structure, patterns: tuple[str, ...]) -> tuple[Status, str, Cost | None, BadRequest | None]:
    """Status with the patterns frozen, the example in words, and the cost, or what stands against counting it."""
    import torch

    from letitgo.weights import Selection, cost, freeze, parameter_names, select, status

    module = _built(structure)
    chosen = select(module, *patterns) if patterns else Selection((), parameter_names(module))

    def counted() -> tuple[str, Cost | None, BadRequest | None]:
        try:
            example = structure.example(module)
            return _shapes(example), None if example is None else cost(module, example, chosen), None
        except BadRequest as error:
            return "", None, error

    example, answer, refusal = counted()
    weights = list(module.parameters())
    bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    if refusal and any(weight.is_meta for weight in weights) and bytes <= _REBUILT:
        with torch.device("cpu"):
            module = structure.build()
        example, answer, refusal = counted()
    freeze(module, chosen)
    return status(module), example, answer, refusal


def _built(structure: Structure) -> nn.Module:
    """The network without memory for its weights, where it can be built so."""
    import torch

    try:
        with torch.device("meta"):
            return structure.build()
    except BadRequest:
        with torch.device("cpu"):
            return structure.build()


def _shape(text: str) -> InputShape:
    from letitgo.recipes.structures import InputShape

    sizes, _, kind = text.partition(":")
    numbers = sizes.split("x")
    if kind not in ("", "int") or not all(number.isdecimal() and int(number) for number in numbers):
        raise BadRequest(f"input is {text!r}: give a shape, as in 1x3x224x224, or 1x128:int for whole numbers")
    return InputShape(tuple(map(int, numbers)), kind == "int")


def _shapes(example: Any) -> str:
    named = example if isinstance(example, dict) else {"": example}
    shapes = [(name, "×".join(map(str, tensor.shape))) for name, tensor in named.items() if tensor is not None]
    return ", ".join(f"{name} {shape}".strip() for name, shape in shapes)


def _costs(cost: Cost, example: str, patterns: list[str]) -> list[str]:
    from letitgo.report.numbers import amount

    step, kept = cost.thawed, cost.gradient_bytes
    lines = [
        f"a training step of one example, counted on {example}: {amount(step.forward)}FLOP forward, "
        f"{amount(step.backward)}FLOP backward; gradients {amount(kept.thawed)}B, state of Adam "
        f"{amount(cost.optimizer_bytes.thawed)}B"
    ]
    if patterns:
        lines += [
            f"with {', '.join(patterns)} frozen: {amount(cost.frozen.forward)}FLOP forward, "
            f"{amount(cost.frozen.backward)}FLOP backward; gradients {amount(kept.frozen)}B, state of Adam "
            f"{amount(cost.optimizer_bytes.frozen)}B: {100 * cost.share:.1f} % of the operations",
            cost.why,
        ]
    return lines
