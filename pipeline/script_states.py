"""Where every script task stands, read in one statement, and who runs one right now."""

from __future__ import annotations

from typing import Any

from schemas.attempt import Attempt
from schemas.script_result import ScriptResult
from schemas.script_task import KEY, ScriptTask

from .job_table import job_table
from .task_states import NOW, State, attempts_sql, every_state, in_states, limited_to, seconds_between, state_sql

STATE = state_sql(KEY)
COLUMNS = {
    "task": f"t.{KEY}",
    "state": STATE,
    "name": "t.script_task_name",
    "file_name": "t.script_file_name",
    "priority": "t.priority",
    "time": "t.script_task_time",
    "host": "j.host",
    "pid": "j.pid",
    "attempt": "j.version",
}
RUNNING = {
    "task": f"j.{KEY}",
    "name": "t.script_task_name",
    "file_name": "t.script_file_name",
    "worker": "a.attempt_worker",
    "host": "j.host",
    "pid": "j.pid",
    "pod": "a.attempt_pod",
    "device": "a.attempt_device",
}


def count(tasks: Any = None) -> dict[str, int]:
    """Number of script tasks by state, every state named; `tasks` is a restricted `ScriptTask`, all by default."""
    return every_state(_query(f"SELECT {STATE}, COUNT(*) {_source(tasks)} GROUP BY 1").fetchall())


def rows(tasks: Any = None, *, states: tuple[State, ...] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Script tasks, the newest first, as dicts.

    ``task`` is the key; ``name`` and ``file_name`` are those of the script; ``priority``, ``time`` (UTC), ``state``;
    ``attempts`` is how often it was tried, ``message`` the error of the last attempt that had one; ``host``, ``pid``
    and ``attempt`` are its job's, each None where there is none. `tasks` and `states` as in `task_states.rows`.
    """
    columns = {**COLUMNS, **attempts_sql(ScriptResult, KEY)}
    found = _query(
        f"SELECT {', '.join(columns.values())} {_source(tasks)}{in_states(STATE, states)} "
        f"ORDER BY t.script_task_time DESC, t.{KEY}{limited_to(limit)}"
    )
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def live_workers() -> list[dict[str, Any]]:
    """The holders of script tasks, who began first before the others, as dicts.

    ``task`` is the key; ``name`` and ``file_name`` are those of the script; ``worker``, ``host``, ``pid``, ``pod`` and
    ``device`` say who holds it; ``seconds`` is how long the attempt has run, ``beat_seconds`` the age of the last sign
    of life.
    """
    found = _query(
        f"SELECT {', '.join(RUNNING.values())}, a.attempt_start, j.reserved_time, {NOW} "
        f"FROM {job_table(ScriptResult()).full_table_name} AS j "
        f"JOIN {ScriptTask().full_table_name} AS t ON t.{KEY} = j.{KEY} "
        f"LEFT JOIN {Attempt().full_table_name} AS a ON a.attempt_id = j.version "
        "WHERE j.status = 'reserved' ORDER BY a.attempt_start, a.attempt_id"
    )
    return [_worker(values) for values in found.fetchall()]


def _worker(values: tuple[Any, ...]) -> dict[str, Any]:
    start, beat, now = values[len(RUNNING) :]
    worker = dict(zip(RUNNING, values, strict=False))
    return {**worker, "seconds": seconds_between(start, now), "beat_seconds": seconds_between(beat, now)}


def _query(statement: str) -> Any:
    return ScriptTask().connection.query(statement)


def _source(tasks: Any) -> str:
    """Script tasks with their results and jobs. The texts of the scripts are not read, and where all tasks are meant,
    DataJoint need not ask for the columns of the table."""
    columns = ("script_task_name", "script_file_name", "priority", "script_task_time")
    chosen = ScriptTask().full_table_name if tasks is None else f"({tasks.proj(*columns).make_sql()})"
    joined = ((ScriptResult().full_table_name, "r"), (job_table(ScriptResult()).full_table_name, "j"))
    joins = " ".join(f"LEFT JOIN {name} AS {alias} ON {alias}.{KEY} = t.{KEY}" for name, alias in joined)
    return f"FROM {chosen} AS t {joins}"
