"""Networks of other libraries: timm's, torchvision's and transformers'. Their weights are drawn, never fetched."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest
from letitgo.imports import arguments
from letitgo.recipes.splits import PADDING, Kind

LIBRARIES = ("timm", "torchvision", "transformers")

_STARTS = ("pretrained", "weights", "weights_backbone", "checkpoint_path")
"""Arguments of other libraries that fetch weights."""

_SOLVES: dict[Kind, str] = {
    "images": "AutoModelForImageClassification",
    "text": "AutoModelForCausalLM",
    "tokens": "AutoModelForSequenceClassification",
}
"""The class of transformers for each kind of data."""

_NO_FIELDS = {"model_type", "architectures", "id2label", "label2id", "dtype", "transformers_version", "_name_or_path"}
"""What a configuration holds besides fields that say how a network is built in float32."""


def is_of_library(name: str) -> bool:
    """Whether a name begins with that of a library, as in ``timm:resnet18``."""
    library, _, rest = name.partition(":")
    return bool(rest) and library in LIBRARIES


def library_factory(name: str) -> Callable[..., nn.Module]:
    """What builds a network, called with ``input_shape``, ``num_classes`` and the library's own arguments.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME``, or ``transformers:TYPE``, which takes what :func:`settled` gives.

    Raises:
        BadRequest: There is no such network, or its library is not installed.
    """
    library, _, rest = name.partition(":")
    return {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[library](rest)


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = library("timm")
    if not timm.is_model(name):
        raise BadRequest(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")

    def make(input_shape: tuple[int, ...] | None = None, num_classes: int = 0, **args: Any) -> nn.Module:
        given: dict[str, Any] = {}
        if input_shape is not None:
            channels, *sides = _images(name, input_shape)
            given = {"num_classes": num_classes, "in_chans": channels}
            if timm.get_pretrained_cfg(name).fixed_input_size:
                given["img_size"] = tuple(sides)
        return timm.create_model(name, **given | _drawn(args))

    return make


def _torchvision(name: str) -> Callable[..., nn.Module]:
    models = library("torchvision.models")
    if name not in models.list_models():
        raise BadRequest(f"torchvision has no model {name!r}: {nearest(name, models.list_models())}")
    taken = arguments(models.get_model_builder(name), f"network {name!r}")

    def make(input_shape: tuple[int, ...] | None = None, num_classes: int = 0, **args: Any) -> nn.Module:
        given: dict[str, Any] = {weights: None for weights in ("weights", "weights_backbone") if weights in taken}
        if input_shape is not None:
            if name not in models.list_models(module=models):
                raise BadRequest(f"torchvision's {name!r} does not classify images, which is what studies train")
            channels, *sides = _images(name, input_shape)
            if channels != 3:
                fit = "x".join(map(str, (3, *sides)))
                raise BadRequest(f"torchvision's {name!r} takes 3 channels, the images have {channels}: --fit {fit}")
            given["num_classes"] = num_classes
        return models.get_model(name, **given | _drawn(args))

    return make


def _images(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3:
        raise BadRequest(f"{name!r} takes images: the data have inputs of shape {shape}")
    return shape


def _drawn(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments, none of which fetches weights."""
    if wrong := [name for name in _STARTS if args.get(name)]:
        raise BadRequest(
            f"{wrong[0]} does not apply: initial weights are drawn under a seed, and pretrained ones are what "
            "letitgo finetune --pretrained takes"
        )
    return args


def _transformers(kind: str) -> Callable[..., nn.Module]:
    transformers = library("transformers")

    def make(model: str, config: dict[str, Any]) -> nn.Module:
        found, built = transformers.CONFIG_MAPPING[kind](**config), getattr(transformers, model)
        auto = not issubclass(built, transformers.PreTrainedModel)
        module = built.from_config(found, trust_remote_code=False) if auto else built(found)
        if module.device.type == "meta" and hasattr(module, "set_experts_implementation"):
            module.set_experts_implementation("batched_mm")  # the others look where tokens go, which is not known there
        module.register_forward_pre_hook(partial(_by_name, model == _SOLVES["tokens"]), with_kwargs=True)
        module.register_forward_hook(_logits)
        return module

    return make


def _by_name(
    pads: bool, module: Any, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network of transformers is called with: its main input by name, and where padding is not."""
    if len(args) != 1:
        return args, given
    mask = {"attention_mask": (args[0] != PADDING).long()} if pads else {}
    return (), {**given, **mask, module.main_input_name: args[0]}


def _logits(module: nn.Module, args: Any, output: Any) -> Tensor | Any:
    return getattr(output, "logits", output)


def renamed(module: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names that a network of transformers has for them today.

    What transformers leaves out is left out: other heads, and what no version of the network has. Tensors of another
    shape are there without their values.
    """
    logging = library("transformers").utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        loaded, about = type(module).from_pretrained(
            None, config=module.config, state_dict=tensors, ignore_mismatched_sizes=True, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    found = {name: tensor for name, tensor in loaded.state_dict().items() if name not in about["missing_keys"]}
    return found | {name: torch.empty(shape, device="meta") for name, shape, _ in about["mismatched_keys"]}


def settled(
    name: str, args: dict[str, Any], shape: tuple[int, ...] | None, classes: int, kind: Kind, vocab_size: int
) -> tuple[str, dict[str, Any]]:
    """A network of transformers by its type and whole configuration, the same wherever that was read.

    Args:
        name: ``transformers:`` with a type of model, the path of a configuration, or an id on the hub.
        args: Fields of the configuration.
        shape: Of one input. None leaves the network as it is described, to be looked at.
        classes: Number of outputs for each answer.
        kind: Of the data.
        vocab_size: How many numbers of words or tokens there are.

    Raises:
        BadRequest: There is no such configuration, or it is of another kind of network.
    """
    if "config" in args:  # settled already
        return name, args
    transformers = library("transformers")
    config = _config(transformers, name.partition(":")[2], args)
    model = _architecture(transformers, config) or "AutoModel"
    if shape is not None:
        if kind not in _SOLVES:
            raise BadRequest(f"networks of transformers take {' or '.join(_SOLVES)} here, and the data hold {kind}")
        model = _SOLVES[kind]
        if type(config) not in getattr(transformers, model)._model_mapping:
            raise BadRequest(f"transformers has no network of type {config.model_type!r} for {kind} ({model})")
        given = _fields(shape, classes, kind, vocab_size)
        typed = name.partition(":")[2] in transformers.CONFIG_MAPPING
        if kind == "tokens" and not typed and getattr(config, "vocab_size", 0) >= vocab_size:
            given.pop("vocab_size")  # of the tokenizer, of whose tokens the data need not have all
        for field, value in given.items():
            if field not in args and hasattr(config, field):
                setattr(config, field, value)
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if (getattr(config, token, None) or 0) >= getattr(config, "vocab_size", float("inf")):
                setattr(config, token, None)
    told = {field: value for field, value in json.loads(config.to_json_string()).items() if field not in _NO_FIELDS}
    return f"transformers:{config.model_type}", {"model": model, "config": told | {"num_labels": config.num_labels}}


def _fields(shape: tuple[int, ...], classes: int, kind: Kind, vocab_size: int) -> dict[str, Any]:
    """What data say of a configuration, in transformers' words."""
    if kind == "text":
        return {"vocab_size": classes, "is_decoder": True, "use_cache": False}
    if kind == "tokens":
        return {"vocab_size": vocab_size, "num_labels": classes, "pad_token_id": PADDING, "use_cache": False}
    channels, height, width = _images("transformers", shape)
    size = height if height == width else [height, width]
    return {"num_labels": classes, "num_channels": channels, "image_size": size}


def _architecture(transformers: Any, config: Any) -> str | None:
    """The class of model that a configuration names, where transformers itself has it."""
    named = getattr(config, "architectures", None)
    name = named[0] if isinstance(named, list) and named else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    return name if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None


def _config(transformers: Any, name: str, args: dict[str, Any]) -> Any:
    """The configuration at a path, of a type of model, or on the hub."""
    types = list(transformers.CONFIG_MAPPING.keys())
    try:
        if name in types and not Path(name).exists():
            found = transformers.AutoConfig.for_model(name, **_drawn(args))
        else:
            found = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **_drawn(args))
    except BadRequest:
        raise
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
    known: Any = found if getattr(type(found), "has_no_defaults_at_init", False) else type(found)()
    for field in args:
        if not hasattr(known, field):
            near = nearest(field, tuple(known.to_dict()))
            raise BadRequest(f"a configuration of type {found.model_type!r} has no {field!r}: {near}")
    return found


def library(path: str) -> Any:
    """A library, or a module of one.

    Raises:
        BadRequest: It is not installed, or does not import.
    """
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


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
