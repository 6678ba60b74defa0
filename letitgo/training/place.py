"""Where arithmetic happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.utils import deterministic

from letitgo.errors import BadRequest
from letitgo.recipes.splits import Split
from letitgo.weights.state import drawing_from

_ALONE = RLock()
Brought = TypeVar("Brought", nn.Module, Split)


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

        On a CPU the number of threads is all that the order of additions depends on. Only deterministic algorithms run:
        an operation that has none raises ``RuntimeError``. Unwritten memory is not filled, which would cost time.
        """
        # torch.use_deterministic_algorithms does the same, but imports the compiler, which takes seconds
        memory: Any = deterministic
        with _ALONE, drawing_from("place"), _undisturbed():
            before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
            torch.set_num_threads(self.threads)
            torch.set_deterministic_debug_mode("error")
            memory.fill_uninitialized_memory = False
            try:
                yield
            finally:
                threads, mode, memory.fill_uninitialized_memory = before
                torch.set_num_threads(threads)
                torch.set_deterministic_debug_mode(mode)

    def bring(self, item: Brought) -> Brought:
        """Move a network, in place, or the data it runs on here."""
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
