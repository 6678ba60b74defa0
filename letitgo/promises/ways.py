"""Ways to train: what a network or its optimiser is while a trainer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_map


@contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """The network as it is."""
    yield


@contextmanager
def compiled(module: nn.Module) -> Iterator[None]:
    """Compiled in place, graphs by AOTAutograd: those of the forward and backward passes that ``inductor`` gets."""
    torch._dynamo.reset()
    module.compile(backend="aot_eager")
    yield
    torch._dynamo.reset()


@contextmanager
def bf16(module: nn.Module) -> Iterator[None]:
    """Weights in bf16; inputs are converted to it, outputs back to fp32."""
    module.to(torch.bfloat16)
    module.register_forward_pre_hook(_narrowed, with_kwargs=True)
    module.register_forward_hook(lambda module, args, outputs: _converted(outputs, torch.bfloat16, torch.float32))
    yield


@contextmanager
def fsdp2(module: nn.Module) -> Iterator[None]:
    """Sharded by ``fully_shard``, over one process of gloo."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
    try:
        fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def muon_like(module: nn.Module) -> Iterator[None]:
    """Every optimiser fills in missing gradients, as the public Muon does, so that decay and momentum act on all."""
    handle = register_optimizer_step_pre_hook(_fill)
    try:
        yield
    finally:
        handle.remove()


def _fill(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        group["weight_decay"] = group.get("weight_decay") or 0.1
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def _narrowed(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _converted((args, kwargs), torch.float32, torch.bfloat16)


def _converted(values: Any, old: torch.dtype, new: torch.dtype) -> Any:
    return tree_map(lambda leaf: leaf.to(new) if isinstance(leaf, Tensor) and leaf.dtype == old else leaf, values)


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": plain,
    "compile": compiled,
    "FSDP2": fsdp2,
    "bf16": bf16,
    "Muon-like": muon_like,
}
