"""What is frozen when. Each rule is a pure function of where training is, so that a resumed run needs no state."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import accumulate, pairwise
from math import ceil, inf
from numbers import Integral
from operator import or_
from typing import Literal, NamedTuple

from torch import nn

from letitgo.errors import BadRequest
from letitgo.value import derive
from letitgo.weights import Selection, parameter_names, select
from letitgo.weights.select import blocks, chosen_of
from letitgo.weights.units import blocks_in

Patterns = str | Sequence[str] | Selection
When = int | str | float
"""An epoch, counted from 0; optimiser steps, as in ``"500it"``; or a share of training between 0 and 1."""

EXAMPLE = "{0: ['backbone'], 3: []} freezes the backbone and thaws it at epoch 3"


class Length(NamedTuple):
    """How many optimiser steps an epoch and all of training have; None where that is not known."""

    epoch: int | None
    training: int | None


class Now(NamedTuple):
    """The epoch and the optimiser steps done, None where the loop does not tell; and what was seen of the metric."""

    epoch: int | None
    step: int | None
    seen: Sequence[float] = ()


class Phase(NamedTuple):
    """What is frozen at a step, and what was frozen in an earlier phase and trains now."""

    frozen: Selection
    thawed: Selection


class Bound(NamedTuple):
    """A rule held against a network.

    Attributes:
        sets: All frozen sets that have to be tried before training, by words that tell when they are frozen.
        at: Where training is → its phase.
    """

    sets: dict[str, Selection]
    at: Callable[[Now], Phase]


class Since:
    """From when on what is frozen.

    Args:
        frozen: When → what is frozen from then until the next time named.

    Raises:
        BadRequest: A key is no time, a value no choice, or there are none.
    """

    def __init__(self, frozen: Mapping[When, Patterns]) -> None:
        if not isinstance(frozen, Mapping) or not frozen:
            raise BadRequest(f"a schedule says what is frozen from when on, not {frozen!r}: {EXAMPLE}")
        for when, patterns in frozen.items():
            _check_when(when)
            if not isinstance(patterns, Selection) and not is_patterns(patterns):
                raise BadRequest(f"{_named(when)} freezes {patterns!r}, which is no list of patterns: {EXAMPLE}")
        self._frozen = dict(frozen)

    def on(self, module: nn.Module, length: Length) -> Bound:
        """The rule for a network and a length of training.

        Raises:
            BadRequest: A pattern matches nothing, two times are the same step, or a time needs a length that is not
                known.

        Warns:
            UserWarning: Training ends before a time, as far as its length is known.
        """
        starts = self._starts(length)
        sets = [selected(module, self._frozen[when], _named(when)) for when in starts]
        for when in starts:
            _warn_if_unreached(when, length)
        if 0 not in starts.values():
            starts, sets = {0: 0, **starts}, [nothing(module), *sets]

        phases = in_turn(sets)

        def at(now: Now) -> Phase:
            return phases[max(place for place, when in enumerate(starts) if _begun(when, starts[when], now))]

        return Bound({f"from {_named(when)} on": chosen for when, chosen in zip(starts, sets, strict=True)}, at)

    def _starts(self, length: Length) -> dict[When, int]:
        """When → its first step, in order; where only epochs are named, the epoch itself."""
        by_epoch = all(isinstance(when, Integral) for when in self._frozen)
        starts = {when: _first_step(when, Length(1, None) if by_epoch else length) for when in self._frozen}
        ordered = dict(sorted(starts.items(), key=lambda item: item[1]))
        for (when, start), (other, same) in pairwise(ordered.items()):
            if start == same:
                raise BadRequest(f"{_named(when)} and {_named(other)} are the same step, {start}: keep one")
        return ordered


@dataclass(frozen=True)
class Rotate:
    """Some blocks train at a time, the others are frozen, and every few steps they are drawn anew.

    What is in no block trains all the time. The blocks of step s are a function of (seed, s // every) alone, drawn
    independently and without replacement each time, as in LISA (Pan et al. 2024, arXiv 2403.17919). So a resumed run
    has the same ones.

    Args:
        k: How many blocks train.
        every: After how many optimiser steps they are drawn anew.
        seed: Another seed draws other blocks.
        blocks: Globs of the modules that are a block each, as in ``"model.layers.*"``; of modules within each other the
            outer one. By default the blocks are those of ``letitgo map --by block``.

    Raises:
        BadRequest: A number is none.
    """

    k: int = 2
    every: int = 20
    seed: int = 0
    blocks: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise BadRequest(f"{name} is {value!r}: give a whole number from {least} on")
        if not is_patterns(self.blocks):
            raise BadRequest(f"blocks is {self.blocks!r}: give patterns, as in 'model.layers.*'")

    def drawn(self, draw: int, number: int) -> list[int]:
        """The places, of so many blocks, of those that train: the k least by a hash of (seed, draw, place)."""
        return sorted(sorted(range(number), key=lambda place: derive("rotate", self.seed, draw, place))[: self.k])

    def on(self, module: nn.Module, length: Length) -> Bound:
        """The rule for a network, whatever the length of training.

        Raises:
            BadRequest: A pattern matches nothing, or there are not more blocks than are to train.
        """
        patterns = [self.blocks] if isinstance(self.blocks, str) else list(self.blocks)
        names = blocks(module, *patterns) if patterns else blocks_in(module)
        if len(names) <= self.k:
            raise BadRequest(
                f"Rotate trains {self.k} blocks at a time, and the network has {len(names)}: "
                f"{', '.join(names) or 'none'}. Name others, as in Rotate(blocks='model.layers.*')"
            )
        chosen = [select(module, name) for name in names]
        every = union(module, chosen)

        @lru_cache(maxsize=1)
        def drawn(draw: int) -> Phase:
            training = union(module, [chosen[place] for place in self.drawn(draw, len(chosen))])
            return Phase(every - training, nothing(module))

        def at(now: Now) -> Phase:
            if now.step is None:
                raise BadRequest("Rotate counts optimiser steps: call enter(step=…) before each")
            return drawn(now.step // self.every)

        return Bound({f"while {name} trains": every - own for name, own in zip(names, chosen, strict=True)}, at)


@dataclass(frozen=True)
class Plateau:
    """Phases that end when a validation metric stops getting better; the last one goes on to the end of training.

    A phase ends after ``patience`` values in a row that are no better than the best so far, of earlier phases included.
    So the phase is a function of the values seen, which a checkpoint of Lightning or the Trainer holds.

    Args:
        phases: What is frozen in each, as patterns or selections; two phases or more.
        metric: Its name, as ``"eval_loss"`` in the Trainer, or what ``self.log`` was given in Lightning.
        patience: Values without a better one after which a phase ends.
        mode: Whether ``"min"`` or ``"max"`` is better.
        min_delta: A value is better if it is better by more than this.

    Raises:
        BadRequest: There are fewer than two phases, or an argument is none.
    """

    phases: Sequence[Patterns]
    metric: str
    patience: int = 3
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.phases, str) or not isinstance(self.phases, Sequence) or len(self.phases) < 2:
            raise BadRequest(
                f"phases is {self.phases!r}: give what is frozen in each of two or more, as [['backbone'], []]"
            )
        for number, patterns in enumerate(self.phases):
            if not isinstance(patterns, Selection) and not is_patterns(patterns):
                raise BadRequest(f"phase {number} freezes {patterns!r}, which is no list of patterns")
        if not isinstance(self.metric, str):
            raise BadRequest(f"metric is {self.metric!r}: give its name")
        if self.mode not in ("min", "max"):
            raise BadRequest(f"mode is {self.mode!r}: give 'min' or 'max'")
        if not isinstance(self.patience, Integral) or isinstance(self.patience, bool) or self.patience < 1:
            raise BadRequest(f"patience is {self.patience!r}: give a whole number from 1 on")
        if not isinstance(self.min_delta, (int, float)) or not 0 <= self.min_delta < inf:
            raise BadRequest(f"min_delta is {self.min_delta!r}: give a number from 0 on")

    def place(self, seen: Iterable[float]) -> int:
        """The phase, counted from 0, after these values of the metric."""
        place, waited, best = 0, 0, inf
        for value in seen:
            loss = value if self.mode == "min" else -value
            better = loss < best - self.min_delta
            best, waited = (loss, 0) if better else (best, waited + 1)
            if waited == self.patience and place < len(self.phases) - 1:
                place, waited = place + 1, 0
        return place

    def on(self, module: nn.Module, length: Length) -> Bound:
        """The rule for a network, whatever the length of training.

        Raises:
            BadRequest: A pattern matches nothing.
        """
        sets = [selected(module, patterns, f"phase {number}") for number, patterns in enumerate(self.phases)]
        phases = in_turn(sets)
        return Bound(
            {f"in phase {number}": chosen for number, chosen in enumerate(sets)},
            lambda now: phases[self.place(now.seen)],
        )


def in_turn(sets: Sequence[Selection]) -> list[Phase]:
    """Phases that follow each other."""
    before = list(accumulate(sets, or_))
    return [Phase(frozen, earlier - frozen) for frozen, earlier in zip(sets, before, strict=True)]


def union(module: nn.Module, selections: Iterable[Selection]) -> Selection:
    """What is in any of some selections of a network."""
    return reduce(or_, selections, nothing(module))


def nothing(module: nn.Module) -> Selection:
    """No parameter of a network."""
    return Selection((), parameter_names(module))


def selected(module: nn.Module, patterns: Patterns, when: str) -> Selection:
    """What patterns or a selection choose of a network; no patterns choose nothing."""
    try:
        return nothing(module) if not isinstance(patterns, Selection) and not patterns else chosen_of(module, patterns)
    except BadRequest as error:
        raise BadRequest(f"{when}: {error}") from None


def is_patterns(patterns: object) -> bool:
    """Whether something is a pattern or a sequence of patterns."""
    if isinstance(patterns, str):
        return True
    return isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)


def _check_when(when: When) -> None:
    if isinstance(when, Integral):
        right = not isinstance(when, bool) and int(when) >= 0
    elif isinstance(when, str):
        right = re.fullmatch(r"\d+it", when) is not None
    else:
        right = isinstance(when, float) and 0 < when < 1
    if not right:
        raise BadRequest(
            f"{when!r} is no time: give an epoch from 0 on, as in 3, optimiser steps, as in '500it', or a share of "
            f"training between 0 and 1, as in 0.3; {EXAMPLE}"
        )


def _named(when: When) -> str:
    if isinstance(when, str):
        return f"step {int(when[:-2])}"
    return f"{when} of training" if isinstance(when, float) else f"epoch {when}"


def _first_step(when: When, length: Length) -> int:
    if isinstance(when, str):
        return int(when[:-2])
    if isinstance(when, float):
        if length.training is None:
            raise BadRequest(
                f"{_named(when)} cannot be told, since the number of steps is not known: name steps instead"
            )
        return round(when * length.training)
    if when and length.epoch is None:
        raise BadRequest(
            f"{_named(when)} stands beside steps or shares, and the number of steps in an epoch is not known: name "
            "epochs alone, or steps alone"
        )
    return int(when) * (length.epoch or 0)


def _warn_if_unreached(when: When, length: Length) -> None:
    unit, steps = ("epoch", length.epoch) if isinstance(when, Integral) else ("step", 1)
    if length.training is None or steps is None or _first_step(when, length) < length.training:
        return
    count = ceil(length.training / steps)
    ends = f"{count} {unit}{'s' * (count != 1)}"
    warnings.warn(f"the schedule names {_named(when)}, and training ends before it: it has {ends}", stacklevel=4)


def _begun(when: When, start: int, now: Now) -> bool:
    if start == 0:
        return True
    if isinstance(when, (str, float)):
        if now.step is None:
            raise BadRequest(f"the schedule names {_named(when)}: call enter(step=…) before each optimiser step")
        return now.step >= start
    if now.epoch is None:
        raise BadRequest(f"the schedule names {_named(when)}: give enter(epoch=…), or begin(steps_per_epoch=…)")
    return now.epoch >= when
