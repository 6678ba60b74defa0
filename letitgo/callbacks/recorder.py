"""What is frozen when, and what that saves, as numbers for a tracker: TensorBoard, trackio, a Lightning logger, …"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils._pytree import tree_map_only

from letitgo.errors import BadRequest
from letitgo.weights import layers, status, step_cost, units
from letitgo.weights.example import Example
from letitgo.weights.layers import trains
from letitgo.weights.state import undisturbed


class Log(Protocol):
    """Takes numbers by name, and the step they are of.

    ``trackio.log`` and the ``log_metrics`` of a Lightning logger are that as they are, :func:`tensorboard` makes it of
    a ``SummaryWriter``.
    """

    def __call__(self, values: dict[str, float], step: int, /) -> object: ...


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


def tensorboard(writer: _Writer) -> Log:
    """A ``SummaryWriter`` as a :class:`Log`: each value is a scalar."""

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


class Recorder:
    """Logs what of a network is frozen and what that saves. A schedule has one of its own; this is for other freezing.

    - ``freezing/trainable``: how many weights train.
    - ``freezing/trainable_share``: their share of all weights.
    - ``freezing/arithmetic_saved``, with an example: of the floating-point operations of a step in which all weights
      train, the share that is saved. As :func:`letitgo.step_cost` counts them; no cached prefix.
    - ``frozen/BLOCK``: the share of the block's weights that is frozen, 1 or 0 or, for a part of a block, between.

    Blocks are those of ``letitgo map --by block``, and layers that are in none.

    Args:
        module: The network.
        log: Where the values go.
        example: What the network is called with, one or two examples; brought to the device of its weights. Each set
            of frozen weights is counted once, by a forward and a backward pass on it that leave all as it was.

    Raises:
        BadRequest: The network does not take the example, or nothing in it is counted.
    """

    def __init__(self, module: nn.Module, log: Log, example: Example | None = None) -> None:
        replicated = isinstance(module, (DataParallel, DistributedDataParallel))  # whose forward pass waits for others
        self._module, self._log = module.module if replicated else module, log
        self._blocks = units(self._module, layers(self._module), by="block")
        self._example: Any = None
        if example is not None:
            device = next(self._module.parameters()).device
            self._example = tree_map_only(Tensor, lambda tensor: tensor.to(device), example)
        self._whole = 0 if example is None else self._count_whole()
        self._saved: dict[tuple[bool, ...], float] = {}
        self._last: tuple[dict[str, float], int] | None = None

    def record(self, step: int) -> None:
        """Log the network as it is from this step on. What it was before holds up to the step before."""
        values = self._values()
        self.close(step - 1)
        self._log(dict(values), step)
        self._last = values, step

    def close(self, step: int) -> None:
        """Log that what was recorded last held up to this step, so that a curve has its last phase and no slopes."""
        if self._last is not None and step > self._last[1]:
            self._log(dict(self._last[0]), step)

    def _values(self) -> dict[str, float]:
        table = status(self._module)
        rows = {row.layer: row for row in table.rows}
        found: dict[str, float] = {
            "freezing/trainable": table.trainable,
            "freezing/trainable_share": table.trainable / table.parameters,
        }
        if self._example is not None:
            found["freezing/arithmetic_saved"] = self._arithmetic_saved()
        for block, names in self._blocks.items():
            within = [rows[name] for name in names]
            found[f"frozen/{block}"] = 1 - sum(row.trainable for row in within) / sum(row.parameters for row in within)
        return found

    def _arithmetic_saved(self) -> float:
        frozen = tuple(not parameter.requires_grad for parameter in self._module.parameters())
        if frozen not in self._saved:
            with undisturbed(self._module, "cost"):
                self._module.train()
                self._saved[frozen] = 1 - step_cost(self._module, self._example).whole / self._whole
        return self._saved[frozen]

    def _count_whole(self) -> int:
        """Operations of a step in which all weights train."""
        with undisturbed(self._module, "cost"):
            self._module.train()
            for parameter in self._module.parameters():
                parameter.requires_grad_(trains(parameter))
            whole = step_cost(self._module, self._example).whole
        if not whole:
            raise BadRequest("no arithmetic is counted in this network, so leave out the example: there is no product")
        return whole
