"""Which set of units to freeze next, from what was tried so far.

Units are put in an order of what freezing one saves for the harm it seems to do. The first three quarters of them are
tried, then the rest; a group that does too much harm is split in the same way, until a single unit is left out: group
testing. Groups are uneven because large sets cost little to try: they save much, and fail early.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

Units = frozenset[str]


def ranked(harm: Mapping[str, float], saved: Callable[[Units], float], frozen: Units = frozenset()) -> list[str]:
    """The units that are not frozen yet, in the order in which they are best frozen besides those that are.

    Args:
        harm: Of each unit, in any unit of measurement; more is worse.
        saved: What freezing some units saves.
        frozen: Those that are.
    """
    order, left = list[str](), [unit for unit in harm if unit not in frozen]
    least = min((value for value in harm.values() if value > 0), default=1.0) / 10
    while left:
        before = saved(frozen)
        best = max(left, key=lambda unit: (saved(frozen | {unit}) - before) / max(harm[unit], least))
        order.append(best)
        left.remove(best)
        frozen |= {best}
    return order


def following(order: Sequence[str], excess: Mapping[Units, float], frozen: Units = frozenset()) -> Units | None:
    """The set to try next; None once each unit is settled.

    Args:
        order: The units to settle, as :func:`ranked` puts them.
        excess: Of each set tried so far, how far its drop is beyond what does no harm.
        frozen: Units that are frozen in any case.
    """
    groups = _parts(order)
    while groups:
        group, *groups = groups
        tried = frozen | set(group)
        if tried not in excess:
            return tried
        if excess[tried] <= 0:
            frozen = tried
        elif len(group) > 1:
            groups = [*_parts(group), *groups]
    return None


def least(order: Sequence[str], harm: Mapping[str, float], reaches: Callable[[Units], bool]) -> Units | None:
    """The first units of an order that reach a goal, without those that it takes none of, the most harmful first.

    Args:
        order: As :func:`ranked` puts them.
        harm: Of each unit.
        reaches: Whether some units do; with more units they do all the more.

    Returns:
        The units; None where all of them do not reach it.
    """
    if not order or not reaches(Units(order)):
        return None
    first = bisect_left(range(1, len(order)), True, key=lambda count: reaches(Units(order[:count]))) + 1
    found = Units(order[:first])
    for unit in sorted(found, key=lambda unit: (-harm[unit], unit)):
        if len(found) > 1 and reaches(found - {unit}):
            found -= {unit}
    return found


def _parts(group: Sequence[str]) -> list[Sequence[str]]:
    """The first three quarters of a group, and the rest."""
    rest = max(1, len(group) // 4) if len(group) > 1 else 0
    return [part for part in (group[: len(group) - rest], group[len(group) - rest :]) if part]
