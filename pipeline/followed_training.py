"""A training that runs anywhere, followed through its events and its rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas.training_config import TrainingConfig
from schemas.training_task import TrainingTask

from . import task_states
from .event_record import EventsUnavailable
from .events import EventLog
from .live_workers import live_workers
from .reporters.description import title
from .reporters.training_state import Training, TrainingState
from .short_keys import full_key
from .task_states import TASK_KEY, State
from .training_curve import TrainingCurve, events_of, finished_curve

logger = logging.getLogger("trainloom")

ENDED = (State.FINISHED, State.ERROR, State.CANCELLED)
LATE = timedelta(seconds=60)  # events of one worker may come this much later than those of another
ALL_AGAIN = 30  # looks after which all events are read again: those that waited on their node come with old times


@dataclass(frozen=True)
class Look:
    """What one look has found.

    Attributes
    ----------
    events : those that were not there before, by time.
    row : the task as `task_states.rows` tells it, None where it was deleted.
    worker : who trains it, as `live_workers` tells it; None where nobody does.
    """

    events: list[dict[str, Any]]
    row: dict[str, Any] | None
    worker: dict[str, Any] | None

    @property
    def state(self) -> State | None:
        """Of the task, None where it was deleted."""
        return None if self.row is None else State(self.row["state"])

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state is None or self.state in ENDED

    def text(self) -> str:
        """Where the task stands, in a line."""
        if self.row is None:
            return "the task was deleted"
        told = str(self.row["state"])
        if self.worker is not None:
            told += f" on {self.worker['pod'] or self.worker['host']}, process {self.worker['pid']}"
        if self.row["attempts"] > 1:
            told += f", attempt {self.row['attempts']}"
        if self.row["message"] and self.state in (State.ERROR, State.RETRY):
            told += f": {self.row['message']}"
        return told


@dataclass
class FollowedTraining:
    """Looks at a task again and again; every event is handed on once.

    Attributes
    ----------
    key : of the task.
    state : for whoever draws it; it changes with every look.
    curve : all epochs so far.
    """

    log: EventLog
    key: str
    state: TrainingState
    curve: TrainingCurve = field(default_factory=TrainingCurve)
    _seen: set[tuple[Any, ...]] = field(default_factory=set)
    _newest: datetime | None = None
    _looks: int = 0
    _away: bool = False

    @classmethod
    def of(cls, log: EventLog, typed: str) -> FollowedTraining:
        """The task whose key begins with what was typed; raises `pipeline.short_keys.UnknownKey`."""
        key = full_key(TrainingTask, typed)
        (row,) = task_states.rows(TrainingTask() & {TASK_KEY: key})
        config = (TrainingConfig() & {TrainingConfig().key_column: row["training"]}).fetch1()
        named = title(key, row["model_class"], row["dataset_file"], row["optimizer_class"], row["seed"])
        state = TrainingState(Training(key, named, int(config["batch_size"])), max_epoch=int(config["epoch_limit"]))
        return cls(log, key, state)

    def look(self) -> Look:
        """What is new; raises `LostConnectionError` when the database stays away."""
        row = next(iter(task_states.rows(TrainingTask() & {TASK_KEY: self.key})), None)
        worker = next((worker for worker in live_workers() if worker["task"] == self.key), None)
        found = Look(self._new_events(), row, worker)
        self._draw_on(worker)
        return found

    def complete(self) -> None:
        """Take the losses of the result of a finished task: events may be missing or deleted."""
        self.curve = finished_curve(self.log, self.key)
        self._draw_on(None)

    def _new_events(self) -> list[dict[str, Any]]:
        everything = self._newest is None or self._looks % ALL_AGAIN == 0
        self._looks += 1
        try:
            events = events_of(self.log, self.key, None if everything or self._newest is None else self._newest - LATE)
        except EventsUnavailable as error:
            if not self._away:
                logger.warning("%s; trying again", error)
            self._away = True
            return []
        self._away = False
        new = [event for event in events if _identity(event) not in self._seen]
        self._seen.update(map(_identity, new))
        for event in new:
            self.curve.add_event(event)
        if events:
            self._newest = max(filter(None, (self._newest, events[-1]["time"])))
        return new

    def _draw_on(self, worker: dict[str, Any] | None) -> None:
        """Bring the state for drawing up to date."""
        self.state.history = {name: self.curve.points(name) for name in self.curve.names}
        epochs = max(self.curve.epochs, default=0)
        told = 0 if worker is None else worker["epoch"] or 0
        # A beat is older than the newest event, or newer: batches are shown of the same epoch only.
        step = worker["step"] or 0 if worker is not None and told >= epochs else 0
        self.state.move(max(epochs, told), step)
        self.state.left_elsewhere = None if worker is None else worker["seconds_left"]


def _identity(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["kind"], event.get("attempt"), event.get("epoch"), event["time"]
