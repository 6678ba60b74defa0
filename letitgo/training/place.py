"""Where arithmetic happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest

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
        """Compute here inside. On a CPU the number of threads is all that the order of additions depends on."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def bring(self, item: Brought) -> Brought:
        """Move a module or a tensor here; a module is moved in place."""
        return item.to(self.device)


CPU = Place()
"""One thread of the CPU: where everything is computed unless said otherwise."""
