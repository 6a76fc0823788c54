"""What a trainer promises, and what it may ask of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

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

OPTIONAL_INIT_PARAMS = (
    "seed",
    "initial_weights",
    "initial_state",
    "reporter",
    "checkpoints",
    "stop",
    "progress",
    "scheduler_class",
)
"""A trainer whose constructor names these is given them too."""


class TrainerError(ValueError):
    """A training was asked for in a way that cannot be carried out."""


class Stopped(Exception):
    """A training ended early because a stop was asked for; its checkpoint is saved if it has where to save one."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints of a training stay.

    Attributes:
        last: the newest so many, until the training is over.
        best: the so many of the best scores; they stay with the result.
        every: one at the end of every so many epochs; they stay with the result. 0 for none.
        final: the one at the end of the training stays with the result.
        direction: whether "max" or "min" is the best score.
    """

    last: int = 2
    best: int = 0
    every: int = 0
    final: bool = False
    direction: Literal["max", "min"] = "min"


DEFAULT_RETENTION = Retention()


class Checkpoints(Protocol):
    """Keeps the states of one training. All is called from the training's own thread."""

    def retain(self, retention: Retention) -> None:
        """Which states stay; told before anything is saved, else it is `DEFAULT_RETENTION`, and again where it
        changes."""

    def load(self) -> bytes | None:
        """The newest whole state, None where there is none; damaged ones are left out, and that is said."""

    def save(
        self,
        content: bytes,
        *,
        epoch: int,
        step: int,
        score: float | None = None,
    ) -> None:
        """Keep a state; what goes wrong is said and does not end the training.

        Args:
            content: the whole state, in the trainer's own format.
            epoch: how many epochs lie behind.
            step: how many batches of the next one lie behind.
            score: of the epoch that ended here, None in the middle of one.
        """

    def poll(self) -> None:
        """Do what has become due meanwhile. Called after every batch: it costs next to nothing where nothing is."""


class Stop(Protocol):
    """Says when a training is to end early. It is asked after every batch and must be cheap."""

    @property
    def requested(self) -> bool:
        """Whether to stop as soon as the state can be saved."""


class Progress(Protocol):
    """Is called after every batch, of training and of scoring: the call says that the training is alive."""

    def __call__(self, epoch: int, step: int) -> None:
        """`epoch` epochs and `step` batches of the next one lie behind; while scoring they stay as they are."""


class Reporter(Protocol):
    """Hears how a training goes on. It is called from the training's own thread and must not block it."""

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """Training begins, `epochs_done` of its `max_epoch` epochs lying behind it."""

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Epoch number `epoch`, counted from 0, was trained and validated with these values by name."""
