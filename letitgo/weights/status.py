"""What trains in a network and what does not, layer by layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from letitgo.weights.delta import Base
from letitgo.weights.hold import helds, named_trainable
from letitgo.weights.layers import layers, owner, plain, ties
from letitgo.weights.moved import Movement, moved

if TYPE_CHECKING:
    import pandas
    from rich.console import Group

_COLOURS = {"trainable": "green", "frozen": "cyan", "partial": "yellow"}


@dataclass(frozen=True)
class LayerStatus:
    """One layer.

    Attributes:
        layer: Its name.
        type: The class of its module; ``Parameter`` where a container owns it.
        parameters: How many weights it has.
        trainable: How many of them train; in a subspace, all that move.
        status: ``partial`` where some train and some do not.
        statistics: ``followed`` or ``frozen`` running statistics of a normalization layer, or ``none``.
        ties: Other names of its parameters, as in ``"lm_head.weight is wte.weight"``.
        happened: What happened to its parameters, where a base is given: ``moved``, ``did not move``, or what is not as
            declared, as in ``frozen but moved: weight``.
    """

    layer: str
    type: str
    parameters: int
    trainable: int
    status: Literal["trainable", "frozen", "partial"]
    statistics: Literal["followed", "frozen", "none"]
    ties: tuple[str, ...]
    happened: str = ""


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
        compared = any(row.happened for row in self.rows)
        for name in ("layer", "type", "parameters", "trainable", "status", "statistics", *["happened"] * compared):
            table.add_column(name, justify="right" if name in ("parameters", "trainable") else "left")
        for row in self.rows:
            table.add_row(
                escape(row.layer),
                escape(row.type),
                f"{row.parameters:,}",
                f"{row.trainable:,}",
                f"[{_COLOURS[row.status]}]{row.status}[/]",
                "" if row.statistics == "none" else row.statistics,
                *[escape(row.happened)] * compared,
            )
        return Group(table, escape(self.summary))

    def __str__(self) -> str:
        """The same as plain text."""
        from rich.console import Console

        console = Console(width=120, emoji=False, color_system=None, force_terminal=False, force_jupyter=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def status(module: nn.Module, base: Base | None = None) -> Status:
    """Of each layer, whether it trains, and whether its running statistics follow the data.

    Running statistics count as frozen where the layer is held by ``freeze(statistics="frozen")``, or is in evaluation
    mode while the network is in training mode. A norm without weights has a row too.

    Args:
        module: The network.
        base: What it was before training, as for :func:`letitgo.moved`: then each row says what happened.

    Raises:
        BadRequest: The base shares no tensor with the network.
    """
    tied: dict[str, list[str]] = {}
    owned = layers(module)  # refuses what is lazy
    for name, first in ties(module).items():
        tied.setdefault(first, []).append(f"{name} is {first}")
    moving = {name: parameter.numel() for name, parameter in named_trainable(module)}
    learned = [(prefix, held.projected) for prefix, held in helds(module).items() if held.projected]
    for prefix, projected in learned:
        moving |= {f"{prefix}{name}": parameter.numel() for name, parameter in projected.origin.items()}
    movements = () if base is None else moved(module, base)
    happened = {movement.name: movement for movement in movements}
    rows = [_row(module, layer, names, moving, tied, happened) for layer, names in owned.items()]
    order = {name: place for place, (name, _) in enumerate(module.named_modules())}
    for name, part in module.named_modules():
        if isinstance(part, _NormBase) and not any(True for _ in part.parameters()):
            row = LayerStatus(name, type(part).__name__, 0, 0, "frozen", _statistics(module, part), ())
            before = [place for place, own in enumerate(rows) if order.get(own.layer, -1) < order[name]]
            rows.insert(before[-1] + 1 if before else 0, row)
    return Status(tuple(rows), sum(projected.part.d for _, projected in learned) if learned else None)


def _row(
    module: nn.Module,
    layer: str,
    names: tuple[str, ...],
    moving: dict[str, int],
    tied: dict[str, list[str]],
    happened: dict[str, Movement],
) -> LayerStatus:
    part: Any = module.get_submodule(owner(module, names[0]))
    parameters = sum(module.get_parameter(name).numel() for name in names)
    trainable = sum(moving.get(name, 0) for name in names)
    return LayerStatus(
        layer,
        "Parameter" if (plain(module, names[0]),) == (layer,) else type(part).__name__,
        parameters,
        trainable,
        "frozen" if trainable == 0 else "trainable" if trainable == parameters else "partial",
        _statistics(module, part),
        tuple(tie for name in names for tie in tied.get(name, ())),
        _happened([happened[plain(module, name)] for name in names if plain(module, name) in happened]),
    )


def _happened(movements: list[Movement]) -> str:
    wrong: dict[str, list[str]] = {}
    for movement in movements:
        if movement.surprise:
            wrong.setdefault(movement.surprise, []).append(movement.name.rpartition(".")[2])
    if wrong:
        return "; ".join(f"{surprise}: {', '.join(names)}" for surprise, names in wrong.items())
    return "" if not movements else "moved" if any(movement.moved for movement in movements) else "did not move"


def _statistics(module: nn.Module, part: nn.Module) -> Literal["followed", "frozen", "none"]:
    if not any("running" in name and buffer is not None for name, buffer in part._buffers.items()):
        return "none"
    held = "train" in vars(part)
    return "frozen" if held or (module.training and not part.training) else "followed"
