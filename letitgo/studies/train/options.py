"""Options of ``letitgo train``. Read for ``--help``, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from letitgo.checked import STRICT, checked
from letitgo.errors import BadRequest
from letitgo.studies.options import StudyOptions, check_epochs, check_target


@checked
@dataclass(frozen=True, config=STRICT)
class TrainOptions(StudyOptions):
    """Train a network once, with some of it frozen, or pruned as a ticket says.

    Patterns are globs over the names of layers, blocks and parameters; a leading ! takes away.
    """

    QUESTION: ClassVar[str] = "What does one training run reach?"
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("letitgo train --freeze 'fc*' --freeze '!fc4'", "train the last layer only"),
        (
            "letitgo train --data mnist --freeze fc1 --freeze-at 2 --save out.safetensors",
            "freeze a layer from epoch 2 on",
        ),
        ("letitgo train --lr 0.01,0.05,0.1", "one run for each learning rate"),
    )

    freeze: Annotated[tuple[str, ...], Field(description="patterns of what stays frozen")] = ()
    freeze_at: Annotated[int, Field(description="the epoch from which it is frozen")] = 0
    ticket: Annotated[
        str | None, Field(description="ticket file: what it prunes is zero, what it keeps is trained")
    ] = None
    save: Annotated[str | None, Field(description="safetensors file for the trained weights; for one recipe only")] = (
        None
    )

    def __post_init__(self) -> None:
        check_epochs("freeze-at", (self.freeze_at,), self.recipes)
        if self.freeze_at and not self.freeze:
            raise BadRequest(f"freeze-at names epoch {self.freeze_at}, but nothing is frozen: name it with freeze")
        if self.ticket is not None and self.freeze:
            raise BadRequest("a ticket says itself what is frozen: give a ticket or freeze, not both")
        if self.save is not None:
            check_target(self.save)
            if len(self.recipes) > 1:
                raise BadRequest(f"save names one file for {len(self.recipes)} runs: train one recipe, or leave it out")
