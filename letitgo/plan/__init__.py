"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction
from letitgo.plan.linear import Descent, MaximumMargin, Problem, Synthetic, TwoClasses
from letitgo.plan.measures import Distance, Evaluation, Measure, Spectra
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, stored_inputs

__all__ = [
    "Absent",
    "At",
    "Choice",
    "Descent",
    "Distance",
    "Evaluation",
    "Fraction",
    "Graft",
    "Initial",
    "MaximumMargin",
    "Measure",
    "Problem",
    "Run",
    "Spectra",
    "State",
    "Stored",
    "Synthetic",
    "TwoClasses",
    "stored_inputs",
]
