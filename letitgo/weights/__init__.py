"""Acting on a live ``nn.Module``: select, freeze, draw, graft, measure, count. Knows of no store and no recipe."""

from letitgo.weights.cost import Bytes, Cost, Example, StepCost, cost, step_cost
from letitgo.weights.freeze import Statistics, freeze, frozen, thaw, train_only, trainable
from letitgo.weights.graft import distance, graft
from letitgo.weights.layers import layers, owner, parameter_names
from letitgo.weights.norms import re_estimate
from letitgo.weights.prefix import frozen_prefix
from letitgo.weights.select import Selection, blocks, everything, select
from letitgo.weights.state import State, copied, initial_state, load_state, seeded
from letitgo.weights.status import LayerStatus, Status, status, trained

__all__ = [
    "Bytes",
    "Cost",
    "Example",
    "LayerStatus",
    "Selection",
    "State",
    "Statistics",
    "Status",
    "StepCost",
    "blocks",
    "copied",
    "cost",
    "distance",
    "everything",
    "freeze",
    "frozen",
    "frozen_prefix",
    "graft",
    "initial_state",
    "layers",
    "load_state",
    "owner",
    "parameter_names",
    "re_estimate",
    "seeded",
    "select",
    "status",
    "step_cost",
    "thaw",
    "train_only",
    "trainable",
    "trained",
]
