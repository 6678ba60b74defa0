"""The one loop: a module, a recipe and a clock, to states along a trajectory; and where."""

from letitgo.training.loop import Moment, train
from letitgo.training.place import CPU, Place
from letitgo.training.step import take_step

__all__ = ["CPU", "Moment", "Place", "take_step", "train"]
