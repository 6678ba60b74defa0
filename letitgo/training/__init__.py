"""The one loop: a module, a recipe and a clock, to states along a trajectory; and how a state is evaluated."""

from letitgo.training.evaluate import evaluate
from letitgo.training.loop import Moment, one_thread, train

__all__ = ["Moment", "evaluate", "one_thread", "train"]
