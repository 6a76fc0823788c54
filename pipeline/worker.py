"""A worker: claims a job of its table, computes it, and settles it whatever happens."""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from datajoint.errors import DataJointError, DuplicateError, IntegrityError, LostConnectionError

from schemas.attempt import Blame, Outcome
from schemas.schema import read_columns
from trainers.contract import Stopped

from . import retry
from .claim import Claim
from .claim import Worker as Identity
from .errors import ConfigurationError, DatabaseUnavailable, PipelineError
from .heartbeat import Heartbeat, clock
from .job_table import enqueue
from .outlook import Statement
from .queue import LeaseLost, Queue
from .running import RunningAttempt
from .stop import StopSignal

logger = logging.getLogger("trainloom")

LACKS_IN_A_ROW = 3  # tasks that fail one after the other for what the worker lacks: then it is the worker
LACK_DELAY = 10.0  # s before a task that this worker could not serve is offered again


@dataclass(frozen=True)
class Terms:
    """How a worker holds and retries.

    Attributes
    ----------
    lease_seconds : age of the last heartbeat at which a job is taken from its worker.
    store_away_seconds : how long the store may be away before an attempt ends.
    grace_seconds : how long an ending attempt may take to upload its checkpoint.
    retry : when a failed task is tried again.
    """

    lease_seconds: float = 60.0
    store_away_seconds: float = 600.0
    grace_seconds: float = 25.0
    retry: retry.Policy = field(default_factory=retry.Policy)


class Worker:
    """Computes the missing rows of one table through its queue, a job at a time; `Shift` says when.

    Attributes
    ----------
    success, taken : how many jobs came to a result, and how many were claimed.
    errors : (key, error) of those that failed.

    Parameters
    ----------
    options : DataJoint's parameters of `populate`, with `order`.
    """

    def __init__(
        self,
        table: Any,
        restrictions: tuple[Any, ...],
        options: dict[str, Any],
        *,
        heartbeat: Heartbeat,
        terms: Terms,
        stop: StopSignal,
        identity: Identity | None = None,
    ) -> None:
        self._table = table
        self._restrictions = restrictions
        self._options = options
        self._heartbeat = heartbeat
        self._terms = terms
        self._stop = stop
        self.queue = Queue(table, identity)
        read_columns(type(table))  # before a result is published, in a transaction whose locks others wait for
        self.success = 0
        self.errors: list[tuple[dict[str, Any], Any]] = []
        self.taken = 0
        self._keys: set[str] | None = None  # those that the restrictions leave
        self._unserved: set[str] = set()
        self._lacks = 0

    def refresh(self) -> None:
        """Queue what is missing, and see again what the restrictions leave."""
        if self._options["refresh"] is not False:
            enqueue(self._table, self._restrictions)
        if self._restrictions:
            (name,) = self.queue.jobs.primary_key
            self._keys = {str(row[name]) for row in self._table._jobs_to_do(self._restrictions).to_dicts()}

    def take(self, ahead_of: Sequence[Statement] = ()) -> bool:
        """Claim a job, compute it and settle it whatever happens; False if none is due, or none that is `ahead_of`
        those of other queues (see `Queue.claim`).

        Raises
        ------
        ConfigurationError
            After three tasks of this table in a row that failed for what this worker lacks.
        SystemExit, KeyboardInterrupt
            After SIGTERM and SIGINT; the job is given back before.
        """
        sent = clock()
        claim = self.queue.claim(
            order=self._options["order"],
            keys=self._keys,
            without=self._unserved,
            priority=self._options["priority"],
            ahead_of=ahead_of,
        )
        if claim is None:
            return False
        self.taken += 1
        self._attempt(claim, sent)
        return True

    def reclaim(self) -> None:
        """Give back the jobs of workers that show no life; set aside what keeps killing them."""
        for key in self.queue.reclaim(self._terms.lease_seconds):
            logger.warning("gave back %s, whose worker showed no life", key[:8])
            settle_loss(self.queue, key, self._terms.retry)

    def most_urgent(self) -> Statement:
        """SQL of the priority of the job that `take` would claim; see `Queue.most_urgent`."""
        return self.queue.most_urgent(self._keys, self._unserved)

    def waiting(self) -> Statement:
        """SQL of the time at which the next job is due that `take` would claim; see `Queue.waiting`."""
        return self.queue.waiting(self._keys, self._unserved)

    def silent(self, seconds: float, pids: Sequence[int] = ()) -> Statement:
        """SQL that finds a job of ours whose worker has not shown life for so long; see `Queue.silent`."""
        return self.queue.silent(seconds, self._keys, self._unserved, pids)

    def _attempt(self, claim: Claim, sent: float) -> None:
        logger.info("took %s", claim.key, extra={"event": "taken", "key": claim.key})
        started = time.monotonic()
        (key,) = claim.key.values()
        jobs, attempts = self.queue.full_names
        with self._heartbeat.hold(jobs, claim.key, attempts, claim.attempt, since=sent) as lease:
            self.queue.note_pod(claim)
            running = RunningAttempt(claim, self.queue, lease, self._stop, self._terms.store_away_seconds)
            if not self._settled(claim, running):
                return
            running.close(published=True, wait_s=0.0)
        self.success += 1
        self._lacks = 0
        duration = time.monotonic() - started
        logger.info("made %s in %.1f s", key, duration, extra={"event": "made", "key": claim.key, "duration": duration})

    def _settled(self, claim: Claim, running: RunningAttempt) -> bool:
        """Compute and publish one claim; False if it came to nothing, and then the job is settled all the same."""
        grace = self._terms.grace_seconds
        try:
            self._make(claim, running)
        except Stopped:
            if running.lease.lost in ("taken", "gone"):
                self._give_up(running)
            else:
                running.close(published=False, wait_s=grace)
            self._settle_stopped(running)
        except LeaseLost as error:
            logger.warning("%s", error)
            self._give_up(running)
        except Exception as error:
            away = isinstance(error, LostConnectionError | DatabaseUnavailable)
            if away or not self._is_obsolete(claim, error):
                running.close(published=False, wait_s=grace)
                self._fail(claim, error)
            else:
                running.give_up(obsolete=True)
        except BaseException:
            self.queue.release(claim, Outcome.PREEMPTED)
            running.close(published=False, wait_s=0.0)
            raise
        else:
            return True
        return False

    def _make(self, claim: Claim, running: RunningAttempt) -> None:
        make_kwargs = self._options["make_kwargs"] or {}
        self._table.attempt = running
        try:
            self._stop.polled = False
            self._stop.raise_if_requested()
            fetched = self._table.make_fetch(dict(claim.key), **make_kwargs)
            computed = self._table.make_compute(dict(claim.key), *fetched)
            self._stop.polled = True

            def insert() -> None:
                running.forget_checkpoints()  # first: whoever deletes the task locks its rows in this order too
                insert_result(self._table, claim.key, fetched, computed, make_kwargs)

            self.queue.publish(claim, insert)
        finally:
            self._table.attempt = None
            self._stop.polled = True

    def _give_up(self, running: RunningAttempt) -> None:
        """Leave a job to whoever has it now, or remove it where nothing is left to do."""
        claim = running.claim
        obsolete = claim.key in self._table or not self._table.key_source & claim.key
        if obsolete:
            self.queue.drop(claim, "its result was there already, or its task was deleted")
        self.queue.withdraw(claim)
        running.give_up(obsolete=obsolete)

    def _settle_stopped(self, running: RunningAttempt) -> None:
        """A training ended early: for a signal, since its lease was lost, or since it was cancelled."""
        lost = running.lease.lost
        if lost in ("cancelled", "gone"):
            self.queue.withdraw(running.claim)
            logger.warning(
                "%s was taken out of the queue while it was being %s", running.claim.key, self._table.participle
            )
        elif not self.queue.release(running.claim, Outcome.PREEMPTED):
            self.queue.withdraw(running.claim)
            logger.warning("%s was taken by another worker", running.claim.key)
        self._stop.raise_if_requested()

    def _is_obsolete(self, claim: Claim, error: Exception) -> bool:
        """Whether the job has nothing left to do: its result is there already, its task was deleted, or waits again for
        another one whose result was."""
        if isinstance(error, DuplicateError) and claim.key in self._table:
            self.queue.drop(claim, "its result was there already")
            return True
        of_rows = isinstance(error, DataJointError | IntegrityError | PipelineError)
        if of_rows and not (self._table.key_source & claim.key):
            self.queue.drop(claim, "its task was deleted, or waits for another one again")
            return True
        return False

    def _fail(self, claim: Claim, error: Exception) -> None:
        """Keep the error, decide when the task is tried again, and go on or raise, as `populate` was told. A failure
        after the lease was lost is none: it may come from files that whoever has the task now has removed."""
        message, blame = storable(describe(error)), retry.blame_for(error)
        (key,) = claim.key.values()
        before = self.queue.blamed(key)
        if blame is Blame.TASK:
            delay = self._terms.retry.delay(retry.failures(before) + 1)
        else:
            convicted = len(retry.convicting_hosts(before) | {self.queue.worker.host}) >= retry.HOSTS_THAT_CONVICT
            delay = None if convicted else LACK_DELAY
        stack = storable("".join(traceback.format_exception(error)))
        if not self.queue.release(claim, Outcome.FAILED, error=message, stack=stack, blame=blame, delay=delay):
            self.queue.withdraw(claim)
            logger.warning("%s was another's, or wanted no more, when it failed: %s", claim.key, message)
            return
        if blame is Blame.TASK:
            self._lacks = 0
        else:
            self._unserved.add(key)
            self._lacks += 1
        logger.error("%s", message, extra={"event": "failed", "key": claim.key})
        if not self._options["suppress_errors"]:
            raise error
        self.errors.append((claim.key, error if self._options["return_exception_objects"] else describe(error)))
        if self._lacks >= LACKS_IN_A_ROW:
            raise ConfigurationError(
                f"{self._lacks} tasks in a row could not be {self._table.participle} for what this worker lacks, "
                f"at last: {message}; mend the worker and start it again"
            )


def settle_loss(queue: Queue, key: str, policy: retry.Policy) -> None:
    """Set a task aside whose workers keep dying before a checkpoint is safe."""
    losses = retry.failures(queue.blamed(key))
    if policy.delay(losses) is None:
        queue.set_aside(key, f"{losses} attempts failed or were lost without a checkpoint; see `trainloom status`")


def populate_directly(table: Any, restrictions: tuple[Any, ...], options: dict[str, Any]) -> tuple[int, list[Any]]:
    """Without reservation: make the missing rows of this moment in this process, as DataJoint does."""
    success, errors = 0, []
    keys = list((table._jobs_to_do(restrictions) - table.proj()).proj().to_dicts())
    if options["order"] == "random":
        random.SystemRandom().shuffle(keys)
    make_kwargs = options["make_kwargs"] or {}
    for key in keys[: options["max_calls"]]:
        try:
            fetched = table.make_fetch(dict(key), **make_kwargs)
            computed = table.make_compute(dict(key), *fetched)
            with table.connection.transaction:
                insert_result(table, key, fetched, computed, make_kwargs)
        except Exception as error:
            if not options["suppress_errors"]:
                raise
            logger.error("%s", storable(describe(error)), extra={"event": "failed", "key": key})
            errors.append((key, error if options["return_exception_objects"] else describe(error)))
        else:
            success += 1
    return success, errors


def insert_result(
    table: Any, key: dict[str, Any], fetched: Any, computed: tuple[Any, ...], make_kwargs: dict[str, Any]
) -> None:
    """Insert a computed row if what it was computed from still stands; inside a transaction."""
    with _insertable(type(table)):
        if table.make_fetch(dict(key), **make_kwargs) != fetched:
            raise PipelineError(f"the rows that {key} is made of changed while it was computed; it was not written")
        table.make_insert(dict(key), *computed)


@contextmanager
def _insertable(cls: Any) -> Iterator[None]:
    """DataJoint allows insertion into computed tables only while they are populated."""
    cls._allow_insert = True
    try:
        yield
    finally:
        cls._allow_insert = False


def describe(error: BaseException) -> str:
    """An error in one line: its type and text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def storable(text: str) -> str:
    """Text that both backends take: no NUL, no lone surrogates."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
