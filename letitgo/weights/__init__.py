"""Acting on a live ``nn.Module``: select, freeze, draw, graft, measure, count, save.

Knows of no store and no recipe.
"""

from letitgo.weights.cost import StepCost, step_cost
from letitgo.weights.delta import load, save
from letitgo.weights.freeze import Statistics, freeze, frozen, thaw, train_only, trainable
from letitgo.weights.graft import distance, graft
from letitgo.weights.hub import from_pretrained, push_to_hub
from letitgo.weights.layers import layers, owner, parameter_names
from letitgo.weights.norms import re_estimate
from letitgo.weights.prefix import frozen_prefix
from letitgo.weights.select import Selection, blocks, everything, select
from letitgo.weights.state import State, copied, initial_state, load_state, seeded

__all__ = [
    "Selection",
    "State",
    "Statistics",
    "StepCost",
    "blocks",
    "copied",
    "distance",
    "everything",
    "freeze",
    "from_pretrained",
    "frozen",
    "frozen_prefix",
    "graft",
    "initial_state",
    "layers",
    "load",
    "load_state",
    "owner",
    "parameter_names",
    "push_to_hub",
    "re_estimate",
    "save",
    "seeded",
    "select",
    "step_cost",
    "thaw",
    "train_only",
    "trainable",
]
