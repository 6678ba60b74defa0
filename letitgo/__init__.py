"""letitgo: which parts of a network need training, and what does it cost to leave the rest alone?

Everything public is here. Names are looked up when they are first used, so importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from letitgo.errors import BadRequest, LetItGoError, WorkFailed
    from letitgo.plan import Distance, Evaluation, Graft, Initial, Run
    from letitgo.recipes import Recipe
    from letitgo.report.page import write_map_report
    from letitgo.store import open_store
    from letitgo.studies.compute import Outcome, compute, estimate
    from letitgo.studies.map import Map
    from letitgo.studies.sweep import sweep
    from letitgo.studies.train import Train
    from letitgo.weights import (
        Cost,
        Held,
        Part,
        Selection,
        Status,
        Subspace,
        biases,
        cost,
        distance,
        entries,
        everything,
        fraction,
        freeze,
        from_pretrained,
        frozen,
        graft,
        hold,
        initial_state,
        layers,
        load,
        load_subspace,
        named_trainable,
        norms,
        push_to_hub,
        re_estimate,
        robustness,
        save,
        save_subspace,
        select,
        status,
        step_cost,
        subspace,
        thaw,
        ties,
        train_only,
        trainable,
        walsh_hadamard,
        zero_out,
    )

__version__ = "0.1.0"

_HOMES = (
    "errors",
    "recipes",
    "weights",
    "store",
    "plan",
    "studies.compute",
    "studies.map",
    "studies.sweep",
    "studies.train",
    "report.page",
)

__all__ = [
    "BadRequest",
    "Cost",
    "Distance",
    "Evaluation",
    "Graft",
    "Held",
    "Initial",
    "LetItGoError",
    "Map",
    "Outcome",
    "Part",
    "Recipe",
    "Run",
    "Selection",
    "Status",
    "Subspace",
    "Train",
    "WorkFailed",
    "biases",
    "compute",
    "cost",
    "distance",
    "entries",
    "estimate",
    "everything",
    "fraction",
    "freeze",
    "from_pretrained",
    "frozen",
    "graft",
    "hold",
    "initial_state",
    "layers",
    "load",
    "load_subspace",
    "named_trainable",
    "norms",
    "open_store",
    "push_to_hub",
    "re_estimate",
    "robustness",
    "save",
    "save_subspace",
    "select",
    "status",
    "step_cost",
    "subspace",
    "sweep",
    "thaw",
    "ties",
    "train_only",
    "trainable",
    "walsh_hadamard",
    "write_map_report",
    "zero_out",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        for home in _HOMES:
            module = import_module(f"letitgo.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'letitgo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
