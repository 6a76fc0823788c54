"""`trainloom worker`: train tasks until none is left."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.cli.arguments import at_least_one
from pipeline.cli.context import open_session


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "worker",
        help="train tasks until none is left",
        description="Train tasks until none is left. "
        "Exit codes: 0 nothing left to do, 130 or 143 stopped, 78 configuration, 1 anything else.",
    )
    parser.add_argument(
        "--processes", type=at_least_one, default=1, metavar="N", help="worker processes that share the cores (1)"
    )
    parser.add_argument(
        "--order",
        choices=("original", "random"),
        default="original",
        help="by priority, then as queued (original) or at random",
    )
    parser.add_argument(
        "--max-tasks", type=at_least_one, metavar="N", help="stop after N tasks, all processes together"
    )
    parser.add_argument("--restrict", metavar="SQL", help='train only tasks for which this holds, such as "seed = 1"')
    parser.set_defaults(action=_work)


def _work(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import task_states
        from pipeline.training_progress import train
        from pipeline.worker_pool import Assignment

        code = train(session.settings, args.processes, Assignment(args.order, args.restrict, args.max_tasks))
        counts = task_states.count()
    aside = {state: counts[state] for state in ("error", "ignore", "reserved") if counts[state]}
    if aside:
        listed = ", ".join(f"{number} {state}" for state, number in aside.items())
        print(f"not trained: {listed}; `trainloom status` says why")
    return code
