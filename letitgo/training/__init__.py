"""The one loop: a module, a recipe and a clock, to states along a trajectory; and where."""

from letitgo.training.loop import Moment as Moment
from letitgo.training.loop import train as train
from letitgo.training.place import CPU as CPU
from letitgo.training.place import Place as Place
from letitgo.training.step import take_step as take_step
