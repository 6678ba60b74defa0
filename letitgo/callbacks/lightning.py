"""For Lightning: ``Trainer(callbacks=[FreezeSchedule({0: ["backbone"], 3: []}), ChangedWeights()])``."""

from __future__ import annotations

from math import ceil, isfinite
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from letitgo.callbacks.changed import Changed
from letitgo.callbacks.recorder import Log
from letitgo.callbacks.schedule import Rule, Schedule
from letitgo.errors import BadRequest
from letitgo.weights import Statistics
from letitgo.weights.example import Example

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.trainer.states import TrainerFn
except ModuleNotFoundError as error:
    raise BadRequest(
        "the callbacks for Lightning need the package lightning: pip install 'letitgo[lightning]'"
    ) from error


class FreezeSchedule(Callback):
    """Freezes and thaws by epochs, steps, shares of training or in rotation; see :class:`letitgo.callbacks.Schedule`.

    Names are those of the LightningModule's parameters. ``configure_optimizers`` hands over all of them. After training
    the module is given back as it was. Under DDP the strategy is ``"ddp_find_unused_parameters_true"``.

    Steps are counted as ``trainer.global_step`` is. Where that counts several optimisers (manual optimisation), or the
    data have no length, epochs do not stand beside steps, and shares need ``max_steps``.

    Args:
        rule: When → what is frozen from then on, as in ``{0: ["backbone"], "500it": ["backbone.0"], 0.5: []}``; or
            :class:`letitgo.callbacks.Rotate` or :class:`letitgo.callbacks.Plateau`.
        statistics: ``"frozen"`` keeps BatchNorm statistics of frozen layers too.
        thawed_lr: A factor for the learning rate of what was frozen earlier in the schedule and trains now.
        log: Is told in the first process what is frozen, as by :class:`letitgo.callbacks.Recorder`; by default the
            Trainer's loggers are.
        example: For ``forward``, as in :class:`letitgo.callbacks.Recorder`: the share of the arithmetic that is saved
            is logged too.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._schedule.seen = []  # what a checkpoint holds of it is loaded after this

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wrapper = trainer.model
        if isinstance(wrapper, DistributedDataParallel) and (
            wrapper.static_graph or not wrapper.find_unused_parameters
        ):
            raise BadRequest(
                "DDP waits for the gradients of frozen parameters unless it looks for unused ones in each step: "
                "give Trainer(strategy='ddp_find_unused_parameters_true')"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        per_epoch, steps = _length(trainer, pl_module)
        log = (self._log or _loggers(trainer)) if trainer.is_global_zero else None
        self._schedule.begin(pl_module, trainer.optimizers, per_epoch, steps, log, self._example)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._schedule.enter(trainer.current_epoch, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric = self._schedule.metric
        if metric is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        values = trainer.callback_metrics
        if metric not in values:
            raise BadRequest(f"there is no metric {metric}: validation logged {', '.join(values) or 'none'}")
        self._schedule.seen.append(trainer.strategy.broadcast(float(values[metric])))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self._schedule.seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._schedule.seen = list(state_dict["seen"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._schedule.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._schedule.end()


def _length(trainer: Trainer, pl_module: LightningModule) -> tuple[int | None, int | None]:
    """Optimiser steps in an epoch and in all of training, as far as they are known."""
    batches = trainer.num_training_batches
    if not pl_module.automatic_optimization or not isfinite(batches):
        return None, trainer.max_steps if trainer.max_steps > 0 else None
    steps = trainer.estimated_stepping_batches
    return ceil(batches / trainer.accumulate_grad_batches), int(steps) if isfinite(steps) else None


def _loggers(trainer: Trainer) -> Log | None:
    def log(values: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    return log if trainer.loggers else None


class ChangedWeights(Callback):
    """Checkpoints leave out tensors that are, bit for bit, as they were before training, and keep their digests.

    Loading through a Trainer with this callback puts them back from the module at hand, or refuses where that is not
    what training started from; :func:`letitgo.callbacks.load_changed` does so elsewhere. Checkpoints of weights only
    (``save_weights_only=True``) are left whole, since Lightning asks no callback there.
    """

    def __init__(self) -> None:
        self._changed = Changed()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._changed.watch(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._changed.begin(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self._changed.leave_out(checkpoint["state_dict"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._changed.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._changed.release()
