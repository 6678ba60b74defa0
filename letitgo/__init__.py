"""letitgo: which parts of a network need training, and what does it cost to leave the rest alone?

Everything public is here. Names are looked up when they are first used, so importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from letitgo.version import __version__ as __version__

if TYPE_CHECKING:
    from letitgo.errors import BadRequest, LetItGoError, WorkFailed
    from letitgo.execute import Executor
    from letitgo.plan import Distance, Evaluation, Gradients, Graft, Initial, Loaded, Run
    from letitgo.recipes import Recipe
    from letitgo.report.finetune import write_finetune_report
    from letitgo.report.page import write_map_report
    from letitgo.store import open_store
    from letitgo.studies.align import Align, AlignDense
    from letitgo.studies.classifier import Classifier
    from letitgo.studies.compute import Outcome, compute, estimate
    from letitgo.studies.dimension import Dimension
    from letitgo.studies.finetune import FineTune
    from letitgo.studies.fraction import LearnedFraction
    from letitgo.studies.map import Map
    from letitgo.studies.sweep import sweep
    from letitgo.studies.ticket import Lottery
    from letitgo.studies.train import Train
    from letitgo.studies.transfer import Transfer
    from letitgo.training import Place
    from letitgo.weights import (
        Alignment,
        Cost,
        FixedClassifier,
        Held,
        Part,
        Selection,
        Status,
        Subspace,
        Ticket,
        alignment,
        biases,
        copied,
        cost,
        distance,
        entries,
        everything,
        fix_classifier,
        fraction,
        freeze,
        from_pretrained,
        frozen,
        graft,
        hold,
        imbalance,
        initial_state,
        invariant_drift,
        layers,
        lemma_2,
        load,
        load_subspace,
        load_ticket,
        magnitude_masks,
        named_trainable,
        norms,
        prunable,
        push_to_hub,
        random_masks,
        re_estimate,
        read_ticket,
        robustness,
        save,
        save_subspace,
        save_ticket,
        select,
        status,
        step_cost,
        subspace,
        thaw,
        ties,
        torch_masks,
        train_only,
        trainable,
        walsh_hadamard,
        zero_out,
    )

_HOMES = (
    "errors",
    "recipes",
    "weights",
    "store",
    "plan",
    "execute",
    "training",
    "studies.classifier",
    "studies.align",
    "studies.compute",
    "studies.dimension",
    "studies.fraction",
    "studies.finetune",
    "studies.map",
    "studies.sweep",
    "studies.ticket",
    "studies.train",
    "studies.transfer",
    "report.finetune",
    "report.page",
)

__all__ = [
    "Align",
    "AlignDense",
    "Alignment",
    "BadRequest",
    "Classifier",
    "Cost",
    "Dimension",
    "Distance",
    "Evaluation",
    "Executor",
    "FineTune",
    "FixedClassifier",
    "Gradients",
    "Graft",
    "Held",
    "Initial",
    "LearnedFraction",
    "LetItGoError",
    "Loaded",
    "Lottery",
    "Map",
    "Outcome",
    "Part",
    "Place",
    "Recipe",
    "Run",
    "Selection",
    "Status",
    "Subspace",
    "Ticket",
    "Train",
    "Transfer",
    "WorkFailed",
    "alignment",
    "biases",
    "compute",
    "copied",
    "cost",
    "distance",
    "entries",
    "estimate",
    "everything",
    "fix_classifier",
    "fraction",
    "freeze",
    "from_pretrained",
    "frozen",
    "graft",
    "hold",
    "imbalance",
    "initial_state",
    "invariant_drift",
    "layers",
    "lemma_2",
    "load",
    "load_subspace",
    "load_ticket",
    "magnitude_masks",
    "named_trainable",
    "norms",
    "open_store",
    "prunable",
    "push_to_hub",
    "random_masks",
    "re_estimate",
    "read_ticket",
    "robustness",
    "save",
    "save_subspace",
    "save_ticket",
    "select",
    "status",
    "step_cost",
    "subspace",
    "sweep",
    "thaw",
    "ties",
    "torch_masks",
    "train_only",
    "trainable",
    "walsh_hadamard",
    "write_finetune_report",
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
