"""What shows a training."""

from __future__ import annotations

from typing import Protocol

from .training_state import TrainingState


class View(Protocol):
    """Shows one training after the other. It is called from the training's own thread, must not block it, and must
    leave the random states that the training draws from as they are."""

    def begin(self, state: TrainingState) -> None:
        """A training begins; its state changes from now on."""

    def moved(self, state: TrainingState) -> None:
        """Batches were trained or scored; called some times per second."""

    def epoch(self, state: TrainingState) -> None:
        """An epoch was finished."""

    def end(self, state: TrainingState) -> None:
        """The training has ended, one way or the other; raises nothing that matters."""
