"""Networks to look at, ours, anyone's or another library's: their structure alone, no weights are fetched."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest
from letitgo.imports import arguments
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
    library, _, rest = name.partition(":")
    if rest and library in _LIBRARIES:
        found = _LIBRARIES[library](rest, args)
        build, example = _told(name, found.build), found.example
        return Structure(build, example if shape is None else lambda module: _given(module, shape))
    try:
        network = find_network(name, shape.sizes[1:] if shape else (1, 28, 28), 10, args)
    except BadRequest as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name == library.partition(".")[0]:
            known = nearest(library, tuple(_LIBRARIES))
            raise BadRequest(
                f"{library!r} of {name!r} is no package here, and no library that is known: {known}"
            ) from error
        raise
    known_shape = tuple(network.args["input_shape"]) if "input_shape" in network.args else None
    taken = shape or (InputShape((2, *known_shape)) if known_shape else None)
    return Structure(network, lambda module: taken.ones(module) if taken else None)


def _given(module: nn.Module, shape: InputShape) -> Example:
    main = getattr(module, "main_input_name", None)  # of transformers
    if main is None:
        return shape.ones(module)
    return {main: InputShape(shape.sizes, shape.whole or main.endswith("_ids")).ones(module)}


def _timm(name: str, args: dict[str, Any]) -> Structure:
    timm = _library("timm")
    if not timm.is_model(name):
        raise BadRequest(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")

    def example(module: Any) -> Example | None:
        size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size")
        return InputShape((2, *size)).ones(module) if size else None

    return Structure(lambda: timm.create_model(name, pretrained=False, **args), example)


def _torchvision(name: str, args: dict[str, Any]) -> Structure:
    models = _library("torchvision.models")
    if name not in models.list_models():
        raise BadRequest(f"torchvision has no model {name!r}: {nearest(name, models.list_models())}")
    taken = arguments(models.get_model_builder(name), f"network {name!r}")
    nothing = {weights: None for weights in ("weights", "weights_backbone") if weights in taken}
    classifies = name in models.list_models(module=models)

    def example(module: nn.Module) -> Example | None:
        return InputShape((2, 3, 224, 224)).ones(module) if classifies else None

    return Structure(lambda: models.get_model(name, **nothing, **args), example)


def _transformers(name: str, args: dict[str, Any]) -> Structure:
    transformers = _library("transformers")
    config = _config(transformers, name, args)
    kind = _architecture(transformers, config)

    def example(module: Any) -> Example | None:
        if module.main_input_name == "pixel_values":
            side = getattr(config, "image_size", None) or 224
            sides = (side, side) if isinstance(side, int) else tuple(side)
            return _given(module, InputShape((2, getattr(config, "num_channels", 3), *sides)))
        with torch.device("cpu"):
            known = module.dummy_inputs
        return {name: tensor.to(module.device) for name, tensor in known.items()}

    def build() -> nn.Module:
        module = kind(config) if kind else transformers.AutoModel.from_config(config, trust_remote_code=False)
        if module.device.type == "meta" and hasattr(module, "set_experts_implementation"):
            module.set_experts_implementation("batched_mm")  # the others look where tokens go, which is not known there
        return module

    return Structure(build, example)


def _architecture(transformers: Any, config: Any) -> Any:
    """The class of model that a configuration names, where transformers itself has it."""
    named = getattr(config, "architectures", None)
    name = named[0] if isinstance(named, list) and named else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None


def _config(transformers: Any, name: str, args: dict[str, Any]) -> Any:
    """The configuration at a path, of a type of model, or on the hub."""
    types = list(transformers.CONFIG_MAPPING.keys())
    try:
        if name in types and not Path(name).exists():
            return transformers.AutoConfig.for_model(name, **args)
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **args)
    except Exception as error:
        if Path(name).exists():
            raise BadRequest(f"{name} holds no configuration that transformers reads: {_brief(error)}") from error
        if name in types:
            raise BadRequest(f"transformers makes no configuration of {name!r}: {_brief(error)}") from error
        if "/" in name:
            raise BadRequest(f"no configuration of {name!r} is found here or on the hub: {_brief(error)}") from error
        raise BadRequest(
            f"transformers has no type of model {name!r}, and no configuration of that name is found: "
            f"{nearest(name, types)}"
        ) from error


_LIBRARIES: dict[str, Callable[[str, dict[str, Any]], Structure]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}


def _library(path: str) -> Any:
    package = path.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise BadRequest(f"{package} does not import here: {_brief(error)}") from error
        raise BadRequest(f"{package} is not installed: pip install {package}") from error
    except Exception as error:
        raise BadRequest(f"{package} does not import here: {_brief(error)}") from error


def _told(name: str, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        try:
            return build()
        except Exception as error:
            raise BadRequest(f"the network {name!r} cannot be built: {_brief(error)}") from error

    return built


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
