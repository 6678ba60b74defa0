"""How a loop and other programs are told to freeze a set: lines of code, and settings by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.studies.subject import Subject, Unit

_ADAPTED = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
"""What peft puts LoRA in by the name of the module."""


def translated(of: Subject, units: Sequence[Unit], plan: Mapping[str, int]) -> dict[str, str]:
    """Where a set may be frozen → the lines that do it.

    Settings of programs that freeze from the start alone are there for sets that are frozen so, and where their names
    say what has to be said.

    Args:
        of: The network.
        units: All its units.
        plan: Unit → the epoch that it is frozen from.
    """
    since = {
        epoch: [name for unit in units if plan.get(unit.name, epoch + 1) <= epoch for name in _patterns(of, unit)]
        for epoch in sorted(set(plan.values()))
    }
    still = ', statistics="frozen"' if of.statistics == "frozen" else ""
    loop = [f"letitgo.freeze(model, {_quoted(names)}{still})" for names in since.values()]
    loop = [f"{line}  # before epoch {epoch}" if epoch else line for epoch, line in zip(since, loop, strict=True)]
    schedule = f"{{{', '.join(f'{epoch}: {_quoted(names)}' for epoch, names in since.items())}}}{still}"
    found = {"loop": "\n".join(["import letitgo", *loop])}
    for name, module in (("Lightning", "lightning"), ("Trainer", "transformers")):
        callback = f"Trainer(..., callbacks=[FreezeSchedule({schedule})])"
        found[name] = f"from letitgo.callbacks.{module} import FreezeSchedule\n{callback}"
    frozen = {layer for unit in units if unit.name in plan for layer in of.layers_of(unit)}
    if any(plan.values()) or frozen.issuperset(of.layers_of(of.everything)):
        return found
    return found | _settings(of, frozen)


def _settings(of: Subject, frozen: set[str]) -> dict[str, str]:
    modules = dict(of.module.named_modules())
    layers = of.layers_of(of.everything)
    trained = [layer for layer in layers if layer not in frozen]
    prefix = {layer: f"{layer}." if layer in modules else layer for layer in layers}  # else it is a parameter
    found = {
        "axolotl": "\n".join(["unfrozen_parameters:", *(f"  - ^{prefix[layer]}" for layer in trained)]),
        "ms-swift": " ".join(["--freeze_parameters", *(prefix[layer] for layer in layers if layer in frozen)]),
        "LLaMA-Factory": _blocks(layers, trained),
    }
    if adapted := [layer for layer in trained if isinstance(modules.get(layer), _ADAPTED)]:
        found["peft"] = f"LoraConfig(target_modules={_quoted(adapted)})"
    return {name: lines for name, lines in found.items() if lines}


def _blocks(layers: Sequence[str], trained: Sequence[str]) -> str:
    """The settings of LLaMA-Factory, where of the only numbered list of blocks the last or the first ones train."""
    place = {layer: match for layer in layers if (match := re.match(r"(.+\.(?:layers?|h|blocks))\.(\d+)\.", layer))}
    if len({match[1] for match in place.values()}) != 1:
        return ""
    number = {layer: int(match[2]) for layer, match in place.items()}
    blocks = {number[layer] for layer in trained if layer in number}
    in_part = any(number.get(layer) in blocks for layer in layers if layer not in trained)
    count, all_blocks = len(blocks), sorted(set(number.values()))
    if not count or in_part or sorted(blocks) not in (all_blocks[-count:], all_blocks[:count]):
        return ""
    others = ",".join(layer for layer in trained if layer not in number)
    signed = count if sorted(blocks) == all_blocks[-count:] else -count
    lines = ["finetuning_type: freeze", f"freeze_trainable_layers: {signed}"]
    return "\n".join([*lines, *([f"freeze_extra_modules: {others}"] if others else [])])


def _patterns(of: Subject, unit: Unit) -> list[str]:
    """What :func:`letitgo.select` takes for a unit: its name, where that is all of it, else the names of its layers."""
    try:
        found = set(weights.select(of.module, unit.name)).intersection(of.trainable)
    except BadRequest:
        found = set[str]()
    return [unit.name] if found == set(unit.parameters) else of.layers_of(unit)


def _quoted(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
