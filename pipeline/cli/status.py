"""`trainloom status`: how many tasks stand where, who trains what, and what went wrong."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.context import open_session, print_json, print_table

logger = logging.getLogger("trainloom")

RECENT = 10
"""How many failed tasks are shown."""
UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
TWO_FIGURES = 10.0


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("status", help="tasks by state, who trains what, what failed and why")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_status)


def _status(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import code_changes, task_states
        from pipeline.live_workers import live_workers
        from pipeline.task_states import State

        counts = task_states.count()
        workers = live_workers()
        failed = task_states.rows(states=(State.ERROR, State.RETRY), limit=RECENT)
        where = session.settings.schema_name
        changed = code_changes.changed_results() if args.json else {}
        if not args.json:
            code_changes.warn_if_changed(logger)
    if args.json:
        print_json({"project": where, "tasks": counts, "workers": workers, "errors": failed, "changed_code": changed})
        return 0
    print_table(("state", "tasks"), [*counts.items(), ("all", sum(counts.values()))])
    _print_workers(workers)
    _print_failed(failed)
    return 0


def _print_workers(workers: Sequence[Mapping[str, Any]]) -> None:
    from pipeline.short_keys import shown

    if not workers:
        return
    print()
    print_table(
        ("task", "model", "seed", "epoch", "step", "loss", "time left", "last beat", "process", "device"),
        [
            (
                shown(row["task"]),
                row["model_class"],
                row["seed"],
                None if row["epoch"] is None else f"{row['epoch']}/{row['epoch_limit']}",
                row["step"],
                row["loss"],
                _lasting(row["seconds_left"]),
                _lasting(row["beat_seconds"]),
                f"{row['pid']} on {row['pod'] or row['host']}",
                row["device"],
            )
            for row in workers
        ],
    )


def _print_failed(failed: Sequence[Mapping[str, Any]]) -> None:
    from pipeline.short_keys import shown

    if failed:
        print()
    for row in failed:
        times = "1 attempt" if row["attempts"] == 1 else f"{row['attempts']} attempts"
        again = "; it is tried again" if row["state"] == "retry" else ""
        print(f"{shown(row['task'])} failed ({times}): {row['message']}{again}")
    if any(row["state"] == "error" for row in failed):
        print("`trainloom task retry KEY` puts a failed task back into the queue.")


def _lasting(seconds: float | None) -> str | None:
    """A duration as people read it: two figures are enough."""
    if seconds is None:
        return None
    for length, unit in UNITS:
        if seconds >= length:
            number = seconds / length
            return f"{number:.1f} {unit}" if number < TWO_FIGURES else f"{number:.0f} {unit}"
    return f"{seconds:.0f} s"
