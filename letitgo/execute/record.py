"""What every record says of its result besides the result itself, and what one of a trained network says of it."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import Any

from torch import nn

from letitgo import weights
from letitgo.plan import Run, Stored, spelled_out
from letitgo.store import Store
from letitgo.training.place import Place
from letitgo.version import other_device, versions
from letitgo.weights.coding import differing


def provenance(value: Stored, seconds: float, place: Place) -> dict[str, Any]:
    """What was computed, how long it took, where, and with what; none of it changes the result's key.

    Args:
        value: The value in full, results that it rests on by their addresses.
        seconds: Time it took.
        place: Where it was computed.
    """
    return {
        "value": spelled_out(value),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "place": asdict(place),
        "versions": versions(place.device),
    }


def unmoved(run: Run, module: nn.Module, store: Store) -> list[str]:
    """The parameters that train in a run and are to the bit what they were at its start.

    Args:
        run: Says what trains.
        module: The network in training.
        store: Holds what the run's start rests on.
    """
    now, then = weights.copied(module), run.start.load(store)
    return [name for name in run.moves if not differing(now[name], then[name]).any()]


def there(value: Stored, store: Store, place: Place) -> bool:
    """Whether the store holds a result, as this kind of device computes it."""
    if not store.intact(value.address, value.key):
        return False
    return not other_device(value.record(store).get("versions", {}), place.device)
