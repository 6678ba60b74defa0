"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction
from letitgo.plan.language import Perplexity
from letitgo.plan.measures import Distance, Evaluation, Measure, Track
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, stored_inputs

__all__ = [
    "Absent",
    "At",
    "Choice",
    "Distance",
    "Evaluation",
    "Fraction",
    "Graft",
    "Initial",
    "Measure",
    "Perplexity",
    "Run",
    "State",
    "Stored",
    "Track",
    "stored_inputs",
]
