"""Several worker processes on one machine: started, listened to and stopped together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from schemas.training_result import TrainingResult

from .errors import PipelineError
from .queue import job_table
from .stop import TERMINATED
from .worker import storable

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from .settings import Settings

logger = logging.getLogger("trainloom")

FAILED = 1


@dataclass(frozen=True)
class Assignment:
    """What the processes are to train.

    Attributes
    ----------
    order : as in `TrainingResult.populate`.
    restriction : an SQL condition on tasks, or None for all of them.
    max_tasks : how many tasks are taken at most, or None.
    """

    order: str = "original"
    restriction: str | None = None
    max_tasks: int | None = None

    @property
    def restrictions(self) -> tuple[str, ...]:
        return () if self.restriction is None else (self.restriction,)


@dataclass(frozen=True)
class Event:
    """What happened in a worker process.

    Attributes
    ----------
    kind : a task was ``taken``, ``made`` or ``failed``; ``log`` is a line of the log; ``broken`` says that the process
        itself cannot go on.
    message : text for people; empty where the kind says all.
    key : the task's primary key, empty where no task is concerned.
    """

    kind: Literal["taken", "made", "failed", "log", "broken"]
    message: str = ""
    key: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Worker:
    process: SpawnProcess
    channel: Connection


class WorkerPool:
    """Processes that each run `TrainingResult.populate` until nothing is left.

    They are spawned, since a forked child shares its parent's connection, and are no daemons, since they start loader
    processes. They leave SIGINT to this process and end on SIGTERM, giving back the job they hold; they do the same
    when this process dies.
    """

    def __init__(self, settings: Settings, count: int, assignment: Assignment) -> None:
        self._settings = settings.model_copy(update={"worker_processes": count})
        self._shares = _shares(assignment, count)
        self._workers: list[_Worker] = []

    def run(self, report: Callable[[Event], None]) -> int:
        """Train until nothing is left; a session must be open. Returns the exit code: 0, or the worst of the processes.

        KeyboardInterrupt and SystemExit stop all processes and are raised again when these have ended; a second one
        kills them.
        """
        try:
            self._start()
            return self._listen(report)
        except BaseException:
            self._stop(report)
            raise

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for share in self._shares:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(self._settings, share, writer), name="trainloom-worker")
            process.start()
            self._workers.append(_Worker(process, reader))
            writer.close()  # so that the reader sees the end of a process that was killed

    def _listen(self, report: Callable[[Event], None]) -> int:
        """Report events until every process has ended."""
        worst = 0
        while self._workers:
            ready = wait([worker.channel for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.channel in ready]:
                event = _received(worker.channel)
                if event is not None:
                    report(event)
                    continue
                worker.process.join()
                worst = max(worst, self._settle(worker, report))
                self._workers.remove(worker)
        return worst

    @staticmethod
    def _settle(worker: _Worker, report: Callable[[Event], None]) -> int:
        """The exit code of a process that has ended; the job of one that died becomes an error."""
        code = worker.process.exitcode
        assert code is not None, "it was joined"
        if code >= 0:
            return code
        died = f"the worker process {worker.process.pid} died of {signal.Signals(-code).name}"
        message = f"{died}; see the system's log (was there not enough memory?)"
        _settle_job(worker.process.pid, "error", message)
        report(Event("broken", message))
        return FAILED

    def _stop(self, report: Callable[[Event], None]) -> None:
        for worker in self._workers:
            worker.process.terminate()
        try:
            while self._workers:
                worker = self._workers[0]
                while (event := _received(worker.channel)) is not None:
                    report(event)
                worker.process.join()
                _settle_job(worker.process.pid, "pending", "")
                del self._workers[0]
        except BaseException:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                _settle_job(worker.process.pid, "pending", "")
            raise


def _shares(assignment: Assignment, count: int) -> list[Assignment]:
    """The assignment of each process; a limit on tasks is divided among them."""
    if count < 1:
        raise PipelineError(f"the number of worker processes is 1 or more, not {count}")
    if assignment.max_tasks is None:
        return [assignment] * count
    least, rest = divmod(assignment.max_tasks, count)
    limits = [least + (number < rest) for number in range(count)]
    return [Assignment(assignment.order, assignment.restriction, limit) for limit in limits if limit]


def _received(channel: Connection) -> Event | None:
    """The next event; None at the end, also at the torn end that a killed process leaves."""
    try:
        event: Event = channel.recv()
    except (EOFError, OSError):
        return None
    return event


def _settle_job(pid: int | None, status: Literal["error", "pending"], message: str) -> None:
    """Settle the job that a process of this machine held when it died."""
    jobs = job_table(TrainingResult())
    quote = jobs.connection.adapter.quote_identifier
    jobs.connection.query(
        f"UPDATE {jobs.full_table_name} SET {quote('status')}=%s, {quote('error_message')}=%s "
        f"WHERE {quote('status')}='reserved' AND {quote('host')}=%s AND {quote('pid')}=%s",
        args=(status, storable(message), platform.node(), pid),
    )


# In the worker process.


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


def _send(channel: Connection, event: Event) -> None:
    with suppress(OSError):  # the parent has gone: nobody listens, and `_follow_parent` ends this process
        channel.send(event)


def _work(settings: Settings, assignment: Assignment, channel: Connection) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to us as well; the parent decides
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [_ChannelHandler(channel)]
    try:
        from .session import connect

        with connect(settings, create_home=False):
            _train(assignment)
    except Exception as error:
        _send(channel, Event("broken", str(error) or type(error).__name__))
        raise SystemExit(getattr(error, "exit_code", FAILED)) from None


def _train(assignment: Assignment) -> None:
    """Populate again and again, until a pass finds nothing to do: tasks may be added meanwhile."""
    left = assignment.max_tasks
    while left is None or left > 0:
        outcome = TrainingResult().populate(
            *assignment.restrictions, reserve_jobs=True, suppress_errors=True, order=assignment.order, max_calls=left
        )
        tried = outcome["success_count"] + len(outcome["error_list"])
        if not tried:
            return
        left = None if left is None else left - tried


def _terminate(*_: Any) -> None:
    raise SystemExit(TERMINATED)


def _follow_parent() -> None:
    """End this process, as SIGTERM does, when its parent dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "worker processes are children"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
