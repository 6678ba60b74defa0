"""A device that is none: torch's ``meta``, whose tensors have no numbers, with the numbers kept beside it on the CPU.

What runs on it gives the bits of the CPU, and an operation whose tensors are not all on it is an error, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from letitgo import Place

_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.to.dtype_layout}


def pretended() -> Place:
    """A place that no one can ask for."""
    place = Place()
    object.__setattr__(place, "device", "meta")
    return place


class Mixed(Exception):
    """An operation has tensors here and there."""


class Numbers(TorchDispatchMode):
    """Keeps the numbers of meta tensors, by the storage that they would lie in.

    Attributes:
        operations: How many ran on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, tuple[Any, Any]] = {}
        self.operations = 0

    def _of(self, tensor: Any) -> Any:
        """The numbers of a meta tensor, as a tensor on the CPU of its shape and strides."""
        if not (isinstance(tensor, Tensor) and tensor.is_meta):
            return torch.device("cpu") if tensor == torch.device("meta") else tensor
        storage = tensor.untyped_storage()
        if storage._cdata not in self._kept:
            self._kept[storage._cdata] = storage, torch.UntypedStorage(storage.nbytes())
        numbers = torch.empty(0, dtype=tensor.dtype)
        return numbers.set_(self._kept[storage._cdata][1], tensor.storage_offset(), tensor.size(), tensor.stride())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        if not any(tensor.is_meta for tensor in given) and kwargs.get("device") != torch.device("meta"):
            return func(*args, **kwargs)
        self.operations += 1
        if func not in _MOVES and any(not tensor.is_meta and tensor.ndim for tensor in given):
            raise Mixed(f"{func} of {[(tensor.device.type, tuple(tensor.shape)) for tensor in given]}")
        real = func(*tree_map(self._of, args), **tree_map(self._of, kwargs))
        if func in _MOVES and func is not torch.ops.aten.copy_.default and kwargs.get("device") == torch.device("cpu"):
            return real  # brought back
        if not any(isinstance(item, Tensor) for item in tree_leaves(real)):
            return real  # a number
        try:
            found = func(*args, **kwargs)
        except NotImplementedError:  # its shape depends on the numbers
            found = tree_map(lambda item: item.to("meta") if isinstance(item, Tensor) else item, real)
        return tree_map(self._paired, found, real)

    def _paired(self, here: Any, there: Any) -> Any:
        """A result, whose numbers are kept from now on; what a view or an operation in place gives has them already."""
        if not isinstance(there, Tensor):
            return there
        if not isinstance(here, Tensor) or here.untyped_storage()._cdata in self._kept:
            return here
        here = here if here.shape == there.shape else there.to("meta")  # the CPU leaves out what it does not need
        self._of(here).copy_(there)
        return here


@contextmanager
def numbers() -> Iterator[Numbers]:
    """Computing on the pretended device inside."""
    with Numbers() as mode:
        yield mode
