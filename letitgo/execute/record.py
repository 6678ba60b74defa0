"""What every record says of its result besides the result itself."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import Any

from letitgo.plan import Stored, spelled_out
from letitgo.store import Store
from letitgo.training.place import Place
from letitgo.version import other_device, versions


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


def there(value: Stored, store: Store, place: Place) -> bool:
    """Whether the store holds a result, as this kind of device computes it."""
    if not store.intact(value.address, value.key):
        return False
    return not other_device(value.record(store).get("versions", {}), place.device)
