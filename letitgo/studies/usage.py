"""What a study took: how much, where, and what it was spared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from letitgo.plan import At, Run, Stored, reached
from letitgo.store import Store
from letitgo.version import other_versions


@dataclass(frozen=True)
class Usage:
    """What a study took.

    Attributes:
        wall: Seconds from its beginning to its end.
        core: Seconds that single cores spent on what was computed now, by machine.
        results: Number of results it rests on.
        stored: Those that were in the store when it began.
        saved: Seconds of a core that these had taken.
        shared: Seconds of a core that runs were spared which begin at another's point instead of at its start.
        other_versions: Number of results by what they were computed with, where that is not what is here.
        trainings: Number of training runs that it rests on.
        unmoved: Number of these by parameter that trained in them and is to the bit what it was at their start.
    """

    wall: float = 0.0
    core: dict[str, float] = field(default_factory=dict)
    results: int = 0
    stored: int = 0
    saved: float = 0.0
    shared: float = 0.0
    other_versions: dict[str, int] = field(default_factory=dict)
    trainings: int = 0
    unmoved: dict[str, int] = field(default_factory=dict)


class Meter:
    """Watches a study go by.

    Args:
        store: Where its results are.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._begin = store, time.monotonic()
        self._there: dict[str, bool] = {}
        self._values: dict[str, Stored] = {}

    def add(self, values: Iterable[Stored]) -> None:
        """See what of these values is in the store before they are computed."""
        for address, value in reached(values).items():
            if address not in self._there:
                self._there[address], self._values[address] = address in self._store, value

    def usage(self) -> Usage:
        """What it took up to now."""
        core: dict[str, float] = {}
        runs: dict[Run, _Trained] = {}
        saved, others, unmoved = 0.0, Counter[str](), Counter[str]()
        for address, value in self._values.items():
            body = self._store.read(address, value.key)
            if body is None:
                continue
            others[other_versions(body.get("versions", {}), self._store.device)] += 1
            seconds, host = float(body.get("seconds") or 0.0), str(body.get("host", "an unnamed machine"))
            if isinstance(value, At):
                run = runs.setdefault(value.run, _Trained(host))
                run.there &= self._there[address]
                unmoved.update(body.get("unmoved", ()))
                run.seconds, run.step = max((run.seconds, run.step), (seconds, value.step))
            elif self._there[address]:
                saved += seconds
            else:
                core[host] = core.get(host, 0.0) + seconds
        for run in runs.values():
            if run.there:
                saved += run.seconds
            else:
                core[run.host] = core.get(run.host, 0.0) + run.seconds
        stored, shared = sum(self._there.values()), sum(_spared(run, runs) for run in runs)
        del others[""]
        return Usage(
            wall=time.monotonic() - self._begin,
            core=core,
            results=len(self._values),
            stored=stored,
            saved=saved,
            shared=shared,
            other_versions=dict(sorted(others.items())),
            trainings=len(runs),
            unmoved=dict(unmoved.most_common()),
        )


@dataclass
class _Trained:
    """How far a run was trained, in how many seconds, and whether all of it was there before."""

    host: str
    seconds: float = 0.0
    step: int = 0
    there: bool = True


def _spared(run: Run, runs: dict[Run, _Trained]) -> float:
    """What the way to a run's start took, which it would have gone itself."""
    start = run.start
    if not isinstance(start, At) or not run.begin or start.run not in runs:
        return 0.0
    base = runs[start.run]
    return base.seconds * (start.step - start.run.begin) / max(1, base.step - start.run.begin)
