"""Options of ``letitgo classifier``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.studies.options import ChoosingOptions, Tolerance, check_distinct

Head = Literal["hadamard", "orthogonal", "frozen", "cosine"]


@checked
@dataclass(frozen=True, config=STRICT)
class ClassifierOptions(ChoosingOptions):
    """Find whether a network's classifier needs training.

    Trains the network, and again with its last layer replaced by a fixed Hadamard or random orthogonal matrix, one
    learned scale and a learned bias (Hoffer, Hubara and Soudry, arXiv:1801.04540). Reports what that costs in training
    and test accuracy, and what it saves.
    """

    QUESTION: ClassVar[str] = "Does the classifier need training?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo classifier", "both fixed matrices, on a small network and the bundled digits"),
        (
            "letitgo classifier --model fcn,lenet --data mnist,fashion_mnist --epochs 10",
            "two networks on two data sets",
        ),
        ("letitgo classifier --model mypackage.nets:make --layer head --kinds hadamard,frozen", "your network"),
    )

    kinds: Annotated[
        tuple[Head, ...],
        Field(
            min_length=1,
            description="compared with the learned classifier: hadamard, orthogonal, frozen (the layer as drawn), "
            "cosine (learned, but features and rows have norm one, as with the fixed ones)",
        ),
    ] = ("hadamard", "orthogonal")
    layer: Annotated[str | None, Field(description="name of the classifier [default: the last linear layer]")] = None
    tolerance: Tolerance = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("kinds", self.kinds)
