"""Where every script task stands, read in one statement, and who runs one right now."""

from __future__ import annotations

from typing import Any

from schemas.script_result import ScriptResult
from schemas.script_task import KEY, ScriptTask

from .holders import holders
from .job_table import job_table
from .task_states import State, attempts_sql, every_state, in_states, limited_to, state_sql

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
RUNNING = {"name": "t.script_task_name", "file_name": "t.script_file_name"}


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
    """The holders of script tasks, as `holders` tells them, with ``name`` and ``file_name`` of the script."""
    return holders(ScriptTask(), ScriptResult(), KEY, RUNNING)


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
