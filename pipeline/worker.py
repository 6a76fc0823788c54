"""The order in which a worker takes tasks from DataJoint's job table."""

from __future__ import annotations

import logging
import os
import platform
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datajoint.condition import AndList, Not, make_condition

from .errors import PipelineError

logger = logging.getLogger("trainloom")

TERMINATED = 143  # exit code after SIGTERM, as a shell reports it

SKIP_DUPLICATES = {"postgresql": ("INSERT", " ON CONFLICT DO NOTHING"), "mysql": ("INSERT IGNORE", "")}


def populate(table: Any, restrictions: tuple[Any, ...], order: str, options: dict[str, Any]) -> dict[str, Any]:
    """Make the missing rows of a computed table, one key at a time; parameters and return value as DataJoint's
    `populate`."""
    reserve = options["reserve_jobs"]
    jobs = job_table(table) if reserve else None
    if reserve and options["refresh"] is not False:
        enqueue(table, restrictions)
    keys = _pending(table, restrictions, options["priority"]) if reserve else _missing(table, restrictions)
    if order == "random":
        keys = _shuffled_within_priority(keys)
    success, errors, taken = 0, [], 0
    limit = options["max_calls"]
    with _terminating_on_sigterm():
        for _, key in _with_progress(keys, table, options["display_progress"]):
            if taken == limit:
                break
            if jobs is not None and not jobs.reserve(key):
                continue  # another worker was faster: that is no call of ours
            taken += 1
            logger.info("took %s", key, extra={"event": "taken", "key": key})
            try:
                success += _finish(table, key, jobs, options["make_kwargs"] or {})
            except Exception as error:
                if not options["suppress_errors"]:
                    raise
                logger.error("%s", storable(_message(error)), extra={"event": "failed", "key": key})
                errors.append((key, error if options["return_exception_objects"] else _message(error)))
    return {"success_count": success, "error_list": errors}


def job_table(table: Any) -> Any:
    """The job table of a computed table, made once per session: for each object of `table` DataJoint would ask the
    database anew for its columns and foreign keys, a dozen statements."""
    cls = type(table)
    if cls._jobs is None:
        cls._jobs = table.jobs  # found by all objects of the class until `schema.deactivate`
    return cls._jobs


def enqueue(table: Any, restrictions: tuple[Any, ...] = ()) -> None:
    """Put every key without result and job into the job table, with its task's priority, in one statement."""
    jobs, connection = job_table(table), table.connection
    adapter = connection.adapter
    quote = adapter.quote_identifier
    missing = (table.key_source & AndList(restrictions)) - table.proj()
    # The job table's key has another lineage than the task's, although it is the same key.
    missing = missing.restrict(Not(jobs), semantic_check=False).proj("priority")
    columns = ", ".join(quote(name) for name in (*jobs.primary_key, "status", "priority"))
    picked = ", ".join(quote(name) for name in jobs.primary_key)
    verb, suffix = SKIP_DUPLICATES[adapter.backend]
    connection.query(
        f"{verb} INTO {jobs.full_table_name} ({columns}) SELECT {picked}, 'pending', {quote('priority')} FROM "
        f"({missing.make_sql()}) AS missing{suffix}"
    )


def _finish(table: Any, key: dict[str, Any], jobs: Any, make_kwargs: dict[str, Any]) -> int:
    """Make one key and settle its job; 1 if a row was made, 0 if it was there already.

    An exception leaves the job as `error` with its traceback. An interrupt gives it back as `pending`: nothing was
    wrong with the task.
    """
    started = time.monotonic()

    def complete() -> None:
        if jobs is not None:
            jobs.complete(key, duration=time.monotonic() - started)

    try:
        made = _make(table, key, make_kwargs, complete)
    except Exception as error:
        if jobs is not None:
            jobs.error(key, error_message=storable(_message(error)), error_stack=storable(traceback.format_exc()))
        raise
    except BaseException:
        if jobs is not None:
            release(jobs, key)
        raise
    duration = time.monotonic() - started
    logger.info("made %s in %.1f s", key, duration, extra={"event": "made", "key": key, "duration": duration})
    return made


def _make(table: Any, key: dict[str, Any], make_kwargs: dict[str, Any], complete: Callable[[], None]) -> int:
    """The three parts of `make`: nothing is locked while the second one runs, and the first is read again before
    the third. `complete` settles the job, in one transaction with the result."""
    if key in table:
        complete()
        return 0
    fetched = table.make_fetch(dict(key), **make_kwargs)
    computed = table.make_compute(dict(key), *fetched)
    with table.connection.transaction, _insertable(type(table)):
        if table.make_fetch(dict(key), **make_kwargs) != fetched:
            raise PipelineError(
                f"the rows that {key} is made of changed while it was computed; its result was not written"
            )
        table.make_insert(dict(key), *computed)
        complete()
    return 1


@contextmanager
def _insertable(cls: Any) -> Iterator[None]:
    """DataJoint allows insertion into computed tables only while they are populated."""
    cls._allow_insert = True
    try:
        yield
    finally:
        cls._allow_insert = False


def release(jobs: Any, key: dict[str, Any]) -> None:
    """Give a job that this process holds back to the queue."""
    quote = jobs.connection.adapter.quote_identifier
    jobs.connection.query(
        f"UPDATE {jobs.full_table_name} SET {quote('status')}='pending', {quote('reserved_time')}=NULL "
        f"WHERE {make_condition(jobs, key, set())} AND {quote('status')}='reserved' AND {quote('host')}=%s AND "
        f"{quote('pid')}=%s",
        args=(platform.node(), os.getpid()),
    )


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def storable(text: str) -> str:
    """Text that both backends take: no NUL, no lone surrogates."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def _pending(table: Any, restrictions: tuple[Any, ...], priority: int | None) -> list[tuple[int, dict[str, Any]]]:
    # Restricted to the keys that exist: the job of a task that was deleted must not run.
    query = (table.jobs.pending & "scheduled_time <= CURRENT_TIMESTAMP(3)").restrict(
        table._jobs_to_do(restrictions), semantic_check=False
    )
    if priority is not None:
        query = query & f"priority <= {int(priority)}"
    rows = query.proj("priority", "scheduled_time").to_dicts(order_by="priority ASC, scheduled_time ASC")
    return [(row["priority"], {name: row[name] for name in table.jobs.primary_key}) for row in rows]


def _missing(table: Any, restrictions: tuple[Any, ...]) -> list[tuple[int, dict[str, Any]]]:
    todo = table._jobs_to_do(restrictions) - table.proj()
    return [(0, key) for key in todo.proj().to_dicts()]


def _shuffled_within_priority(keys: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Most urgent first, equals at random; the worker's own randomness, not the training's."""
    chance = random.SystemRandom()
    return sorted(keys, key=lambda item: (item[0], chance.random()))


def _with_progress(
    keys: list[tuple[int, dict[str, Any]]], table: Any, display: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    if not display:
        return iter(keys)
    from rich.progress import track

    return iter(track(keys, description=type(table).__name__))


@contextmanager
def _terminating_on_sigterm() -> Iterator[None]:
    """A SIGTERM becomes SystemExit, so that the job is not left reserved; only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
