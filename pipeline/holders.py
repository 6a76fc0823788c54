"""Who holds tasks of one kind right now, for how long, and since when they have not shown life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.attempt import Attempt

from .job_table import job_table
from .task_states import NOW, seconds_between

COLUMNS = {
    "worker": "a.attempt_worker",
    "host": "j.host",
    "pid": "j.pid",
    "pod": "a.attempt_pod",
    "namespace": "pod.pod_namespace",
    "node": "pod.pod_node",
    "device": "a.attempt_device",
}


def holders(tasks: Any, results: Any, key: str, columns: Mapping[str, str], joins: str = "") -> list[dict[str, Any]]:
    """The holders of tasks, who began first before the others, as dicts.

    ``task`` is the key; ``worker``, ``host``, ``pid``, ``pod``, ``namespace``, ``node`` and ``device`` say who holds
    it; ``seconds`` is how long the attempt has run, ``beat_seconds`` the age of the last sign of life.

    Parameters
    ----------
    columns : further names with their SQL, of the task `t` and of what `joins` adds under aliases other than `j`, `t`,
        `a` and `pod`.
    """
    chosen = {"task": f"j.{key}", **columns, **COLUMNS}
    found = tasks.connection.query(
        f"SELECT {', '.join(chosen.values())}, a.attempt_start, j.reserved_time, {NOW} "
        f"FROM {job_table(results).full_table_name} AS j "
        f"JOIN {tasks.full_table_name} AS t ON t.{key} = j.{key} {joins} "
        f"LEFT JOIN {Attempt().full_table_name} AS a ON a.attempt_id = j.version "
        f"LEFT JOIN {Attempt.Pod().full_table_name} AS pod ON pod.attempt_id = j.version "
        "WHERE j.status = 'reserved' ORDER BY a.attempt_start, a.attempt_id"
    )
    return [_holder(chosen, values) for values in found.fetchall()]


def _holder(columns: Mapping[str, str], values: tuple[Any, ...]) -> dict[str, Any]:
    start, beat, now = values[len(columns) :]
    holder = dict(zip(columns, values, strict=False))
    return {**holder, "seconds": seconds_between(start, now), "beat_seconds": seconds_between(beat, now)}
