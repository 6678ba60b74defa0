"""Options of ``letitgo map``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.studies.options import Blocks, By, ChoosingOptions, Layers, check_epochs


@checked
@dataclass(frozen=True, config=STRICT)
class MapOptions(ChoosingOptions):
    """Find which layers of a network need training.

    Trains the network, then trains it again with each layer frozen at its initialization (Let It Go). Puts each layer
    of the trained network back to earlier weights or to a fresh draw (Zhang, Bengio and Singer, arXiv:1902.01996).
    Reports what each of these costs in test accuracy.
    """

    QUESTION: ClassVar[str] = "Which layers need training?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo map", "a small network on the bundled digits"),
        ("letitgo map --data mnist --epochs 10 --freeze-at 0,2,5 --together", "from an epoch on, and sets of layers"),
        ("letitgo map --model mypackage.nets:make --data path/to/folder", "your network on your images"),
    )

    freeze_at: Annotated[tuple[int, ...], Field(description="epochs from which each layer is frozen, or none")] = (0,)
    reinit_at: Annotated[
        tuple[int, ...] | None,
        Field(
            description="epochs to whose weights each layer is put back, or none [default: 0,1,2,3,8 as far as reached]"
        ),
    ] = None
    draws: Annotated[int, Field(ge=1, description="fresh draws of each layer under each seed")] = 3
    together: Annotated[
        bool, Field(description="also act on sets of layers: all but one, every prefix, every suffix, all found robust")
    ] = False
    layers: Layers = ()
    blocks: Blocks = ()
    by: By = "layer"
    training_accuracy: Annotated[
        bool, Field(description="measure accuracy on the training set of grafted networks too; else of trained ones")
    ] = False

    @property
    def chooses_on(self) -> Literal["validation", "test"]:
        """As asked; where nothing is chosen, nothing is held out."""
        return super().chooses_on if self.freeze_at or self.together else "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epochs("freeze-at", self.freeze_at, self.recipes)
        check_epochs("reinit-at", self.reinit_at, self.recipes)
        if self.together and not self.freeze_at:
            raise BadRequest("together freezes sets of layers: leave it out, or freeze-at none")
