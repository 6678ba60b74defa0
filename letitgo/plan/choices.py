"""What may move of a network where that is more than a list of parameters, by description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.value import Value, derive
from letitgo.weights.projections import Kind


class Choice(Value):
    """What may move of a network, down to single weights."""

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part | weights.Subspace:
        """The part of a live network; ``store`` is asked for by choices that rest on results."""
        raise NotImplementedError

    def parameters(self, network: Network) -> tuple[str, ...]:
        """Names of the parameters that move at least in part, in the network's order."""
        part = self.part(weights.seeded(network, 0))
        if isinstance(part, weights.Subspace):
            return tuple(part.projected | part.excluded)
        moves = {*part.whole, *(name for name, mask in part.entries.items() if mask.any())}
        return tuple(name for name in part.whole.of if name in moves)


@dataclass(frozen=True, eq=False)
class Fraction(Choice):
    """A share of the filters or weights of each layer, chosen at random (RT18, arXiv:1802.00844).

    Attributes:
        share: As in :func:`letitgo.fraction`.
        of: ``"filters"`` or ``"weights"``.
        seed: Of the choice.
        within: Names of the parameters in which it chooses.
        besides: Names of parameters that move as a whole.
    """

    share: float
    of: Literal["filters", "weights"]
    seed: int
    within: tuple[str, ...]
    besides: tuple[str, ...] = ()

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part:
        names = weights.parameter_names(module)
        chosen = weights.fraction(module, self.share, self.of, self.seed, weights.Selection(self.within, names))
        return chosen | weights.Selection(self.besides, names)


@dataclass(frozen=True, eq=False)
class Scattered(Choice):
    """So many single values, chosen at random from all there are: the control of a choice with more sense to it.

    Every value is as likely as any other, whichever layer it is in (Frankle, Schwab and Morcos, arXiv:2003.00152).

    Attributes:
        count: How many.
        seed: Of the choice.
        within: Names of the parameters in which it chooses.
    """

    count: int
    seed: int
    within: tuple[str, ...]

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part:
        own = [(name, parameter) for name, parameter in module.named_parameters() if name in self.within]
        sizes = [parameter.numel() for _, parameter in own]
        if not 0 < self.count <= sum(sizes):
            raise BadRequest(f"{self.count:,} values are to be chosen: give at least 1 and at most {sum(sizes):,}")
        generator = torch.Generator().manual_seed(derive(self.seed, "scattered"))
        chosen = torch.zeros(sum(sizes), dtype=torch.bool)
        chosen[torch.randperm(len(chosen), generator=generator)[: self.count]] = True
        masks = zip(own, chosen.split(sizes), strict=True)
        return weights.entries(module, {name: mask.view(parameter.shape) for (name, parameter), mask in masks})


@dataclass(frozen=True, eq=False)
class PerUnit(Choice):
    """So many weights of each unit, chosen at random: the control of scales and shifts of norms.

    Frankle, Schwab and Morcos (arXiv:2003.00152) train two random weights of each feature beside its norm's two.

    Attributes:
        each: How many of each unit.
        seed: Of the choice.
        within: Names of the weights in which it chooses, units along dimension 0.
    """

    each: int
    seed: int
    within: tuple[str, ...]

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Part:
        generator = torch.Generator().manual_seed(derive(self.seed, "per unit"))
        masks = {}
        for name in self.within:
            parameter = module.get_parameter(name)
            drawn = torch.rand(len(parameter), parameter[0].numel(), generator=generator)
            if self.each > drawn.shape[1]:
                raise BadRequest(f"{self.each} weights of each unit are to be chosen: those of {name} have fewer")
            chosen = torch.zeros(drawn.shape, dtype=torch.bool).scatter_(1, drawn.topk(self.each).indices, True)
            masks[name] = chosen.view(parameter.shape)
        return weights.entries(module, masks)


@dataclass(frozen=True, eq=False)
class Subspace(Choice):
    """A random subspace of some parameters' weights (LFLY18, arXiv:1804.08838).

    Attributes:
        d: Its dimensions, as in :func:`letitgo.subspace`.
        projection: ``"dense"``, ``"sparse"`` or ``"fastfood"``.
        seed: Of the projection.
        within: Names of the parameters that move in the subspace.
        besides: Names of parameters that move as a whole.
        said: Whether each layer has a learned scale; these count among the d.
    """

    d: int
    projection: Kind
    seed: int
    within: tuple[str, ...]
    besides: tuple[str, ...] = ()
    said: bool = False

    def part(self, module: nn.Module, store: Store | None = None) -> weights.Subspace:
        names = weights.parameter_names(module)
        projected, besides = weights.Selection(self.within, names), weights.Selection(self.besides, names)
        return weights.Subspace(self.d, self.projection, self.seed, projected, besides, self.said)
