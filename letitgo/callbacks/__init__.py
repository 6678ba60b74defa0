"""Freezing where people train: by a schedule, with checkpoints of what changed. For Lightning and the Trainer.

``letitgo.callbacks.lightning`` and ``letitgo.callbacks.transformers`` hold the same two callbacks, ``FreezeSchedule``
and ``ChangedWeights``. Either imports its framework; nothing else here does.
"""

from letitgo.callbacks.changed import load_changed as load_changed
from letitgo.callbacks.recorder import Log as Log
from letitgo.callbacks.recorder import Recorder as Recorder
from letitgo.callbacks.recorder import tensorboard as tensorboard
from letitgo.callbacks.rules import Plateau as Plateau
from letitgo.callbacks.rules import Rotate as Rotate
from letitgo.callbacks.schedule import Schedule as Schedule
from letitgo.callbacks.speculation import Attempt as Attempt
from letitgo.callbacks.speculation import speculate as speculate
