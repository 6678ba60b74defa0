"""The cut of a network: the last call of its forward pass up to which nothing trains, and how to go on from there.

The forward pass is watched on an example, operation by operation. Calls of modules that return before the first
operation on something that trains, before random numbers, batch statistics and changes of buffers, give the same for an
example each time. The last of them whose output is all that flows on is the cut. A replay is the network's own forward
pass in which the calls before the cut are left out and the cut returns what it gave before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from letitgo.errors import BadRequest, WorkFailed, named
from letitgo.weights.prefix import ends_where_it_trains, frozen_prefix, hooked, trains_whole
from letitgo.weights.state import undisturbed

Mode = Literal["", "replay", "capture"]
RANDOM, BATCH = "draws random numbers", "takes statistics of the batch"


@dataclass(frozen=True)
class _Blank:
    """What is known of a tensor that is left out, of an example of so many."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    examples: int

    def filled(self, batch: int, device: torch.device, value: float | None) -> Tensor:
        """A tensor in its place, for a batch of another size; without a value, whatever lies in memory."""
        shape = (batch, *self.shape[1:]) if self.shape[:1] == (self.examples,) else self.shape
        if value is None:
            return torch.empty(shape, dtype=self.dtype, device=device)
        return torch.full(shape, value if self.dtype.is_floating_point else 0, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class _Output:
    """What a call returned, blanks in place of its tensors."""

    leaves: tuple[Any, ...]
    spec: TreeSpec

    @classmethod
    def of(cls, value: Any, examples: int) -> _Output | None:
        """None where something in it is neither a tensor nor a plain value."""
        leaves, spec = tree_flatten(value)
        if not all(leaf is None or isinstance(leaf, (Tensor, bool, int, float, str)) for leaf in leaves):
            return None
        blanks = (_Blank(tuple(x.shape), x.dtype, examples) if isinstance(x, Tensor) else x for x in leaves)
        return cls(tuple(blanks), spec)

    @property
    def tensors(self) -> list[_Blank]:
        return [leaf for leaf in self.leaves if isinstance(leaf, _Blank)]

    def blank(self, batch: int, device: torch.device, value: float | None = None) -> list[Any]:
        """Its leaves, for a batch of some size."""
        return [leaf.filled(batch, device, value) if isinstance(leaf, _Blank) else leaf for leaf in self.leaves]

    def __deepcopy__(self, memo: Any) -> _Output:
        return self

    def tree(self, leaves: list[Any]) -> Any:
        return tree_unflatten(leaves, self.spec)


@dataclass(eq=False)
class _Call:
    """A call of a module that returned before anything stopped the watch."""

    name: str
    module: nn.Module
    parent: _Call | None
    output: _Output | None = None
    grows: bool = False  # asks for a gradient
    begins: int = 0  # place among all calls
    weights: int = 0  # how many tensors of the network had been read when it returned


def _memory(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and other kinds without a storage
        return id(tensor)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    given = _given(func, args, kwargs)
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return _tensors([given.get(name) for name in changed])


def _given(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """What an operation is called with by name, defaults too, which are left out on the way there."""
    arguments = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return {**defaults, **dict(zip([argument.name for argument in arguments], args, strict=False)), **kwargs}


def _restless(func: Any, args: Any, kwargs: Any) -> str:
    """Why an operation need not give the same for an example each time; nothing where it does."""
    given = _given(func, args, kwargs)
    if torch.Tag.nondeterministic_seeded in func.tags and given.get("dropout_p", 1):
        return RANDOM
    name = str(func)
    if "batch_norm" in name and "backward" not in name and (given.get("training") or "update" in name):
        return BATCH
    return ""


class _Watch(TorchDispatchMode):
    """Watches a forward pass for what ends the part that is computed once.

    Attributes:
        calls: Those that returned before the end, in the order they returned.
        stop: What the end was; nothing if there was none.
        trains: Whether that was something that trains, or something did later.
        lost: The first module that used a frozen parameter after the end and before anything trained.
        used: Names of the network's tensors read before the end.
    """

    def __init__(self, module: nn.Module, examples: int) -> None:
        super().__init__()
        self._examples = examples
        self._names = {part: name for name, part in module.named_modules()}
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self._owned = {(_memory(tensor), tensor.storage_offset()): (name, tensor) for name, tensor in tensors}
        self._memories = {_memory(tensor) for _, tensor in tensors}
        self._open: list[_Call] = []
        self._begun = 0
        self.calls: list[_Call] = []
        self.stop, self.lost, self.trains = "", "", False
        self.used: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.trains:
            self._note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: Any, kwargs: Any) -> None:
        places = ((_memory(tensor), tensor.storage_offset()) for tensor in _tensors((args, kwargs)))
        read = [self._owned[place] for place in places if place in self._owned]
        where = self._open[-1].name if self._open else ""
        if moving := [name for name, tensor in read if tensor.requires_grad]:
            self.trains, self.stop = True, self.stop or f"{moving[0]} trains"
        elif self.stop:
            self.lost = self.lost or (where if any(isinstance(tensor, nn.Parameter) for _, tensor in read) else "")
        elif reason := _restless(func, args, kwargs):
            self.stop = f"{where or 'the network'} {reason}"
        elif any(_memory(tensor) in self._memories for tensor in _written(func, args, kwargs)):
            of_batch = self._open and isinstance(self._open[-1].module, _NormBase)
            self.stop = f"{where or 'the network'} {BATCH if of_batch else 'changes a buffer in its forward pass'}"
        else:
            self.used |= dict.fromkeys(name for name, _ in read)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is called within."""
        handles = [register_module_forward_pre_hook(self._begins), register_module_forward_hook(self._ends)]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _begins(self, part: nn.Module, args: Any) -> None:
        if part in self._names:
            parent = self._open[-1] if self._open else None
            self._begun += 1
            self._open.append(_Call(self._names[part], part, parent, begins=self._begun))
            self._drawn = _python_draws()

    def _ends(self, part: nn.Module, args: Any, output: Any) -> None:
        if part not in self._names:
            return
        call = self._open.pop()
        if self.stop:
            return
        if _python_draws() != self._drawn:
            self.stop = f"{call.name or 'the network'} {RANDOM}"
        elif call.name and hooked(part):
            self.stop = f"{call.name} has hooks or a forward pass of its own"
        else:
            call.output, call.weights = _Output.of(output, self._examples), len(self.used)
            call.grows = any(tensor.requires_grad for tensor in _tensors(output))
            self.calls.append(call)


def _python_draws() -> tuple[Any, ...]:
    of_numpy = np.random.get_state()
    return random.getstate(), of_numpy[2], of_numpy[1].tobytes()  # type: ignore[union-attr]


class _Flow(TorchDispatchMode):
    """Follows what comes of tensors that are left out, and notes which are used past the cut.

    Attributes:
        leaked: What is used past the cut, or decides something before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[int, set[Any]] = {}
        self._alive: list[Any] = []  # so that no memory is used twice
        self.past = False
        self.leaked: set[Any] = set()

    def mark(self, tensors: list[Tensor], labels: set[Any]) -> None:
        for tensor in tensors:
            self._labels.setdefault(_memory(tensor), set()).update(labels)
            self._alive.append(tensor)

    def of(self, tree: Any) -> set[Any]:
        """Labels of what tensors came of."""
        return set().union(*(self._labels.get(_memory(tensor), ()) for tensor in _tensors(tree)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        shape_alone = name.endswith("_like") or name.startswith("new_")
        read = set() if shape_alone else self.of((args, kwargs))
        output = func(*args, **kwargs)
        if read:
            self.mark(_tensors(output) + _written(func, args, kwargs), read)
            if self.past or not _tensors(output):
                self.leaked |= read
        return output


class _Reached(BaseException):
    """The cut has returned: nothing after it is asked for. No error, so that no network catches it."""


@dataclass(eq=False)
class _Replay:
    """What the calls of one forward pass are to do. Shared by all modules that have one left out."""

    mode: Mode = ""
    kept: Tensor | None = None  # what the cut gave
    value: float | None = None
    flow: _Flow | None = None
    reached: bool = False
    done: dict[nn.Module, int] = field(default_factory=dict)

    def begin(self, mode: Mode, kept: Tensor | None = None) -> None:
        self.mode, self.kept, self.reached = mode, kept, False
        self.done.clear()

    def end(self) -> None:
        self.mode, self.kept = "", None


@dataclass(frozen=True, eq=False)
class _Step:
    """What becomes of a call: left out, the cut, or made as ever."""

    what: Literal["left out", "cut", "made"]
    call: _Call


def _forward(part: nn.Module, replay: _Replay, steps: list[_Step], *args: Any, **kwargs: Any) -> Any:
    """The forward pass of a module of which some calls may be left out."""
    count = replay.done.get(part, 0)
    if not replay.mode or count >= len(steps):
        return type(part).forward(part, *args, **kwargs)
    replay.done[part] = count + 1
    step = steps[count]
    capturing = replay.mode == "capture"
    if step.what == "made" or (capturing and step.what == "left out"):
        within, replay.mode = replay.mode, ""  # calls within are not counted
        try:
            return type(part).forward(part, *args, **kwargs)
        finally:
            replay.mode = within
    output = step.call.output
    assert output is not None
    if capturing:
        replay.mode = ""
        replay.kept = _tensors(type(part).forward(part, *args, **kwargs))[0]
        raise _Reached
    if step.what == "cut":
        replay.reached = True
        if replay.flow is not None:
            replay.flow.past = True
        return output.tree([replay.kept if isinstance(leaf, _Blank) else leaf for leaf in output.leaves])
    assert replay.kept is not None
    found = output.tree(output.blank(len(replay.kept), replay.kept.device, replay.value))
    if replay.flow is not None:
        replay.flow.mark(_tensors(found), {step.call})
    return found


def takes_features(part: nn.Module) -> bool:
    """Whether a module leaves out calls in a replay."""
    forward = vars(part).get("forward")
    return isinstance(forward, partial) and forward.func is _forward


class Cut:
    """Where a network's forward pass is cut, made by :func:`find_cut`.

    Attributes:
        name: Of the module whose output is kept; nothing for the network itself.
        used: Names of the parameters and buffers that the output depends on.
        needed: Places of the inputs, among the leaves of ``(args, kwargs)``, that the rest uses too.
        shape: Of what is kept of one example.
        dtype: Its type.
    """

    def __init__(self, module: nn.Module, call: _Call, used: tuple[str, ...], inputs: _Output) -> None:
        assert call.output is not None
        self._module, self._call, self._replay, self._inputs = module, call, _Replay(), inputs
        kept = call.output.tensors[0]
        self.name, self.used, self.needed = call.name, used, ()
        self._steps: dict[nn.Module, list[_Step]] = {}
        self.shape, self.dtype = kept.shape[1:], kept.dtype
        self._parts: list[nn.Module] = []

    @property
    def bytes(self) -> int:
        """Size of what is kept of one example."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def install(self) -> None:
        """Let modules leave out calls in a replay. Otherwise they do what they did."""
        for part, own in self._steps.items():
            part.forward = partial(_forward, part, self._replay, own)  # type: ignore[method-assign]
            self._parts.append(part)

    @contextmanager
    def installed(self) -> Iterator[Cut]:
        """The network with the cut installed; then it is as it was."""
        self.install()
        try:
            yield self
        finally:
            self.remove()

    def remove(self) -> None:
        """Give the modules their forward pass back."""
        for part in self._parts:
            vars(part).pop("forward", None)
        self._parts.clear()

    @property
    def parts(self) -> list[nn.Module]:
        """The modules that have calls left out, and the cut."""
        return [part for part, steps in self._steps.items() if any(step.what != "made" for step in steps)]

    def capture(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the cut gives for some inputs, shape (N, ...). The network has to be installed."""
        self._replay.begin("capture")
        try:
            self._module(*args, **kwargs)
        except _Reached:
            kept = self._replay.kept
            assert kept is not None
            return kept.detach()
        finally:
            self._replay.end()
        raise WorkFailed(f"{self._where} was not called this time: the network runs its parts in an order that changes")

    def begin(self, kept: Tensor) -> None:
        """From now on until :meth:`end` calls before the cut are left out, and the cut gives ``kept``."""
        self._replay.begin("replay", kept)

    def end(self) -> bool:
        """Make all calls again; tells whether the cut was reached."""
        self._replay.end()
        return self._replay.reached

    def blanks(self, batch: int, device: torch.device) -> list[Any]:
        """Leaves of ``(args, kwargs)`` to call the network with in a replay, for a batch of some size."""
        return self._inputs.blank(batch, device, self._replay.value)

    def rest(self, kept: Tensor, inputs: Mapping[int, Tensor]) -> Any:
        """The network's outputs from what the cut gave and the inputs that are needed besides, by their places."""
        leaves = self.blanks(len(kept), kept.device)
        for place, tensor in inputs.items():
            leaves[place] = tensor
        args, kwargs = self._inputs.tree(leaves)
        self.begin(kept)
        try:
            output = self._module(*args, **kwargs)
        finally:
            reached = self.end()
        if not reached:
            raise WorkFailed(f"{self._where} was not called this time: the network runs its parts in another order")
        return output

    @property
    def _where(self) -> str:
        return self.name or "the network"

    def _fits(self, before: list[_Call], leaves: list[Any], device: torch.device) -> bool:
        """Whether the output is all that flows on; which calls are made all the same, and which inputs are needed."""
        assert self._call.output is not None
        blank = self._call.output.tensors[0]
        kept, made = blank.filled(blank.examples, device, 0.0), set[_Call]()
        while True:
            self._steps = _steps(self._call, before, made)
            leaked = self._leaks(leaves, kept)
            if leaked is None:
                return False
            calls = {label for label in leaked if isinstance(label, _Call)}
            self.needed = tuple(sorted(label for label in leaked if not isinstance(label, _Call)))
            if not calls:
                return True
            if calls & made or any(True for call in calls for _ in call.module.parameters()):
                return False
            made |= calls  # such as angles of positions, which every block is handed

    def _leaks(self, leaves: list[Any], kept: Tensor) -> set[Any] | None:
        """What is used past the cut of calls before it and of inputs; None where a replay fails."""
        flow = self._replay.flow = _Flow()
        self.install()
        try:
            with flow:
                for place, leaf in enumerate(leaves):
                    if isinstance(leaf, Tensor):
                        flow.mark([leaf], {place})
                output = self.rest(kept, {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)})
            return flow.leaked | flow.of(output)
        except Exception:
            return None
        finally:
            self._replay.flow = None
            self.remove()

    def _proved(self, leaves: list[Any]) -> bool:
        """Whether a replay gives the bits of the whole forward pass, with nothing sound where things are left out."""
        args, kwargs = self._inputs.tree(leaves)
        with undisturbed(self._module, "cut"):
            whole = _tensors(self._module(*args, **kwargs))
        self.install()
        try:
            with undisturbed(self._module, "cut"):
                kept = self.capture(*args, **kwargs)
            self._replay.value = float("nan")
            with undisturbed(self._module, "cut"):
                found = _tensors(self.rest(kept.contiguous(), {i: leaves[i] for i in self.needed}))
        finally:
            self._replay.value = None
            self.remove()
        return len(whole) == len(found) and all(map(torch.equal, whole, found))


def _steps(cut: _Call, before: list[_Call], made: set[_Call]) -> dict[nn.Module, list[_Step]]:
    """For each module what becomes of its calls, in their order: those within calls that are left out do not count."""
    closed = {*before, cut}
    found: dict[nn.Module, list[_Step]] = {}
    for call in sorted((call for call in closed if call.parent not in closed), key=lambda call: call.begins):
        what = "cut" if call is cut else "made" if call in made else "left out"
        found.setdefault(call.module, []).append(_Step(what, call))
    return found


def _can_be(call: _Call, before: list[_Call], examples: int) -> bool:
    """Whether a call gives one tensor with a row for each example after parameters were used, and can stand for all."""
    tensors = call.output.tensors if call.output is not None else []
    if len(tensors) != 1 or call.grows or not call.weights or any(other.output is None for other in before):
        return False
    around, at = set(), call.parent
    while at is not None:
        around.add(at.module)
        at = at.parent
    if any(other.module in around for other in (*before, call)):  # a module that calls itself
        return False
    return tensors[0].shape[:1] == (examples,) and tensors[0].dtype.is_floating_point


def find_cut(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Cut | None, _Watch]:
    """Find the last call of a forward pass up to which nothing trains and whose output is all that flows on.

    Args:
        module: In the modes it trains in. It is left as it was.
        args: Two examples or more, first dimensions alike; on ``meta``, and of fake tensors, nothing is computed and
            nothing proved.
        kwargs: The same by keyword.

    Returns:
        The cut, or None where there is none, and what was seen.

    Raises:
        BadRequest: The network does not take the example.
    """
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or (inputs := _Output.of((args, kwargs), len(tensors[0]))) is None:
        raise BadRequest("the network is to be called with tensors")
    watch = _Watch(module, len(tensors[0]))
    try:
        with undisturbed(module, "cut"), watch.watching():
            module(*args, **kwargs)
    except Exception as error:
        raise BadRequest(f"the network does not take the example: {named(error)}") from error
    for i in reversed(range(len(watch.calls))):
        call, before = watch.calls[i], watch.calls[:i]
        if not _can_be(call, before, len(tensors[0])):
            continue
        cut = Cut(module, call, tuple(watch.used)[: call.weights], inputs)
        with undisturbed(module, "cut"):
            fits = cut._fits(before, leaves, tensors[0].device)
        if fits and (tensors[0].is_meta or isinstance(tensors[0], FakeTensor) or cut._proved(leaves)):
            return cut, watch
    return None, watch


def find_prefix(
    module: nn.Module, *args: Any, **kwargs: Any
) -> tuple[tuple[nn.Sequential, nn.Sequential] | None, Cut | None, str]:
    """Find what can be computed once: of a chain of known links by their classes, of other networks by a cut.

    Args:
        module: In the modes it trains in. It is left as it was.
        args: As for :func:`find_cut`.
        kwargs: The same by keyword.

    Returns:
        The prefix and the rest of a chain, or the cut that goes further than that; both None where there is neither.
        And what ended the search for a cut, if there was one.
    """
    parts = frozen_prefix(module)
    if ends_where_it_trains(module) or trains_whole(module):
        return parts, None, ""
    cut, watch = find_cut(module, *args, **kwargs)
    if cut is not None and parts is not None:
        known = {id(tensor) for tensor in (*parts[0].parameters(), *parts[0].buffers())}
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        cut = None if all(id(tensors[name]) in known for name in cut.used) else cut
    return (parts if cut is None else None), cut, watch.stop
