"""The life of one worker process of a pool: what it is told, what it tells, and when it ends.

It imports little, so that a process can choose its GPU before torch is there.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, cast

from . import gpu_choice
from .gpu_locks import Gpu
from .life_sign import LifeSign
from .stop import StopSignal

if TYPE_CHECKING:
    from .runner import TaskRunner
    from .settings import Settings
    from .shift import Shift

logger = logging.getLogger("trainloom")

FAILED = 1
MARGIN = 5.0  # s beyond the grace until a process that does not end is killed
REFILL = 60.0  # s after which a waiting process looks for new tasks and for workers that died
SHORTEST = 0.2  # s between looks at the queue
SCATTER = (0.75, 1.25)  # by which the times between looks are multiplied: many workers must not come at once


@dataclass(frozen=True)
class Assignment:
    """What the processes are to do.

    Attributes
    ----------
    order : as in `TrainingResult.populate`.
    restriction : an SQL condition on tasks, or None for all of them; without `table` one on trainings, and then there
        is nothing else to do.
    max_tasks : how many tasks are taken at most, or None.
    watch : wait for new tasks for ever.
    wait_seconds : without `watch`, for how long a task is waited for that is soon to be tried again.
    table : ``"trainings"``, ``"predictions"`` or ``"scripts"``, or None for all, scripts where they are allowed.
    """

    order: str = "original"
    restriction: str | None = None
    max_tasks: int | None = None
    watch: bool = False
    wait_seconds: float = 120.0
    table: str | None = None

    @property
    def restrictions(self) -> tuple[str, ...]:
        return () if self.restriction is None else (self.restriction,)


@dataclass(frozen=True)
class Event:
    """What happened in a worker process.

    Attributes
    ----------
    kind : a task was ``taken``, ``made`` or ``failed``; ``progress`` tells how far it is, in JSON; ``log`` is a line of
        the log; ``broken`` says that the process itself cannot go on.
    message : text for people; empty where the kind says all.
    key : the task's primary key, empty where no task is concerned.
    """

    kind: Literal["taken", "progress", "made", "failed", "log", "broken"]
    message: str = ""
    key: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What a process has for itself.

    Attributes
    ----------
    name : of its worker; attempts record it, so that nobody takes back another's job.
    sign : by which it shows that it gets on.
    gpus : those of which it may have one; empty for none.
    """

    name: str
    sign: LifeSign
    gpus: tuple[Gpu, ...] = ()


def run(settings: Settings, assignment: Assignment, place: Place, channel: Connection) -> None:
    """Work until nothing is left to do; what a spawned process is started with.

    SIGTERM ends a training at its next step, with a checkpoint, and a script at once, at the latest when the grace of
    the settings is over; so does the end of the parent.
    """
    stop = StopSignal(settings.grace_seconds)
    with stop.listening():
        _hear_once()
        threading.Thread(
            target=_follow_parent, args=(settings.grace_seconds,), name="follow-parent", daemon=True
        ).start()
        _log_to(channel)
        try:
            with gpu_choice.alone(settings, place.gpus) as chosen:
                _work(chosen, assignment, place, stop)
        except Exception as error:
            _send(channel, Event("broken", str(error) or type(error).__name__))
            raise SystemExit(getattr(error, "exit_code", FAILED)) from None


def _work(settings: Settings, assignment: Assignment, place: Place, stop: StopSignal) -> None:
    from schemas.binding import services

    from .session import connect
    from .task_kind import served

    options = {
        "order": assignment.order,
        "max_calls": assignment.max_tasks,
        "priority": None,
        "refresh": None,
        "make_kwargs": None,
        "suppress_errors": True,
        "return_exception_objects": False,
    }
    with connect(settings, create_home=False):
        runner = cast("TaskRunner", services("a worker process").runner)
        runner.trainers.in_pool = True
        runner.trainers.gpus = place.gpus
        runner.show_life = place.sign.show
        kinds = served(settings, assignment.table, assignment.restriction)
        tables = [(kind.results(), assignment.restrictions) for kind in kinds]
        shift = runner.new_shift(tables, options, stop, place.name)
        patience = Patience(shift, assignment, settings.poll_seconds)
        shift.run()
        shift.say_what_is_unfit()
        while shift.taken != assignment.max_tasks and patience.wait():
            shift.run()


class Patience:
    """Waits for work, with one cheap question to the database each time."""

    def __init__(self, shift: Shift, assignment: Assignment, poll: float) -> None:
        self._shift = shift
        self._assignment = assignment
        self._poll = poll
        self._random = random.SystemRandom()  # the trainings' own randomness stays as it is

    def wait(self) -> bool:
        """Return True when there may be something to do again, False when nothing will come.

        It comes to an end only when every job that is held has shown life meanwhile, or was given back: whoever ends
        with success must not leave behind the job of a worker that died.
        """
        began = time.monotonic()
        while True:
            self._shift.show_life()
            idle = time.monotonic() - began
            seconds = self._shift.seconds_to_next()
            if idle > SHORTEST / 2 and seconds == 0:
                return True
            if not self._expects_work(seconds, idle):
                return False
            if idle > REFILL:
                return True
            self._sleep(seconds)

    def _expects_work(self, seconds: float | None, idle: float) -> bool:
        patience = self._assignment.wait_seconds
        if self._assignment.watch or (seconds is not None and seconds <= patience):
            return True
        return patience > 0 and self._shift.any_silent(idle, pids=_siblings())

    def _sleep(self, seconds: float | None) -> None:
        pause = self._poll if seconds is None else min(max(seconds, SHORTEST), self._poll)
        time.sleep(pause * self._random.uniform(*SCATTER))


def _siblings() -> list[int]:
    """The processes of this pool: its parent looks after their jobs."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(os.getppid()).children()]
    return []  # the parent has gone, and this process ends as well


def _hear_once() -> None:
    """Ignore SIGINT, which is the parent's, and further SIGTERM after the first one: where a whole group of processes
    is stopped, this one gets it from there and from its parent, and a parent that wants the end at once kills it."""
    first = signal.getsignal(signal.SIGTERM)
    assert callable(first), "StopSignal listens"

    def hear(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        first(number, frame)

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _follow_parent(grace: float) -> None:
    """End this process, as SIGTERM does, when its parent dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "worker processes are children"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    if grace > 0:
        time.sleep(grace + MARGIN)
        os.kill(os.getpid(), signal.SIGKILL)


class _ChannelHandler(logging.Handler):
    """Hands log records to the parent; those with an `event` tell of a task."""

    def __init__(self, channel: Connection) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        kind = getattr(record, "event", None)
        if kind is None and record.levelno < logging.WARNING:
            return
        _send(self._channel, Event(kind or "log", record.getMessage(), getattr(record, "key", {})))


def _log_to(channel: Connection) -> None:
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [_ChannelHandler(channel)]


def _send(channel: Connection, event: Event) -> None:
    with suppress(OSError):  # the parent has gone: nobody listens, and `_follow_parent` ends this process
        channel.send(event)
