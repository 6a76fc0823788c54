"""The SQL of a claim: a job that is due is picked, reserved and its attempt recorded, all or nothing, with one winner
and without waiting for other workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from schemas.attempt import Outcome

from .claim import Worker
from .connection import BEGIN, BLOCK
from .outlook import Statement

ORIGINAL_ORDER = ("priority", "scheduled_time")  # and then the key
SMALL_PART = 16**32 // 8  # of all keys
LEAST_URGENT = 2**15  # beyond every priority
# Lets a commit answer before it is on the disk: a server that crashes within the next second forgets the claim, and who
# held it can write nothing, as if it had lost the lease. What is published later is on the disk, and the claim with it.
UNHURRIED = "set_config('synchronous_commit', 'off', true)"
NEW_ATTEMPT = (
    "attempt_id",
    "attempt_table",
    "attempt_key",
    "attempt_worker",
    "attempt_host",
    "attempt_pid",
    "attempt_pod",
    "attempt_device",
    "attempt_start",
    "attempt_outcome",
    "attempt_blame",
    "attempt_error",
)


class Claimer:
    """Claims jobs of one table for one worker.

    Parameters
    ----------
    table : the computed table; its connection is used.
    jobs, attempts : full names of the tables, quoted.
    key : the name of the job's primary key.
    quoted : column names to quoted ones.
    fits : the condition that the worker can give what a job asks for; None for none.
    """

    def __init__(
        self,
        table: Any,
        worker: Worker,
        *,
        jobs: str,
        attempts: str,
        key: str,
        quoted: Mapping[str, str],
        fits: str | None = None,
    ) -> None:
        self._table = table
        self._worker = worker
        self._connection = table.connection
        self._jobs = jobs
        self._attempts = attempts
        self._key = quoted[key]
        self._q = quoted
        self._fits = fits
        self._postgres = self._connection.adapter.backend == "postgresql"

    def take(
        self,
        attempt: str,
        order: str,
        keys: Collection[str] | None,
        without: Collection[str],
        priority: int | None,
        ahead_of: Sequence[Statement] = (),
    ) -> str | None:
        """Claim one job under an attempt id; the parameters are those of `Queue.claim`. Returns its key."""
        where, args = self._eligible(keys, without, priority, ahead_of)
        picks = [(self._pick(where, ORIGINAL_ORDER), args)]
        if order == "random":
            picks[:0] = self._random_picks(where, args)
        if self._postgres:
            # A statement for each number of keys: not worth preparing.
            unique = keys is not None or bool(without) or any(values for _, values in ahead_of)
            return self._at_once(
                picks, attempt, self._connection.query if unique else self._connection.query_repeatedly
            )
        return self._in_a_block(picks, attempt) if self._connection.runs_blocks else self._in_steps(picks, attempt)

    def most_urgent(self, keys: Collection[str] | None, without: Collection[str]) -> Statement:
        """SQL of the priority of the job that would be taken, NULL where there is none."""
        where, args = self._eligible(keys, without)
        return self._highest(where), args

    def _highest(self, where: str) -> str:
        """Not MIN, which would read all jobs on MySQL."""
        ordered = ", ".join(self._q[column] for column in ORIGINAL_ORDER)
        return f"SELECT {self._q['priority']} FROM {self._jobs} WHERE {where} ORDER BY {ordered} LIMIT 1"

    def among(self, keys: Collection[str] | None, without: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
        """The conditions that a key is one of `keys` and none of `without`, and their values."""
        parts: list[str] = []
        args: list[str] = []
        for condition, listed in (("IN", keys), ("NOT IN", without)):
            if listed or (condition == "IN" and listed is not None):
                marks = ", ".join(["%s"] * len(listed)) or "NULL"
                parts.append(f"{self._key} {condition} ({marks})")
                args.extend(sorted(listed))
        return parts, tuple(args)

    def _eligible(
        self,
        keys: Collection[str] | None,
        without: Collection[str],
        priority: int | None = None,
        ahead_of: Sequence[Statement] = (),
    ) -> Statement:
        q = self._q
        parts = [f"{q['status']} = 'pending' AND {q['scheduled_time']} <= CURRENT_TIMESTAMP(3)"]
        args: list[Any] = []
        if priority is not None:
            parts.append(f"{q['priority']} <= %s")
            args.append(int(priority))
        for other, values in ahead_of:  # a number by then, so that the index on the priority serves it
            parts.append(f"{q['priority']} < COALESCE(({other}), {LEAST_URGENT})")
            args.extend(values)
        among, named = self.among(keys, without)
        if self._fits is not None:  # last: it is looked up for what everything else lets pass
            among.append(self._fits)
        return " AND ".join([*parts, *among]), (*args, *named)

    def _pick(self, where: str, order: tuple[str, ...] = (), index: str = "") -> str:
        """Lock the first job that nobody else has locked."""
        ordered = ", ".join([*(self._q[column] for column in order), self._key])
        into = " INTO @picked" if self._connection.runs_blocks else ""
        return (
            f"SELECT {self._key}{into} FROM {self._jobs}{index} WHERE {where} ORDER BY {ordered} LIMIT 1 "
            "FOR UPDATE SKIP LOCKED"
        )

    def _random_picks(self, where: str, args: tuple[Any, ...]) -> list[Statement]:
        """The most urgent jobs from a random key on, and then those before it.

        A random key is a random place among md5 keys; sorting by chance would read the whole queue. Whoever finds
        neither, since other workers are just taking them, tries the original order.
        """
        q, key, pivot = self._q, self._key, secrets.token_hex(16)
        highest = self._highest(where)
        places: list[tuple[str, tuple[str, ...]]] = [(f"{key} >= %s", (pivot,)), (f"{key} < %s", (pivot,))]
        if self._postgres:
            urgent, args, index = f"{where} AND {q['priority']} = ({highest})", (*args, *args), ""
        else:
            # MySQL goes straight to a place in an index only if it expects a small part of the queue from there on, and
            # for that it has to know the priority beforehand.
            row = self._connection.query(highest, args=args).fetchone()
            if row is None:
                return []
            urgent, args = f"{where} AND {q['priority']} = %s", (*args, row[0])
            places.insert(0, (f"{key} BETWEEN %s AND %s", (pivot, f"{int(pivot, 16) + SMALL_PART:032x}")))
            index = f" FORCE INDEX ({self._connection.adapter.quote_identifier(index_name(self._table, 'random'))})"
        return [(self._pick(f"{urgent} AND {place}", index=index), (*args, *values)) for place, values in places]

    def _reservation(self, attempt: str) -> Statement:
        q, worker = self._q, self._worker
        assignments = (
            f"{q['status']}='reserved', {q['reserved_time']}=CURRENT_TIMESTAMP(3), {q['host']}=%s, {q['pid']}=%s, "
            f"{q['connection_id']}=%s, {q['version']}=%s"
        )
        return assignments, (worker.host, worker.pid, self._connection.connection_id, attempt)

    def _new_attempt(self, key: str) -> str:
        """Insertion of an attempt at a key, without the values; `key` is SQL."""
        columns = ", ".join(self._q[name] for name in NEW_ATTEMPT)
        return (
            f"INSERT INTO {self._attempts} ({columns}) "
            f"SELECT %s, %s, {key}, %s, %s, %s, %s, %s, CURRENT_TIMESTAMP(3), %s, '', ''"
        )

    def _attempt_values(self, attempt: str) -> tuple[Any, ...]:
        worker = self._worker
        return (
            *(attempt, self._table.table_name),
            *(worker.name, worker.host, worker.pid, worker.pod.name if worker.pod else ""),
            *(worker.device, Outcome.RUNNING.value),
        )

    def _at_once(self, picks: list[Statement], attempt: str, run: Callable[..., Any]) -> str | None:
        """PostgreSQL: one statement."""
        key = self._key
        tries = ", ".join(f"pick_{number} AS ({pick})" for number, (pick, _) in enumerate(picks))
        first = " UNION ALL ".join(f"SELECT * FROM pick_{number}" for number in range(len(picks)))
        args = [value for _, values in picks for value in values]
        assignments, reserved = self._reservation(attempt)
        cursor = run(
            f"WITH {tries}, picked AS ({first} LIMIT 1), "
            f"claimed AS (UPDATE {self._jobs} AS job SET {assignments} FROM picked "
            f"WHERE job.{key} = picked.{key} RETURNING job.{key}) "
            f"{self._new_attempt(key)} FROM claimed CROSS JOIN {UNHURRIED} RETURNING {self._q['attempt_key']}",
            args=(*args, *reserved, *self._attempt_values(attempt)),
        )
        row = cursor.fetchone()
        return None if row is None else str(row[0])

    def _in_a_block(self, picks: list[Statement], attempt: str) -> str | None:
        """MariaDB, which has no UPDATE … RETURNING: one compound statement."""
        tries = " ".join(f"IF @picked IS NULL THEN {pick}; END IF;" for pick, _ in picks)
        args = [value for _, values in picks for value in values]
        assignments, reserved = self._reservation(attempt)
        try:
            row = self._connection.query(
                f"{BLOCK} SET @picked = NULL; {BEGIN}; {tries} IF @picked IS NOT NULL THEN "
                f"UPDATE {self._jobs} SET {assignments} WHERE {self._key} = @picked; "
                f"{self._new_attempt('@picked')}; END IF; COMMIT; SELECT @picked; END",
                args=(*args, *reserved, *self._attempt_values(attempt)),
            ).fetchone()
        except Exception:
            self._connection.cancel_transaction()
            raise
        return None if row[0] is None else str(row[0])

    def _in_steps(self, picks: list[Statement], attempt: str) -> str | None:
        """MySQL, which has neither: a short transaction."""
        with self._connection.transaction:
            rows = (self._connection.query(pick, args=args).fetchone() for pick, args in picks)
            row = next((row for row in rows if row is not None), None)
            if row is None:
                return None
            assignments, reserved = self._reservation(attempt)
            self._connection.query(
                f"UPDATE {self._jobs} SET {assignments} WHERE {self._key} = %s", args=(*reserved, row[0])
            )
            identity, rest = self._attempt_values(attempt)[:2], self._attempt_values(attempt)[2:]
            self._connection.query(self._new_attempt("%s"), args=(*identity, row[0], *rest))
        return str(row[0])


def index_name(table: Any, name: str) -> str:
    """How an index of ours on the job table of `table` is called."""
    return f"trainloom_{name}_{table.table_name.strip('_#')}"
