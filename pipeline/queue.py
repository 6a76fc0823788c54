"""DataJoint's job table as a queue: claims with one winner, leases, and changes that only the holder can make.

The lease of a job is the id of the attempt that holds it: it stands in the job's column ``version``, and every change
of the job, of the attempt, and the publication of a result are conditional on it. ``reserved_time`` is the last
heartbeat. Time is the database's, in UTC.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

from datajoint import blob
from datajoint.errors import DuplicateError, LostConnectionError

from schemas.attempt import Attempt, Blame, Outcome

from . import capacity, outlook
from .claim import Claim, Worker
from .claimer import NEW_ATTEMPT, Claimer
from .connection import BLOCK
from .errors import PipelineError
from .job_table import JOB_COLUMNS, enqueue, job_table
from .outlook import Statement
from .transaction import CONNECTION_TRIES, is_deadlock, undisturbed

MESSAGE_LENGTH = 2047  # characters that `attempt_error` and DataJoint's `error_message` hold
ATTEMPT_COLUMNS = (*NEW_ATTEMPT, "attempt_beat", "attempt_end", "attempt_stack", "attempt_checkpoints")


class LeaseLost(PipelineError):
    """The job was taken from this worker: its lease ran out, or the task was cancelled or deleted."""


class Queue:
    """The queue of one computed table whose primary key is a single md5.

    Uses the session's connection: not for several threads.
    """

    def __init__(self, table: Any, worker: Worker | None = None) -> None:
        self.table = table
        self.worker = worker or Worker()
        self.jobs = job_table(table)
        self.connection = table.connection
        adapter = self.connection.adapter
        (self._key,) = self.jobs.primary_key
        self._postgres = adapter.backend == "postgresql"
        quote = adapter.quote_identifier
        self._q = {name: quote(name) for name in (self._key, *JOB_COLUMNS, *ATTEMPT_COLUMNS)}
        self._jobs = self.jobs.full_table_name
        self._attempts = Attempt().full_table_name
        job = f"{self._jobs}.{self._q[self._key]}"
        given = self.worker.capacity
        self._fits = None if given is None else capacity.fits(table, given, job)
        self._claimer = Claimer(
            table,
            self.worker,
            jobs=self._jobs,
            attempts=self._attempts,
            key=self._key,
            quoted=self._q,
            fits=self._fits,
        )

    @property
    def full_names(self) -> tuple[str, str]:
        """The job table and the table of attempts, quoted."""
        return self._jobs, self._attempts

    # Filling

    def enqueue(self, restrictions: tuple[Any, ...] = ()) -> None:
        """Put every key without result and job into the job table, with its task's priority."""
        enqueue(self.table, restrictions)

    # Claiming

    def claim(
        self,
        *,
        order: str = "original",
        keys: Collection[str] | None = None,
        without: Collection[str] = (),
        priority: int | None = None,
        ahead_of: Sequence[Statement] = (),
    ) -> Claim | None:
        """Take one job that is due, the most urgent first; None if there is none.

        Parameters
        ----------
        order : ``"original"`` (as queued) or ``"random"``, among equally urgent ones.
        keys, without : only these keys, and none of those.
        priority : at least as urgent as this.
        ahead_of : more urgent than the most urgent job of each of these other queues; see `most_urgent`.
        """
        attempt = secrets.token_hex(16)
        opened = self.connection.connection_id
        try:
            key = undisturbed(
                self.connection, lambda: self._claimer.take(attempt, order, keys, without, priority, ahead_of)
            )
        except DuplicateError:  # of the attempt's id, where the claim was made already
            if self.connection.connection_id == opened:
                raise
            key = None
        if self.connection.connection_id != opened:  # the answer may have been lost, and another try have read this
            key = self._key_of(attempt)
        return None if key is None else Claim({self._key: key}, attempt)

    def note_pod(self, claim: Claim) -> None:
        """Record where in a cluster a claim is computed; outside one there is nothing to record."""
        pod = self.worker.pod
        if pod is None:
            return
        where = {"pod_namespace": pod.namespace, "pod_node": pod.node, "pod_image": pod.image}
        row = {"attempt_id": claim.attempt, **where, "pod_gpu": self.worker.gpu}
        Attempt.Pod().insert1(row, skip_duplicates=True)

    def most_urgent(self, keys: Collection[str] | None = None, without: Collection[str] = ()) -> Statement:
        """SQL of the priority of the job that `claim` would take; NULL if there is none."""
        return self._claimer.most_urgent(keys, without)

    def _key_of(self, attempt: str) -> str | None:
        """The key that was claimed under an attempt id, if one was."""
        rows = (Attempt() & {"attempt_id": attempt}).proj("attempt_key").to_dicts()
        return rows[0]["attempt_key"] if rows else None

    # Ending an attempt

    def publish(self, claim: Claim, insert: Callable[[], None]) -> None:
        """Write a result and settle its job and attempt, all or nothing.

        A commit whose answer was lost is settled by reading back; a connection lost earlier is tried again.

        Raises
        ------
        LeaseLost
            If the job was taken from this worker; nothing is written then.
        """
        for remaining in reversed(range(CONNECTION_TRIES)):
            try:
                with self.connection.transaction:
                    self._settle_finished(claim)  # first: who lost the lease must not even try
                    insert()
                return
            except LostConnectionError:
                if self._outcome(claim) == Outcome.FINISHED:
                    return
                if not remaining:
                    raise
            except Exception as error:
                if not (remaining and is_deadlock(error)):
                    raise

    def _settle_finished(self, claim: Claim) -> None:
        q = self._q
        gone = f"DELETE FROM {self._jobs} WHERE {self._held()}"
        done = (
            f"UPDATE {self._attempts} SET {q['attempt_outcome']}='finished', {q['attempt_end']}=CURRENT_TIMESTAMP(3) "
            f"WHERE {q['attempt_id']}=%s"
        )
        held, attempt = (claim.key[self._key], claim.attempt), claim.attempt
        if self._postgres:
            cursor = self.connection.query_repeatedly(
                f"WITH gone AS ({gone} RETURNING 1) {done} AND EXISTS (SELECT 1 FROM gone)", (*held, attempt)
            )
            settled = cursor.rowcount
        elif self.connection.runs_blocks:
            settled = self.connection.query(
                f"{BLOCK} {gone}; SET @settled = ROW_COUNT(); IF @settled THEN {done}; END IF; SELECT @settled; END",
                args=(*held, attempt),
            ).fetchone()[0]
        else:
            settled = self.connection.query(gone, args=held).rowcount
            if settled:
                self.connection.query(done, args=(attempt,))
        if settled != 1:
            raise LeaseLost(f"the lease on {claim.key[self._key][:8]} was lost before its result could be written")

    def release(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        error: str = "",
        stack: str | None = None,
        blame: Blame = Blame.NOBODY,
        delay: float | None = 0.0,
    ) -> bool:
        """Give a job back, or set it aside; False if it was no longer ours, and then nothing has changed.

        Parameters
        ----------
        delay : seconds until any worker may take it again; None sets the task aside as an error.
        """
        q = self._q
        if delay is None:
            change = (
                f"{q['status']}='error', {q['error_message']}=%s, {q['error_stack']}=%s, "
                f"{q['completed_time']}=CURRENT_TIMESTAMP(3)"
            )
            values: tuple[Any, ...] = (error[:MESSAGE_LENGTH], None if stack is None else blob.pack(stack))
        else:
            later = self.connection.adapter.interval_expr(delay, "second")
            due = f"{q['scheduled_time']}=CURRENT_TIMESTAMP(3) + {later}"
            change = f"{q['status']}='pending', {q['reserved_time']}=NULL, {due}"
            values = ()

        def give_back() -> bool:
            with self.connection.transaction:
                held = self.connection.query(
                    f"UPDATE {self._jobs} SET {change}, {q['version']}='' WHERE {self._held()}",
                    args=(*values, claim.key[self._key], claim.attempt),
                ).rowcount
                if held:
                    self._end_attempt(claim.attempt, outcome, error, stack, blame)
            return bool(held)

        return undisturbed(self.connection, give_back)

    # Leases

    def reclaim(self, lease: float) -> list[str]:
        """Give back every job whose heartbeat is older than `lease` seconds by the database's clock; returns the keys.

        One winner: of several workers that do this at once each gets other jobs. An attempt that brought no checkpoint
        into safety counts against the task; see `retry`.
        """
        stale = f"{self._silent_for(lease)} FOR UPDATE SKIP LOCKED"
        return self._take_back(stale, (), Outcome.LOST, "its worker gave no sign of life")

    def take_back(self, worker: str, outcome: Outcome, error: str) -> list[str]:
        """Give back what the worker of this name held when its process ended; returns the keys."""
        q = self._q
        theirs = (
            f"{q['version']} IN (SELECT {q['attempt_id']} FROM {self._attempts} "
            f"WHERE {q['attempt_outcome']}='running' AND {q['attempt_worker']}=%s) FOR UPDATE"
        )
        return self._take_back(theirs, (worker,), outcome, error)

    def _take_back(self, condition: str, values: tuple[Any, ...], outcome: Outcome, error: str) -> list[str]:
        """Make held jobs pending and end their attempts; of those that were lost, the ones without a checkpoint count
        against the task."""
        q = self._q
        picked = (
            f"SELECT {q[self._key]}, {q['version']} FROM {self._jobs} WHERE {q['status']}='reserved' AND {condition}"
        )
        blame = f"CASE WHEN {q['attempt_checkpoints']}=0 THEN 'task' ELSE '' END" if outcome is Outcome.LOST else "''"

        def give_back() -> list[tuple[str, str]]:
            with self.connection.transaction:
                found = self.connection.query(picked, args=values).fetchall()
                for key, attempt in found:
                    self.connection.query(
                        f"UPDATE {self._jobs} SET {q['status']}='pending', {q['version']}='', "
                        f"{q['reserved_time']}=NULL, "
                        f"{q['scheduled_time']}=CURRENT_TIMESTAMP(3) WHERE {q[self._key]}=%s",
                        args=(key,),
                    )
                    self.connection.query(
                        f"UPDATE {self._attempts} SET {q['attempt_outcome']}=%s, "
                        f"{q['attempt_end']}=CURRENT_TIMESTAMP(3), {q['attempt_error']}=%s, "
                        f"{q['attempt_blame']}={blame} "
                        f"WHERE {q['attempt_id']}=%s AND {q['attempt_outcome']}='running'",
                        args=(outcome.value, error[:MESSAGE_LENGTH], attempt),
                    )
            return list(found)

        return [str(key) for key, _ in undisturbed(self.connection, give_back)]

    def set_aside(self, key: str, message: str) -> None:
        """Make a waiting job an error, which nobody takes."""
        q = self._q
        self.connection.query(
            f"UPDATE {self._jobs} SET {q['status']}='error', {q['error_message']}=%s, "
            f"{q['completed_time']}=CURRENT_TIMESTAMP(3) WHERE {q[self._key]}=%s "
            f"AND {self._status_of_row()}='pending'",
            args=(message[:MESSAGE_LENGTH], key),
        )

    def blamed(self, key: str) -> list[dict[str, Any]]:
        """The attempts that count against a task or a worker since the job was queued, oldest first."""
        queued = (self.jobs & {self._key: key}).to_dicts()
        if not queued:
            return []
        restriction = {"attempt_key": key, "attempt_table": self.table.table_name}
        counted = Attempt() & restriction & "attempt_blame != ''" & f"attempt_start >= '{queued[0]['created_time']}'"
        return list(counted.proj("attempt_blame", "attempt_host", "attempt_outcome").to_dicts(order_by="attempt_start"))

    def seconds_to_next(self, keys: Collection[str] | None = None, without: Collection[str] = ()) -> float | None:
        """Seconds until the next waiting job is due; None if none waits. `keys` and `without` as in `claim`."""
        return outlook.seconds_to_next(self.connection, [self.waiting(keys, without)])

    def count_unfit(self) -> int:
        """How many jobs wait that ask for more than this worker can give."""
        if self._fits is None:
            return 0
        unfit = f"{self._q['status']}='pending' AND NOT ({self._fits})"
        return int(self.connection.query(f"SELECT COUNT(*) FROM {self._jobs} WHERE {unfit}").fetchone()[0])

    def waiting(self, keys: Collection[str] | None = None, without: Collection[str] = ()) -> Statement:
        """SQL of the time ``due`` at which the next waiting job is due, NULL if none waits; for `outlook`."""
        q = self._q
        among, args = self._claimer.among(keys, without)
        conditions = " AND ".join([f"{q['status']}='pending'", *among, *([self._fits] if self._fits else ())])
        return f"SELECT MIN({q['scheduled_time']}) AS due FROM {self._jobs} WHERE {conditions}", args

    def silent(
        self,
        seconds: float,
        keys: Collection[str] | None = None,
        without: Collection[str] = (),
        pids: Sequence[int] = (),
    ) -> Statement:
        """SQL that selects a row if a job is held whose worker has not shown life for so long; for `outlook`. Those of
        processes `pids` of this host do not count; `keys` and `without` as in `claim`."""
        q = self._q
        among, named = self._claimer.among(keys, without)
        args: tuple[Any, ...] = named
        conditions = [f"{q['status']}='reserved'", self._silent_for(seconds), *among]
        if pids:
            conditions.append(f"NOT ({q['host']}=%s AND {q['pid']} IN ({', '.join(['%s'] * len(pids))}))")
            args = (*args, self.worker.host, *pids)
        return f"SELECT 1 FROM {self._jobs} WHERE {' AND '.join(conditions)} LIMIT 1", args

    def _silent_for(self, seconds: float) -> str:
        age = self.connection.adapter.interval_expr(round(seconds, 3), "second")
        return f"{self._q['reserved_time']} < CURRENT_TIMESTAMP(3) - {age}"

    def withdraw(self, claim: Claim) -> None:
        """End an attempt whose job was cancelled, or whose task was deleted, if nobody has ended it yet; the job, if
        there is one, is left alone."""
        self._end_attempt(claim.attempt, Outcome.CANCELLED, "", None, Blame.NOBODY)

    def _end_attempt(self, attempt: str, outcome: Outcome, error: str, stack: str | None, blame: Blame) -> None:
        q = self._q
        self.connection.query(
            f"UPDATE {self._attempts} SET {q['attempt_outcome']}=%s, {q['attempt_end']}=CURRENT_TIMESTAMP(3), "
            f"{q['attempt_error']}=%s, {q['attempt_stack']}=%s, {q['attempt_blame']}=%s "
            f"WHERE {q['attempt_id']}=%s AND {q['attempt_outcome']}='running'",
            args=(
                outcome.value,
                error[:MESSAGE_LENGTH],
                None if stack is None else blob.pack(stack),
                blame.value,
                attempt,
            ),
        )

    def _held(self) -> str:
        """The condition that a claim still stands: two arguments, key and attempt."""
        q = self._q
        return f"{q[self._key]}=%s AND {self._status_of_row()}='reserved' AND {q['version']}=%s"

    def _status_of_row(self) -> str:
        """The status of a job that is found by its key, in a form that no index serves: by the one on the status MySQL
        would come to the job past all others, and wait for those that somebody has locked."""
        return f"COALESCE({self._q['status']})"

    def drop(self, claim: Claim, reason: str) -> None:
        """Remove a job that has nothing left to do: its result is there, or its task is gone."""

        def remove() -> None:
            with self.connection.transaction:
                gone = self.connection.query(
                    f"DELETE FROM {self._jobs} WHERE {self._held()}", args=(claim.key[self._key], claim.attempt)
                ).rowcount
                if gone:
                    self._end_attempt(claim.attempt, Outcome.CANCELLED, reason, None, Blame.NOBODY)

        undisturbed(self.connection, remove)

    def _outcome(self, claim: Claim) -> str | None:
        rows = (Attempt() & {"attempt_id": claim.attempt}).proj("attempt_outcome").to_dicts()
        return rows[0]["attempt_outcome"] if rows else None
