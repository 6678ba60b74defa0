"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction, Scattered
from letitgo.plan.delta import Delta
from letitgo.plan.language import Perplexity
from letitgo.plan.linear import Descent, MaximumMargin, Problem, Synthetic, TwoClasses
from letitgo.plan.loaded import Loaded, fitted, open_weights
from letitgo.plan.measures import Distance, Evaluation, Gradients, Measure, Spectra, Track
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, reached, stored_inputs, told
from letitgo.plan.zeroed import Zeroed

__all__ = [
    "Absent",
    "At",
    "Choice",
    "Delta",
    "Descent",
    "Distance",
    "Evaluation",
    "Fraction",
    "Gradients",
    "Graft",
    "Initial",
    "Loaded",
    "MaximumMargin",
    "Measure",
    "Perplexity",
    "Problem",
    "Run",
    "Scattered",
    "Spectra",
    "State",
    "Stored",
    "Synthetic",
    "Track",
    "TwoClasses",
    "Zeroed",
    "fitted",
    "open_weights",
    "reached",
    "stored_inputs",
    "told",
]
