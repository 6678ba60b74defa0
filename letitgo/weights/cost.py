"""Training arithmetic, counted: what a step costs, and what freezing would save, before anything is paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks_with_kwargs, register_module_forward_hook
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from letitgo.errors import BadRequest
from letitgo.weights.cut import find_prefix
from letitgo.weights.example import Example, as_data, called, number_of
from letitgo.weights.freeze import Chosen, Statistics, frozen
from letitgo.weights.hold import trainable
from letitgo.weights.layers import layers, owner, parameter_names, trains
from letitgo.weights.memory import Loss, MakeOptimizer, Memory, Precision, memory, optimizer_memory
from letitgo.weights.prefix import PREFIX_BYTES
from letitgo.weights.select import Selection, chosen_of
from letitgo.weights.sharded import whole_on_meta
from letitgo.weights.state import undisturbed


@dataclass(frozen=True)
class StepCost:
    """Floating-point operations for one example, as PyTorch's flop counter counts them.

    This is the floor of what freezing leaves to do: the forward pass, gradients of the inputs above the first
    trainable layer, and gradients of the trainable weights. Counted are products of matrices, convolutions, attention
    and, on the CPU, LSTMs. Not counted are elementwise operations, norms, pooling, look-ups, the loss, the optimiser
    and recurrent layers that cuDNN computes. Attention counts in full under a causal mask, and where it is computed
    block by block its backward pass counts the scores again.

    Attributes:
        forward: The forward pass of the whole network.
        backward: The backward pass as far as something trains.
        prefix: The part of ``forward`` that lies in a frozen prefix and can be computed once.
        prefix_bytes: Size of what the prefix gives for one example.
        cut: The module whose outputs would be kept, where the network is no plain ``nn.Sequential``.
        uncached: What ends the part that can be computed once, other than that something trains.
        uncounted: Operators from outside PyTorch that no formula is known for, and that are therefore not counted.
    """

    forward: int
    backward: int
    prefix: int
    uncounted: tuple[str, ...] = ()
    prefix_bytes: int = 0
    cut: str = ""
    uncached: str = field(default="", compare=False)

    @property
    def whole(self) -> int:
        """One example through one training step, all of it computed each time."""
        return self.forward + self.backward

    @property
    def step(self) -> int:
        """One example through one training step, with the outputs of a frozen prefix at hand."""
        return self.forward - self.prefix + self.backward


@dataclass(frozen=True)
class Bytes:
    """Memory with a selection of parameters trained, and with it frozen."""

    thawed: int
    frozen: int


@dataclass(frozen=True)
class Cost:
    """What freezing a selection saves, counted.

    Attributes:
        thawed: A step with the selection trained and the rest as it is.
        frozen: A step with the selection frozen.
        gradient_bytes: Memory of the gradients.
        optimizer_bytes: Memory of the optimiser's state.
        why: The reason for what is saved, in a sentence or two.
        thawed_memory: What a step holds with the selection trained and the rest as it is; None where that cannot be
            counted, for the reason that ``why`` gives.
        frozen_memory: What a step holds with the selection frozen.
    """

    thawed: StepCost
    frozen: StepCost
    gradient_bytes: Bytes
    optimizer_bytes: Bytes
    why: str
    thawed_memory: Memory | None = None
    frozen_memory: Memory | None = None

    @property
    def share(self) -> float:
        """Expected time of a step with the selection frozen, as a share of the time without."""
        return _share(self.frozen.whole, self.thawed.whole)

    @property
    def share_at_hand(self) -> float:
        """The same where the outputs of a frozen prefix are computed once and kept at hand."""
        return _share(self.frozen.step, self.thawed.step)


def step_cost(module: nn.Module, inputs: Example) -> StepCost:
    """Count what one example costs with the module's parameters frozen or not as they are now.

    Args:
        module: In training mode. It is left as it was: gradients, statistics and random state too.
        inputs: Some examples, each tensor of shape (N, ...), on the module's device; two or more where the network
            normalizes over them.

    Raises:
        BadRequest: The network does not take the inputs, or returns nothing to train on.
    """
    parameter_names(module)  # refuses what is lazy
    with whole_on_meta(module), undisturbed(module, "cost"):
        return _counted(module, inputs)


def spared_by_each(module: nn.Module, inputs: Tensor) -> dict[str, int]:
    """What freezing one part alone takes off the backward pass: the gradient of its weights; from one forward pass.

    Left out are parts of which that may not be all: the first that train, those that are called or whose parameters are
    used more than once, and all that are no plain linear layer, convolution, norm or embedding.

    Args:
        module: In training mode, its parameters frozen or not. It is left as it was.
        inputs: Some examples, shape (N, ...).

    Returns:
        Name of a part → floating-point operations for one example.
    """
    calls: dict[str, list[int | None]] = {}
    parts = {
        name: part
        for name, part in module.named_modules()
        if type(part).__module__.startswith("torch.nn.modules.") and isinstance(part, _PLAIN)
    }

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def called(part: nn.Module, args: Any, output: Any) -> None:
            follows = len(args) == 1 and isinstance(args[0], Tensor) and args[0].requires_grad
            calls.setdefault(name, []).append(_product(part, args[0], output) if follows else None)

        return called

    with undisturbed(module, "cost"):
        handles = [part.register_forward_hook(note(name)) for name, part in parts.items()]
        try:
            outputs = [leaf for leaf in tree_leaves(called(module, inputs)) if isinstance(leaf, Tensor)]
        finally:
            for handle in handles:
                handle.remove()
        uses = Counter(id(node.variable) for node in _nodes(outputs) if hasattr(node, "variable"))
    return {
        name: count[0] // len(inputs)
        for name, count in calls.items()
        if len(count) == 1
        and count[0] is not None
        and count[0] % len(inputs) == 0
        and all(uses[id(parameter)] == 1 for parameter in parts[name].parameters() if parameter.requires_grad)
    }


_PLAIN = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding)


def _product(part: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Operations of the product of a part's inputs and weights, which the gradient of its weights takes again."""
    if isinstance(part, nn.Linear):
        return 2 * inputs.numel() * part.out_features
    if isinstance(part, nn.modules.conv._ConvNd):
        return conv_flop_count(list(inputs.shape), list(part.weight.shape), list(output.shape), part.transposed)
    return 0


def _nodes(outputs: list[Tensor]) -> Iterator[Any]:
    """The nodes of the backward pass, each as often as one before it leads there."""
    seen, left = set(), [output.grad_fn for output in outputs]
    while left:
        node = left.pop()
        if node is not None:
            yield node
            if node not in seen:
                seen.add(node)
                left += [before for before, _ in node.next_functions]


def cost(
    module: nn.Module,
    example_input: Example,
    selection: Chosen,
    statistics: Statistics = "follow",
    *,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    loss: Loss | None = None,
    precision: Precision | None = None,
    checkpoint: bool = False,
) -> Cost:
    """Tell what freezing a selection would save in a training step, without training one.

    Time is expected to go as the arithmetic goes, see :class:`StepCost` for what is counted. Memory is that of a step
    on the whole example, see :class:`Memory`; precision and checkpointing change memory alone here.

    Args:
        module: The network. It is left as it was, to the bit: flags, gradients, modes, statistics and random state.
            One that FSDP2 sharded is counted as a whole, as if one process did it all, on the ``meta`` device.
        example_input: Some examples, each tensor of shape (N, ...), on the module's device; two or more where the
            network normalizes over them. A mapping is taken as inputs by keyword. A network on the ``meta`` device is
            counted without being computed.
        selection: What would be frozen: a selection, or patterns for :func:`select`.
        statistics: Of frozen normalization layers, as in :func:`freeze`: where they follow the data, the outputs of a
            frozen prefix change from batch to batch and cannot be computed once.
        optimizer: Makes the optimiser of a list of parameters.
        loss: As in :func:`memory`, like all that follows.
        precision: Of the step.
        checkpoint: Whether each block is computed again on the way back.

    Raises:
        BadRequest: The selection is none or of another network, the network does not take the example, or it returns
            nothing to train on.
    """
    if isinstance(example_input, (Selection, str)):
        raise BadRequest("example_input is a selection: the order is cost(module, example_input, selection)")
    selection = chosen_of(module, selection)
    options = {"loss": loss, "precision": precision, "checkpoint": checkpoint}
    with whole_on_meta(module), undisturbed(module, "cost"):
        if not module.training:
            module.train()
        with frozen(module, selection, statistics), _calls(module) as calls:
            cold = _counted(module, example_input)
            first, crossed = _crossed(module, selection, calls)
            kept = _held(module, example_input, optimizer, options)
        warm, held = cold, kept
        for name in selection:
            parameter = module.get_parameter(name)
            parameter.requires_grad_(trains(parameter))
        if selection:
            warm = _counted(module, example_input)
            held = _held(module, example_input, optimizer, options)
    return Cost(
        warm,
        cold,
        Bytes(held.gradients, kept.gradients),
        Bytes(held.optimizer, kept.optimizer),
        f"{_why(module, selection, warm, cold, first, crossed)}{held.why or kept.why}",
        held.memory,
        kept.memory,
    )


@dataclass(frozen=True)
class _Held:
    """Bytes of gradients and optimiser state, and the whole memory of a step, or why it cannot be counted."""

    gradients: int
    optimizer: int
    memory: Memory | None
    why: str = ""


def _held(module: nn.Module, example: Example, optimizer: MakeOptimizer, options: dict[str, Any]) -> _Held:
    try:
        found = memory(module, example, optimizer=optimizer, **options)
    except BadRequest as error:
        weights = trainable(module)
        gradients = sum(weight.numel() * weight.element_size() for weight in weights)
        return _Held(gradients, optimizer_memory(weights, optimizer)[0], None, f" No memory of a step: {error}.")
    return _Held(found.gradients, found.optimizer, found)


def _counted(module: nn.Module, example: Example) -> StepCost:
    inputs = as_data(example)
    if any(parameter.is_meta for parameter in module.parameters()):
        inputs = tree_map_only(Tensor, lambda leaf: leaf.to("meta"), inputs)
    examples = number_of(inputs)
    with _Counter() as forward:
        outputs = [leaf for leaf in tree_leaves(called(module, inputs)) if isinstance(leaf, Tensor)]
    if not any(output.is_floating_point() or output.is_complex() for output in outputs):
        raise BadRequest("the network returns no floating-point tensor: nothing can be trained on its outputs")
    ends = [output for output in outputs if output.requires_grad]
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    _refuse_reentrant(ends)
    with _Counter() as backward:
        if ends and weights:
            # Unlike backward(), this leaves the gradients that parameters hold, and what hangs on them, alone.
            torch.autograd.grad(ends, weights, [torch.ones_like(end) for end in ends], allow_unused=True)
    unknown = sorted(forward.uncounted | backward.uncounted)
    ahead, back = (counter.get_total_flops() // examples for counter in (forward, backward))
    return replace(_prefix(module, inputs, ahead, examples), forward=ahead, backward=back, uncounted=tuple(unknown))


def _prefix(module: nn.Module, inputs: Any, forward: int, examples: int) -> StepCost:
    """What can be computed once, in a cost without anything else."""
    kwargs = inputs if isinstance(inputs, dict) else {}
    args = () if kwargs else inputs if isinstance(inputs, tuple) else (inputs,)
    parts, cut, stop = find_prefix(module, *args, **kwargs)
    if parts is not None:
        with _Counter() as counter, torch.no_grad():
            kept = called(parts[0], inputs)
        return StepCost(0, 0, counter.get_total_flops() // examples, prefix_bytes=kept.nbytes // examples)
    stop = "" if stop.endswith(" trains") else stop
    if cut is None:
        return StepCost(0, 0, 0, uncached=stop)
    leaves = tree_leaves((args, kwargs))
    device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor))
    with cut.installed(), _Counter() as counter:
        kept = torch.zeros(examples, *cut.shape, dtype=cut.dtype, device=device)
        cut.rest(kept, {place: leaves[place] for place in cut.needed})
    once = forward - counter.get_total_flops() // examples
    return StepCost(0, 0, once, prefix_bytes=cut.bytes, cut=cut.name, uncached=stop)


def _refuse_reentrant(ends: list[Tensor]) -> None:
    """Asking for gradients leaves out what such a checkpoint would compute anew, and the count with it."""
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in _nodes(ends)):
        raise BadRequest("the backward pass of reentrant checkpoints cannot be counted: give use_reentrant=False")


@contextmanager
def _calls(module: nn.Module) -> Iterator[dict[str, bool]]:
    """Fills in, for each part in the order they first return, whether a gradient flows on through its inputs."""
    names: dict[nn.Module, str] = {}
    for name, part in module.named_modules():
        names[part] = name
    calls: dict[str, bool] = {}

    def note(part: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        if part in names:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            asked = any(tensor.requires_grad for tensor in tensors)
            calls[names[part]] = calls.get(names[part], False) or asked

    handle = register_module_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
        _global_forward_hooks_with_kwargs.pop(handle.id, None)  # which removing forgets, and torch.compile warns of


def _crossed(module: nn.Module, selection: Selection, calls: dict[str, bool]) -> tuple[str, dict[str, bool]]:
    """The layer that trains first, and for each layer with frozen weights whether the backward pass goes through it.

    It does where the layer goes on training in part, or is handed something that depends on weights that train.
    """
    order = list(calls)
    homes: dict[int, list[tuple[str, bool]]] = {}  # a tied parameter works in several places
    for name, parameter in module.named_parameters(remove_duplicate=False):
        part = own = owner(module, name)
        while part and part not in calls:
            part = part.rpartition(".")[0]
        passed = calls.get(part, False)
        if part != own:  # never called: a part above uses its weights, after others of its own perhaps
            passed |= any(other.requires_grad for other in module.get_submodule(part).parameters())
        homes.setdefault(id(parameter), []).append((part, passed))
    trains, crossed = {}, {}
    for layer, names in layers(module).items():
        parameters = [module.get_parameter(name) for name in names]
        found = [home for parameter in parameters for home in homes[id(parameter)]]
        goes_on = any(parameter.requires_grad for parameter in parameters)
        if goes_on:
            trains[layer] = min((order.index(part) for part, _ in found if part in calls), default=len(order))
        if any(name in selection for name in names):
            crossed[layer] = goes_on or any(passed for _, passed in found)
    return min(trains, key=trains.__getitem__, default=""), crossed


def _why(
    module: nn.Module, selection: Selection, thawed: StepCost, cold: StepCost, first: str, crossed: dict[str, bool]
) -> str:
    if thawed.uncounted or cold.uncounted:
        names = ", ".join(dict.fromkeys(thawed.uncounted + cold.uncounted))
        thawed, cold = (replace(found, uncounted=()) for found in (thawed, cold))
        return f"{_why(module, selection, thawed, cold, first, crossed)} Not counted, for want of a formula: {names}."
    saved = f"{100 - 100 * _share(cold.whole, thawed.whole):.1f} % of a step"
    through, beyond = [[layer for layer in crossed if crossed[layer] is flag] for flag in (True, False)]
    if not selection:
        return "Nothing is frozen, so nothing is saved."
    if not thawed.whole:
        return "Nothing can be told: no product of matrices, convolution or attention is in this network."
    if not first:
        return f"Nothing trains then: there is no backward pass, which saves {saved}."
    if not beyond:
        return (
            f"{first} still trains, so the backward pass goes through {_some(through)} all the same: "
            f"only the gradients of the frozen weights are saved, {saved}."
        )
    if through:
        return (
            f"{first} still trains, so the backward pass goes through {_some(through)} all the same, but it ends "
            f"at {first} and never reaches {_some(beyond)}: this saves {saved}."
        ) + (f" {_once(module, thawed, cold)}" if cold.prefix else "")
    reached = (
        f"Nothing that trains lies before {_some(beyond)}, so the backward pass never gets there: this saves {saved}."
    )
    return f"{reached} {_once(module, thawed, cold)}"


def _once(module: nn.Module, thawed: StepCost, cold: StepCost) -> str:
    if cold.prefix:
        left = f"{100 * _share(cold.step, thawed.step):.1f} %"
        what = cold.cut or "the frozen prefix"
        return (
            f"The outputs of {what} can be computed once, which leaves {left} of a step; studies do so for "
            f"up to {PREFIX_BYTES // max(cold.prefix_bytes, 1):,} examples."
        )
    if type(module) is not nn.Sequential:
        return f"No cache: {cold.uncached or 'what it gives is not all that flows on'}."
    return (
        "No cache: its outputs change from step to step, by dropout, statistics of the batch, hooks or a module that "
        "is not of torch.nn."
    )


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:2])} and {len(names) - 2} more" if len(names) > 3 else ", ".join(names)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


class _Counter(FlopCounterMode):
    """Notes the operators from outside PyTorch that no formula is known for."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)
        self.uncounted: set[str] = set()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        name = str(func_packet)
        if func_packet not in self.flop_registry and not name.startswith(("aten.", "prim.", "prims.")):
            self.uncounted.add(name)
        return super()._count_flops(func_packet, out, args, kwargs)


def _convolution_backward(
    output: list[int], inputs: list[int], weight: list[int], *rest: Any, out_shape: Any = None
) -> int:
    """Each gradient takes the operations of the forward pass; PyTorch's formula forgets the groups."""
    transposed, asked = rest[4], rest[7]
    return conv_flop_count(inputs, weight, output, transposed) * (bool(asked[0]) + bool(asked[1]))


def _lstm(inputs: list[int], weights: list[int], recurrent: list[int], *_: Any, **__: Any) -> int:
    return 2 * prod(inputs[:-1]) * (prod(weights) + prod(recurrent))


def _lstm_backward(inputs: list[int], weights: list[int], recurrent: list[int], *_: Any, **__: Any) -> int:
    return 2 * _lstm(inputs, weights, recurrent)


def _attention(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    output: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(output, query, key, value)


def _trilinear(first: list[int], second: list[int], third: list[int], *expand: Any, **__: Any) -> int:
    """Products over all dimensions of three tensors, each with dimensions of 1 put in; of two factors each."""
    shapes = []
    for shape, ones in zip((first, second, third), expand[:3], strict=True):
        left = iter(shape)
        shapes.append([1 if dim in ones else next(left) for dim in range(len(shape) + len(ones))])
    return 2 * prod(map(max, zip(*shapes, strict=True)))


def _vector(matrix: list[int], _: list[int], **__: Any) -> int:
    return 2 * prod(matrix)


def _shifted_vector(_: list[int], matrix: list[int], vector: list[int], **__: Any) -> int:
    return _vector(matrix, vector)


def _grouped(left: list[int], right: list[int], *_: Any, **__: Any) -> int:
    """Products of groups of rows, or of columns, which together have the sizes of one product."""
    groups = left[0] if len(left) == len(right) == 3 else 1
    return 2 * groups * left[-2] * left[-1] * right[-1]


_FORMULAS = {
    getattr(torch.ops.aten, name): formula
    for name, formula in {
        "convolution_backward": _convolution_backward,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "mkldnn_rnn_layer": _lstm,
        "mkldnn_rnn_layer_backward": _lstm_backward,
        "_grouped_mm": _grouped,
        "_trilinear": _trilinear,
        "mv": _vector,
        "dot": _vector,
        "addmv": _shifted_vector,
    }.items()
    if hasattr(torch.ops.aten, name)  # not every version has each
}
"""What PyTorch's counter has no formula for, or a wrong one."""
