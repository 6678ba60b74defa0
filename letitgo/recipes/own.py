"""Training code of one's own: an object with ``model()``, ``train(model, seed)`` and ``evaluate(model)``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from letitgo.code import Code
from letitgo.errors import BadRequest, WorkFailed, named, typed
from letitgo.imports import arguments, import_object
from letitgo.recipes import live
from letitgo.recipes.networks import Network, check_arguments, code_of_factory
from letitgo.recipes.tasks import Metric, Task, packed
from letitgo.value import Value, canonical
from letitgo.weights.state import drawing_from, seeded

EXAMPLES = 2
"""Inputs that operations are counted with; norms need two."""

ASSUMED = 1000
"""Test examples that a task is taken to have, where ``evaluate`` does not give ``n``."""

_MADE: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class OwnNetwork(Network):
    """The network of a task of the user's own. Its factory makes the task, which makes the network."""

    @property
    def task(self) -> Any:
        """The task, made once in a process, under a seed that is always the same.

        Raises:
            BadRequest: The factory raises.
        """
        about = canonical(self.fields())
        if about not in _MADE:
            with _disable_current_modes(), drawing_from("task"):  # nothing that it draws counts as a weight
                _MADE[about] = self._called("task")
        return _MADE[about]

    def _called(self, what: str) -> Any:
        return live.found(self.factory)[0] if self.factory.startswith(live.LIVE) else super()._called(what)

    def _code_now(self) -> Code:
        return live.found(self.factory)[1] if self.factory.startswith(live.LIVE) else super()._code_now()

    def _build(self) -> Any:
        try:
            return self.task.model()
        except BadRequest:
            raise
        except (Exception, SystemExit) as error:
            raise BadRequest(f"model() of the task {self.factory!r} raises {named(error)}") from error

    def _built_anew(self) -> None:
        _MADE.pop(canonical(self.fields()), None)
        super()._built_anew()


@dataclass(frozen=True, eq=False)
class Own(Value):
    """What a network is trained and judged with, by a task of the user's own. Stands where data would.

    Attributes:
        network: The task's.
    """

    network: OwnNetwork

    def __post_init__(self) -> None:
        task, path = self._task, self.network.factory
        for name, call in (("model", "model()"), ("train", "train(model, seed)"), ("evaluate", "evaluate(model)")):
            if not callable(getattr(task, name, None)):
                raise BadRequest(f"the task {path!r} gives {typed(task)} without {call}")
        if type(self.epochs) is not int or self.epochs < 1:
            raise BadRequest(f"epochs of the task {path!r} is {self.epochs!r}: give a whole number of at least 1")
        if self.epochs > 1 and not self.pauses:
            raise BadRequest(
                f"the task {path!r} states {self.epochs} epochs, so train has to be a generator that yields after "
                "each; leave epochs out if it is not"
            )
        self.metric  # noqa: B018  (refused where it is no name)

    @property
    def _task(self) -> Any:
        return self.network.task

    @property
    def is_live(self) -> bool:
        """Whether the task is an object of this process, which no other can import."""
        return self.network.factory.startswith(live.LIVE)

    @property
    def has_changed(self) -> bool:
        """Whether the object holds something else than when it was named."""
        return self.is_live and live.registered(self.network.task) != self.network.factory

    @property
    def task(self) -> Own:
        """Itself: what stands where data would also says what is learned."""
        return self

    @property
    def metric(self) -> Metric:
        """What networks are judged by, as the task's ``metric``, ``more_is_better`` and ``share`` say."""
        name: Any = getattr(self._task, "metric", "accuracy")
        if not isinstance(name, str) or not name:
            raise BadRequest(
                f"metric of the task {self.network.factory!r} is {name!r}: name a number that evaluate gives"
            )
        more, share = (getattr(self._task, of, default) for of, default in (("more_is_better", True), ("share", None)))
        return Metric(name, bool(more), name == "accuracy" if share is None else bool(share))

    @property
    def share(self) -> Metric | None:
        """The metric where it is a share, as :attr:`letitgo.recipes.tasks.Task.share`."""
        return self.metric if self.metric.share else None

    @property
    def epochs(self) -> int:
        """Times that ``train`` yields; 1 where it is no generator."""
        return getattr(self._task, "epochs", 1)

    @property
    def pauses(self) -> bool:
        """Whether ``train`` is a generator, which yields after every epoch."""
        return inspect.isgeneratorfunction(self._task.train)

    @property
    def validates(self) -> bool:
        """Whether the task judges on held-out examples too, by ``validate(model)``."""
        return callable(getattr(self._task, "validate", None))

    @property
    def resumes(self) -> bool:
        """Whether ``train`` goes on from what it yielded, which it then takes as ``resume``."""
        return "resume" in inspect.signature(self._task.train).parameters

    def constant(self, metric: Metric) -> float | None:
        """What the best prediction that ignores the inputs reaches, if the task says so."""
        return getattr(self._task, "constant", None)

    def learned(self, metric: Metric, mean: float, half: float | None) -> bool:
        """As :meth:`letitgo.recipes.data.Data.learned`."""
        constant = self.constant(metric)
        return constant is None or metric.beats(mean, half, constant)

    def train(self, module: nn.Module, seed: int, checkpoint: Any = None) -> Iterator[Any]:
        """Run the task's training code on a network.

        Yields:
            After each epoch, what the task yields; once at the end where it is no generator.

        Raises:
            WorkFailed: It raises, or returns another network.
        """
        given = {} if checkpoint is None else {"resume": checkpoint}
        try:
            found = self._task.train(module, seed, **given)
            if self.pauses:
                yield from found
                return
        except (Exception, SystemExit) as error:
            raise WorkFailed(f"train of the task {self.network.factory!r} raises {named(error)}") from error
        if isinstance(found, nn.Module) and found is not module:
            raise WorkFailed(
                f"train of the task {self.network.factory!r} returns another network: it has to train the one that it "
                "is given, in place"
            )
        yield None

    def evaluate(self, module: nn.Module, split: str = "test") -> dict[str, Any]:
        """What the task's ``evaluate`` gives, or its ``validate`` for the split ``"validation"``.

        Named numbers, None for what is infinite. Of ``correct``, booleans that say which examples are answered right, a
        bit each is kept, and their number.

        Raises:
            WorkFailed: It raises, or gives no number for the metric.
        """
        method, metric = "validate" if split == "validation" else "evaluate", self.metric.name
        what = f"{method} of the task {self.network.factory!r}"
        try:
            found = getattr(self._task, method)(module)
        except (Exception, SystemExit) as error:
            raise WorkFailed(f"{what} raises {named(error)}") from error
        if not isinstance(found, Mapping) or metric not in found:
            given = f"{', '.join(map(str, found)) or 'nothing'}" if isinstance(found, Mapping) else type(found).__name__
            raise WorkFailed(f"{what} has to give a dict with {metric!r}: it gives {given}")
        try:
            correct = torch.as_tensor(found.get("correct", ()), dtype=torch.bool, device="cpu").flatten()
            numbers = {str(name): float(value) for name, value in found.items() if name != "correct"}
        except (TypeError, ValueError, RuntimeError) as error:
            raise WorkFailed(f"{what} gives something that is no number: {error}") from error
        if isnan(numbers[metric]):
            raise WorkFailed(f"{what} gives nan for {metric!r}: training may have diverged")
        if self.metric.share and not 0 <= numbers[metric] <= 1:
            raise WorkFailed(f"{what} gives {numbers[metric]:g} for {metric!r}: a share lies between 0 and 1")
        about = {"correct": packed(correct), "n": len(correct)} if len(correct) else {}
        return {name: value if isfinite(value) else None for name, value in numbers.items()} | about

    @property
    def plain(self) -> Own:
        """Itself: nothing is known of what gives inputs another shape."""
        return self

    @cached_property
    def sample(self) -> Any:
        """Inputs of two examples to count operations with: ``example()`` of the task, or what ``evaluate`` begins with.

        Raises:
            BadRequest: There is no ``example()``, and ``evaluate`` never calls the network.
        """
        if callable(make := getattr(self._task, "example", None)):
            return make()
        module = seeded(self.network, 0)
        module.register_forward_pre_hook(_stop, with_kwargs=True)
        try:
            with drawing_from("sample"):
                self._task.evaluate(module)
        except _Called as called:
            return _few(inspect.signature(module.forward).bind(*called.args[0], **called.args[1]))
        except (Exception, SystemExit) as error:
            raise BadRequest(f"evaluate of the task {self.network.factory!r} raises {named(error)}") from error
        raise BadRequest(
            f"evaluate of the task {self.network.factory!r} never calls the model, so operations cannot be counted: "
            "give the task a method example() that returns inputs of two examples"
        )


class _Called(BaseException):
    """The network is called: its inputs are known. No exception that training code would catch."""


def _stop(module: nn.Module, args: Any, kwargs: Any) -> None:
    raise _Called(args, kwargs)


def _few(bound: inspect.BoundArguments) -> Any:
    """The first examples of what a network is called with."""
    tensors = [item for item in (*bound.args, *bound.kwargs.values()) if isinstance(item, Tensor) and item.ndim]
    size = len(tensors[0]) if tensors else None

    def cut(item: Any) -> Any:
        return item[:EXAMPLES] if isinstance(item, Tensor) and item.ndim and len(item) == size else item

    if bound.kwargs:
        return tree_map(cut, dict(bound.arguments))
    args = tree_map(cut, bound.args)
    return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args


def is_own(path: str) -> bool:
    """Whether a task's path names training code, and no subclass of :class:`Task`.

    Raises:
        BadRequest: It does not import.
    """
    if path.startswith(live.LIVE):
        return True
    found = import_object(path, "task")
    return not (isinstance(found, type) and issubclass(found, Task))


def open_own(path: str, args: dict[str, Any]) -> Own:
    """The task that a factory makes.

    Raises:
        BadRequest: There is no such factory, it does not take the arguments, or what it makes is no task.
    """
    if path.startswith(live.LIVE):
        if args:
            raise BadRequest(f"model-args are for factories: {path!r} is an object, which is made already")
        return Own(OwnNetwork(path, {}, live.found(path)[1]))
    factory = import_object(path, "task")
    check_arguments(f"task {path!r}", arguments(factory, f"task {path!r}"), args)
    with torch.enable_grad():
        return Own(OwnNetwork(path, args, code_of_factory(path, args) or ""))
