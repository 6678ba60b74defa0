"""A rule that says what is frozen when, carried out on a network.

The optimiser is built of all parameters before anything is frozen, and never changed: a frozen parameter asks for no
gradient, and optimisers skip what has none. So freezing moves no parameter between groups, thawing leaves none behind,
and what is frozen follows from the step and epoch alone, also after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from numbers import Integral

from torch import nn
from torch.optim import LBFGS, Optimizer

from letitgo.callbacks.recorder import Log, Recorder
from letitgo.callbacks.rules import Bound, Length, Now, Patterns, Plateau, Rotate, Since, When
from letitgo.errors import BadRequest
from letitgo.weights import Selection, Statistics, freeze, frozen, parameter_names, thaw
from letitgo.weights.example import Example
from letitgo.weights.freeze import scale_rate
from letitgo.weights.sharded import refuse_fixed

Rule = Mapping[When, Patterns] | Rotate | Plateau


class Schedule:
    """What is frozen when.

    The optimiser's state of a frozen parameter waits, as in a pause: on thawing, momentum and step counts go on from
    where they were. (Dropping them is no choice for all: Adagrad makes its state when it is built.)

    Args:
        rule: When → what is frozen from then until the next time named. A whole number is an epoch, counted from 0;
            ``"500it"`` is after 500 optimiser steps; a number between 0 and 1 a share of all steps, rounded to a step.
            What is frozen are patterns for :func:`letitgo.select`, or a selection. Exactly that is frozen; an empty
            list thaws all that the schedule froze. Or :class:`Rotate`, or :class:`Plateau`. What asks for no gradient
            before training begins is not the schedule's, and stays so.
        statistics: As in :func:`letitgo.freeze`.
        thawed_lr: What was frozen earlier in the schedule and trains now does so with its learning rate times this.

    Raises:
        BadRequest: The rule is none, the factor is not above 0, or it is asked for in a rotation.
    """

    def __init__(self, rule: Rule, statistics: Statistics = "follow", thawed_lr: float = 1.0) -> None:
        if not isinstance(thawed_lr, (int, float)) or isinstance(thawed_lr, bool) or not 0 < thawed_lr < inf:
            raise BadRequest(f"thawed_lr is {thawed_lr!r}: give a factor above 0 for the learning rate, as in 0.1")
        if thawed_lr != 1 and isinstance(rule, Rotate):
            raise BadRequest("a rotation thaws all its blocks in turn: leave out thawed_lr, and set the optimiser's lr")
        self._rule = rule if isinstance(rule, (Rotate, Plateau)) else Since(rule)
        self._statistics: Statistics = statistics
        self._thawed_lr = thawed_lr
        self._optimizers: list[Optimizer] = []
        self.seen: list[float] = []
        """The values so far of the metric of :class:`Plateau`, to be appended to; a loop stores them to resume."""
        self._module: nn.Module | None = None
        self._bound: Bound | None = None
        self._length = Length(None, None)
        self._held: Selection | None = None
        self._recorder: Recorder | None = None
        self._at = 0

    @property
    def metric(self) -> str | None:
        """The name of the metric that the rule needs, if any."""
        return self._rule.metric if isinstance(self._rule, Plateau) else None

    def begin(
        self,
        module: nn.Module,
        optimizers: Iterable[Optimizer],
        steps_per_epoch: int | None = None,
        steps: int | None = None,
        log: Log | None = None,
        example: Example | None = None,
    ) -> None:
        """Hold the whole schedule against a network and its optimisers, so that nothing in it fails later.

        Args:
            module: The network.
            optimizers: All of its optimisers.
            steps_per_epoch: Optimiser steps in an epoch; needed where epochs are named beside steps or shares.
            steps: Optimiser steps in all of training; needed where shares are named.
            log: Is told at each change what is frozen and what that saves, as :class:`letitgo.callbacks.Recorder` does.
            example: As in :class:`letitgo.callbacks.Recorder`.

        Raises:
            BadRequest: A pattern matches nothing, nothing would be left to train, a parameter that is to train at some
                time was frozen before or is in no optimiser, an optimiser is none or cannot hold weights still, a
                length that is needed is missing or is none, the network is one of FSDP1 or DeepSpeed, or it does not
                take the example.

        Warns:
            UserWarning: Training ends before a time that the schedule names, as far as its length is known.
        """
        self.end()
        optimizers = _listed(optimizers)
        refuse_fixed(module, optimizers)
        for name, count in (("steps_per_epoch", steps_per_epoch), ("steps", steps)):
            if count is not None and (not isinstance(count, Integral) or count < 1):
                raise BadRequest(f"{name} is {count!r}: give a whole number from 1 on, or None where it is not known")
        length = Length(steps_per_epoch, steps)
        bound = self._rule.on(module, length)
        inner: list[Optimizer] = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        _check(module, bound.sets, inner)
        if self._thawed_lr != 1 and any(group.get("lr") is None for each in inner for group in each.param_groups):
            raise BadRequest("an optimiser has no learning rate to multiply: leave out thawed_lr")
        for selection in bound.sets.values():
            with frozen(module, selection, statistics=self._statistics):
                pass
        self._recorder = None if log is None else Recorder(module, log, example)
        self._module, self._bound, self._length, self._optimizers = module, bound, length, inner

    def enter(self, epoch: int | None = None, step: int | None = None) -> None:
        """Freeze what is frozen now, thaw the rest. Nothing is done where that is as it was.

        Args:
            epoch: The epoch, counted from 0. Where it is left out it follows from the step and ``steps_per_epoch``.
            step: Optimiser steps done since training began, those before a resume included. A schedule of epochs alone
                needs none, and may be entered once an epoch. What is logged is of the step, or else of the epoch.
        """
        if self._module is None or self._bound is None:
            raise BadRequest("the schedule was not begun: call begin(module, optimizers) first")
        if epoch is None and step is not None and self._length.epoch:
            epoch = step // self._length.epoch
        at = epoch if step is None else step
        if self._recorder is not None and at is None:
            raise BadRequest("what is logged is of a step or an epoch: call enter(step=…) or enter(epoch=…)")
        self._at = at or 0
        now = self._bound.at(Now(epoch, step, self.seen))
        if now.frozen != self._held:
            if self._held is not None:
                thaw(self._module, self._held)
            self._held = now.frozen
            freeze(self._module, now.frozen, statistics=self._statistics)
            if self._thawed_lr != 1:
                self._scale(now.thawed)
            if self._recorder is not None:
                self._recorder.record(self._at)

    def end(self) -> None:
        """Give the network back as it was when the schedule began."""
        if self._module is not None and self._held is not None:
            thaw(self._module, self._held)
            self._scale(())
        if self._recorder is not None:
            self._recorder.close(self._at)
        self._module, self._bound, self._held, self._recorder = None, None, None, None

    def _scale(self, thawed: Iterable[str]) -> None:
        for optimizer in self._optimizers:
            parameters = [self._module.get_parameter(name) for name in thawed] if self._module is not None else []
            scale_rate(optimizer, parameters, self._thawed_lr)


def _listed(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    found = None if hasattr(optimizers, "param_groups") or not isinstance(optimizers, Iterable) else list(optimizers)
    if found is None or not all(hasattr(one, "param_groups") for one in found):
        kinds = [type(one).__name__ for one in found or [optimizers]]
        what = f"is of type {kinds[0]}" if found is None else f"holds {', '.join(kinds)}"
        raise BadRequest(f"optimizers {what}: give a list of all the network's optimisers, as in [optimizer]")
    return found


def _check(module: nn.Module, sets: Mapping[str, Selection], optimizers: Sequence[Optimizer]) -> None:
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise BadRequest(
            "LBFGS moves all its parameters at once, along directions of the past, and cannot hold some still: "
            "use another optimiser"
        )
    trains = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    named = [name for name in parameter_names(module) if any(name in selection for selection in sets.values())]
    for name in named:
        if name not in trains:
            raise BadRequest(
                f"{name} asks for no gradient before training begins, so the schedule cannot tell when it trains: "
                "leave freezing it to the schedule alone"
            )
        free = next((when for when, selection in sets.items() if name not in selection), None)
        if free is not None and id(module.get_parameter(name)) not in held:
            raise BadRequest(
                f"{name} is in no optimiser, but trains {free}: give the optimiser all parameters, "
                "it skips those that are frozen"
            )
    for when, selection in sets.items():
        if not trains.difference(selection):
            raise BadRequest(f"{when} everything is frozen, and nothing is left to train")
