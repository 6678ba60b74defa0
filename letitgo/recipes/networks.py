"""Networks in the form the papers used, and the networks of anyone by import path."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter
from math import prod
from typing import Any, Literal

from torch import nn

from letitgo.code import Code, code_of, code_of_modules, digest_of, opened
from letitgo.errors import BadRequest, named, nearest, out_of_memory, typed
from letitgo.imports import arguments, import_object
from letitgo.recipes import convnets
from letitgo.recipes.init import Init, drawn
from letitgo.recipes.libraries import is_of_library, library_factory, settled
from letitgo.recipes.lstm import LSTM
from letitgo.recipes.splits import Kind
from letitgo.recipes.transformer import Transformer
from letitgo.value import Value, canonical
from letitgo.weights import Matrix, cosine_classifier, fix_classifier, head, last_linear, layers, seeded


def fcn(
    input_shape: tuple[int, ...],
    num_classes: int,
    widths: tuple[int, ...] = (256,),
    depth: int | None = None,
    norm: bool = False,
    init: Init = "torch",
) -> nn.Sequential:
    """A fully connected network with ReLU: by default 3 hidden layers of 256 units, as ZBS19 (arXiv:1902.01996).

    Args:
        input_shape: Shape of one input.
        num_classes: Number of outputs.
        widths: Units of each hidden layer, or of all of them where there is one number.
        depth: Number of hidden layers, for a single width (3 if not given).
        norm: BatchNorm in each hidden layer, before the ReLU and in the place of the bias.
        init: ``"torch"``; ``"glorot"``: weights from Glorot's normal law, as FC18; ``"he"``: weights normal with
            variance 2 / inputs (arXiv:1502.01852); biases are zero under either.
    """
    if len(widths) == 1:
        widths = widths * (3 if depth is None else depth)
    elif depth is not None and depth != len(widths):
        raise BadRequest(f"depth {depth} does not fit {len(widths)} widths: give one width, or as many as the depth")
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    units = prod(input_shape)
    for i, width in enumerate(widths, start=1):
        modules[f"fc{i}"] = nn.Linear(units, width, bias=not norm)
        if norm:
            modules[f"norm{i}"] = nn.BatchNorm1d(width)
        modules[f"relu{i}"] = nn.ReLU()
        units = width
    modules[f"fc{len(widths) + 1}"] = nn.Linear(units, num_classes)
    return drawn(nn.Sequential(modules), init)


def lenet_300_100(input_shape: tuple[int, ...], num_classes: int, init: Init = "torch") -> nn.Sequential:
    """The fully connected network of FC18 (arXiv:1803.03635): hidden layers of 300 and 100 units.

    Args:
        input_shape: Shape of one input.
        num_classes: Number of outputs.
        init: As in :func:`fcn`; the paper's is ``"glorot"``.
    """
    return fcn(input_shape, num_classes, widths=(300, 100), init=init)


def lenet(input_shape: tuple[int, ...], num_classes: int, norm: bool = False, init: Init = "torch") -> nn.Sequential:
    """LeNet-5 as LFLY18 (arXiv:1804.08838) uses it: valid padding, ReLU, max-pooling; 44,426 parameters on MNIST.

    Args:
        input_shape: Channels, height, width.
        num_classes: Number of outputs.
        norm: BatchNorm in each convolution and hidden layer, before the ReLU and in the place of the bias.
        init: As in :func:`fcn`.
    """
    channels, *sides = convnets.images("lenet", input_shape, 16)
    height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
    modules = OrderedDict(
        conv1=nn.Conv2d(channels, 6, 5, bias=not norm),
        norm1=nn.BatchNorm2d(6),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5, bias=not norm),
        norm2=nn.BatchNorm2d(16),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * height * width, 120, bias=not norm),
        norm3=nn.BatchNorm1d(120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84, bias=not norm),
        norm4=nn.BatchNorm1d(84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, num_classes),
    )
    return drawn(nn.Sequential(_with_norms(modules, norm)), init)


def _with_norms(modules: Mapping[str, nn.Module], norm: bool) -> OrderedDict[str, nn.Module]:
    return OrderedDict((name, part) for name, part in modules.items() if norm or not name.startswith("norm"))


def fixed_classifier(
    input_shape: tuple[int, ...],
    num_classes: int,
    network: str = "fcn",
    layer: str | None = None,
    kind: Matrix | Literal["cosine"] = "hadamard",
    matrix_seed: int = 0,
    **args: Any,
) -> nn.Module:
    """Another network with a classifier that is not learned (HHS18, arXiv:1801.04540), or with a learned cosine one.

    Its other layers keep their names, so under a seed they begin with the same weights as in that network.

    Args:
        input_shape: Shape of one input.
        num_classes: Number of outputs.
        network: The other network: a name or an import path.
        layer: Its classifier, an ``nn.Linear``; the last one if not given.
        kind: As in :func:`letitgo.weights.fixed_matrix`; ``"cosine"``: learned, with features and rows of norm one.
        matrix_seed: As in :func:`letitgo.weights.fixed_matrix`.
        args: Further arguments of the other network's factory.

    Raises:
        BadRequest: There is no such network or layer.
    """
    module = find_network(network, input_shape, num_classes, args)()
    name = last_linear(module) if layer is None else layer
    outputs = getattr(module.get_submodule(name), "out_features", None) if layer is None else num_classes
    if outputs != num_classes:
        raise BadRequest(f"{name!r}, the last nn.Linear of {network!r}, gives {outputs} outputs: name its classifier")
    if kind == "cosine":
        cosine_classifier(module, name)
    else:
        fix_classifier(module, name, kind, matrix_seed)
    return module


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "fcn": fcn,
    "lenet": lenet,
    "lenet-300-100": lenet_300_100,
    "conv2": convnets.conv2,
    "conv4": convnets.conv4,
    "conv6": convnets.conv6,
    "vgg11": convnets.vgg11,
    "vgg13": convnets.vgg13,
    "vgg16": convnets.vgg16,
    "vgg19": convnets.vgg19,
    "resnet18": convnets.resnet18,
    "resnet20": convnets.resnet20,
    "resnet56": convnets.resnet56,
    "wrn28": convnets.wrn28,
    "densenet-bc": convnets.densenet_bc,
    "lstm": LSTM,
    "transformer": Transformer,
    "fixed-classifier": fixed_classifier,
}


_FILES: dict[str, dict[str, str]] = {}


@dataclass(frozen=True, eq=False)
class Network(Value):
    """How to build a network: a factory by name or import path, and what it is called with.

    Attributes:
        factory: A name in ``NETWORKS``, ``package.module:name``, or one of another library, as ``timm:resnet18``.
        args: Keyword arguments, JSON values.
        source: The code that the factory depends on, or that of the network within; empty for our own. A digest of one
            file in values of earlier versions.
    """

    factory: str
    args: dict[str, Any]
    source: Code | str = ""

    def identity(self) -> dict[str, Any]:
        return {**self.fields(), **({"files": sorted(set(files.values()))} if (files := self.files) else {})}

    @property
    def code(self) -> Code:
        """The code that the factory depends on."""
        return self.source if isinstance(self.source, dict) else {}

    @property
    def files(self) -> dict[str, str]:
        """The files that a factory of the user's own opens in Python, and their digests. The first look builds it."""
        if not self.code or is_of_library(self.factory):
            return {}
        about = canonical(self.fields())
        if about not in _FILES or {file: digest_of(file) for file in _FILES[about]} != _FILES[about]:
            with opened() as files:
                self._built_anew()
            _FILES[about] = {file: digest_of(file) for file in files}
        return _FILES[about]

    def __call__(self) -> nn.Module:
        """Build the network on the CPU.

        Raises:
            BadRequest: The factory raises, gives something that is no ``nn.Module``, or its code is another by now.
        """
        if self.source != (self._code_now() or ""):
            raise BadRequest(f"the code of {self.factory!r} changed since its recipe was made: make the recipe again")
        module = self._build()
        if not isinstance(module, nn.Module):
            raise BadRequest(f"the network {self.factory!r} gives {typed(module)}: it has to return a torch.nn.Module")
        return module

    def _build(self) -> Any:
        return self._called("network")

    def _called(self, what: str) -> Any:
        """What the factory gives.

        Raises:
            BadRequest: It raises.
        """
        args = {name: tuple(arg) if isinstance(arg, list) else arg for name, arg in self.args.items()}
        try:
            return find_factory(self.factory)(**args)
        except BadRequest:
            raise
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                raise BadRequest(f"the {what} {self.factory!r} does not fit into memory: {named(error)}") from error
            raise BadRequest(f"the {what} {self.factory!r} raises {named(error)}") from error

    def _code_now(self) -> Code:
        return code_of_factory(self.factory, self.args)

    def _built_anew(self) -> None:
        seeded(self)

    @cached_property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """Layer name → names of its parameters."""
        return layers(self())

    @cached_property
    def head(self) -> str:
        """Name of the output layer: see :func:`letitgo.weights.head`."""
        return head(self())


def find_factory(name: str) -> Callable[..., nn.Module]:
    """The factory of a name, of an import path, or of a network of another library.

    Raises:
        BadRequest: There is none.
    """
    if is_of_library(name):
        return library_factory(name)
    if ":" in name:
        return import_object(name, "network")
    if name not in NETWORKS:
        raise BadRequest(
            f"unknown network {name!r}: {nearest(name, tuple(NETWORKS))} "
            "(or give an import path package.module:factory)"
        )
    return NETWORKS[name]


def find_network(
    name: str,
    input_shape: tuple[int, ...] | None,
    num_classes: int,
    args: dict[str, Any],
    kind: Kind = "images",
    vocab_size: int = 0,
) -> Network:
    """The network a recipe means.

    The factory is handed ``input_shape``, ``num_classes`` and, for words or tokens, ``vocab_size`` where its signature
    names them, and all of ``args``.

    Args:
        name: See :class:`Network`; also ``transformers:`` with the path of a configuration, or an id on the hub.
        input_shape: Of one input. None for a network of another library as it is there, to be looked at.
        num_classes: Number of outputs for each answer.
        args: Further arguments.
        kind: Of the data.
        vocab_size: How many numbers of words or tokens there are; 0 where inputs are no such numbers.

    Raises:
        BadRequest: There is no such factory, or its signature does not take the arguments.
    """
    if name.startswith("transformers:"):
        name, args = settled(name, args, input_shape, num_classes, kind, vocab_size)
    elif name == "fixed-classifier" and str(args.get("network")).startswith("transformers:"):
        own = {each: args[each] for each in arguments(fixed_classifier, name) if each in args}
        rest = {each: args[each] for each in args if each not in own}
        network, rest = settled(own["network"], rest, input_shape, num_classes, kind, vocab_size)
        args = {**own, "network": network, **rest}
    factory = find_factory(name)
    taken = arguments(factory, f"network {name!r}")
    known: dict[str, Any] = {}
    if input_shape is not None:
        known = {"input_shape": list(input_shape), "num_classes": num_classes}
        known |= {"vocab_size": vocab_size} if vocab_size else {}
    given = {**{key: value for key, value in known.items() if key in taken}, **args}
    check_arguments(f"network {name!r}", taken, given)
    return Network(name, given, code_of_factory(name, given) or "")


def check_arguments(what: str, taken: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """Make sure that a factory takes what it is given, and is given what it needs.

    Args:
        what: What the factory makes, with its name.
        taken: The parameters of its signature.
        given: Keyword arguments.

    Raises:
        BadRequest: It does not, or is not.
    """
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    for argument in given:
        if argument not in taken and not takes_any:
            raise BadRequest(f"the {what} takes no {argument!r}: it takes {', '.join(taken) or 'nothing'}")
    for argument, parameter in taken.items():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if parameter.default is parameter.empty and argument not in given and by_name:
            raise BadRequest(f"the {what} needs {argument!r}: give it with --model-args")


def code_of_factory(name: str, args: dict[str, Any]) -> Code:
    """The code that a factory depends on; for a fixed classifier that of the network within."""
    if name == "fixed-classifier" and isinstance(args.get("network"), str):
        name = args["network"]
    if is_of_library(name):
        return code_of_modules(name, name.partition(":")[0])
    return code_of(name, find_factory(name))
