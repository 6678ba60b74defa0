"""For Hugging Face: ``Trainer(..., callbacks=[FreezeSchedule({0: ["bert"], 1: []}), ChangedWeights()])``."""

from __future__ import annotations

import warnings
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from letitgo.callbacks.changed import Changed
from letitgo.callbacks.recorder import Log
from letitgo.callbacks.schedule import Rule, Schedule
from letitgo.errors import BadRequest
from letitgo.weights import Statistics
from letitgo.weights.example import Example

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import has_length
    from transformers.training_args import ParallelMode
except ModuleNotFoundError as error:
    raise BadRequest(
        "the callbacks for the Trainer need the package transformers: pip install 'letitgo[transformers]'"
    ) from error


class FreezeSchedule(TrainerCallback):
    """Freezes and thaws by epochs, steps, shares of training or in rotation; see :class:`letitgo.callbacks.Schedule`.

    The Trainer makes its optimiser of what asks for a gradient when ``train()`` is called, so nothing is frozen by hand
    before. After training the model is given back as it was.

    Args:
        rule: When → what is frozen from then on, as in ``{0: ["bert"], "500it": ["bert.embeddings"], 0.5: []}``; or
            :class:`letitgo.callbacks.Rotate` or :class:`letitgo.callbacks.Plateau`. Steps are counted as
            ``state.global_step`` is.
        statistics: ``"frozen"`` keeps BatchNorm statistics of frozen layers too.
        thawed_lr: A factor for the learning rate of what was frozen earlier in the schedule and trains now.
        log: Is told in each process what is frozen, as by :class:`letitgo.callbacks.Recorder`; :func:`logged_by` for
            the Trainer's own.
        example: As in :class:`letitgo.callbacks.Recorder`: the share of the arithmetic that is saved is logged too.

    Raises:
        BadRequest: On making it or when training begins: the schedule cannot be carried out as it was put.
    """

    def __init__(
        self,
        rule: Rule,
        statistics: Statistics = "follow",
        thawed_lr: float = 1.0,
        log: Log | None = None,
        example: Example | None = None,
    ) -> None:
        self._schedule = Schedule(rule, statistics, thawed_lr)
        self._log, self._example = log, example
        self._epoch = 0

    def on_train_begin(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: Optimizer,
        train_dataloader: Any,
        **kwargs: Any,
    ) -> None:
        if args.parallel_mode == ParallelMode.DISTRIBUTED and (
            args.ddp_find_unused_parameters is False or getattr(args, "ddp_static_graph", None)
        ):
            raise BadRequest(
                "DDP waits for the gradients of frozen parameters unless it looks for unused ones in each step: "
                "give TrainingArguments(ddp_find_unused_parameters=True) and no ddp_static_graph"
            )
        known = has_length(train_dataloader)
        per_epoch = ceil(len(train_dataloader) / args.gradient_accumulation_steps) if known else None
        self._schedule.begin(model, [optimizer], per_epoch, state.max_steps, self._log, self._example)
        self._epoch = int(state.epoch or 0) - 1
        self._look_back(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch += 1  # counted, since state.epoch stays behind where an epoch is broken off

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._schedule.enter(self._epoch, state.global_step)

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if (metric := self._schedule.metric) and metric not in metrics:
            raise BadRequest(f"there is no metric {metric}: the evaluation gave {', '.join(metrics)}")
        self._look_back(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._schedule.end()

    def _look_back(self, state: TrainerState) -> None:
        """What was seen of the metric is what the Trainer logged, which its checkpoints hold."""
        if metric := self._schedule.metric:
            self._schedule.seen = [logged[metric] for logged in state.log_history if metric in logged]


def logged_by(trainer: Trainer) -> Log:
    """A Trainer's own ``log``, as in ``trainer.add_callback(FreezeSchedule(rule, log=logged_by(trainer)))``.

    The Trainer logs at the step where it is, so what is of another step is left out.
    """

    def log(values: dict[str, float], step: int) -> None:
        if step == trainer.state.global_step:
            trainer.log(values)

    return log


class ChangedWeights(TrainerCallback):
    """Checkpoints leave out tensors that are, bit for bit, as they were before training, and keep their digests.

    Resuming puts them back from the model at hand, or refuses where that is not what training started from; so does
    loading the best model at the end. :func:`letitgo.callbacks.load_changed` loads such a checkpoint elsewhere;
    ``from_pretrained`` refuses it. What ``save_model()`` writes is whole.
    """

    def __init__(self) -> None:
        self._changed = Changed()
        self._model: nn.Module | None = None

    def on_init_end(  # type: ignore[override]
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        self._changed.watch(model)
        self._model = model

    def on_train_begin(  # type: ignore[override]
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        if model is not self._model:
            raise BadRequest(
                "ChangedWeights has to see the model before anything is loaded into it: give Trainer(model, "
                "callbacks=[ChangedWeights()]), and no model_init"
            )
        self._changed.begin(model)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            file = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / "model.safetensors"
            if file.exists():
                self._changed.rewrite(file)
            else:
                warnings.warn(f"there is no {file}: the checkpoint is left as it is", stacklevel=2)
