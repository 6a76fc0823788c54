"""Every epoch of a training: from its result where there is one, from its events before that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.attempt import Attempt, Outcome
from schemas.training_result import TrainingResult

from .event_record import Selection
from .events import EventLog
from .training_events import KINDS, REGULARIZATION, value_name

TASK_KEY = "training_task_md5_hash"
HISTORIES = {
    "training_loss": "training_epoch_loss_history",
    "validation_loss": "validation_epoch_loss_history",
    REGULARIZATION: "regularization_loss_history",
}
OWN = frozenset({"task", "kind", "time", "epoch", "attempt"})


@dataclass
class TrainingCurve:
    """The values of a training by epoch, counted from 1; of an epoch that was trained twice the newest."""

    epochs: dict[int, dict[str, float]] = field(default_factory=dict)

    def add_event(self, event: Mapping[str, Any]) -> bool:
        """Take the values of an event of `KINDS`; whether it had any."""
        epoch = event.get("epoch")
        if event.get("kind") not in KINDS or not isinstance(epoch, int) or epoch < 1:
            return False
        values = {
            value_name(str(event["kind"]), name): float(value)
            for name, value in event.items()
            if name not in OWN and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self.epochs.setdefault(epoch, {}).update(values)
        return bool(values)

    def add_history(self, name: str, values: Iterable[float]) -> None:
        """Take one value per epoch."""
        for epoch, value in enumerate(values, start=1):
            self.epochs.setdefault(epoch, {})[name] = float(value)

    @property
    def names(self) -> list[str]:
        """Of all values, those of a result's histories first."""
        found = dict.fromkeys(name for values in self.epochs.values() for name in values)
        return [*(name for name in HISTORIES if name in found), *(name for name in found if name not in HISTORIES)]

    def whole(self, *, ended: bool) -> list[int]:
        """The epochs of which all values are there: the last one's may still be on their way while it has not
        `ended`."""
        epochs = sorted(self.epochs)
        if not ended and len(epochs) > 1 and len(self.epochs[epochs[-1]]) < len(self.epochs[epochs[-2]]):
            epochs.pop()
        return epochs

    def points(self, name: str) -> tuple[list[int], list[float]]:
        """The epochs that have a value, and what it was."""
        kept = [(epoch, values[name]) for epoch, values in sorted(self.epochs.items()) if name in values]
        return [epoch for epoch, _ in kept], [value for _, value in kept]


def present_attempts(key: str) -> frozenset[str]:
    """The attempts that the present training of a task is made of, of those that went before it to resume from: a task
    that was trained before, and is trained anew, begins after the attempt that finished then."""
    rows = (Attempt() & {"attempt_key": key, "attempt_table": TrainingResult().table_name}).proj("attempt_outcome")
    ordered = rows.to_dicts(order_by=("attempt_start", "attempt_id"))
    before = [place for place, row in enumerate(ordered[:-1]) if row["attempt_outcome"] == Outcome.FINISHED]
    return frozenset(row["attempt_id"] for row in ordered[before[-1] + 1 if before else 0 :])


def events_of(log: EventLog, key: str, since: datetime | None = None) -> list[dict[str, Any]]:
    """The events of a task's present training by time, from a time on where one is given; raises as `EventLog.read`."""
    attempts = present_attempts(key)
    kinds = (*KINDS, "testing")
    found = [event for kind in kinds for event in log.read(Selection(task=key, kind=kind, since=since))]
    return sorted((event for event in found if event.get("attempt") in attempts), key=lambda event: event["time"])


def finished_curve(log: EventLog, key: str) -> TrainingCurve:
    """All epochs of a finished task: the losses of its result, and what its events tell beside them."""
    row = (TrainingResult() & {TASK_KEY: key}).proj(*HISTORIES.values()).fetch1()
    curve = TrainingCurve()
    for event in events_of(log, key):
        curve.add_event(event)
    epochs = len(row[HISTORIES["training_loss"]])
    curve.epochs = {epoch: values for epoch, values in curve.epochs.items() if epoch <= epochs}
    for name, column in HISTORIES.items():
        curve.add_history(name, row[column])
    return curve
