"""Options of ``letitgo fraction``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.studies.options import By, ChoosingOptions, check_distinct

Of = Literal["filters", "weights"]
Rest = Literal["initial", "zero"]
Norms = Literal["learned", "frozen"]
Head = Literal["learned", "frozen", "share"]
Only = Literal["norms", "biases", "classifier", "layers"]


@checked
@dataclass(frozen=True, config=STRICT)
class FractionOptions(ChoosingOptions):
    """Find how much of a network has to be learned.

    Trains a share of the filters or weights of each layer and leaves the rest as drawn (Rosenfeld and Tsotsos,
    arXiv:1802.00844). Trains the norms, the biases, the classifier or one layer alone. Compares each with training
    everything, and with training as many values chosen at random (Frankle, Schwab and Morcos, arXiv:2003.00152).
    Reports what each costs in test accuracy and in storage.
    """

    QUESTION: ClassVar[str] = "How much of a network has to be learned?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo fraction", "shares of the filters and single layers of a small network on the bundled digits"),
        ("letitgo fraction --model lenet --model-args '{\"norm\": true}' --only norms", "shares, and the norms alone"),
        ("letitgo fraction --shares 0.1 --data mnist,fashion_mnist --epochs 5", "two tasks that share one base"),
    )

    shares: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(description="shares of each layer that are learned")
    ] = (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)
    of: Annotated[
        tuple[Of, ...],
        Field(min_length=1, description="what they are shares of: filters (units or rows, with their biases), weights"),
    ] = ("filters",)
    rest: Annotated[
        tuple[Rest, ...],
        Field(min_length=1, description="value of the rest of those layers: initial, zero"),
    ] = ("initial",)
    norms: Annotated[
        tuple[Norms, ...], Field(min_length=1, description="norms, where a share is learned: learned, frozen")
    ] = ("learned",)
    classifier: Annotated[
        tuple[Head, ...],
        Field(
            min_length=1,
            description="last layer, where a share is learned: learned, frozen, share (the same share of it)",
        ),
    ] = ("learned",)
    only: Annotated[
        tuple[Only, ...] | None,
        Field(description="learn one part alone: norms, biases, classifier, layers (each by itself) [default: all]"),
    ] = None
    layers: Annotated[
        tuple[str, ...], Field(description="patterns of the layers learned alone [default: all but norms]")
    ] = ()
    blocks: Annotated[tuple[str, ...], Field(description="patterns of blocks learned as one")] = ()
    by: By = "layer"
    per_unit: Annotated[
        bool,
        Field(description="beside the norms or biases alone, also learn as many random weights of each unit"),
    ] = False
    controls: Annotated[
        bool, Field(description="also learn as many values as each of these, chosen at random from the whole network")
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shares", "of", "rest", "norms", "classifier", "only"):
            check_distinct(name, getattr(self, name))
