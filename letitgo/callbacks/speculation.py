"""Freezing on trial: train on with and without a block frozen, and keep the freeze only if a test says it is cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from letitgo.callbacks.rules import Patterns
from letitgo.errors import BadRequest, typed
from letitgo.weights import Selection, freeze, parameter_names, thaw
from letitgo.weights.freeze import Statistics
from letitgo.weights.select import chosen_of
from letitgo.weights.state import remembered_draws, same_modes

LEAST = 100
"""Examples before the first look: the test holds for many examples, by the central limit theorem."""

_WANTED = "give the loss of each held-out example, batch by batch, as tensors of shape (N,)"
_OTHERS = "losses gives other examples the second time: give one loss for each, in the same order"


class Stateful(Protocol):
    """A scheduler, a scaler, or whatever else training moves along."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Attempt:
    """What :func:`speculate` found.

    Attributes:
        kept: Whether the freeze stays.
        cost: Mean held-out loss of the network trained with the freeze, less that of the one trained without.
        half: Half-width of its interval, which holds at all looks together.
        examples: How many held-out examples were looked at.
    """

    kept: bool
    cost: float
    half: float
    examples: int


def speculate(
    model: nn.Module,
    optimizer: Optimizer,
    frozen: Patterns,
    train: Callable[[], Any],
    losses: Callable[[nn.Module], Iterable[Tensor]],
    tolerance: float,
    alpha: float = 0.05,
    also: Sequence[Stateful] = (),
    statistics: Statistics = "follow",
) -> Attempt:
    """Train on as before, and again from the same point with something frozen; keep the better bargain.

    Where the freeze surely costs no more than the tolerance, it stays, and the network is as trained with it. Else
    weights, optimiser, ``also`` and generators are, to the bit, as if it had not been tried: trained without it. The
    freeze is not kept where the examples cannot tell. ``train`` runs twice, so an attempt that fails costs as much as
    its training, less what freezing saves.

    The test: held-out losses are paired by example, and the mean of their differences is looked at after each batch,
    with a confidence sequence that holds at all looks together (Waudby-Smith et al., arXiv:2103.06476). A freeze that
    costs more than the tolerance on the distribution of the held-out examples is kept with a probability of at most
    ``alpha``, for many examples; there is no look before 100. That is of the loss right after ``train``, not at the end
    of training, and for each attempt by itself.

    Args:
        model: The network.
        optimizer: Of all that may train.
        frozen: What is frozen on trial, as :func:`letitgo.freeze` takes it. What is frozen already stays so.
        train: Takes some steps, on the same batches each time it is called. Both times the generators of torch, NumPy
            and ``random`` start alike.
        losses: Called with the model in evaluation mode and without gradients, gives losses of held-out examples, batch
            by batch, each of shape (N,): the same examples in the same order, which was drawn at random.
        tolerance: Largest rise of the mean loss that does no harm, in its unit.
        alpha: Error of the test.
        also: Learning rate schedulers, gradient scalers and the like, which ``train`` moves along.
        statistics: As in :func:`letitgo.freeze`.

    Raises:
        BadRequest: An argument is of another type or out of range; nothing of ``frozen`` trains or is in the optimiser,
            nothing else trains, or :func:`letitgo.freeze` refuses it; ``losses`` gives something else, or other
            examples the second time. The network is then as before.
    """
    _check(optimizer, train, losses, tolerance, alpha, also)
    chosen = _chosen(model, optimizer, frozen)
    before = _Point(model, optimizer, also)
    try:
        freeze(model, chosen, statistics)  # what cannot be frozen is refused before any training
        thaw(model, chosen)
        before.restore()
        train()
        with same_modes(model), torch.no_grad():
            model.eval()
            without = torch.cat([torch.empty(0, dtype=torch.float64), *_batches(losses(model))])
        if not len(without):
            raise BadRequest(f"losses gives no examples: {_WANTED}")
        after = _Point(model, optimizer, also)
        before.restore()
        freeze(model, chosen, statistics)
        train()
        with same_modes(model), torch.no_grad():
            model.eval()
            attempt = _judged(without, _batches(losses(model)), tolerance, alpha)
    except BaseException:
        thaw(model, chosen)
        before.restore()
        raise
    if not attempt.kept:
        thaw(model, chosen)
        after.restore()
    return attempt


def _check(
    optimizer: object, train: object, losses: object, tolerance: float, alpha: float, also: Iterable[object]
) -> None:
    """Refuse arguments of another type or out of range."""
    if not isinstance(tolerance, Real) or not 0 <= tolerance < inf:
        raise BadRequest(f"tolerance is {tolerance!r}: give a number from 0 on")
    if not isinstance(alpha, Real) or not 0 < alpha < 1:
        raise BadRequest(f"alpha is {alpha!r}: give a number between 0 and 1")
    for name, function in (("train", train), ("losses", losses)):
        if not callable(function):
            raise BadRequest(f"{name} is {function!r}: give a function")
    if not hasattr(optimizer, "param_groups"):
        raise BadRequest(f"{typed(optimizer)} is no optimiser: give one, of all that may train")
    if not isinstance(also, Sequence) or not all(hasattr(part, "load_state_dict") for part in also):
        raise BadRequest(f"also is {also!r}: give a list of schedulers, scalers and the like")


def _chosen(model: nn.Module, optimizer: Optimizer, patterns: Patterns) -> Selection:
    """What is frozen on trial: what trains of a choice, some of it moved by the optimiser, and not all there is."""
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = tuple(name for name in chosen_of(model, patterns) if name in trains)
    if not names:
        raise BadRequest(f"nothing of {patterns!r} trains: there is nothing to try")
    if len(names) == len(trains):
        raise BadRequest(f"with {patterns!r} frozen nothing is left to train: leave some layers out")
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(model.get_parameter(name)) in moved for name in names):
        raise BadRequest(
            f"the optimiser has nothing of {patterns!r}: it is of another network, or it was made without that"
        )
    return Selection(names, parameter_names(model))


def _batches(found: Any) -> Iterator[Tensor]:
    """What ``losses`` gave, as doubles on the CPU."""
    if isinstance(found, Tensor) or not isinstance(found, Iterable):
        raise BadRequest(f"losses gives {typed(found)}: {_WANTED}")
    for part in found:
        if not isinstance(part, Tensor) or part.ndim != 1:
            what = f"tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise BadRequest(f"losses gives a {what} for a batch: {_WANTED}")
        yield part.detach().double().cpu()


def _judged(without: Tensor, frozen: Iterable[Tensor], tolerance: float, alpha: float) -> Attempt:
    seen = torch.empty(0, dtype=torch.float64)
    cost, half = inf, inf
    for part in frozen:
        place = slice(len(seen), len(seen) + len(part))
        if len(without[place]) != len(part):
            raise BadRequest(_OTHERS)
        seen = torch.cat([seen, part - without[place]])
        cost, half = float(seen.mean()), half_width(seen, len(without), alpha)
        if len(seen) >= LEAST and (cost + half <= tolerance or cost - half > tolerance):
            break
    else:
        if len(seen) < len(without):
            raise BadRequest(_OTHERS)
    return Attempt(len(seen) >= LEAST and cost + half <= tolerance, cost, half, len(seen))


def half_width(differences: Tensor, most: int, alpha: float) -> float:
    """Half-width of an asymptotic confidence sequence for a mean (Waudby-Smith et al., arXiv:2103.06476, theorem 2.2).

    Args:
        differences: So far, shape (n,).
        most: How many there will be: the sequence is narrowest there.
        alpha: Two-sided error over all n.
    """
    n = len(differences)
    if n < 2:
        return inf
    rho = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / most  # ρ², equation 24 there
    spread = n * rho + 1
    return float(differences.std()) * sqrt(2 * spread / (n**2 * rho) * log(sqrt(spread) / alpha))


class _Point:
    """Where training is: weights, buffers, gradients, the optimiser, what goes along, and the generators."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, also: Sequence[Stateful]) -> None:
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
        self._gradients = [(p, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
        self._optimizer, self._state = optimizer, {p: _cloned(state) for p, state in optimizer.state.items()}
        self._groups = [{name: x for name, x in group.items() if name != "params"} for group in optimizer.param_groups]
        self._also = [(part, _cloned(part.state_dict())) for part in also]
        self._draws = remembered_draws()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back there."""
        for tensor, content in self._tensors:
            tensor.copy_(content)
        for parameter, gradient in self._gradients:
            parameter.grad = None if gradient is None else gradient.clone()
        self._optimizer.state.clear()
        self._optimizer.state.update({parameter: _cloned(state) for parameter, state in self._state.items()})
        for group, numbers in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(numbers)
        for part, state in self._also:
            part.load_state_dict(_cloned(state))
        self._draws()


def _cloned(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
