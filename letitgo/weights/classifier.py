"""A classifier that is not learned (HHS18, arXiv:1801.04540): a fixed matrix, one learned scale and a learned bias.

The matrix is a function of its description (kind, sizes, seed) and never stored: it is made where the module is moved,
converted or loaded, and is not in its ``state_dict``. The description is, so that weights learned with one matrix are
refused by a module with another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt, sqrt
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, pad
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

from letitgo.errors import BadRequest, nearest, typed
from letitgo.value import derive
from letitgo.weights.hadamard import power_of_two

Matrix = Literal["hadamard", "orthogonal"]

_KINDS: tuple[Matrix, ...] = get_args(Matrix)
_ORTHOGONAL_SCALE = 10.0
_SAVED = 6
"""How many times fewer products a transform takes where it is used."""
_LEAST_PRODUCTS = 2**22
"""Products of a batch below which the calls of a transform take longer than what it saves."""
_MOST_LOGITS = 2**21
"""Logits of a batch above which a transform waits for memory."""


def fixed_matrix(classes: int, features: int, kind: Matrix = "hadamard", seed: int = 0) -> Tensor:
    """The weights of a classifier that is not learned.

    ``"hadamard"``: entries ±1. With n the least power of two that is at least the number of features, the first n rows
    are those of Sylvester's matrix, cut to the features: orthogonal to each other where that number is a power of two,
    all different where it is not. For more than n classes, further blocks of n rows follow, each the first with the
    signs of its columns drawn at random: within a block the same holds, and rows of two blocks have a cosine around
    1/√features. (Cutting a larger Hadamard matrix to the first columns, as the paper does, would repeat rows there, and
    two classes with the same row cannot be told apart.)

    ``"orthogonal"``: a random matrix with orthonormal rows, or, for more classes than features, orthonormal columns.

    Args:
        classes: Number of rows.
        features: Number of columns.
        kind: Either of these.
        seed: Of the draws. A Hadamard matrix of at most n rows has none.

    Returns:
        Shape (classes, features), float64, on the CPU. Entries ±1 are the same everywhere; an orthogonal matrix is on
        one machine, and up to rounding between machines.
    """
    generator = torch.Generator("cpu").manual_seed(derive(seed, kind, "classifier"))
    if kind == "orthogonal":
        empty = torch.empty(classes, features, dtype=torch.float64, device="cpu")
        return nn.init.orthogonal_(empty, generator=generator)
    order = power_of_two(features)
    rows = torch.arange(classes, dtype=torch.int32, device="cpu")
    odd = (rows % order)[:, None] & torch.arange(features, dtype=torch.int32, device="cpu")
    for shift in (16, 8, 4, 2, 1):  # of an entry's bits, whether an odd number is set
        odd ^= odd >> shift
    flipped = torch.zeros(-(-classes // order), features, dtype=torch.int32, device="cpu")
    flipped[1:] = torch.randint(2, flipped[1:].shape, generator=generator, dtype=torch.int32, device="cpu")
    odd ^= flipped[rows // order]
    return 1.0 - 2.0 * (odd & 1).double()


def _factors(order: int) -> tuple[int, int]:
    """Two powers of two, about equal, whose product is the order."""
    low = power_of_two(isqrt(order - 1) + 1)
    return order // low, low


class FixedClassifier(nn.Module):
    """``±scale · matrix · (x / ‖x‖) + bias``, of which the scale, one number, and the bias are learned.

    As in the paper's code: for a Hadamard matrix, whose rows have the norm √features, the scale begins at 1/√classes
    and the bias is drawn from U(±1/√classes); for an orthogonal one they begin at 10 and 0. For a Hadamard matrix the
    sign is a minus. It matters: the first row is all ones, so the first class would have the largest logit wherever
    features come from a ReLU, and early in training the scale would be driven through zero to end that.

    Args:
        in_features: Number of features: inputs are of shape (..., in_features).
        out_features: Number of classes: outputs are of shape (..., out_features).
        kind: As in :func:`fixed_matrix`.
        seed: Likewise; not negative.
        device: Where it lives; PyTorch's default if not given.
        dtype: Of scale, bias and matrix.

    Raises:
        BadRequest: There is no such kind, or the seed is no whole number from 0 on.
    """

    description: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kind: Matrix = "hadamard",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise BadRequest(f"kind is {kind!r}: it can be {' or '.join(map(repr, _KINDS))}")
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise BadRequest(f"seed is {seed!r}: give a whole number from 0 on")
        self.in_features, self.out_features = in_features, out_features
        self.kind: Matrix = kind
        self.seed = int(seed)
        order = power_of_two(in_features)
        transformed = -(-out_features // order) * order * sum(_factors(order))
        self._saves = kind == "hadamard" and out_features * in_features >= _SAVED * transformed
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self._matrix: Tensor | None = None
        self.register_buffer("description", torch.empty(4, device=device, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin anew."""
        with torch.no_grad():
            self.description.copy_(torch.tensor(self._described, device="cpu"))
            self._made()
            bound = 1 / sqrt(self.out_features)
            if self.kind == "hadamard":
                self.scale.fill_(bound)
                self.bias.uniform_(-bound, bound)
            else:
                self.scale.fill_(_ORTHOGONAL_SCALE)
                self.bias.zero_()

    @property
    def matrix(self) -> Tensor:
        """The matrix, shape (out_features, in_features), where and in the type that the scale is."""
        made = self._matrix
        if made is None or made.device != self.scale.device or made.dtype != self.scale.dtype:
            return self._made()
        return made

    def _made(self) -> Tensor:
        """The matrix, made for the scale and kept; on the meta device there is none to keep."""
        if self.scale.is_meta:
            self._matrix = None
            return self.scale.new_empty(self.out_features, self.in_features)
        made = fixed_matrix(self.out_features, self.in_features, self.kind, self.seed)
        self._matrix = made.to(self.scale.device, self.scale.dtype)
        return self._matrix

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> nn.Module:
        """Moved or converted, it has its matrix before it is called, which a compiler asks for."""
        module = super()._apply(fn, recurse)
        _ = self.matrix
        return module

    def forward(self, features: Tensor) -> Tensor:
        """Logits of shape (..., out_features) from features of shape (..., in_features)."""
        scaled = _unit(features) * (-self.scale if self.kind == "hadamard" else self.scale)
        if self._is_faster_transformed(scaled):
            return self._transformed(scaled) + self.bias
        return linear(scaled, self.matrix, self.bias)

    def _is_faster_transformed(self, x: Tensor) -> bool:
        """As measured by ``benchmarks/bench_classifier.py``, on one core; elsewhere the product is multiplied out."""
        if not self._saves or torch.compiler.is_compiling():
            return False
        rows = x.shape[:-1].numel()
        return (
            rows * self.out_features <= _MOST_LOGITS
            and rows * self.out_features * self.in_features >= _LEAST_PRODUCTS
            and x.device.type == "cpu"
            and x.dtype == self.matrix.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
        )

    def _transformed(self, x: Tensor) -> Tensor:
        """``x`` times the matrix, each block of it being Sylvester's matrix after a change of signs.

        Sylvester's matrix is the Kronecker product of two small ones, and these are its own first rows and columns.
        Plain products, of which autograd and ``torch.func`` know what to do, and in pieces this small the quickest.
        """
        order = power_of_two(self.in_features)
        high, low = _factors(order)
        signed = pad(x[..., None, :] * self.matrix[::order], (0, order - self.in_features))
        blocks = self.matrix[:high, :high] @ (signed.unflatten(-1, (high, low)) @ self.matrix[:low, :low])
        return blocks.flatten(-3)[..., : self.out_features]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}, seed={self.seed}"

    @property
    def _described(self) -> list[int]:
        return [_KINDS.index(self.kind), self.in_features, self.out_features, self.seed]

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any
    ) -> None:
        given = state_dict.get(f"{prefix}description")
        if given is not None and given.tolist() != self._described:
            kind, features, classes, seed = given.tolist()
            raise BadRequest(
                f"{prefix.rstrip('.') or 'the state'} was learned with another matrix: {_KINDS[kind]}, seed {seed}, "
                f"{features} features, {classes} classes; here it is {self.kind}, seed {self.seed}, "
                f"{self.in_features} features, {self.out_features} classes"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class CosineClassifier(nn.Module):
    """``scale · (w / ‖w‖) · (x / ‖x‖) + bias``, all learned: what :class:`FixedClassifier` is but for the fixing.

    The weights begin as those of ``nn.Linear``, scale and bias as with an orthogonal matrix, whose rows have norm one
    too.

    Args:
        in_features: Number of features: inputs are of shape (..., in_features).
        out_features: Number of classes: outputs are of shape (..., out_features).
        device: Where it lives; PyTorch's default if not given.
        dtype: Of all that is learned.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin anew."""
        with torch.no_grad():
            nn.init.kaiming_uniform_(self.weight, a=sqrt(5))
            self.scale.fill_(_ORTHOGONAL_SCALE)
            self.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Logits of shape (..., out_features) from features of shape (..., in_features)."""
        return linear(self.scale * _unit(features), _unit(self.weight), self.bias)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}"


def _unit(x: Tensor) -> Tensor:
    """Vectors of norm one."""
    return normalize(x, dim=-1, eps=max(1e-8, torch.finfo(x.dtype).tiny))


def cosine_classifier(model: nn.Module, name: str) -> None:
    """Put a :class:`CosineClassifier` in the place of a linear layer.

    Args:
        model: Changed in place.
        name: The layer, as in ``model.named_modules()``.

    Raises:
        BadRequest: There is no such layer, it is no ``nn.Linear``, or it is the model itself.
    """
    old = _linear(model, name)
    new = CosineClassifier(old.in_features, old.out_features, old.weight.device, old.weight.dtype)
    _swap(model, name, old, new.train(old.training))


def fix_classifier(model: nn.Module, name: str, kind: Matrix = "hadamard", seed: int = 0) -> Callable[[], None]:
    """Put a classifier that is not learned in the place of a linear layer.

    The new layer, a :class:`FixedClassifier`, begins untrained, on the device and in the type of the old one. An
    optimiser made before holds the old layer's weights: make it afterwards. A weight that the layer shares with another
    stays with the other.

    Args:
        model: Changed in place.
        name: The layer, as in ``model.named_modules()``.
        kind: As in :func:`fixed_matrix`, which also tells of more classes than features.
        seed: Likewise.

    Returns:
        What undoes it: called, it puts the old layer back, the same object, as it was. The old weights are kept in
        memory for as long as this is.

    Raises:
        BadRequest: There is no such layer, it is no ``nn.Linear``, or it is the model itself; the kind or the seed is
            wrong.
    """
    old = _linear(model, name)
    weight = old.weight
    new = FixedClassifier(old.in_features, old.out_features, kind, seed, weight.device, weight.dtype)
    new.train(old.training)
    _swap(model, name, old, new)

    def undo() -> None:
        if dict(model.named_modules(remove_duplicate=False)).get(name) is not new:
            raise BadRequest(f"{name!r} is no longer the classifier that was put there: nothing is undone")
        _swap(model, name, new, old)

    return undo


def last_linear(model: nn.Module) -> str:
    """Name of the last ``nn.Linear``, in the order of the modules.

    Raises:
        BadRequest: There is none.
    """
    names = _linears(model)
    if not names:
        raise BadRequest("the network has no nn.Linear, so no classifier to fix")
    return names[-1]


def _linears(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if name and _is_plain(part)]


def _is_plain(part: nn.Module) -> bool:
    """Attention reads the weight of its own kind of linear layer and never calls it."""
    return isinstance(part, nn.Linear) and not isinstance(part, NonDynamicallyQuantizableLinear)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    modules = dict(model.named_modules(remove_duplicate=False))
    known = tuple(_linears(model))
    if name not in modules:
        raise BadRequest(f"the network has no layer {name!r}: {nearest(name, known)}")
    found = modules[name]
    if found is model:
        raise BadRequest("the network itself cannot be exchanged: name a layer within it")
    if not isinstance(found, nn.Linear) or not _is_plain(found):
        there = ", ".join(known) or "none"
        raise BadRequest(f"{name!r} is {typed(found)}, a classifier to fix is an nn.Linear: there is {there}")
    if is_lazy(found.weight):
        raise BadRequest(f"{name}.weight is lazy and has no shape yet: call the network on one batch first")
    return found


def _swap(model: nn.Module, name: str, old: nn.Module, new: nn.Module) -> None:
    """Wherever the old one is: a module may be used under several names."""
    for part in list(model.modules()):
        for key, child in part._modules.items():
            if child is old:
                part._modules[key] = new
