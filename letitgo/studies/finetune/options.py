"""Options of ``letitgo finetune``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.studies.options import Blocks, By, ChoosingOptions, Layers

WEIGHTS = (
    "what the network was trained on before: a data set, recipe fields as JSON (the others are as in fine-tuning, "
    "without shift, examples and label-noise), or its weights: a file, a folder laid out as on the hub, timm:NAME, or "
    "transformers:OWNER/NAME"
)
Pretrained = Annotated[str | dict[str, Any] | None, Field(description=f"{WEIGHTS} [default: initialization]")]
"""Of studies that also begin at the initialization."""
SHAPES = {
    "pretrained": "name a data set, recipe fields as a JSON object, or a file of weights, or a folder as on the hub"
}


@checked
@dataclass(frozen=True, config=STRICT)
class FinetuneOptions(ChoosingOptions):
    """Find which layers to freeze when a pretrained network is fine-tuned.

    Fine-tunes everything, everything but one layer, and one layer alone (surgical fine-tuning, Lee et al.,
    arXiv:2210.11466); does the same from initialization. Recommends the most accurate way within a compute budget.
    """

    QUESTION: ClassVar[str] = "Which layers should be frozen in fine-tuning?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo finetune --pretrained digits --shift invert", "from the bundled digits to inverted ones"),
        (
            "letitgo finetune --pretrained mnist --data fashion_mnist --examples 1000 --budget 0.3",
            "1,000 examples and 30 % of the arithmetic",
        ),
        (
            "letitgo finetune --pretrained net.safetensors --model mypackage.nets:make --data path/to/folder",
            "your trained network on your images",
        ),
        (
            "letitgo finetune --pretrained net.safetensors --data fashion_mnist --keep mnist",
            "what is forgotten of the old task too",
        ),
    )
    SHAPES: ClassVar[dict[str, str]] = SHAPES

    pretrained: Annotated[str | dict[str, Any], Field(description=WEIGHTS)]
    budget: Annotated[
        float, Field(gt=0, le=1, description="compute budget of the recommendation, as a share of full fine-tuning")
    ] = 1.0
    together: Annotated[
        bool, Field(description="also fine-tune only the first two layers, three, and so on, and only the last ones")
    ] = False
    layers: Layers = ()
    blocks: Blocks = ()
    by: By = "layer"
    keep: Annotated[
        str | None,
        Field(
            description="data of the old task, which the start was trained for: its test set is evaluated before and "
            "after fine-tuning; none: it is not [default: the data of pretraining that letitgo does itself, where the "
            "output layer is kept]"
        ),
    ] = None

    @property
    def file(self) -> str | None:
        """Where pretrained weights are: a file, a folder or on the hub; None where the network is pretrained here."""
        given = self.pretrained
        if not isinstance(given, str):
            return None
        named = given.startswith(("timm:", "transformers:")) or given.endswith((".safetensors", ".pt", ".pth", ".bin"))
        return given if named or Path(given).is_file() or any(Path(given).glob("*model.*")) else None
