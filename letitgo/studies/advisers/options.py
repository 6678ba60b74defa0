"""Options of ``letitgo advisers``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.recipes import Recipe
from letitgo.studies.finetune.options import SHAPES, Pretrained
from letitgo.studies.options import Blocks, By, Layers, StudyOptions, check_distinct, holding_out


@checked
@dataclass(frozen=True, config=STRICT)
class AdvisersOptions(StudyOptions):
    """Hold cheap rules that tell which layers may stay frozen against what freezing each layer costs.

    Trains the network, and trains it again with each layer frozen from the start. Each rule ranks the layers by how
    harmful it says that freezing one is: by gradients, singular values, position and others at the start, or by what
    one training tells. Reports how well these ranks agree with the measured drops in test accuracy.
    """

    QUESTION: ClassVar[str] = "Which cheap rule tells best what may stay frozen?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo advisers", "a small network on the bundled digits"),
        ("letitgo advisers --model resnet20 --data cifar10 --by block", "the blocks of a residual network"),
        ("letitgo advisers --pretrained digits --shift invert --examples 500", "in fine-tuning"),
    )
    SHAPES: ClassVar[dict[str, str]] = SHAPES

    pretrained: Pretrained = None
    seeds: Annotated[
        int, Field(ge=2, description="number of seeds: rules read under one are held against drops under the others")
    ] = 5
    tolerances: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=100)], ...],
        Field(min_length=1, description="drops that do no harm, in points (of an error, rises in per cent)"),
    ] = (0.5, 1.0, 2.0)
    layers: Layers = ()
    blocks: Blocks = ()
    by: By = "layer"

    def __post_init__(self) -> None:
        check_distinct("tolerances", self.tolerances)

    @cached_property
    def trained(self) -> tuple[Recipe, ...]:
        return tuple(map(holding_out, self.recipes))
