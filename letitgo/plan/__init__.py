"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction
from letitgo.plan.loaded import Loaded, fitted, open_weights
from letitgo.plan.measures import Distance, Evaluation, Gradients, Measure
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, stored_inputs

__all__ = [
    "Absent",
    "At",
    "Choice",
    "Distance",
    "Evaluation",
    "Fraction",
    "Gradients",
    "Graft",
    "Initial",
    "Loaded",
    "Measure",
    "Run",
    "State",
    "Stored",
    "fitted",
    "open_weights",
    "stored_inputs",
]
