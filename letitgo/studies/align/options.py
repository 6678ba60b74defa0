"""Options of ``letitgo align``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.studies.options import Seeds, StudyOptions


@checked
@dataclass(frozen=True, config=STRICT)
class AlignOptions(StudyOptions):
    """Find whether the dense layers of a network align as it trains.

    Measures the ratio of spectral to Frobenius norm of each dense layer, and the alignment with the layer above, after
    each epoch; and at the end with each dense layer frozen at its initialization. ``letitgo deep-linear`` has the
    networks that the theorem is about (Ji and Telgarsky, arXiv:1810.02032).
    """

    QUESTION: ClassVar[str] = "Do the dense layers align?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo align", "the dense layers of a small network on the bundled digits"),
        ("letitgo align --data mnist --model lenet --epochs 10", "those of LeNet on MNIST"),
        ("letitgo align --no-freeze --lr 0.01,0.1", "along a sweep, with nothing frozen"),
    )

    seeds: Seeds = 3
    freeze: Annotated[bool, Field(description="also freeze each dense layer at its initialization")] = True
