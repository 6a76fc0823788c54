"""What `trainloom status` prints of prediction and script tasks, where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.cli.context import print_table

RECENT = 10
"""How many failed tasks of a kind are shown."""
KINDS = ("predictions", "scripts")
RUNNING: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "predictions": (("prediction", "model", "data", "tier"), ("model_class", "data", "tier")),
    "scripts": (("script task", "name", "file"), ("name", "file_name")),
}
"""Kind to the names that its table begins with, and what stands below all but the first of them."""


def other_tasks() -> dict[str, dict[str, Any]]:
    """Kind to its tasks by state, who holds one, and what failed; in a session."""
    from pipeline import prediction_states, script_states

    return {kind: _found(states) for kind, states in zip(KINDS, (prediction_states, script_states), strict=True)}


def _found(states: Any) -> dict[str, Any]:
    from pipeline.task_states import State

    counts = states.count()
    some = any(counts.values())
    return {
        "tasks": counts,
        "workers": states.live_workers() if some else [],
        "errors": states.rows(states=(State.ERROR, State.RETRY), limit=RECENT) if some else [],
    }


def print_counts(trainings: Mapping[str, int], found: Mapping[str, Any]) -> None:
    """Tasks by state; `found` has those of other kinds, which are shown where there are any."""
    counts = {
        "tasks": trainings,
        **{kind: found[kind]["tasks"] for kind in KINDS if any(found[kind]["tasks"].values())},
    }
    rows = [(state, *(numbers[state] for numbers in counts.values())) for state in trainings]
    print_table(("state", *counts), [*rows, ("all", *(sum(numbers.values()) for numbers in counts.values()))])


def print_running(
    kind: str, workers: Sequence[Mapping[str, Any]], lasting: Callable[[float | None], str | None]
) -> None:
    """The tasks of a kind that run; `lasting` says a duration."""
    from pipeline.short_keys import shown

    if not workers:
        return
    names, columns = RUNNING[kind]
    print()
    print_table(
        (*names, "running for", "last beat", "process"),
        [
            (
                shown(row["task"]),
                *(row[column] or None for column in columns),
                lasting(row["seconds"]),
                lasting(row["beat_seconds"]),
                f"{row['pid']} on {row['pod'] or row['host']}",
            )
            for row in workers
        ],
    )
