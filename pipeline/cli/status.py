"""`trainloom status`: how many tasks stand where, and what went wrong last."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from pipeline.cli.context import open_session, print_json, print_table

logger = logging.getLogger("trainloom")

RECENT = 10
"""How many errors are shown."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("status", help="tasks by state and the last errors")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_status)


def _status(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import code_changes, task_states
        from pipeline.short_keys import shown

        counts = task_states.count()
        errors = task_states.rows(state=task_states.State.ERROR, limit=RECENT)
        reserved = task_states.rows(state=task_states.State.RESERVED)
        where = session.settings.schema_name
        changed = code_changes.changed_results() if args.json else {}
        if not args.json:
            code_changes.warn_if_changed(logger)
    if args.json:
        print_json({"project": where, "tasks": counts, "training": reserved, "errors": errors, "changed_code": changed})
        return 0
    print_table(("state", "tasks"), [*counts.items(), ("all", sum(counts.values()))])
    for row in reserved:
        print(f"{shown(row['task'])} is being trained by process {row['pid']} on {row['host']}")
    for row in errors:
        print(f"{shown(row['task'])} failed: {row['message']}")
    if errors:
        print("`trainloom task retrain KEY` puts a failed task back into the queue.")
    return 0
