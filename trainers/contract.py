"""What a trainer promises, and what it may ask of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

TRAINER_INIT_PARAMS = (
    "train_dataloader",
    "validation_dataloader",
    "test_dataloader",
    "device",
    "model_class",
    "model_class_params",
    "optimizer_class",
    "optimizer_class_params",
    "criterion_class",
    "criterion_class_params",
    "model_save_path",
    "max_epoch",
)
"""Every trainer is given these by keyword; what its constructor names besides is `trainer_class_params` of a row."""

OPTIONAL_INIT_PARAMS = ("seed", "initial_weights", "reporter", "checkpoints", "stop")
"""A trainer whose constructor names these is given them too."""


class TrainerError(ValueError):
    """A training was asked for in a way that cannot be carried out."""


class Reporter(Protocol):
    """Hears how a training goes on. It is called from the training's own thread and must not block it."""

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """Training begins, `epochs_done` of its `max_epoch` epochs lying behind it."""

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Epoch number `epoch`, counted from 0, was trained and validated with these values by name."""
