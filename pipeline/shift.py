"""What one process does with the queues that it serves: it takes the most urgent job of all of them, one after the
other, until nothing is due."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import outlook

if TYPE_CHECKING:
    from .stop import StopSignal
    from .worker import Worker

logger = logging.getLogger("trainloom")

IMPATIENT = 0.5  # share of the lease after which stale leases are looked for again


class Shift:
    """The workers of one process, one for each table, of which one computes at a time.

    The more urgent job goes first, whichever queue it is in; among equally urgent ones the queues take turns. A queue
    that is empty costs no statement per task: what is most urgent there is asked within the claim of a job.

    Parameters
    ----------
    lease_seconds : age of the last heartbeat at which a job is taken from its worker.
    max_tasks : how many jobs are taken at most, all workers together; None for no limit.
    show_life : is called between jobs; whoever waits for some calls it too.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        stop: StopSignal,
        *,
        lease_seconds: float,
        max_tasks: int | None,
        show_life: Callable[[], None] = lambda: None,
    ) -> None:
        self._workers = list(workers)  # who took the last job stands first
        self._connection = workers[0].queue.connection
        self._stop = stop
        self._lease_seconds = lease_seconds
        self._max_tasks = max_tasks
        self._next_reclaim = 0.0
        self.show_life = show_life

    @property
    def taken(self) -> int:
        """How many jobs were taken."""
        return sum(worker.taken for worker in self._workers)

    @property
    def success(self) -> int:
        """How many of them came to a result."""
        return sum(worker.success for worker in self._workers)

    @property
    def errors(self) -> list[tuple[dict[str, Any], Any]]:
        """(key, error) of those that failed."""
        return [failed for worker in self._workers for failed in worker.errors]

    def run(self) -> None:
        """Work until nothing is due or `max_tasks` jobs were taken.

        Raises
        ------
        ConfigurationError
            After three tasks of a table in a row that failed for what this worker lacks.
        SystemExit, KeyboardInterrupt
            After SIGTERM and SIGINT; the job is given back before.
        """
        self._stop.polled = True  # between tasks and while one is settled; a signal must not leave a job half-settled
        try:
            self._run()
        finally:
            self._stop.polled = False
        self._stop.raise_if_requested()

    def seconds_to_next(self) -> float | None:
        """Seconds until the next job is due that `run` would take; None if none waits. One statement."""
        return outlook.seconds_to_next(self._connection, [worker.waiting() for worker in self._workers])

    def say_what_is_unfit(self) -> None:
        """Log how many jobs wait that ask for more than this process can give; other workers may take them."""
        unfit = sum(worker.queue.count_unfit() for worker in self._workers)
        if unfit:
            logger.warning(
                "%d waiting task%s for more than this worker can give (%s); a worker with more takes them",
                unfit,
                "s ask" if unfit > 1 else " asks",
                self._workers[0].queue.worker.capacity,
            )

    def any_silent(self, seconds: float, pids: Sequence[int] = ()) -> bool:
        """Whether a job of ours is held by a worker that has not shown life for so long; see `Queue.silent`."""
        return any(outlook.found(self._connection, [worker.silent(seconds, pids) for worker in self._workers]))

    def _run(self) -> None:
        self._refresh()
        fresh = True
        while self.taken != self._max_tasks:
            self._stop.raise_if_requested()
            self.show_life()
            self._reclaim()
            if self._take(insist=fresh):
                fresh = False
            elif fresh:
                return
            else:  # what was computed meanwhile may have made more tasks ready
                self._refresh()
                fresh = True

    def _refresh(self) -> None:
        for worker in self._workers:
            worker.refresh()

    def _take(self, *, insist: bool) -> bool:
        """Let one of the workers take a job; False if none is due.

        Who took the last one goes first, but only for a job that is more urgent than all others: so a claim that finds
        something is the only statement, and the others are asked where they have something, or this one has nothing.
        `insist` asks it for any job in the end: what is more urgent may be one that nobody can claim, since a
        transaction of somebody else holds its row.
        """
        first, *others = self._workers
        if first.take(ahead_of=[other.most_urgent() for other in others]):
            return True
        for other in others:
            if other.take():
                self._workers.remove(other)
                self._workers.insert(0, other)
                return True
        return insist and bool(others) and first.take()

    def _reclaim(self) -> None:
        """Now and then give back the jobs of workers that show no life: all workers do that for each other."""
        if time.monotonic() < self._next_reclaim:
            return
        self._next_reclaim = time.monotonic() + IMPATIENT * self._lease_seconds * random.SystemRandom().random()
        stale = outlook.found(self._connection, [worker.queue.silent(self._lease_seconds) for worker in self._workers])
        for worker, is_stale in zip(self._workers, stale, strict=True):
            if is_stale:
                worker.reclaim()
