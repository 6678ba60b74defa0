"""``letitgo inspect``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from letitgo.cli.config import ConfigOption
from letitgo.cli.options import json_object
from letitgo.cli.parameter import Parameter
from letitgo.errors import BadRequest
from letitgo.recipes.recipe import BUILT_IN

if TYPE_CHECKING:
    from torch import nn

    from letitgo.recipes.structures import InputShape, Structure
    from letitgo.weights import Cost, LoraCost, Memory, Status, StepCost

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
    optimizer: Annotated[str, Parameter(help="optimiser of torch.optim, or an import path, for its state")] = "adamw",
    precision: Annotated[
        Literal["bf16-mixed", "bf16-true"] | None,
        Parameter(
            help="bfloat16 by autocast with weights as they are, or all of it in bfloat16 [default: as the network is]"
        ),
    ] = None,
    checkpoint: Annotated[
        bool, Parameter(negative="", help="compute each block again on the way back, to save memory")
    ] = False,
    lora: Annotated[
        int | None, Parameter(help="rank of low-rank adapters to compare with [default: no comparison]")
    ] = None,
    fit: Annotated[
        str | None,
        Parameter(help="memory, as in 24GB or 24GiB: which first blocks to freeze so that training fits it"),
    ] = None,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="what is written to stdout")] = "table",
    config: ConfigOption = None,
    debug: Annotated[bool, Parameter(negative="", show_default=False, help="show tracebacks of errors")] = False,
) -> int:
    """Tell of a network's layers what trains, what a training step costs, and what freezing some would save.

    Nothing is trained and no weights are fetched: operations are counted, where possible without computing them.
    Patterns are globs over the names of layers, blocks and parameters; a leading ! takes away.
    """
    args = {} if model_args is None else json_object("model-args", model_args)
    shape = None if input is None else _shape(input)
    limit = None if fit is None else _bytes(fit)

    import dataclasses

    from letitgo.cli.run import kept_from_stdout
    from letitgo.cli.tables import stdout_console, write
    from letitgo.recipes.structures import find_structure
    from letitgo.version import versions

    with kept_from_stdout():
        structure = find_structure(model, shape, args)
        options = {"optimizer": _optimizer(optimizer), "precision": precision, "checkpoint": checkpoint}
        look = _look(structure, tuple(freeze or ()), options)
        table, cost, refusal = look.table, look.cost, look.refusal
        asked = freeze or shape or lora is not None or limit is not None
        adapted, fitted = (None, None) if cost is None else _compared(look, lora, limit, options)
    if cost is None and asked:
        raise refusal or BadRequest(
            "freezing saves as much as the input is large: give a shape, as in --input 1x3x224x224"
        )
    if cost is None:
        why = refusal or "no shape of an input is known"
        print(f"letitgo: no cost without an example: {why}; give a shape with --input", file=sys.stderr)
    lines = _costs(cost, look.shapes, freeze or [], optimizer) if cost else []
    lines += [*([_lora_line(adapted, cost, lora)] if adapted and cost else []), *([fitted.line(fit)] if fitted else [])]

    if format == "table":
        console = stdout_console()
        console.print(table)
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
    counted = cost and {**dataclasses.asdict(cost), "share": cost.share, "share_at_hand": cost.share_at_hand}
    rows = table.frame.to_dict(orient="records")
    about = {"model": model, "freeze": freeze or [], "example": look.shapes, "parameters": table.parameters}
    about |= {"trainable": table.trainable, "cost": counted}
    about |= {"lora": adapted and {"rank": lora, **dataclasses.asdict(adapted)}}
    about |= {"fit": fitted and {"limit": limit, **dataclasses.asdict(fitted)}, "versions": versions()}
    write(format, rows, {**about, "rows": rows})
    if format == "csv":
        print(table.summary, *lines, sep="\n", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class _Look:
    """A network, its status with the patterns frozen, an example, and the cost, or what stands against counting it."""

    module: nn.Module
    table: Status
    example: Any
    cost: Cost | None
    refusal: BadRequest | None

    @property
    def shapes(self) -> str:
        return "" if self.cost is None else _shapes(self.example)


def _look(structure: Structure, patterns: tuple[str, ...], options: dict[str, Any]) -> _Look:
    import torch

    from letitgo.weights import Selection, cost, freeze, parameter_names, select, status

    module = _built(structure)
    if not parameter_names(module):
        raise BadRequest("the network has no weights: there is nothing to train or to freeze")
    chosen = select(module, *patterns) if patterns else Selection((), parameter_names(module))

    def counted() -> tuple[Any, Cost | None, BadRequest | None]:
        try:
            example = structure.example(module)
            return example, None if example is None else cost(module, example, chosen, **options), None
        except BadRequest as error:
            return None, None, error

    example, answer, refusal = counted()
    weights = list(module.parameters())
    bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    if refusal and any(weight.is_meta for weight in weights) and bytes <= _REBUILT:
        with torch.device("cpu"):
            module = structure.build()
        example, answer, refusal = counted()
    freeze(module, chosen)
    return _Look(module, status(module), example, answer, refusal)


@dataclass(frozen=True)
class _Fitted:
    """What to freeze so that training fits: the first blocks, the others, and the bytes at the peak then."""

    frozen: list[str]
    trained: list[str]
    peak: int

    def line(self, limit: str | None) -> str:
        from letitgo.report.numbers import amount

        total, held = len(self.frozen) + len(self.trained), f"{amount(self.peak)}B at the peak"
        if not self.frozen:
            return f"all of it fits {limit}: {held}"
        last = self.frozen[-1]
        return (
            f"to fit {limit}, freeze the first {len(self.frozen)} of {total} blocks, up to {last}, and train the last "
            f"{len(self.trained)}: {held}"
        )


def _compared(
    look: _Look, rank: int | None, limit: int | None, options: dict[str, Any]
) -> tuple[LoraCost | None, _Fitted | None]:
    """The cost of low-rank adapters, and what fits a memory, where they are asked for."""
    from letitgo.weights import fitting, freeze, lora_cost, memory, training_blocks

    fitted = None
    adapted = None if rank is None else lora_cost(look.module, look.example, rank, **options)
    if limit is not None:
        blocks = training_blocks(look.module)
        chosen = fitting(look.module, look.example, limit, **options)
        freeze(look.module, chosen)
        left = training_blocks(look.module)
        peak = memory(look.module, look.example, **options).peak
        fitted = _Fitted([name for name in blocks if name not in left], list(left), peak)
    return adapted, fitted


def _optimizer(name: str) -> Callable[[Any], Any]:
    from letitgo.recipes.optimizers import make_optimizer, optimizer_args

    args = optimizer_args(name, {})
    return lambda parameters: make_optimizer(name, args, parameters)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT])(i?)B", text)
    if match is None:
        raise BadRequest(f"fit is {text!r}: give a memory, as in 24GB or 24GiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** (1 + "kMGT".index(match[2])))


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


def _costs(cost: Cost, example: str, patterns: list[str], optimizer: str) -> list[str]:
    from letitgo.report.numbers import amount

    def told(step: StepCost, gradients: int, state: int, memory: Memory | None) -> str:
        held = ""
        if memory is not None:
            held = (
                f"; in all {amount(memory.peak)}B at the peak, weights {amount(memory.weights)}B and activations "
                f"{amount(memory.activations)}B among them"
            )
        return (
            f"{amount(step.forward)}FLOP forward, {amount(step.backward)}FLOP backward; gradients "
            f"{amount(gradients)}B, state of {optimizer} {amount(state)}B{held}"
        )

    kept, state = cost.gradient_bytes, cost.optimizer_bytes
    thawed = told(cost.thawed, kept.thawed, state.thawed, cost.thawed_memory)
    lines = [f"a training step, operations of one example and memory of all, counted on {example}: {thawed}"]
    if patterns:
        frozen = told(cost.frozen, kept.frozen, state.frozen, cost.frozen_memory)
        lines += [f"with {', '.join(patterns)} frozen: {frozen}; {100 * cost.share:.1f} % of the operations", cost.why]
    elif cost.thawed_memory is None:
        lines.append(cost.why)
    return lines


def _lora_line(adapted: LoraCost, cost: Cost, rank: int | None) -> str:
    from letitgo.report.numbers import amount

    memory, whole = adapted.memory, cost.thawed.whole
    share = f"; {100 * adapted.step.whole / whole:.1f} % of the operations" if whole else ""
    return (
        f"LoRA of rank {rank} instead, {memory.trainable:,} weights: {amount(adapted.step.forward)}FLOP forward, "
        f"{amount(adapted.step.backward)}FLOP backward; gradients {amount(memory.gradients)}B, state "
        f"{amount(memory.optimizer)}B; in all {amount(memory.peak)}B at the peak, activations "
        f"{amount(memory.activations)}B among them{share}"
    )
