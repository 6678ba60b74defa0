"""How far the layers of a network are of rank one and aligned (JT18, arXiv:1810.02032).

Gradient descent on a deep linear network with one output and separable data makes each matrix one of rank one, its top
right singular vector the top left one of the layer below, and the product the maximum-margin predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights.layers import parameter_names

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Alignment:
    """What :func:`alignment` tells, first layer first. What a zero matrix leaves undefined is None.

    Attributes:
        layers: Names.
        spectral: ‖W‖₂ of each layer.
        frobenius: ‖W‖_F of each layer.
        ratio: ‖W‖₂/‖W‖_F, 1 for a matrix of rank one.
        floor: The least that ratio can be at this shape, min(rows, columns)^-1/2.
        adjacent: |⟨v, u⟩| of each layer but the last: u is its top left singular vector, v the top right one of the
            layer above. None also where the layer above has another number of inputs.
        first: |⟨v, direction⟩| for the top right singular vector v of the first layer; None without a direction.
        product: |⟨w, direction⟩|/‖w‖ for the product w of all layers; None without a direction.
    """

    layers: tuple[str, ...]
    spectral: tuple[float, ...]
    frobenius: tuple[float, ...]
    ratio: tuple[float | None, ...]
    floor: tuple[float, ...]
    adjacent: tuple[float | None, ...]
    first: float | None = None
    product: float | None = None

    @property
    def frame(self) -> pandas.DataFrame:
        """A row for each layer; ``adjacent`` is with the layer above, NaN for the last."""
        import pandas

        columns = {name: getattr(self, name) for name in ("layers", "spectral", "frobenius", "ratio", "floor")}
        return pandas.DataFrame({**columns, "adjacent": [*self.adjacent, None]}).rename(columns={"layers": "layer"})


def alignment(network: nn.Module | Sequence[Tensor], direction: Tensor | None = None) -> Alignment:
    """The spectra of dense layers, and how their singular vectors lie to each other.

    Args:
        network: A module, whose ``nn.Linear`` layers are measured in the order they are registered; or matrices of
            shape (outputs, inputs), first layer first. Nothing of it is changed. Computed in float64, with one singular
            value decomposition a layer.
        direction: A direction in the space of inputs, shape (inputs,), as the maximum-margin one. The layers have to
            be a chain with one output: of several outputs the theorem says nothing. Nor does it of networks with
            activations between the layers, whose product is not what they compute.

    Raises:
        BadRequest: There is no dense layer, something is no finite matrix, or a direction is asked of layers that have
            none in common.
    """
    named = _named(network)
    tops = [_top(matrix) for matrix in named.values()]
    adjacent = [
        _cosine(above.right, below.left) if above.right.shape == below.left.shape else None
        for below, above in pairwise(tops)
    ]
    first = product = None
    if direction is not None:
        whole = _product(list(named.values()), "a direction")
        towards = direction.detach().to("cpu", torch.float64)
        if towards.shape != whole.shape:
            raise BadRequest(f"the direction has shape {tuple(towards.shape)}: the layers take {len(whole)} inputs")
        first, product = (_cosine(found, towards) for found in (tops[0].right, whole))
    return Alignment(
        layers=tuple(named),
        spectral=tuple(top.value for top in tops),
        frobenius=tuple(float(torch.linalg.matrix_norm(matrix)) for matrix in named.values()),
        ratio=tuple(
            top.value / norm if (norm := float(torch.linalg.matrix_norm(matrix))) else None
            for top, matrix in zip(tops, named.values(), strict=True)
        ),
        floor=tuple(min(matrix.shape) ** -0.5 for matrix in named.values()),
        adjacent=tuple(adjacent),
        first=first,
        product=product,
    )


def imbalance(matrices: Sequence[Tensor]) -> float:
    """D of JT18's Lemma 2: how far a chain of layers with one output is from balanced. 0: all of rank one, aligned.

    Args:
        matrices: Shape (outputs, inputs) each, first layer first.

    Raises:
        BadRequest: They are no chain with one output.
    """
    chain = list(_named(matrices).values())
    _product(chain, "D")
    squares = [float(matrix.square().sum()) for matrix in chain]
    return max(squares) - squares[-1] + sum(float(_spectral(gap)) for gap in _invariants(chain))


def invariant_drift(matrices: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """How far the invariants W_{k+1}ᵀW_{k+1} − W_kW_kᵀ have moved: the largest spectral norm of a difference.

    Gradient flow keeps them; gradient descent does up to the order of its step size.

    Args:
        matrices: Shape (outputs, inputs) each, first layer first.
        start: The same at the beginning.
    """
    now, then = (list(_named(side).values()) for side in (matrices, start))
    moved = [a - b for a, b in zip(_invariants(now), _invariants(then), strict=True)]
    return max((_spectral(difference) for difference in moved), default=0.0)


class Excess(NamedTuple):
    """By how much JT18's Lemma 2 is missed, at the layer where it is missed most; not above 0 where it holds.

    Attributes:
        rank: Of ‖W_k‖_F² − ‖W_k‖₂² over D.
        adjacent: Of what is demanded of ⟨v_{k+1}, u_k⟩² over what it is; None for a single layer.
    """

    rank: float
    adjacent: float | None


def lemma_2(matrices: Sequence[Tensor], start: Sequence[Tensor]) -> Excess:
    """Hold a chain of layers with one output against the two inequalities of JT18's Lemma 2.

    The lemma is about gradient flow; gradient descent may miss it by the drift of the invariants.

    Args:
        matrices: Shape (outputs, inputs) each, first layer first.
        start: The same at the beginning.

    Raises:
        BadRequest: They are no chain with one output.
    """
    now, then = (list(_named(side).values()) for side in (matrices, start))
    bound = imbalance(then)
    tops = [_top(matrix) for matrix in now]
    gaps = [float(matrix.square().sum()) - top.value**2 - bound for matrix, top in zip(now, tops, strict=True)]
    squares = [_spectral(matrix) ** 2 for matrix in then]
    missed = [
        1 - (bound + squares[k + 1] + squares[k]) / above.value**2 - float(above.right @ below.left) ** 2
        for k, (below, above) in enumerate(pairwise(tops))
        if above.value
    ]
    return Excess(max(gaps), max(missed, default=None))


class _Top(NamedTuple):
    value: float
    left: Tensor
    right: Tensor


def _top(matrix: Tensor) -> _Top:
    """The largest singular value and its vectors; zero vectors for a zero matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    value = float(values[0])
    return _Top(value, left[:, 0] * bool(value), right[0] * bool(value))


def _spectral(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _cosine(a: Tensor, b: Tensor) -> float | None:
    norms = float(a.norm() * b.norm())
    return min(1.0, abs(float(a @ b)) / norms) if norms else None


def _invariants(chain: Sequence[Tensor]) -> list[Tensor]:
    return [above.T @ above - below @ below.T for below, above in pairwise(chain)]


def _product(chain: Sequence[Tensor], what: str) -> Tensor:
    """The product of a chain with one output, as a vector over the inputs."""
    for k, (below, above) in enumerate(pairwise(chain), start=1):
        if above.shape[1] != below.shape[0]:
            raise BadRequest(
                f"matrix {k + 1} takes {above.shape[1]} inputs and matrix {k} gives {below.shape[0]} outputs: "
                f"{what} is asked of a chain of layers"
            )
    if chain[-1].shape[0] != 1:
        raise BadRequest(
            f"the last layer has {chain[-1].shape[0]} outputs: {what} is defined for one, and of several outputs the "
            "theorem says nothing"
        )
    whole = chain[-1]
    for matrix in reversed(chain[:-1]):
        whole = whole @ matrix
    return whole[0]


def _named(network: nn.Module | Sequence[Tensor]) -> dict[str, Tensor]:
    if isinstance(network, nn.Module):
        parameter_names(network)  # refuses what is lazy
        found = {name: part.weight for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    else:
        found = {str(k): matrix for k, matrix in enumerate(network, start=1)}
    if not found:
        raise BadRequest("there is no dense layer to measure: give a module with nn.Linear layers, or matrices")
    for name, matrix in found.items():
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.numel():
            shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise BadRequest(f"layer {name} is to be a matrix (outputs, inputs) and has shape {shape}")
        if matrix.is_complex():
            raise BadRequest(f"layer {name} holds complex numbers: spectra are measured of real matrices")
        if not bool(matrix.isfinite().all()):
            raise BadRequest(f"layer {name} has weights that are not finite")
    return {name: matrix.detach().to("cpu", torch.float64) for name, matrix in found.items()}
