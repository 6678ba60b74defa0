"""Training in a random subspace: θ = θ₀ + P z, where z is all that is learned (Li et al., arXiv:1804.08838)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.weights.gradients import Shown, has_gradient
from letitgo.weights.hadamard import full_precision
from letitgo.weights.layers import layers, parameter_names
from letitgo.weights.projections import Kind, check_kind, draw
from letitgo.weights.select import Selection, chosen_of
from letitgo.weights.sharded import refuse_sharded


@dataclass(frozen=True)
class Subspace:
    """A choice of what may move, made by :func:`subspace`; :func:`hold` it.

    Attributes:
        d: How many numbers are learned in place of the projected weights.
        kind: Of the projection.
        seed: The projection is a function of it, of the kind, of d and of how many weights are projected.
        projected: The parameters that move in the subspace.
        excluded: The parameters that train by themselves.
        said: Whether each layer has a learned scale; these count among the d.
    """

    d: int
    kind: Kind
    seed: int
    projected: Selection
    excluded: Selection
    said: bool = False


def subspace(
    module: nn.Module,
    d: int,
    kind: Kind = "fastfood",
    seed: int = 0,
    exclude: Selection | None = None,
    said: bool = False,
) -> Subspace:
    """A random subspace of d dimensions of all weights that train, biases and norms among them.

    Args:
        module: The network. Parameters that do not ask for a gradient stay frozen.
        d: Its dimensions, from 1 to the number of weights.
        kind: ``"dense"``, ``"sparse"`` or ``"fastfood"``: memory O(D d), O(d √D) or O(D), for D weights.
        seed: Of the projection.
        exclude: These train by themselves and not in the subspace, as a new head would.
        said: Learn a scale for each layer too, and d less as many dimensions (Aghajanyan et al., arXiv:2012.13255).

    Raises:
        BadRequest: d is outside its range, the kind is none, the selection is of another network, or nothing is left
            that trains or holds real numbers.
    """
    names = parameter_names(module)
    exclude = Selection((), names) if exclude is None else chosen_of(module, exclude)
    trains = {name for name in names if module.get_parameter(name).requires_grad}
    projected = Selection(tuple(name for name in names if name in trains and name not in exclude), names)
    part = Subspace(int(d) if isinstance(d, Integral) else d, kind, seed, projected, exclude, said)
    check(module, part)
    return part


def subspace_of(module: nn.Module, part: Subspace) -> Subspace:
    """A subspace under the names that a network has now, wrapped or not.

    Raises:
        BadRequest: It is of another network.
    """
    return replace(part, projected=chosen_of(module, part.projected), excluded=chosen_of(module, part.excluded))


def check(module: nn.Module, part: Subspace) -> int:
    """Refuse a subspace that the network has not; returns how many of its d numbers are scales."""
    refuse_sharded(module, "a subspace")
    if not part.projected:
        raise BadRequest("no weights that train are left to project: thaw some, or exclude fewer")
    parameters = {name: module.get_parameter(name) for name in part.projected}
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise BadRequest(f"{name} holds {parameter.dtype}, and only real numbers are projected: exclude it")
    check_kind(part.kind)
    size = sum(parameter.numel() for parameter in parameters.values())
    if not isinstance(part.d, int) or not 1 <= part.d <= size:
        raise BadRequest(f"d is {part.d}: give a whole number from 1 to {size:,}, the weights that are projected")
    scales = len(_layers(module, part.projected)) if part.said else 0
    if part.said and part.d <= scales:
        raise BadRequest(f"d is {part.d}: the {scales} layers take a scale each, so give {scales + 1} or more")
    return scales


class Projected:
    """The weights of a held network that move in a subspace.

    Attributes:
        z: What is learned, shape (d,), zeros at first; 32 bits wide, or 64 where a parameter is.
        scales: One for each layer, ones at first; None without SAID.
        origin: Parameter name → θ₀.
        projection: P.
        shown: What shows the gradient of each, as that of a parameter.
        deferred: Whether gradients are there at the end of the backward pass only.
    """

    def __init__(self, module: nn.Module, part: Subspace) -> None:
        self.deferred = False
        self.part = part
        self.parameters = {name: module.get_parameter(name) for name in part.projected}
        self._sizes = [parameter.numel() for parameter in self.parameters.values()]
        owning = _layers(module, part.projected)
        place = {name: i for i, names in enumerate(owning) for name in names}
        self._layer = torch.tensor([place[name] for name in self.parameters])
        self._counts = torch.tensor(self._sizes)
        self.origin = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.projection = draw(part.kind, sum(self._sizes), part.d - len(owning) * part.said, part.seed)
        device = next(iter(self.parameters.values())).device
        self.z = nn.Parameter(torch.zeros(part.d - len(owning) * part.said, device=device))
        self.scales = nn.Parameter(torch.ones(len(owning), device=device)) if part.said else None
        self._image: Tensor | None = None  # P z as last written, where the gradient of the scales asks for it
        self._convert()
        self.name = next(iter(self.parameters))
        self._seen = self._contents()
        self._versions = [parameter._version for parameter in self.parameters.values()]
        self.hooks: list[Any] = []
        for parameter in self.parameters.values():
            parameter.grad = None
            self.hooks.append(parameter.register_hook(self._hide))
            self.hooks.append(parameter.register_post_accumulate_grad_hook(self._arrived))

    @property
    def own(self) -> list[nn.Parameter]:
        """What the optimiser gets."""
        return list(self.learned.values())

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The same by name: ``z``, and ``scales`` where there are any."""
        return {"z": self.z} if self.scales is None else {"z": self.z, "scales": self.scales}

    def late(self) -> str | None:
        """The name of a parameter with a gradient that came after z had its own."""
        if self.z.grad is None:
            return None
        return next((name for name, parameter in self.parameters.items() if has_gradient(parameter)), None)

    def touched(self) -> bool:
        """Whether a parameter was written to since all were last brought together, other than through ``data``."""
        return self._versions != [parameter._version for parameter in self.parameters.values()]

    @torch.no_grad()
    def meet(self, stepped: bool = False) -> None:
        """Write θ₀ + P z where z changed. Where the weights were changed by others, they become θ₀, and z zero."""
        self._versions = [parameter._version for parameter in self.parameters.values()]
        converted = self._form != self._forms()
        if converted:
            self._convert()
        if not stepped and not converted and not _same(self.parameters.values(), self._seen[0]):
            for name, parameter in self.parameters.items():
                self.origin[name] = parameter.detach().clone()
            self.z.zero_()
            self._image = None
        elif converted or stepped or not _same(self.own, self._seen[1]):
            self._write()
        else:
            return
        self._seen = self._contents()

    def _write(self) -> None:
        with full_precision(self.z.device):
            image = self.projection.image(self.z.detach())
        if self.scales is not None:
            self._image = image
            image = image * self._spread()
        for (name, parameter), piece in zip(self.parameters.items(), image.split(self._sizes), strict=True):
            # Into ``data``, so that autograd takes it for the same weights that a graph may hold.
            torch.add(self.origin[name], piece.view(parameter.shape).to(parameter.device), out=parameter.data)

    def _arrived(self, _: Tensor) -> None:
        if not self.deferred:
            torch.autograd.Variable._execution_engine.queue_callback(self.collect)

    def _hide(self, _: Tensor) -> None:
        for shown in self.shown:
            shown.hide()

    @torch.no_grad()
    def collect(self) -> None:
        """At the end of a backward pass: project the gradient onto the subspace, and let go of it."""
        if not any(map(has_gradient, self.parameters.values())):
            return
        gradient = self.z.new_empty(sum(self._sizes))
        for parameter, piece in zip(self.parameters.values(), gradient.split(self._sizes), strict=True):
            if parameter.grad is None:
                piece.zero_()
            else:
                piece.view(parameter.shape).copy_(parameter.grad.to_dense())
            parameter.grad = None
        if self.scales is not None:
            moved = torch.zeros_like(gradient) if self._image is None else gradient * self._image
            sums = torch.stack([piece.sum() for piece in moved.split(self._sizes)])
            _add(self.scales, torch.zeros_like(self.scales).index_add_(0, self._layer, sums))
            gradient *= self._spread()
        with full_precision(self.z.device):
            _add(self.z, self.projection.pull_back(gradient))
        for shown in self.shown:
            shown.show()

    def _spread(self) -> Tensor:
        """The scale of each weight."""
        assert self.scales is not None
        each = self.scales.detach()[self._layer]
        return each.repeat_interleave(self._counts, output_size=sum(self._sizes))

    def _forms(self) -> list[tuple[torch.device, torch.dtype]]:
        return [(parameter.device, parameter.dtype) for parameter in self.parameters.values()]

    def _convert(self) -> None:
        """Go to where the parameters are, with numbers as wide as theirs."""
        self._form = self._forms()
        device = self._form[0][0]
        dtype = torch.float64 if any(form[1] == torch.float64 for form in self._form) else torch.float32
        for own in self.own:
            gradient, own.grad = own.grad, None
            own.data = own.data.to(device, dtype)
            own.grad = None if gradient is None else gradient.to(device, dtype)
        for name, parameter in self.parameters.items():
            self.origin[name] = self.origin[name].to(parameter.device)
        self.projection.to(device)
        self._layer, self._counts = self._layer.to(device), self._counts.to(device)
        self._image = None if self._image is None else self._image.to(device, dtype)
        pairs = zip(self.parameters.values(), self.own, strict=False)
        self.shown = [Shown(parameter, own) for parameter, own in pairs]

    def _contents(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of the parameters and of what the optimiser has, as they were when both were last brought together."""
        return [p.detach().clone() for p in self.parameters.values()], [p.detach().clone() for p in self.own]


def _same(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(torch.equal(tensor, other) for tensor, other in zip(tensors, others, strict=True))


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def _layers(module: nn.Module, selection: Selection) -> list[tuple[str, ...]]:
    """The parameters of a selection, by layers."""
    owned = (tuple(name for name in names if name in selection) for names in layers(module).values())
    return [names for names in owned if names]
