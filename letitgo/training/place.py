"""Where arithmetic happens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.utils import deterministic

from letitgo.errors import BadRequest, WorkFailed, out_of_memory
from letitgo.recipes.recipe import MemoryFormat, Precision
from letitgo.recipes.splits import Split
from letitgo.weights.state import LOCK, drawing_from

Brought = TypeVar("Brought", nn.Module, Split)


@dataclass(frozen=True)
class Place:
    """The device and the number of threads that compute a result. Recorded with the result, and part of no key.

    Attributes:
        device: ``"cpu"``; ``"cuda"``, or ``"cuda:1"`` for one of several GPUs; ``"mps"``; or ``"auto"``, which is the
            first of cuda, mps and cpu that this machine has.
        threads: Threads of one operation. Another number may round differently.

    Raises:
        BadRequest: There is no such kind of device, or no thread.
    """

    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.device == "auto":
            object.__setattr__(self, "device", next(kind for kind in ("cuda", "mps", "cpu") if _count(kind)))
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", self.device):
            raise BadRequest(f"device is {self.device!r}: give auto, cpu, cuda, cuda:1 (of several) or mps")
        if type(self.threads) is not int or self.threads < 1:
            raise BadRequest(f"threads is {self.threads!r}: give a whole number from 1")

    @property
    def kind(self) -> str:
        """``"cpu"``, ``"cuda"`` or ``"mps"``."""
        return self.device.partition(":")[0]

    def check(self) -> None:
        """See that this machine has the device.

        Raises:
            BadRequest: It has not.
        """
        count, number = _count(self.kind), int(self.device.partition(":")[2] or 0)
        if count == 0 and self.kind == "cuda" and torch.version.cuda is None and torch.version.hip is None:
            raise BadRequest(f"device is {self.device!r}: torch {torch.__version__} is built without CUDA, so give cpu")
        if number >= count:
            there = f"{count} cuda devices, counted from cuda:0" if count else f"no {self.kind} device"
            raise BadRequest(f"device is {self.device!r}: this machine has {there}; auto takes what is there")

    def spread(self, workers: int) -> list[Place]:
        """The place of each worker process: ``cuda`` stands for all GPUs, which are dealt out one by one."""
        count = _count("cuda") if self.device == "cuda" else 0
        return [replace(self, device=f"cuda:{i % count}") if count > 1 else self for i in range(workers)]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Compute here inside, one at a time in a process, whatever the caller has set; then all is as it was.

        On a CPU the number of threads is all that the order of additions depends on. Only deterministic algorithms run:
        an operation that has none raises ``RuntimeError``. Unwritten memory is not filled, which would cost time.

        Raises:
            BadRequest: The device is not there.
            WorkFailed: It is out of memory.
        """
        self.check()
        # torch.use_deterministic_algorithms does the same, but imports the compiler, which takes seconds
        memory: Any = deterministic
        with LOCK, _as_cuda_repeats_itself(self.device), drawing_from("place"), _undisturbed(self.kind):
            before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
            torch.set_num_threads(self.threads)
            torch.set_deterministic_debug_mode("error")
            memory.fill_uninitialized_memory = False
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                asked = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
                raise WorkFailed(
                    f"out of memory on {self.device}{f' ({asked[0].lower()})' if asked else ''}: lower batch-size or "
                    "workers, or take precision bf16"
                ) from error
            finally:
                threads, mode, memory.fill_uninitialized_memory = before
                torch.set_num_threads(threads)
                torch.set_deterministic_debug_mode(mode)

    def bring(self, item: Brought, memory_format: MemoryFormat = "contiguous") -> Brought:
        """Move a network, in place, or the data it runs on here; a network's images may lie channels last."""
        if memory_format == "channels-last" and isinstance(item, nn.Module):
            item.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (of 4-dimensional tensors)
        return item.to(self.device)

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """Where the forward pass and the loss are computed; weights and their optimiser stay in fp32."""
        return torch.autocast(self.kind, torch.bfloat16) if precision == "bf16" else nullcontext()


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cuda":
        return torch.cuda.device_count()
    return int(kind != "mps" or torch.backends.mps.is_available())


@contextmanager
def _as_cuda_repeats_itself(device: str) -> Iterator[None]:
    """Inside, a GPU rounds alike each time: no search for the quickest kernels, no TF32, workspaces of one size."""
    if not device.startswith("cuda"):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
    torch.cuda.init()  # and with it the generators, which are to be put back
    with torch.cuda.device(device), torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def _undisturbed(kind: str) -> Iterator[None]:
    """Torch as it is when a process begins: no autocast, gradients on, float32, no global hooks on modules."""
    hooks = [each for name, each in vars(modules).items() if name.startswith("_global_") and isinstance(each, dict)]
    saved = [dict(each) for each in hooks]
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    for each in hooks:
        each.clear()
    try:
        with torch.inference_mode(False), torch.enable_grad(), _no_autocast({"cpu", kind} - {"meta"}):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        for each, before in zip(hooks, saved, strict=True):
            each.update(before)


@contextmanager
def _no_autocast(kinds: set[str]) -> Iterator[None]:
    """Outside every autocast, so that one that is entered inside is the outermost: those alone let go of cast weights.

    Under ``torch.autocast(enabled=False)`` it would go on with the weights that it cast at the first step.
    """
    enabled = {kind: torch.is_autocast_enabled(kind) for kind in kinds}
    depth = torch.autocast_increment_nesting() - 1
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        for kind, before in enabled.items():
            torch.set_autocast_enabled(kind, before)
        for _ in range(depth):
            torch.autocast_increment_nesting()


CPU = Place()
"""One thread of the CPU: where everything is computed unless said otherwise."""
