"""Results under their keys: safetensors and JSON, whole and checked, or absent."""

from letitgo.store.store import Store, open_store

__all__ = ["Store", "open_store"]
