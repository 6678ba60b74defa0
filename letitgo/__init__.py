"""letitgo: which parts of a network need training, and what does it cost to leave the rest alone?

Everything public is here. Names are looked up when they are first used, so importing the package is quick. Type
checkers read ``__init__.pyi``, which ``python tests/test_public_names.py`` writes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from letitgo import code as _code  # noqa: F401  (sees what is imported from now on)
from letitgo.version import __version__ as __version__

_HOMES = {
    name: home
    for home, names in {
        "errors": "BadRequest LetItGoError PartlyFailed WorkFailed",
        "recipes": "Recipe",
        "weights": """
            Alignment Bisection CachedFeatures Cost FixedClassifier Held LoraCost Memory Part SavedTicket
            Selection Status Subspace alignment biases bisect cache_features copied cost diff distance
            entries everything fitting fix_classifier fraction freeze from_pretrained frozen graft hold
            imbalance initial_state invariant_drift layers lemma_2 load load_subspace load_ticket lora_cost
            magnitude_masks memory moved named_trainable norms prunable push_to_hub random_masks re_estimate
            read_ticket robustness save save_subspace save_ticket select status step_cost subspace thaw ties
            torch_masks train_only trainable walsh_hadamard zero_out
        """,
        "store": "open_store",
        "plan": "Distance Evaluation Gradients Graft Initial Loaded Run",
        "execute": "Executor",
        "training": "Place",
        "deep_linear.study": "DeepLinear",
        "studies.advisers.study": "Advisers",
        "studies.align.study": "Align",
        "studies.carry.study": "Carry",
        "studies.classifier.study": "Classifier",
        "studies.compute": "compute estimate",
        "studies.dimension.study": "Dimension",
        "studies.finetune.study": "Finetune",
        "studies.fraction.study": "Fraction",
        "studies.live": "map",
        "studies.map.study": "Map",
        "studies.outcome": "Outcome",
        "studies.search.study": "Search",
        "studies.sweep": "sweep",
        "studies.ticket.study": "Ticket",
        "studies.train.study": "Train",
    }.items()
    for name in names.split()
}
"""Public name → the module it comes from."""

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"letitgo.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'letitgo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
