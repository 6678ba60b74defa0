"""The gradient of a parameter that moves in part, as the network shows it.

What moves of such a parameter is another Parameter, and the optimiser's. Code that knows the network alone, as the
Hugging Face Trainer's ``max_grad_norm``, looks for gradients in ``module.parameters()``: there it finds a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_OF_ITSELF = {"empty_like", "__get__", "__set__"}
"""What is asked of the stand-in: its attributes, such as the shape, ``data`` left out."""
_DATA: Any = (Tensor.data.__get__, Tensor.data.__set__)  # type: ignore[attr-defined]


class StandIn(Tensor):
    """The gradient of what moves, in the shape of the whole parameter and without memory.

    Torch's functions act on the moving part's gradient instead, in place too: norms measure it and clipping scales it.
    """

    _own: nn.Parameter

    @staticmethod
    def of(parameter: nn.Parameter, own: nn.Parameter) -> StandIn:
        """For ``parameter``, of which ``own`` is what moves."""
        zero = torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        shown = Tensor._make_subclass(StandIn, zero.expand(parameter.shape))
        shown._own = own
        return shown

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(_meant(self))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ in _OF_ITSELF and func not in _DATA:
                return func(*args, **(kwargs or {}))
            return func(*tree_map(_meant, args), **tree_map(_meant, kwargs or {}))


class Shown:
    """What shows the gradient of what moves as the gradient of a parameter of the network."""

    def __init__(self, parameter: nn.Parameter, own: nn.Parameter) -> None:
        self._parameter, self._own, self._stand_in = parameter, own, StandIn.of(parameter, own)
        self._is_up = False

    def show(self) -> None:
        """Show it, where there is one and nothing else is in its place."""
        if self._own.grad is not None and self._parameter.grad is None:
            self._parameter.grad, self._is_up = self._stand_in, True

    def hide(self) -> None:
        """Make room for a gradient of the parameter.

        Who cleared the parameter's gradient since it was shown, as ``zero_grad()`` of the network does, meant this one.
        """
        if isinstance(self._parameter.grad, StandIn):
            self._parameter.grad = None
        elif self._is_up:
            self._own.grad = None
        self._is_up = False


def after_averaging(work: Callable[[], None]) -> None:
    """From within a backward pass: call at its end, once ``DistributedDataParallel`` has put averaged gradients back.

    It queues its own work for that end when the last gradient comes in, so what is queued before that runs earlier.
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback
    queue(lambda: queue(work))


def has_gradient(parameter: nn.Parameter) -> bool:
    """Whether a parameter has a gradient of its own, and no stand-in."""
    return parameter.grad is not None and not isinstance(parameter.grad, StandIn)


def _meant(value: Any) -> Any:
    if not isinstance(value, StandIn):
        return value
    return torch.zeros_like(value._own) if value._own.grad is None else value._own.grad
