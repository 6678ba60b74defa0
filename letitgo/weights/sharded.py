"""Networks whose parameters are spread over processes.

Under FSDP2 (``torch.distributed.fsdp.fully_shard``) a parameter is a DTensor of which each process has a shard. What
gathers or lays out here is a collective: every process calls it, in the same order. FSDP1 and DeepSpeed fix what trains
when they wrap a network: there, freezing comes before wrapping, and changing it later is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return isinstance(tensor, _known("torch.distributed.tensor", "DTensor"))


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor; a tensor that is not spread, as it is."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from all processes; one that is not spread, as it is."""
    if not is_sharded(tensor):
        return tensor
    spread: Any = tensor.detach()
    return spread.to(spread.device_mesh.device_type).full_tensor()  # shards may be kept on the CPU


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has, spread as another one is."""
    if not is_sharded(like):
        return whole(tensor)
    if is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(mesh.device_type), mesh, placements)


def by_first_dimension(tensor: Tensor) -> bool:
    """Whether shards hold whole rows; of a tensor that is not spread, yes."""
    return not is_sharded(tensor) or all(p.is_replicate() or p.is_shard(0) for p in tensor.placements)  # type: ignore[attr-defined]


def joined(shard: Tensor, length: int, like: Tensor) -> Tensor:
    """Each process's shard, of any length, as one tensor of ``length`` along dimension 0, spread as another is."""
    if not is_sharded(like):
        return shard
    from torch.distributed.tensor import DTensor, Shard

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    shape = torch.Size((length, *shard.shape[1:]))
    along = [Shard(0) if placement.is_shard() else placement for placement in placements]
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(shard, mesh, along, run_check=False, shape=shape, stride=strides)


def averaged_by(module: nn.Module) -> nn.parallel.DistributedDataParallel | None:
    """The ``DistributedDataParallel`` that a module is, or in whose forward pass it is called."""
    kind = nn.parallel.DistributedDataParallel
    return module if isinstance(module, kind) else kind._active_ddp_module


def reshard(module: nn.Module) -> None:
    """Put a network back to its shards.

    After a forward pass without a backward pass the root of FSDP2 holds gathered copies, and a flag set on a copy is
    lost with it.
    """
    for part in _fsdp_modules(module):
        part.reshard()


def flags_changed(module: nn.Module) -> None:
    """Tell FSDP2 that other parameters ask for a gradient than before.

    A group takes the dtypes of its gradients from what trains at the first forward pass (pytorch#186998), and keeps
    gradients that were not reduced yet.

    Raises:
        BadRequest: Parameters of one group that train have different dtypes.
    """
    for group in _groups(module):
        for parameter in group.fsdp_params:
            if not parameter.sharded_param.requires_grad:
                parameter.unsharded_accumulated_grad = None
        try:
            group._init_mp_dtypes()
        except AssertionError as error:
            raise BadRequest(
                f"FSDP trains the parameters of a group in one dtype ({error}): convert the network before fully_shard"
            ) from None


def refuse_fixed(module: nn.Module, optimizers: Iterable[object] = ()) -> None:
    """Refuse a network of which FSDP1 or DeepSpeed has fixed what trains.

    Raises:
        BadRequest: It is one.
    """
    refuse_flat(module, optimizers)
    if any(hasattr(parameter, "_hp_mapping") for parameter in module.parameters()):  # ZeRO-1 and 2
        raise BadRequest(
            "DeepSpeed fixes what trains, and copies weights, in deepspeed.initialize: do this before that call, or "
            "shard with fully_shard"
        )


def refuse_flat(module: nn.Module, optimizers: Iterable[object] = ()) -> None:
    """Refuse a network whose weights FSDP1 or DeepSpeed has laid out anew, or an engine of DeepSpeed.

    Raises:
        BadRequest: It is one.
    """
    parameters = list(module.parameters())
    if any(hasattr(parameter, "_fsdp_flattened") for parameter in parameters):
        raise BadRequest(
            "FullyShardedDataParallel lays parameters flat and fixes what trains when it wraps: do this before "
            "wrapping, or shard with fully_shard"
        )
    if any(map(of_deepspeed, (module, *optimizers))) or any(hasattr(parameter, "ds_id") for parameter in parameters):
        raise BadRequest(
            "DeepSpeed fixes what trains in deepspeed.initialize, and under ZeRO-3 parameters have no shape: do this "
            "before that call, or shard with fully_shard"
        )


def of_deepspeed(thing: object) -> bool:
    """Whether something is an engine or an optimiser of DeepSpeed."""
    return "deepspeed" in type(thing).__module__.split(".")


def refuse_sharded(module: nn.Module, what: str) -> None:
    """Refuse what is not carried out on shards.

    Args:
        module: The network.
        what: Begins the sentence, as in ``"robustness"``.

    Raises:
        BadRequest: A parameter of the network is spread over processes.
    """
    refuse_flat(module)
    reshard(module)
    for name, parameter in module.named_parameters():
        if is_sharded(parameter):
            raise BadRequest(f"{what} needs whole weights, and {name} is spread over processes: take one that is not")


def refuse_unaveraged(module: nn.Module, names: Iterable[str]) -> None:
    """Refuse to train what nobody averages over the processes.

    Raises:
        BadRequest: One of the parameters named is inside a module that ``fully_shard`` sharded, and was left out of it;
            or was frozen when ``DistributedDataParallel`` wrapped the network.
    """
    names = tuple(names)
    sharded = {id(p) for part in _fsdp_modules(module) for p in part.parameters()}
    for name in names if sharded else ():
        parameter = module.get_parameter(name)
        if id(parameter) in sharded and not is_sharded(parameter):
            raise BadRequest(
                f"{name} cannot be trained: fully_shard was told to ignore it, so the processes would drift apart. "
                "Shard without ignored_params"
            )
    for part in module.modules():
        if isinstance(part, nn.parallel.DistributedDataParallel):
            train = {id(p) for p in part.parameters() if p.requires_grad}
            thawed = {id(p): name for name in names for p in [module.get_parameter(name)] if id(p) not in train}
            if thawed and len(train) + len(thawed) > part._get_ddp_logging_data()["num_parameter_tensors"]:
                raise BadRequest(
                    f"{next(iter(thawed.values()))} cannot be trained: it was frozen when DistributedDataParallel "
                    "wrapped the network, so the processes would drift apart. Thaw it before"
                )


def refuse_offloaded(module: nn.Module, names: Iterable[str]) -> None:
    """Refuse parameters whose shards are kept elsewhere than where they are computed with.

    Raises:
        BadRequest: One of those named is such a parameter.
    """
    reshard(module)
    for name in names:
        parameter: Any = module.get_parameter(name)
        if is_sharded(parameter) and parameter.device_mesh.device_type != local(parameter).device.type:
            raise BadRequest(
                f"single entries of {name} cannot be held: its shards are on {local(parameter).device.type} and are "
                f"computed with on {parameter.device_mesh.device_type}. Shard without an offload policy"
            )


@contextmanager
def whole_on_meta(module: nn.Module) -> Iterator[None]:
    """Within, a sharded network is a whole one on the ``meta`` device, to be called without values and without others.

    Raises:
        BadRequest: The network is one of FSDP1 or DeepSpeed.
    """
    refuse_flat(module)
    reshard(module)
    if not any(map(is_sharded, module.parameters())):
        yield
        return
    parts = list(module.modules())
    owned = [(part, dict(part._parameters)) for part in parts]
    slots = [slot for part in parts for slot in (part._buffers, part._forward_pre_hooks, part._forward_hooks)]
    before: list[dict[Any, Any]] = [dict(slot) for slot in slots]
    metas = {
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), p.requires_grad)
        for p in module.parameters()
    }
    try:
        for part, parameters in owned:
            for name, parameter in parameters.items():
                if parameter is not None:
                    setattr(part, name, metas[id(parameter)])  # recurrent layers keep lists of their own
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else torch.empty_like(buffer, device="meta")
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                for key in [key for key, hook in hooks.items() if _is_of_fsdp(hook)]:
                    del hooks[key]
        yield
    finally:
        for part, parameters in owned:
            for name, parameter in parameters.items():
                setattr(part, name, parameter)
        for slot, contents in zip(slots, before, strict=True):
            slot.clear()
            slot.update(contents)


def on_first_process(work: Callable[[], None]) -> None:
    """Do something in the first process, while all wait; what it raises there is raised in all.

    Raises:
        BadRequest: The work raised it.
    """
    from torch import distributed

    said: list[str | None] = ["the first process failed"]
    try:
        if distributed.get_rank() == 0:
            work()
            said = [None]
    except BadRequest as error:
        said = [str(error)]
    finally:
        distributed.broadcast_object_list(said)
    if said[0] is not None:
        raise BadRequest(said[0])


def _known(package: str, name: str) -> Any:
    """A class of a package that somebody imported, for ``isinstance``; importing it would take seconds."""
    return getattr(sys.modules.get(package), name, ())


def _fsdp_modules(module: nn.Module) -> list[Any]:
    kind = _known("torch.distributed.fsdp", "FSDPModule")
    return [part for part in module.modules() if isinstance(part, kind)] if kind else []


def _groups(module: nn.Module) -> Iterator[Any]:
    """The groups of parameters that FSDP2 gathers together, once it has looked at their dtypes."""
    for part in _fsdp_modules(module):
        state = part._get_fsdp_state()
        if state._is_root is not None:
            yield from filter(None, getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group])


def _is_of_fsdp(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")
