"""What trains in a network and what does not, layer by layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from letitgo.weights.hold import held_of, named_trainable
from letitgo.weights.layers import layers, owner, plain, ties

if TYPE_CHECKING:
    import pandas
    from rich.console import Group

_COLOURS = {"trainable": "green", "frozen": "cyan", "irregular": "yellow"}


@dataclass(frozen=True)
class LayerStatus:
    """One layer.

    Attributes:
        layer: Its name.
        type: The class of its module; ``Parameter`` where a container owns it.
        parameters: How many weights it has.
        trainable: How many of them train; in a subspace, all that move.
        status: ``irregular`` where some train and some do not.
        statistics: ``followed`` or ``frozen`` running statistics of a normalization layer, or ``none``.
        ties: Other names of its parameters, as in ``"lm_head.weight is wte.weight"``.
    """

    layer: str
    type: str
    parameters: int
    trainable: int
    status: Literal["trainable", "frozen", "irregular"]
    statistics: Literal["followed", "frozen", "none"]
    ties: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """What :func:`status` tells: printed, a table for a person; as data, a row for each layer.

    Attributes:
        rows: The layers, in the module's order.
        dimensions: How many numbers are learned in place of the weights that move in a subspace; None where none do.
    """

    rows: tuple[LayerStatus, ...]
    dimensions: int | None = None

    @property
    def parameters(self) -> int:
        """How many weights the network has, tied ones once."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """How many of them train."""
        return sum(row.trainable for row in self.rows)

    @property
    def ties(self) -> tuple[str, ...]:
        """All second names of tied parameters."""
        return tuple(tie for row in self.rows for tie in row.ties)

    @property
    def summary(self) -> str:
        """The totals in a line, one on the subspace if there is one, and one for each tied parameter."""
        share = f" ({100 * self.trainable / self.parameters:.1f} %)" if self.parameters else ""
        total = f"{self.parameters:,} parameters in {len(self.rows)} layers, {self.trainable:,} of them train{share}"
        learned = [] if self.dimensions is None else [f"in a subspace: {self.dimensions:,} numbers are learned there"]
        return "\n".join((total, *learned, *self.ties))

    @property
    def frame(self) -> pandas.DataFrame:
        """The rows as a DataFrame."""
        import pandas

        columns = [field.name for field in dataclasses.fields(LayerStatus)]
        rows = [{**dataclasses.asdict(row), "ties": "; ".join(row.ties)} for row in self.rows]
        return pandas.DataFrame(rows, columns=columns)

    def __rich__(self) -> Group:
        """The layers as a table, the totals below it."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table(pad_edge=False)
        for name in ("layer", "type", "parameters", "trainable", "status", "statistics"):
            table.add_column(name, justify="right" if name in ("parameters", "trainable") else "left")
        for row in self.rows:
            table.add_row(
                escape(row.layer),
                escape(row.type),
                f"{row.parameters:,}",
                f"{row.trainable:,}",
                f"[{_COLOURS[row.status]}]{row.status}[/]",
                "" if row.statistics == "none" else row.statistics,
            )
        return Group(table, escape(self.summary))

    def __str__(self) -> str:
        """The same as plain text."""
        from rich.console import Console

        console = Console(width=120, color_system=None, force_terminal=False, force_jupyter=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def status(module: nn.Module) -> Status:
    """Tell of each layer whether it trains, and whether its running statistics follow the data.

    Running statistics count as frozen where the layer is held by ``freeze(statistics="frozen")``, or is in evaluation
    mode while the network is in training mode.
    """
    told: dict[str, list[str]] = {}
    owned = layers(module)  # refuses what is lazy
    for name, first in ties(module).items():
        told.setdefault(first, []).append(f"{name} is {first}")
    moving = {name: parameter.numel() for name, parameter in named_trainable(module)}
    held = held_of(module)
    projected = held.projected if held else None
    if projected:
        moving |= {name: parameter.numel() for name, parameter in projected.origin.items()}
    rows = tuple(_row(module, layer, names, moving, told) for layer, names in owned.items())
    return Status(rows, projected.part.d if projected else None)


def _row(
    module: nn.Module, layer: str, names: tuple[str, ...], moving: dict[str, int], told: dict[str, list[str]]
) -> LayerStatus:
    part: Any = module.get_submodule(owner(module, names[0]))
    parameters = sum(module.get_parameter(name).numel() for name in names)
    trainable = sum(moving.get(name, 0) for name in names)
    return LayerStatus(
        layer,
        "Parameter" if (plain(module, names[0]),) == (layer,) else type(part).__name__,
        parameters,
        trainable,
        "frozen" if trainable == 0 else "trainable" if trainable == parameters else "irregular",
        _statistics(module, part),
        tuple(tie for name in names for tie in told.get(name, ())),
    )


def _statistics(module: nn.Module, part: nn.Module) -> Literal["followed", "frozen", "none"]:
    if not isinstance(part, _NormBase) or part.running_mean is None:
        return "none"
    held = "train" in vars(part)
    return "frozen" if held or (module.training and not part.training) else "followed"
