"""`trainloom status`: how many tasks stand where, who trains what, and what went wrong."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli import refresh
from pipeline.cli.arguments import seconds
from pipeline.cli.context import open_session, print_json, print_table
from pipeline.cli.other_tasks import KINDS, other_tasks, print_counts, print_running
from pipeline.reporters.duration import lasting

if TYPE_CHECKING:
    from pipeline.session import Session

logger = logging.getLogger("trainloom")

RECENT = 10
"""How many failed tasks are shown."""
INTERVAL = 2.0  # s between two refreshes


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("status", help="tasks by state, who does what, what failed and why")
    parser.add_argument("--json", action="store_true", help="print JSON; with --live one line per refresh")
    parser.add_argument("--live", action="store_true", help="redraw it until interrupted")
    parser.add_argument(
        "--interval",
        type=seconds,
        default=INTERVAL,
        metavar="S",
        help=f"with --live, seconds between two refreshes ({INTERVAL:.0f})",
    )
    parser.set_defaults(action=_status)


def _status(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import code_changes

        if not args.json:
            code_changes.warn_if_changed(logger)
        if args.live:
            refresh.show(refresh.paced(lambda: _found(session), args.interval), _print, as_json=args.json)
        found = _found(session)
        changed = code_changes.changed_results() if args.json else {}
    if args.json:
        print_json({**found, "changed_code": changed})
    else:
        _print(found)
    return 0


def _found(session: Session) -> dict[str, Any]:
    """What there is to say, but for code that changed."""
    from pipeline import task_states
    from pipeline.live_workers import live_workers
    from pipeline.task_states import State

    return {
        "project": session.settings.schema_name,
        "tasks": task_states.count(),
        "workers": live_workers(),
        "errors": task_states.rows(states=(State.ERROR, State.RETRY), limit=RECENT),
        **other_tasks(),
    }


def _print(found: Mapping[str, Any]) -> None:
    print_counts(found["tasks"], found)
    _print_workers(found["workers"])
    for kind in KINDS:
        print_running(kind, found[kind]["workers"], _lasting)
    _print_failed([*found["errors"], *(row for kind in KINDS for row in found[kind]["errors"])])


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
    """A duration as people read it, None where there is none."""
    return None if seconds is None else lasting(seconds)
