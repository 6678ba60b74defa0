"""The recipe: everything a run is trained on, in the words a person writes.

This module is read for ``--help``, so it imports torch only where it works.
"""

from __future__ import annotations

from dataclasses import field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from letitgo.checked import checked
from letitgo.errors import BadRequest
from letitgo.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import nn

    from letitgo.code import Code
    from letitgo.recipes.data import Data
    from letitgo.recipes.networks import Network
    from letitgo.recipes.own import Own

BUILT_IN = (
    "fcn, lenet-300-100, lenet, conv2, conv4, conv6, vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet56, wrn28, "
    "densenet-bc, lstm (for text), transformer (for sequences)"
)


Precision = Literal["fp32", "bf16"]
MemoryFormat = Literal["contiguous", "channels-last"]


def _named(task: Any) -> Any:
    """The name of a task that is given as an object."""
    if task is None or isinstance(task, str) or not hasattr(task, "train"):
        return task
    from letitgo.recipes.live import registered

    return registered(task)


def does_not_apply(field: str, task: Any) -> str:
    """That a task with training code of its own leaves a field without a meaning."""
    return f"{field.replace('_', '-')} does not apply to {task!r}, which trains with its own code"


if TYPE_CHECKING:
    TaskName = Any  # an object too, which is named
else:
    TaskName = Annotated[
        str | None, Field(pattern=":|^(classification|next-word|regression)$"), BeforeValidator(_named)
    ]


def _joined(widths: Any) -> Any:
    """One width or several as text: 300x100."""
    if isinstance(widths, int) and not isinstance(widths, bool):
        return str(widths)
    return "x".join(map(str, widths)) if isinstance(widths, (tuple, list)) else widths


@checked
@dataclass(frozen=True, eq=False, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe(Value):
    """A network, data, and how the one is trained on the other.

    By default the data decide the task: to classify images, or to predict the next word of a text.

    Raises:
        BadRequest: A field is wrong: one sentence on each.
    """

    SHAPES: ClassVar[dict[str, str]] = {
        "warmup": "write steps as in 500it, or epochs as in 5ep",
        "fit": "write channels (1 or 3), height and width, as in 1x28x28",
        "task": "write classification, next-word or regression, or package.module:Class",
        "widths": "write 256, or 300x100 for the layers one by one",
    }

    model: Annotated[
        str,
        Field(
            description=f"network: {BUILT_IN}; timm:NAME, torchvision:NAME, transformers: with a type of model, a "
            "configuration or a hub id; or an import path package.module:factory"
        ),
    ] = "fcn"
    widths: Annotated[
        str | None,
        Field(pattern=r"^[1-9]\d*(x[1-9]\d*)*$", description="units of the hidden layers: 256, or 300x100 one by one"),
        BeforeValidator(_joined),
    ] = None
    depth: Annotated[int | None, Field(ge=0, description="number of hidden layers, for a single width")] = None
    model_args: Annotated[dict[str, Any], Field(description="further arguments of the network's factory, as JSON")] = (
        field(default_factory=dict)
    )
    data: Annotated[
        str,
        Field(
            description="data: digits, mnist, fashion_mnist, cifar10, a Hugging Face id, a folder, a table (.csv, "
            ".tsv, .jsonl, .parquet), python-manual, a text file, or an import path package.module:make"
        ),
    ] = "digits"
    task: Annotated[
        TaskName,
        Field(
            description="what is learned: classification, regression, next-word, an import path package.module:Class, "
            "or package.module:make of a task with training code of its own [default: as the data ask for]",
        ),
    ] = None
    loss: Annotated[
        str | None,
        Field(
            description="loss: a name in torch.nn.functional, such as huber_loss, or an import path "
            "package.module:function [default: the task's]"
        ),
    ] = None
    loss_args: Annotated[dict[str, Any], Field(description="further arguments of the loss, as JSON")] = field(
        default_factory=dict
    )
    metric: Annotated[
        str | None,
        Field(
            description="what networks are judged by: accuracy, balanced_accuracy, f1_macro, r2, rmse, mae, …, or an "
            "import path package.module:function [default: the task's]"
        ),
    ] = None
    target: Annotated[
        str | None, Field(description="column of a table to predict [default: label, labels, target or y]")
    ] = None
    text: Annotated[
        str | None, Field(description="column of a table that is a text to classify [default: the one of words]")
    ] = None
    length: Annotated[
        int | None,
        Field(ge=1, description="words of a sequence, cut or filled up [default: the longest's, at most 128]"),
    ] = None
    shift: Annotated[
        Literal["none", "invert", "noise", "permute-labels", "permute-pixels"],
        Field(description="what is done to the data: none, invert, noise, permute-labels, permute-pixels"),
    ] = "none"
    examples: Annotated[
        int | None, Field(ge=1, description="number of training examples, chosen at random [default: all]")
    ] = None
    test_examples: Annotated[
        int | None,
        Field(ge=1, description="number of test examples, chosen at random, the same for all [default: all]"),
    ] = None
    half: Annotated[
        Literal["none", "a", "b"], Field(description="only one half of the training examples: a, b or none")
    ] = "none"
    fit: Annotated[
        str | None,
        Field(
            pattern=r"^[13]x[1-9]\d*x[1-9]\d*$",
            description="shape that images are brought to, as in 1x28x28: grey-scale, padding, cropping, no scaling",
        ),
    ] = None
    pixels: Annotated[
        Literal["standard", "unit"],
        Field(description="how pixels reach the network: standard (mean 0, deviation 1) or unit (0 to 1)"),
    ] = "standard"
    vocabulary: Annotated[
        int | None, Field(ge=2, description="number of words of a text, rarer ones counted as one [default: 1000]")
    ] = None
    validation: Annotated[
        int, Field(ge=0, description="training examples held out, to tell when the loss on them is least")
    ] = 0
    augment: Annotated[
        Literal["none", "flip", "crop", "flip+crop"],
        Field(
            description="what is done to training images anew in each epoch: flip (mirror half of them), crop (move by "
            "up to 4 pixels on black), flip+crop, none"
        ),
    ] = "none"
    label_noise: Annotated[
        float, Field(ge=0, le=1, description="share of the training labels replaced by random ones")
    ] = 0.0
    optimizer: Annotated[str, Field(description="a name in torch.optim, or an import path package.module:Class")] = (
        "sgd"
    )
    lr: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="learning rate (sgd: 0.05; others: PyTorch's own)")
    ] = None
    momentum: Annotated[
        float | None,
        Field(ge=0, lt=1, description="momentum, where the optimiser has it (sgd: 0.9; others: their own)"),
    ] = None
    weight_decay: Annotated[
        float | None, Field(ge=0, allow_inf_nan=False, description="weight decay (sgd: 0; others: PyTorch's own)")
    ] = None
    decay: Annotated[
        Literal["all", "weights"],
        Field(
            description="what weight decay acts on: all, or weights (of two dimensions or more: no norms, no biases)"
        ),
    ] = "all"
    nesterov: Annotated[
        bool | None, Field(description="Nesterov's momentum, true or false [default: the optimiser's own]")
    ] = None
    optimizer_args: Annotated[dict[str, Any], Field(description="further arguments of the optimiser, as JSON")] = field(
        default_factory=dict
    )
    clip: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="largest norm of the gradient at a step [default: no limit]"),
    ] = None
    schedule: Annotated[
        str,
        Field(
            description="learning rate over training: constant, linear (to 0), cosine, step (×0.2 at 30, 60, 90 %), "
            "0.1@80ep+120ep (×0.1 at each), or an import path"
        ),
    ] = "step"
    warmup: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9]\d*(it|ep)$",
            description="over which the learning rate rises to the schedule's, as in 500it or 5ep [default: none]",
        ),
    ] = None
    epochs: Annotated[int, Field(ge=1, le=10**9, description="passes over the training data")] = 30
    iterations: Annotated[
        int | None,
        Field(ge=1, le=10**9, description="steps of training, in place of epochs; the last epoch may be cut short"),
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="examples per step")] = 128
    precision: Annotated[
        Precision,
        Field(description="of the forward pass and the loss: fp32, or bf16 by autocast; weights stay in fp32"),
    ] = "fp32"
    memory_format: Annotated[
        MemoryFormat,
        Field(description="how images lie in memory: contiguous, or channels-last, for convolutions"),
    ] = "contiguous"
    seed: Annotated[int, Field(ge=0, description="seed of the initial weights and of the order of the data")] = 0

    def __post_init__(self) -> None:
        if self.own is None:
            if self.iterations is not None:
                object.__setattr__(self, "epochs", -(-self.iterations // self.steps_per_epoch))
            return
        stated = self.own_fields
        for name, default in self._defaults.items():
            value = getattr(self, name)
            if name not in ("task", "model_args", "seed") and value not in (default, stated.get(name, default)):
                raise BadRequest(does_not_apply(name, self.task))
        for name, value in stated.items():
            object.__setattr__(self, name, value)

    @property
    def own_fields(self) -> dict[str, Any]:
        """What a task of the user's own says itself of the fields."""
        return {"model": self.task, "data": "own", "epochs": self.own.epochs} if self.own else {}

    @property
    def _defaults(self) -> dict[str, Any]:
        found = fields(self)  # type: ignore[arg-type]
        return {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in found}

    @cached_property
    def own(self) -> Own | None:
        """The task of the user's own that trains and judges networks; None where letitgo does."""
        if self.task is None or ":" not in self.task:
            return None
        from letitgo.recipes.own import is_own, open_own

        return open_own(self.task, self.model_args) if is_own(self.task) else None

    def identity(self) -> dict[str, Any]:
        if self.own is not None:
            return {"own": self.own, "seed": self.seed}
        optimizer = self.optimizer if ":" in self.optimizer else self.optimizer.lower()
        of_optimizer, of_schedule = self._codes

        return {
            "network": self.network,
            "dataset": self.dataset,
            **({} if self.augment == "none" else {"augment": self.augment}),
            "label_noise": self.label_noise,
            "optimizer": [optimizer, of_optimizer or ""],
            "optimizer_args": self.all_optimizer_args,
            **({} if self.decay == "all" else {"decay": self.decay}),
            **({} if self.clip is None else {"clip": self.clip}),
            "schedule": [self.schedule, of_schedule or ""],
            **({} if self.warmup is None else {"warmup": self.warmup}),
            "epochs": self.epochs,
            **({"iterations": self.steps} if self.steps % self.steps_per_epoch else {}),
            "batch_size": self.batch_size,
            **self.arithmetic,
            "seed": self.seed,
        }

    @property
    def arithmetic(self) -> dict[str, Any]:
        """How networks are computed, as far as that is not the default."""
        usual = self._defaults
        found = {"precision": self.precision, "memory_format": self.memory_format}
        return {name: value for name, value in found.items() if value != usual[name]}

    @property
    def _codes(self) -> tuple[Code, Code]:
        from letitgo.code import code_of
        from letitgo.recipes.optimizers import find_optimizer, find_schedule

        optimizer, schedule = self.optimizer, self.schedule
        return code_of(optimizer, find_optimizer(optimizer)), code_of(schedule, find_schedule(schedule))

    @property
    def covered(self) -> list[str]:
        """What the key covers that is not letitgo's: modules, installed distributions with versions, opened files."""
        codes = (self.network.code, *(() if self.own else self._codes))
        code = {name: about for part in codes for name, about in part.items()}
        names = [name if len(about) == 64 else f"{name} {about}" for name, about in sorted(code.items())]
        return names + sorted(self.network.files)

    @cached_property
    def dataset(self) -> Data:
        """The data; of a task of the user's own, what stands for them: :class:`letitgo.recipes.own.Own`."""
        if self.own is not None:
            return self.own  # type: ignore[return-value]
        from letitgo.recipes import steps
        from letitgo.recipes.data import open_data
        from letitgo.recipes.tasks import customised, find_task

        chain = (
            None if self.vocabulary is None else steps.Vocabulary(self.vocabulary),
            None if self.length is None else steps.Length(self.length),
            None if self.fit is None else steps.Fit(self.fit),
            None if self.shift == "none" else steps.Shift(self.shift),
            None if self.half == "none" else steps.Half(self.half),
            steps.HoldOut(self.validation) if self.validation else None,
            None if self.examples is None else steps.Examples(self.examples, self.seed),
            None if self.pixels == "standard" else steps.Pixels(self.pixels),
            None if self.test_examples is None else steps.TestExamples(self.test_examples),
        )
        columns = tuple((name, value) for name in ("target", "text") if (value := getattr(self, name)) is not None)
        task = None if self.task is None else find_task(self.task)
        found = open_data(self.data, *(step for step in chain if step is not None), task=task, columns=columns)
        if self.augment != "none" and found.kind != "images":
            raise BadRequest(f"augment is for images: {self.data!r} holds {found.kind}")
        if self.label_noise and found.split("train").labels.is_floating_point():
            raise BadRequest("label-noise is for classes: a regression has none")
        task = customised(found.task, self.loss, self.loss_args, self.metric)
        return found if task == found.task else replace(found, other_task=task)

    @cached_property
    def network(self) -> Network:
        if self.own is not None:
            return self.own.network
        from letitgo.recipes.networks import find_network

        args = dict(self.model_args)
        if self.widths is not None:
            args["widths"] = [int(width) for width in self.widths.split("x")]
        if self.depth is not None:
            args["depth"] = self.depth
        data = self.dataset
        return find_network(self.model, data.shape, data.outputs, args, data.kind, data.vocabulary)

    @cached_property
    def all_optimizer_args(self) -> dict[str, Any]:
        """Every argument the optimiser is called with besides the parameters, those not given by name too."""
        from letitgo.recipes.optimizers import optimizer_args

        named = {name: getattr(self, name) for name in ("lr", "momentum", "weight_decay", "nesterov")}
        given = {name: value for name, value in named.items() if value is not None}
        return optimizer_args(self.optimizer, given | self.optimizer_args)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters and no others.

        Raises:
            BadRequest: It refuses its arguments or the parameters.
        """
        from letitgo.recipes.optimizers import make_optimizer

        return make_optimizer(self.optimizer, self.all_optimizer_args, parameters, self.decay)

    @cached_property
    def rate(self) -> Callable[[int], float]:
        """From a step to the factor on the learning rate.

        Raises:
            BadRequest: There is no such schedule.
        """
        from letitgo.recipes.optimizers import make_rate

        return make_rate(self.schedule, self.warmup, self.steps, self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """The last batch of an epoch may be smaller. A task of the user's own is asked epoch by epoch alone."""
        if self.own is not None:
            return 1
        return -(-len(self.dataset.split("train")) // self.batch_size)

    @property
    def steps(self) -> int:
        """All of them: where the length is in iterations, the last epoch may be cut short."""
        return self.iterations or self.epochs * self.steps_per_epoch
