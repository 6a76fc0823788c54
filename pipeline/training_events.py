"""What a training reports while it runs, as live events of its task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .event_record import EventsUnavailable, InvalidEvent, Selection
from .events import EventLog

logger = logging.getLogger("trainloom")

KINDS = ("training", "validation")
REGULARIZATION = "regularization_loss"


def value_name(kind: str, name: str) -> str:
    """What a field of an event was called when it was reported; regularization belongs to no tier."""
    return name if name == REGULARIZATION else f"{kind}_{name}"


class TrainingEvents:
    """The events of one attempt at a task, each with the attempt's id: an epoch that was trained again is told apart.

    What cannot be kept is said once and does not end the training.
    """

    def __init__(self, log: EventLog, task: str, attempt: str) -> None:
        self._log = log
        self._task = task
        self._attempt = attempt
        self._broken = False

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep an epoch's values, `epoch` counted from 0: those named ``training_…`` and ``validation_…`` as events of
        these kinds without that beginning, all others as training."""
        by_kind: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        for name, value in values.items():
            kind, separator, rest = name.partition("_")
            if kind in by_kind and separator:
                by_kind[kind][rest] = value
            else:
                by_kind[KINDS[0]][name] = value
        for kind, fields in by_kind.items():
            if fields:
                self._append(kind, {"epoch": epoch + 1, **fields})

    def tested(self, values: Mapping[str, float]) -> None:
        """Keep the values of the test tier, if there are any."""
        if values:
            self._append("testing", values)

    def newest(self, chosen: Selection) -> dict[str, Any] | None:
        """The last event of those chosen, None where there is none; raises `EventsUnavailable`."""
        return next(self._log.read(chosen, limit=1, newest_first=True), None)

    def measured(self, values: Mapping[str, Any]) -> None:
        """Keep what a GPU showed at a moment; see `GpuMeter`."""
        self._append("gpu", values)

    def _append(self, kind: str, fields: Mapping[str, Any]) -> None:
        if self._broken:
            return
        try:
            self._log.append(kind, {**fields, "attempt": self._attempt}, task=self._task)
        except (InvalidEvent, EventsUnavailable) as error:
            logger.warning("the values of %s are not kept as events: %s", self._task[:8], error)
            self._broken = True
