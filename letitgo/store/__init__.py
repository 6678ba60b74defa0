"""Results under their keys: safetensors and JSON, whole and checked, or absent."""

from letitgo.store.claims import claimed
from letitgo.store.store import Store, open_store

__all__ = ["Store", "claimed", "open_store"]
