"""Training memory, counted: what a step holds at once, before any of it is allocated.

One training step runs on fake tensors: PyTorch goes through the operators of forward pass, loss, backward pass and
optimiser, with shapes and types and without numbers. Each storage is noted when it appears and when it goes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from letitgo.errors import BadRequest, named
from letitgo.weights.example import Example, as_data, called
from letitgo.weights.hold import helds
from letitgo.weights.layers import layers, parameter_names, plain, trainable_names
from letitgo.weights.select import Selection
from letitgo.weights.sharded import refuse_sharded
from letitgo.weights.units import blocks_in, units

Precision = Literal["bf16-mixed", "bf16-true"]
"""Autocast to bfloat16 with weights, gradients and optimiser state as they are; or all of it in bfloat16."""

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
"""Makes an optimiser of a list of parameters."""

Loss = Callable[[Any], Tensor]
"""Takes what the network returns and gives the loss."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes, as PyTorch's allocator counts them.

    Not counted is what is no tensor: the libraries, the context of a GPU, what an allocator holds in reserve, and what
    a kernel takes within itself, as some convolutions do.

    Attributes:
        weights: Parameters and buffers.
        gradients: Those of all that trains.
        optimizer: The optimiser's state.
        activations: What the forward pass saves for the backward pass, each storage once; parameters, buffers and the
            example left out.
        blocks: The same by block, or by layer outside blocks, whose name is of the last one that was entered.
        peak: The most that is held at once in a step that has the optimiser's state, the example included.
        trainable: Number of weights that train.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    blocks: Mapping[str, int]
    peak: int
    trainable: int


def memory(
    module: nn.Module,
    example_input: Example,
    *,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    loss: Loss | None = None,
    precision: Precision | None = None,
    checkpoint: bool = False,
) -> Memory:
    """Count what a training step holds in memory, with the module's parameters frozen or not as they are now.

    Nothing is allocated or computed. The step is that of a loop in which the network's outputs are gone by the backward
    pass and gradients are set to none. A network on the ``meta`` device is counted as if it were on the CPU.

    Args:
        module: The network. It is left as it was. It is counted in training mode.
        example_input: A batch as large as in training, each tensor of shape (N, ...).
        optimizer: Makes the optimiser of a list of parameters. On a GPU, those of PyTorch update all parameters at
            once unless ``foreach=False``, which takes a copy of them: give
            ``lambda parameters: AdamW(parameters, foreach=True)`` to count that.
        loss: Of what the network returns. By default the ``loss`` in it, as networks of transformers return where the
            example has labels; else none, and the backward pass begins at the outputs.
        precision: ``"bf16-mixed"`` is autocast, where the weights stay as they are and are the fp32 masters; under
            ``"bf16-true"`` weights, gradients, optimiser state and activations are all bfloat16.
        checkpoint: Save the inputs of each block only and compute the block again on the way back
            (``torch.utils.checkpoint``).

    Raises:
        BadRequest: The network does not take the example, returns nothing to train on, has no blocks to checkpoint, or
            cannot be counted without numbers.
    """
    with imagined(module, example_input, precision) as (copy, inputs, live):
        step = step_of(copy, inputs, live, loss, precision, checkpoint)
    return step.memory(optimizer)


def fitting(module: nn.Module, example_input: Example, limit: int, **options: Any) -> Selection:
    """The fewest first blocks to freeze so that training the rest fits a memory.

    Blocks are taken in the network's order, layers outside blocks as blocks of their own: the last n train. What is
    frozen already stays frozen.

    Args:
        module: The network. It is left as it was.
        example_input: A batch as large as in training, each tensor of shape (N, ...).
        limit: Bytes. Leave room for what :class:`Memory` does not count.
        options: Those of :func:`memory`.

    Returns:
        What to freeze; nothing where all of it fits.

    Raises:
        BadRequest: It does not fit with one block left to train either, or cannot be counted.
    """
    names = parameter_names(module)
    *first, _ = training_blocks(module).values()

    def frozen(count: int) -> Selection:
        return Selection(tuple(name for block in first[:count] for name in block), names)

    def peak(count: int) -> int:
        with _frozen_flags(module, frozen(count)):
            return memory(module, example_input, **options).peak

    low, high = 0, len(first)
    if (least := peak(high)) > limit:
        raise BadRequest(
            f"{limit:,} bytes are too few: with all frozen but the last block that trains, a step holds {least:,}"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if peak(middle) <= limit else (middle + 1, high)
    return frozen(high)


def training_blocks(module: nn.Module) -> dict[str, list[str]]:
    """Block, or layer outside blocks → its parameters that train, in the network's order.

    Raises:
        BadRequest: Nothing trains.
    """
    owned, training = layers(module), set(trainable_names(module))
    grouped = {
        unit: [name for layer in own for name in owned[layer] if name in training]
        for unit, own in units(module, owned, "block").items()
    }
    if not training:
        raise BadRequest("nothing trains in this network, so there is nothing to freeze")
    return {unit: own for unit, own in grouped.items() if own}


@contextmanager
def _frozen_flags(module: nn.Module, selection: Selection) -> Iterator[None]:
    parameters = [module.get_parameter(name) for name in selection]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


# A network without numbers


@contextmanager
def imagined(
    module: nn.Module, example_input: Example, precision: Precision | None = None
) -> Iterator[tuple[nn.Module, Any, _Live]]:
    """A copy of the network and of the example whose tensors have no numbers, within what watches over them.

    Raises:
        BadRequest: The network cannot be copied so, or what is done with the copy needs numbers.
    """
    parameter_names(module)  # refuses what is lazy
    refuse_sharded(module, "counting memory")
    if helds(module):
        raise BadRequest("memory is not counted where single weights are held: let go of them first")
    inputs = as_data(example_input)
    place = next((tensor.device for tensor in module.parameters() if not tensor.is_meta), torch.device("cpu"))
    empty = partial(_without_numbers, place=place, cast=torch.bfloat16 if precision == "bf16-true" else None)
    with torch.compiler.set_stance("force_eager"), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        try:
            copy = _copy(getattr(module, "_orig_mod", module), empty)
        except Exception as error:
            raise BadRequest(f"memory cannot be counted: the network cannot be copied: {named(error)}") from error
        if not copy.training:
            copy.train()
        yield copy, tree_map_only(Tensor, empty, inputs), live


def _copy(module: nn.Module, empty: Callable[[Tensor], Tensor]) -> nn.Module:
    known: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        if id(tensor) not in known:
            fake = empty(tensor)
            trains = tensor.requires_grad
            known[id(tensor)] = nn.Parameter(fake, trains) if isinstance(tensor, nn.Parameter) else fake
    return deepcopy(module, known)


def _without_numbers(tensor: Tensor, place: torch.device, cast: torch.dtype | None) -> Tensor:
    dtype = cast if cast and tensor.is_floating_point() else tensor.dtype
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=dtype, device=place)


class _Live(TorchDispatchMode):
    """Knows of each storage that is alive, and how many bytes were alive at once.

    Args:
        numbers: Give a number where one is asked of a tensor that has none: in an optimiser it changes no size.
    """

    def __init__(self, numbers: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, tuple[int, int]] = {}
        self.count = 0
        self.numbers = numbers

    def number(self, tensor: Tensor) -> int:
        """A number for the tensor's storage that no other one has or will have."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self.alive:
            self.count += 1
            self.alive[key] = self.count, storage.nbytes()
            weakref.finalize(storage, self._gone, key).atexit = False
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        return self.alive[key][0]

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.numbers and func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self.number(output)
        return outputs


# A step of it


@dataclass(frozen=True)
class Step:
    """A step up to its optimiser: bytes of the weights, what is saved in blocks, held at most and held in the end."""

    moving: list[nn.Parameter]
    weights: int
    blocks: dict[str, int]
    peak: int
    end: int

    def memory(self, optimizer: MakeOptimizer) -> Memory:
        state, passing = optimizer_memory(self.moving, optimizer)
        return Memory(
            self.weights,
            sum(parameter.numel() * parameter.element_size() for parameter in self.moving),
            state,
            sum(self.blocks.values()),
            self.blocks,
            state + max(self.peak, self.end + passing),
            sum(parameter.numel() for parameter in self.moving),
        )


def step_of(
    copy: nn.Module,
    inputs: Any,
    live: _Live,
    loss: Loss | None = None,
    precision: Precision | None = None,
    checkpoint: bool = False,
) -> Step:
    """A step of what :func:`imagined` gives."""
    if checkpoint:
        _checkpoint_blocks(copy)
    moving = [parameter for parameter in copy.parameters() if parameter.requires_grad]
    tensors = [*copy.parameters(), *copy.buffers()]
    weights = sum({live.number(own): own.untyped_storage().nbytes() for own in tensors}.values())
    live.peak, first, saved = live.now, live.count, dict[int, str]()
    device = tensors[0].device.type if tensors else "cpu"
    cast = torch.autocast(device, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with _named_blocks(copy) as here, _noting(saved, here, live), cast, torch.enable_grad():
        ends = _ends(_run(copy, inputs), loss)
    sizes = {number: size for number, size in live.alive.values() if number > first}
    blocks = dict.fromkeys(here.names, 0)
    for number, block in saved.items():
        blocks[block] = blocks.get(block, 0) + sizes.get(number, 0)
    try:
        if ends and moving:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
    except RuntimeError as error:
        raise BadRequest(f"memory of the backward pass cannot be counted: {named(error)}") from error
    del ends
    return Step(moving, weights, blocks, live.peak, live.now)


def optimizer_memory(parameters: Iterable[Tensor], optimizer: MakeOptimizer) -> tuple[int, int]:
    """Bytes of an optimiser's state, and the most that a step takes beside it, gradients and parameters.

    Raises:
        BadRequest: The optimiser does not take them.
    """
    stand_ins = [nn.Parameter(torch.empty(own.shape, dtype=own.dtype, device="meta")) for own in parameters]
    if not stand_ins:
        return 0, 0
    with _Live(numbers=True) as live:
        for stand_in in stand_ins:
            live.number(stand_in)
            stand_in.grad = torch.empty_like(stand_in)
        before = live.now
        try:
            made = optimizer(stand_ins)
            made.step()
            live.peak = after = live.now
            made.step()
        except Exception as error:
            raise BadRequest(f"memory of the optimiser cannot be counted: {named(error)}") from error
    return after - before, live.peak - after


def _run(copy: nn.Module, inputs: Any) -> Any:
    try:
        return called(copy, inputs)
    except BadRequest as error:
        if isinstance(error.__cause__, (DataDependentOutputException, DynamicOutputShapeException)):
            operator = str(error.__cause__)
            raise BadRequest(
                f"memory cannot be counted without numbers: the network goes by what it computes ({operator})"
            ) from error
        raise


def _ends(outputs: Any, loss: Loss | None) -> list[Tensor]:
    """Where the backward pass begins."""
    given = outputs.get("loss") if isinstance(outputs, Mapping) else None
    found = [loss(outputs)] if loss else [given] if isinstance(given, Tensor) else tree_leaves(outputs)
    tensors = [leaf for leaf in found if isinstance(leaf, Tensor)]
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise BadRequest("the network returns no floating-point tensor: nothing can be trained on its outputs")
    return [tensor for tensor in tensors if tensor.requires_grad]


@contextmanager
def _noting(saved: dict[int, str], here: _Here, live: _Live) -> Iterator[None]:
    """Fills in, for each storage that is saved for the backward pass, where that was."""

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(live.number(tensor), here.name)
        return tensor.detach()  # the tensor itself would hold its own graph

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


class _Here:
    """Where the forward pass is: the block, or layer outside blocks, that it entered last."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.name = names, ""


@contextmanager
def _named_blocks(copy: nn.Module) -> Iterator[_Here]:
    parts = {plain(copy, name): part for name, part in copy.named_modules()}
    names = [name for name in units(copy, layers(copy), "block") if name in parts]
    here = _Here(names)

    def enter(name: str, *_: Any) -> None:
        here.name = name

    handles = [parts[name].register_forward_pre_hook(partial(enter, name)) for name in names]
    try:
        yield here
    finally:
        for handle in handles:
            handle.remove()


def _checkpoint_blocks(copy: nn.Module) -> None:
    inside = set(blocks_in(copy))
    blocks = [part for name, part in copy.named_modules() if plain(copy, name) in inside]
    if not blocks:
        raise BadRequest("there are no blocks in this network to checkpoint")
    for block in blocks:  # no numbers are drawn, so none has to be drawn again
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
