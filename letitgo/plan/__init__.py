"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction, Scattered
from letitgo.plan.delta import Delta
from letitgo.plan.language import Perplexity
from letitgo.plan.loaded import Loaded, fitted, open_weights
from letitgo.plan.measures import Distance, Evaluation, Gradients, Measure, Track
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, stored_inputs
from letitgo.plan.zeroed import Zeroed

__all__ = [
    "Absent",
    "At",
    "Choice",
    "Delta",
    "Distance",
    "Evaluation",
    "Fraction",
    "Gradients",
    "Graft",
    "Initial",
    "Loaded",
    "Measure",
    "Perplexity",
    "Run",
    "Scattered",
    "State",
    "Stored",
    "Track",
    "Zeroed",
    "fitted",
    "open_weights",
    "stored_inputs",
]
