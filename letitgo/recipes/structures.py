"""Networks to look at, ours, anyone's or another library's: their structure alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest
from letitgo.recipes.libraries import LIBRARIES, is_of_library, library
from letitgo.recipes.networks import find_network
from letitgo.weights import Example


@dataclass(frozen=True)
class InputShape:
    """The shape of an example input, the first number counting examples, and whether it holds whole numbers."""

    sizes: tuple[int, ...]
    whole: bool = False

    def ones(self, module: nn.Module) -> Tensor:
        """An example of that shape, where the module is and of its type."""
        weight = next(module.parameters(), torch.empty(()))
        dtype = torch.int64 if self.whole else weight.dtype
        return torch.ones(self.sizes, dtype=dtype, device=weight.device)


@dataclass(frozen=True)
class Structure:
    """A network that is built to be looked at.

    Attributes:
        build: Builds it, on the device that ``torch.device`` says.
        example: What to call it with, or None where that is not known.
    """

    build: Callable[[], nn.Module]
    example: Callable[[nn.Module], Example | None]


def find_structure(name: str, shape: InputShape | None, args: dict[str, Any]) -> Structure:
    """The network a name means.

    Args:
        name: One of ours, an import path ``package.module:factory``, ``timm:NAME``, ``torchvision:NAME`` or
            ``transformers:`` with a type of model, the path of a configuration, or an id on the Hugging Face hub.
        shape: Of an example; else the network's own, where it is known.
        args: What the factory or the configuration is called with.

    Raises:
        BadRequest: There is no such network, or its library is not installed.
    """
    if is_of_library(name):
        example = _EXAMPLES[name.partition(":")[0]]
        return Structure(find_network(name, None, 0, args), lambda module: example(name, module, shape))
    try:
        network = find_network(name, shape.sizes[1:] if shape else (1, 28, 28), 10, args)
    except BadRequest as error:
        cause, package = error.__cause__, name.partition(":")[0]
        if isinstance(cause, ModuleNotFoundError) and cause.name == package.partition(".")[0]:
            known = nearest(package, LIBRARIES)
            raise BadRequest(
                f"{package!r} of {name!r} is no package here, and no library that is known: {known}"
            ) from error
        raise
    known_shape = tuple(network.args["input_shape"]) if "input_shape" in network.args else None
    taken = shape or (InputShape((2, *known_shape)) if known_shape else None)
    return Structure(network, lambda module: taken.ones(module) if taken else None)


def _of_timm(name: str, module: Any, shape: InputShape | None) -> Example | None:
    size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size")
    taken = shape or (InputShape((2, *size)) if size else None)
    return taken and taken.ones(module)


def _of_torchvision(name: str, module: nn.Module, shape: InputShape | None) -> Example | None:
    models = library("torchvision.models")
    classifies = name.partition(":")[2] in models.list_models(module=models)
    taken = shape or (InputShape((2, 3, 224, 224)) if classifies else None)
    return taken and taken.ones(module)


def _of_transformers(name: str, module: Any, shape: InputShape | None) -> Example | None:
    main, config = module.main_input_name, module.config
    if shape is None and main == "pixel_values":
        side = getattr(config, "image_size", None) or 224
        sides = (side, side) if isinstance(side, int) else tuple(side)
        shape = InputShape((2, getattr(config, "num_channels", 3), *sides))
    if shape is not None:
        example = InputShape(shape.sizes, shape.whole or main.endswith("_ids")).ones(module)
        labels = {"labels": example} if type(module).__name__.endswith(_PREDICTS_TOKENS) else {}
        return {main: example, **labels}
    with torch.device("cpu"):
        known = module.dummy_inputs
    return {name: tensor.to(module.device) for name, tensor in known.items()}


_PREDICTS_TOKENS = ("ForCausalLM", "ForMaskedLM", "LMHeadModel")
"""Ends of names of models whose loss is over their own inputs, and whose logits take much of the memory."""

_EXAMPLES: dict[str, Callable[[str, Any, InputShape | None], Example | None]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "transformers": _of_transformers,
}
