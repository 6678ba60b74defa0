"""What it takes to keep a trained network beside the one it began from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save as packed
from torch import Tensor

from letitgo import weights
from letitgo.plan.measures import Measure
from letitgo.plan.states import State
from letitgo.store import Store
from letitgo.training.place import CPU, Place
from letitgo.weights.coding import raw


@dataclass(frozen=True, eq=False)
class Delta(Measure):
    """The size of what differs between a state and the one it began from, as :func:`letitgo.save` writes it.

    Attributes:
        state: What is kept.
        base: What the reader has.
    """

    state: State
    base: State

    def compute(self, store: Store, place: Place = CPU) -> dict[str, Any]:
        """Sizes in bytes, and how many values of parameters differ to the bit.

        ``bytes``: of the file, buffers and index included; ``whole``: of a safetensors file of all tensors; ``moved``.
        """
        module, base = self.state.module(store), self.base.load(store)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "delta.safetensors"
            weights.save(module, path, base)
            size = path.stat().st_size
        moved = sum(_moved(parameter, base[name]) for name, parameter in module.named_parameters())
        return {"bytes": size, "whole": len(packed(weights.once(weights.copied(module)))), "moved": moved}


def _moved(new: Tensor, old: Tensor) -> int:
    return int((raw(new) != raw(old)).reshape(new.numel(), -1).any(1).sum())
