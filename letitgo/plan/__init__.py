"""The values: states, runs, measures. Building one computes nothing."""

from letitgo.plan.choices import Choice, Fraction, Scattered, Subspace
from letitgo.plan.delta import Delta
from letitgo.plan.language import Perplexity
from letitgo.plan.loaded import Loaded, fitted, open_weights
from letitgo.plan.masks import (
    Apart,
    Complement,
    Curve,
    Density,
    Filed,
    Kept,
    Mask,
    Masked,
    Pruned,
    Scrambled,
    open_ticket,
)
from letitgo.plan.measures import Distance, Evaluation, Gradients, Measure, Spectra, Track
from letitgo.plan.states import At, Graft, Initial, Run, State
from letitgo.plan.stored import Absent, Stored, reached, stored_inputs, told
from letitgo.plan.zeroed import Zeroed

__all__ = [
    "Absent",
    "Apart",
    "At",
    "Choice",
    "Complement",
    "Curve",
    "Delta",
    "Density",
    "Distance",
    "Evaluation",
    "Filed",
    "Fraction",
    "Gradients",
    "Graft",
    "Initial",
    "Kept",
    "Loaded",
    "Mask",
    "Masked",
    "Measure",
    "Perplexity",
    "Pruned",
    "Run",
    "Scattered",
    "Scrambled",
    "Spectra",
    "State",
    "Stored",
    "Subspace",
    "Track",
    "Zeroed",
    "fitted",
    "open_ticket",
    "open_weights",
    "reached",
    "stored_inputs",
    "told",
]
