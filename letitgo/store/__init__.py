"""Results under their keys: safetensors and JSON, whole and checked, or absent."""

from letitgo.store.claims import claimed as claimed
from letitgo.store.store import Store as Store
from letitgo.store.store import open_store as open_store
