"""Acting on a live ``nn.Module``: select, freeze, draw, graft, measure, count, save.

Knows of no store and no recipe.
"""

from letitgo.weights.alignment import Alignment, alignment, imbalance, invariant_drift, lemma_2
from letitgo.weights.classifier import FixedClassifier, Matrix, fix_classifier, fixed_matrix, last_linear
from letitgo.weights.cost import Bytes, Cost, Example, StepCost, cost, step_cost
from letitgo.weights.delta import load, save
from letitgo.weights.freeze import Dropout, Statistics, freeze, frozen, thaw, train_only
from letitgo.weights.graft import distance, graft
from letitgo.weights.hadamard import walsh_hadamard
from letitgo.weights.hold import Held, held_of, hold, named_trainable, trainable
from letitgo.weights.hub import from_pretrained, push_to_hub
from letitgo.weights.layers import layers, owner, parameter_names, ties, trainable_names
from letitgo.weights.part import Part, biases, entries, fraction, norms, zero_out
from letitgo.weights.prefix import frozen_prefix
from letitgo.weights.prune import (
    Masks,
    Scope,
    magnitude_masks,
    pack_masks,
    prunable,
    random_masks,
    torch_masks,
    unpack_bits,
    unpack_masks,
)
from letitgo.weights.robustness import robustness
from letitgo.weights.select import Selection, blocks, everything, select
from letitgo.weights.state import State, copied, initial_state, load_state, seeded
from letitgo.weights.statistics import re_estimate
from letitgo.weights.status import LayerStatus, Status, status
from letitgo.weights.subspace import Subspace, subspace
from letitgo.weights.subspace_file import load_subspace, save_subspace
from letitgo.weights.ticket import SavedTicket, load_ticket, read_ticket, save_ticket

__all__ = [
    "Alignment",
    "Bytes",
    "Cost",
    "Dropout",
    "Example",
    "FixedClassifier",
    "Held",
    "LayerStatus",
    "Masks",
    "Matrix",
    "Part",
    "SavedTicket",
    "Scope",
    "Selection",
    "State",
    "Statistics",
    "Status",
    "StepCost",
    "Subspace",
    "alignment",
    "biases",
    "blocks",
    "copied",
    "cost",
    "distance",
    "entries",
    "everything",
    "fix_classifier",
    "fixed_matrix",
    "fraction",
    "freeze",
    "from_pretrained",
    "frozen",
    "frozen_prefix",
    "graft",
    "held_of",
    "hold",
    "imbalance",
    "initial_state",
    "invariant_drift",
    "last_linear",
    "layers",
    "lemma_2",
    "load",
    "load_state",
    "load_subspace",
    "load_ticket",
    "magnitude_masks",
    "named_trainable",
    "norms",
    "owner",
    "pack_masks",
    "parameter_names",
    "prunable",
    "push_to_hub",
    "random_masks",
    "re_estimate",
    "read_ticket",
    "robustness",
    "save",
    "save_subspace",
    "save_ticket",
    "seeded",
    "select",
    "status",
    "step_cost",
    "subspace",
    "thaw",
    "ties",
    "torch_masks",
    "train_only",
    "trainable",
    "trainable_names",
    "unpack_bits",
    "unpack_masks",
    "walsh_hadamard",
    "zero_out",
]
