"""The one loop: a module, a recipe and a clock, to states along a trajectory; how a state is evaluated; and where."""

from letitgo.training.evaluate import evaluate
from letitgo.training.loop import Moment, train
from letitgo.training.place import CPU, Place

__all__ = ["CPU", "Moment", "Place", "evaluate", "train"]
