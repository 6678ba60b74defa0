"""Which parameters are frozen in which epoch, and keeping a network so.

The optimiser is built of all parameters before anything is frozen, and never touched again: a frozen parameter asks for
no gradient, and optimisers skip what has none. So freezing moves no parameter between groups, thawing leaves none
behind, and what is frozen follows from the epoch alone, also after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from torch import nn
from torch.optim import LBFGS, Optimizer

from letitgo.errors import BadRequest
from letitgo.weights import Selection, Statistics, freeze, frozen, parameter_names, select, thaw

Patterns = str | Sequence[str] | Selection


class Schedule:
    """What is frozen from which epoch on.

    The optimiser's state of a frozen parameter waits, as in a pause: on thawing, momentum and step counts go on from
    where they were. (Dropping them is no choice for all: Adagrad makes its state when it is built.)

    Args:
        epochs: Epoch, counted from 0, → what is frozen from its start until the next one named: patterns for
            :func:`letitgo.select`, or a selection. Exactly that is frozen; an empty list thaws all that the schedule
            froze. What asks for no gradient before training begins is not the schedule's, and stays so.
        statistics: As in :func:`letitgo.freeze`.

    Raises:
        BadRequest: The epochs are no epochs, or there are none.
    """

    def __init__(self, epochs: Mapping[int, Patterns], statistics: Statistics = "follow") -> None:
        example = "{0: ['backbone'], 3: []} freezes the backbone and thaws it at epoch 3"
        if not isinstance(epochs, Mapping) or not epochs:
            raise BadRequest(f"a schedule says what is frozen from which epoch on, not {epochs!r}: {example}")
        for epoch, patterns in epochs.items():
            if not isinstance(epoch, Integral) or isinstance(epoch, bool) or epoch < 0:
                raise BadRequest(f"{epoch!r} is no epoch, which is a whole number from 0 on: {example}")
            if not isinstance(patterns, (str, Selection)) and not (
                isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)
            ):
                raise BadRequest(f"epoch {epoch} freezes {patterns!r}, which is no list of patterns: {example}")
        self._epochs = {int(epoch): epochs[epoch] for epoch in sorted(epochs)}
        self._statistics: Statistics = statistics
        self._module: nn.Module | None = None
        self._phases: dict[int, Selection] = {}
        self._held: Selection | None = None

    def begin(self, module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
        """Hold the whole schedule against a network and its optimisers, so that nothing in it fails later.

        Raises:
            BadRequest: A pattern matches nothing, nothing would be left to train, a parameter that is to train at some
                epoch was frozen before or is in no optimiser, or an optimiser cannot hold weights still.
        """
        self.end()
        phases = {0: _selected(module, [])}
        for epoch, patterns in self._epochs.items():
            try:
                phases[epoch] = _selected(module, patterns)
            except BadRequest as error:
                raise BadRequest(f"epoch {epoch}: {error}") from None
        _check(module, phases, list(optimizers))
        for selection in phases.values():
            with frozen(module, selection, statistics=self._statistics):
                pass
        self._module, self._phases = module, phases

    def enter(self, epoch: int) -> None:
        """Freeze what is frozen in this epoch, thaw the rest."""
        if self._module is None:
            raise BadRequest("the schedule was not begun: call begin(module, optimizers) first")
        thawed, self._held = self._held, self._phases[max(start for start in self._phases if start <= epoch)]
        if thawed is not None:
            thaw(self._module, thawed)
        freeze(self._module, self._held, statistics=self._statistics)

    def end(self) -> None:
        """Give the network back as it was when the schedule began."""
        if self._module is not None and self._held is not None:
            thaw(self._module, self._held)
        self._module, self._held = None, None


def _selected(module: nn.Module, patterns: Patterns) -> Selection:
    if isinstance(patterns, Selection):
        if patterns.of != parameter_names(module):
            raise BadRequest("the selection is of another network: choose with select(module, ...)")
        return patterns
    names = [patterns] if isinstance(patterns, str) else patterns
    return select(module, *names) if names else Selection((), parameter_names(module))


def _check(module: nn.Module, phases: Mapping[int, Selection], optimizers: Sequence[Optimizer]) -> None:
    if any(isinstance(getattr(optimizer, "optimizer", optimizer), LBFGS) for optimizer in optimizers):
        raise BadRequest(
            "LBFGS moves all its parameters at once, along directions of the past, and cannot hold some still: "
            "use another optimiser"
        )
    trains = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    named = [name for name in parameter_names(module) if any(name in selection for selection in phases.values())]
    for name in named:
        if name not in trains:
            raise BadRequest(
                f"{name} asks for no gradient before training begins, so the schedule cannot tell when it trains: "
                "leave freezing it to the schedule alone"
            )
        free = next((epoch for epoch, selection in phases.items() if name not in selection), None)
        if free is not None and id(module.get_parameter(name)) not in held:
            raise BadRequest(
                f"{name} is in no optimiser, but trains from epoch {free} on: give the optimiser all parameters, "
                "it skips those that are frozen"
            )
    for epoch, selection in phases.items():
        if not trains.difference(selection):
            raise BadRequest(f"from epoch {epoch} on everything is frozen, and nothing is left to train")
