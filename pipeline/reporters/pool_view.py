"""A training of a worker process, told to the process that started it, which alone draws."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from .training_state import TrainingState

logger = logging.getLogger("trainloom")

PROGRESS = "progress"
"""The kind of event that the log hands to the parent."""
TASK_KEY = "training_task_md5_hash"
PAUSE = 1.0  # s between two messages of a training


@dataclass(frozen=True)
class Snapshot:
    """How far a training of another process is; see `TrainingState`."""

    key: str
    title: str
    epoch: int
    max_epoch: int
    step: int
    batches: int | None
    epochs_behind: float
    batches_per_second: float | None
    seconds_left: float | None
    values: dict[str, float | None]

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def read(cls, text: str) -> Snapshot:
        """The inverse of `text`."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


def snapshot(state: TrainingState) -> Snapshot:
    """The present state."""
    finite = {name: value if math.isfinite(value) else None for name, value in state.last().items()}
    return Snapshot(
        state.training.key,
        state.training.title,
        state.epoch,
        state.max_epoch,
        state.step,
        state.batches,
        state.epochs_behind,
        state.batches_per_second(),
        state.seconds_left,
        finite,
    )


class PoolView:
    """Tells of a training through the log, which a worker process hands to its parent, about once a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def begin(self, state: TrainingState) -> None:
        self._tell(state)

    def moved(self, state: TrainingState) -> None:
        if time.monotonic() >= self._next:
            self._tell(state)

    def epoch(self, state: TrainingState) -> None:
        self.moved(state)

    def end(self, state: TrainingState) -> None:
        self._tell(state)

    def _tell(self, state: TrainingState) -> None:
        self._next = time.monotonic() + PAUSE
        key = {TASK_KEY: state.training.key}
        logger.info("%s", snapshot(state).text(), extra={"event": PROGRESS, "key": key})
