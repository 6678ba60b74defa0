"""The one loop: a module, a recipe and a clock, to states along a trajectory; and how a state is evaluated."""

from letitgo.training.evaluate import evaluate as evaluate
from letitgo.training.loop import Moment as Moment
from letitgo.training.loop import one_thread as one_thread
from letitgo.training.loop import train as train
