"""The one loop: a module, a recipe and a clock, to states along a trajectory; how a state is evaluated; and where."""

from letitgo.training.evaluate import evaluate as evaluate
from letitgo.training.loop import Moment as Moment
from letitgo.training.loop import train as train
from letitgo.training.place import CPU as CPU
from letitgo.training.place import Place as Place
