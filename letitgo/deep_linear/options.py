"""Options of ``letitgo deep-linear``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.studies.options import check_distinct

Law = Literal["balanced", "zero first layer", "default"]
LAWS: tuple[Law, ...] = ("balanced", "zero first layer", "default")


@checked
@dataclass(frozen=True, config=STRICT)
class DeepLinearOptions:
    """Find whether gradient descent aligns the layers of a deep linear network.

    Trains deep linear networks with one output on separable data of two classes, from several starts, by gradient
    descent on all examples at once (Ji and Telgarsky, arXiv:1810.02032): with the step of their theorem, with a longer
    one, and with each layer frozen at its initialization, which the theorem does not cover.
    """

    QUESTION: ClassVar[str] = "Do the layers of deep linear networks align?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo deep-linear", "three hidden layers on synthetic points of the plane"),
        ("letitgo deep-linear --data digits --classes 0,1 --widths 16,16", "on two classes of a data set"),
        (
            "letitgo deep-linear --init balanced --freeze-layers none --steps 100000",
            "one start, longer",
        ),
    )

    data: Annotated[str, Field(description="synthetic, which is points of the plane, or a data set as in --data")] = (
        "synthetic"
    )
    classes: Annotated[tuple[int, ...], Field(description="the two classes of the data set, −1 and +1")] = (0, 1)
    examples: Annotated[int, Field(ge=2, description="how many examples of them, the first of the training split")] = (
        1000
    )
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of the hidden layers")] = (
        8,
        8,
        8,
    )
    init: Annotated[tuple[Law, ...], Field(description="laws of the initial weights")] = LAWS
    freeze_layers: Annotated[
        tuple[int, ...] | None,
        Field(description="layers to freeze, one at a time, 1 for the first, or none [default: all]"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="steps of gradient descent")] = 10_000
    rule: Annotated[
        Literal["risk", "constant"],
        Field(description="the longer step: in inverse proportion to the risk, or constant"),
    ] = "risk"
    step_size: Annotated[float, Field(gt=0, allow_inf_nan=False, description="factor of the longer step")] = 8.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False, description="factor of the initial weights")] = 1.0
    seed: Annotated[int, Field(ge=0, description="the first seed, of initial weights and synthetic points")] = 0
    seeds: Annotated[int, Field(ge=1, description="number of seeds")] = 3

    def __post_init__(self) -> None:
        check_distinct("init", self.init)
        if self.data == "synthetic" and (self.classes, self.examples) != ((0, 1), 1000):
            raise BadRequest("synthetic points have two classes of their own: name a data set with data")
        for layer in self.freeze_layers or ():
            if not 1 <= layer <= self.depth:
                raise BadRequest(f"freeze-layers names layer {layer}: there are layers 1 to {self.depth}")
        if self.freeze_layers and self.depth == 1:
            raise BadRequest("freezing the only layer leaves nothing to train: give the network a hidden layer")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths) + 1
