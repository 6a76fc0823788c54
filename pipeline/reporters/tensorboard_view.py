"""A training written as TensorBoard files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .training_state import TrainingState

TIERS = ("training", "validation")


class TensorboardView:
    """Writes every epoch's values below `folder`, a folder per task; one that is resumed goes on in its own.

    ``training_loss`` and ``validation_loss`` are called ``loss/training`` and ``loss/validation``, so that they lie
    side by side.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, state: TrainingState) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise RuntimeError(
                "tensorboard_dir is set and the package tensorboard is missing; install trainloom[tensorboard]"
            ) from error
        # What an attempt before wrote of the epochs that are trained again does not count.
        self._writer = SummaryWriter(
            str(self._folder / state.training.key), purge_step=state.epochs_before + 1 if state.epochs_before else None
        )
        self._writer.add_text("task", f"{state.training.title}, {state.training.key}")

    def moved(self, state: TrainingState) -> None: ...

    def epoch(self, state: TrainingState) -> None:
        for name, value in state.last().items():
            tier, _, rest = name.partition("_")
            self._writer.add_scalar(f"{rest}/{tier}" if tier in TIERS and rest else name, value, state.epoch)
        self._writer.flush()

    def end(self, state: TrainingState) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
