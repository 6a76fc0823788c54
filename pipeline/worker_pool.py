"""Several worker processes on one machine: started, listened to, started again when they die, and stopped together."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from datajoint.errors import DataJointError

from schemas.attempt import Outcome

from . import progress_file, worker_process
from .errors import ConfigurationError, PipelineError
from .gpu_locks import Gpu
from .life_sign import LifeSign, Silence
from .queue import Queue
from .retry import Policy
from .stop import StopSignal
from .task_kind import served
from .worker import settle_loss
from .worker_process import FAILED, MARGIN, Assignment, Event, Place

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from .settings import Settings

__all__ = ["Assignment", "Event", "WorkerPool"]

logger = logging.getLogger("trainloom")

TICK = 0.5  # s until a signal is noticed while nothing else happens
QUICK = 60.0  # s: a process that dies sooner, having finished no task, has not got anywhere
# More than the attempts after which a task that kills its workers is set aside: it alone must not end a pool.
QUICK_DEATHS = 5
START_LIMIT = 600.0  # s that a process may take until its first sign of life: it imports, connects and waits for a GPU
CONFIGURATION = ConfigurationError.exit_code


@dataclass
class _Process:
    """A process that runs."""

    process: SpawnProcess
    channel: Connection
    name: str
    silence: Silence
    started: float
    got_somewhere: bool = False
    stuck: bool = False


@dataclass
class _Slot:
    """One of the pool's processes, and those that are started in its place.

    Attributes
    ----------
    share : the tasks that they may still take.
    running : None when they have ended for good.
    deaths : how many died one after the other without getting anywhere.
    """

    share: Assignment
    running: _Process | None = None
    deaths: int = 0
    code: int = 0

    def note(self, event: Event) -> None:
        assert self.running is not None, "it told of the event"
        if event.kind == "made":
            self.running.got_somewhere = True
        elif event.kind == "taken" and self.share.max_tasks is not None:
            self.share = replace(self.share, max_tasks=self.share.max_tasks - 1)

    def may_start_again(self) -> bool:
        """Count the death of the process that has just ended."""
        assert self.running is not None, "it was joined"
        quick = not self.running.got_somewhere and time.monotonic() - self.running.started < QUICK
        self.deaths = self.deaths + 1 if quick else 0
        return self.deaths < QUICK_DEATHS and self.share.max_tasks != 0


class WorkerPool:
    """Processes that each do one task after the other.

    They are spawned, since a forked child shares its parent's connection, and are no daemons, since they start loader
    processes. SIGINT is this process's alone; on SIGTERM they save and give back the job they hold, and so they do when
    this process dies. What a process held that died is given back at once. One that shows no life any more is killed.
    """

    def __init__(self, settings: Settings, count: int, assignment: Assignment, gpus: Sequence[Gpu] = ()) -> None:
        """`gpus`: those that the processes may have, one each; empty for none.

        Raises
        ------
        ConfigurationError
            If there are fewer GPUs than processes, or only scripts are to be run and they are not allowed.
        """
        if count < 1:
            raise PipelineError(f"the number of worker processes is 1 or more, not {count}")
        if gpus and count > len(gpus):
            raise ConfigurationError(
                f"{count} worker processes need {count} GPUs and there are {len(gpus)}; start {len(gpus)}, or train "
                "without GPUs: --set device=cpu"
            )
        self._settings = settings.model_copy(update={"worker_processes": count})
        self._gpus = tuple(gpus)
        self._slots = [_Slot(share) for share in _shares(assignment, count)]
        kinds = served(settings, assignment.table, assignment.restriction)
        self._queues = [Queue(kind.results()) for kind in kinds]
        self._policy = Policy(settings.max_attempts, settings.retry_seconds)
        self._stall_limit = progress_file.stall_limit(settings)
        # Where this process does its part, its children never make the whole worker look stuck.
        self._progress = progress_file.opened(settings, spare=START_LIMIT)

    def run(self, report: Callable[[Event], None]) -> int:
        """Work until nothing is left; a session must be open. Returns the exit code: 0, or the worst of the processes.

        SIGTERM and SIGINT stop all processes and are raised, as SystemExit and KeyboardInterrupt, when these have
        ended. A second one, or the end of the grace, kills them.
        """
        grace = self._settings.grace_seconds
        stop = StopSignal(grace + MARGIN if grace > 0 else 0.0)
        stop.polled = True
        self._queues[0].connection.while_away = self._show_life
        with stop.listening():
            try:
                for slot in self._slots:
                    self._start(slot)
                self._listen(stop, report)
            except BaseException:
                self._end(stop)
                raise
        stop.raise_if_requested()
        codes = {slot.code for slot in self._slots}
        return next((code for code in (CONFIGURATION, FAILED) if code in codes), 0)

    def _start(self, slot: _Slot) -> None:
        context = multiprocessing.get_context("spawn")
        reader, writer = context.Pipe(duplex=False)
        sign = LifeSign(context)
        place = Place(secrets.token_hex(8), sign, self._gpus)
        process = context.Process(
            target=worker_process.run, args=(self._settings, slot.share, place, writer), name="trainloom-worker"
        )
        with _sigint_blocked():
            process.start()
        writer.close()  # so that the reader sees the end of a process that was killed
        slot.running = _Process(process, reader, place.name, Silence(sign), time.monotonic())

    def _listen(self, stop: StopSignal, report: Callable[[Event], None]) -> None:
        """Report events until every process has ended for good."""
        told = False
        while running := [slot for slot in self._slots if slot.running is not None]:
            if stop.requested and not told:
                self._terminate()
                told = True
            wait([slot.running.channel for slot in running if slot.running is not None], timeout=TICK)
            for slot in running:
                self._hear(slot, stop, report)
            self._end_stuck()
            self._show_life()

    def _end_stuck(self) -> None:
        """Kill what shows no life any more: what hangs in a C call hears no signal, and its lease is lost already."""
        for running in self._running():
            silence = running.silence
            silence.look()
            limit = max(self._stall_limit, START_LIMIT) if silence.unbroken else self._stall_limit
            if silence.seconds > limit and not running.stuck:
                running.stuck = True
                running.process.kill()

    def _show_life(self) -> None:
        """This process shows the life of the one that has been silent for longest."""
        if self._progress is not None:
            self._progress.show_life(max((running.silence.seconds for running in self._running()), default=0.0))

    def _hear(self, slot: _Slot, stop: StopSignal, report: Callable[[Event], None]) -> None:
        """Report what a process has told, and see whether it has ended."""
        assert slot.running is not None, "only those are listened to"
        channel = slot.running.channel
        alive = slot.running.process.is_alive()  # loader processes may hold the channel open for longer
        while channel.poll():
            event = _received(channel)
            if event is None:
                alive = False
                break
            slot.note(event)
            report(event)
        if not alive:
            channel.close()
            self._settle(slot, stop, report)

    def _settle(self, slot: _Slot, stop: StopSignal, report: Callable[[Event], None]) -> None:
        """Look after what a process left behind that has ended, and start another one if it died."""
        running = slot.running
        assert running is not None, "only those are listened to"
        running.process.join()
        code = running.process.exitcode
        assert code is not None, "it was joined"
        if code < 0 and not stop.requested:
            message = _cause_of_death(running, signal.Signals(-code))
            self._take_back(running.name, Outcome.LOST, message)
            report(Event("broken", message))
        elif code != 0:
            self._take_back(running.name, Outcome.PREEMPTED, "")
        again = code not in (0, CONFIGURATION) and not stop.requested
        if again and slot.may_start_again():
            self._start(slot)
            return
        if again and slot.deaths >= QUICK_DEATHS:
            report(Event("broken", f"{slot.deaths} worker processes died one after the other; no other one is started"))
        slot.code, slot.running = FAILED if again else code, None

    def _take_back(self, name: str, outcome: Outcome, error: str) -> None:
        try:
            for queue in self._queues:
                for key in queue.take_back(name, outcome, error):
                    if outcome is Outcome.LOST:
                        settle_loss(queue, key, self._policy)
        except DataJointError as problem:
            logger.warning("a job could not be given back (%s); it will be when its lease has run out", problem)

    def _terminate(self) -> None:
        for running in self._running():
            running.process.terminate()

    def _end(self, stop: StopSignal) -> None:
        """End the processes at once; after an error here, which is not theirs, as SIGTERM does."""
        if not stop.requested:
            self._terminate()
            limit = time.monotonic() + self._settings.grace_seconds + MARGIN
            for running in self._running():
                running.process.join(max(0.0, limit - time.monotonic()))
        for running in self._running():
            running.process.kill()
            running.process.join()
            self._take_back(running.name, Outcome.PREEMPTED, "")

    def _running(self) -> list[_Process]:
        return [slot.running for slot in self._slots if slot.running is not None]


def _cause_of_death(dead: _Process, number: signal.Signals) -> str:
    if dead.stuck:
        return (
            f"the worker process {dead.process.pid} was killed: it had shown no life for {dead.silence.seconds:.0f} s "
            "(stall_seconds)"
        )
    died = f"the worker process {dead.process.pid} died of {number.name}"
    return f"{died}; see the system's log (was there not enough memory?)"


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes that are started meanwhile never see the SIGINT that a terminal sends to all: the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shares(assignment: Assignment, count: int) -> list[Assignment]:
    """The assignment of each process; a limit on tasks is divided among them."""
    if assignment.max_tasks is None:
        return [assignment] * count
    least, rest = divmod(assignment.max_tasks, count)
    limits = [least + (number < rest) for number in range(count)]
    return [replace(assignment, max_tasks=limit) for limit in limits if limit]


def _received(channel: Connection) -> Event | None:
    """The next event; None at the end, also at the torn end that a killed process leaves."""
    try:
        event: Event = channel.recv()
    except (EOFError, OSError):
        return None
    return event
