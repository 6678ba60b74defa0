"""Where arithmetic happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from letitgo.errors import BadRequest
from letitgo.weights.state import drawing_from

_ALONE = RLock()
Brought = TypeVar("Brought", nn.Module, Tensor)


@dataclass(frozen=True)
class Place:
    """The device and the number of threads that compute a result. Recorded with the result, and part of no key.

    Attributes:
        device: ``"cpu"``.
        threads: Threads of one operation. Another number may round differently.

    Raises:
        BadRequest: The device is not supported, or there is no thread.
    """

    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.device != "cpu":
            raise BadRequest(f"device is {self.device!r}: this version computes on 'cpu' only")
        if type(self.threads) is not int or self.threads < 1:
            raise BadRequest(f"threads is {self.threads!r}: give a whole number from 1")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Compute here inside, one at a time in a process, whatever the caller has set; then all is as it was.

        On a CPU the number of threads is all that the order of additions depends on.
        """
        threads = torch.get_num_threads()
        with _ALONE, drawing_from("place"), _undisturbed():
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def bring(self, item: Brought) -> Brought:
        """Move a module or a tensor here; a module is moved in place."""
        return item.to(self.device)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Torch as it is when a process begins: no autocast, gradients on, float32, no global hooks on modules."""
    hooks = [each for name, each in vars(modules).items() if name.startswith("_global_") and isinstance(each, dict)]
    saved = [dict(each) for each in hooks]
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    for each in hooks:
        each.clear()
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        for each, before in zip(hooks, saved, strict=True):
            each.update(before)


CPU = Place()
"""One thread of the CPU: where everything is computed unless said otherwise."""
