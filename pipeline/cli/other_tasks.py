"""What `trainloom status` prints of script tasks, where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.cli.context import print_table

RECENT = 10
"""How many failed script tasks are shown."""


def script_status() -> dict[str, Any]:
    """Script tasks by state, who runs one, and what failed; in a session."""
    from pipeline import script_states
    from pipeline.task_states import State

    counts = script_states.count()
    some = any(counts.values())
    return {
        "tasks": counts,
        "workers": script_states.live_workers() if some else [],
        "errors": script_states.rows(states=(State.ERROR, State.RETRY), limit=RECENT) if some else [],
    }


def print_counts(trainings: Mapping[str, int], scripts: Mapping[str, int]) -> None:
    """Tasks by state: trainings alone where there are no script tasks."""
    if not any(scripts.values()):
        print_table(("state", "tasks"), [*trainings.items(), ("all", sum(trainings.values()))])
        return
    rows = [(state, number, scripts[state]) for state, number in trainings.items()]
    print_table(("state", "tasks", "scripts"), [*rows, ("all", sum(trainings.values()), sum(scripts.values()))])


def print_running(workers: Sequence[Mapping[str, Any]], lasting: Callable[[float | None], str | None]) -> None:
    """The scripts that run; `lasting` says a duration."""
    from pipeline.short_keys import shown

    if not workers:
        return
    print()
    print_table(
        ("script task", "name", "file", "running for", "last beat", "process"),
        [
            (
                shown(row["task"]),
                row["name"],
                row["file_name"],
                lasting(row["seconds"]),
                lasting(row["beat_seconds"]),
                f"{row['pid']} on {row['pod'] or row['host']}",
            )
            for row in workers
        ],
    )
