"""`trainloom worker`: train, predict and run script tasks, until none is left or for ever."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

from pipeline.cli.arguments import at_least_one, seconds
from pipeline.cli.context import open_session
from pipeline.errors import ConfigurationError

WAIT = 120.0  # s
LEFT = ("pending", "retry", "waiting", "running", "error", "cancelled")  # states of tasks that have no result
TABLES = ("trainings", "predictions", "scripts")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "worker",
        help="train tasks, predict and run scripts until none is left, or for ever",
        description="Train tasks, predict what is trained, and run script tasks where `allow_scripts` allows it, until "
        "none is left: the more urgent one first, in turns among equally urgent ones. The first SIGTERM or Ctrl-C "
        "finishes the step, saves a checkpoint and gives the task back; the second stops at once. "
        "Exit codes: 0 nothing left to do, 130 or 143 stopped, 78 configuration, 1 anything else.",
    )
    parser.add_argument(
        "--processes",
        type=at_least_one,
        default=1,
        metavar="N",
        help="worker processes that share the cores, with a GPU each where there are GPUs (1)",
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument(
        "--once", action="store_false", dest="watch", help="end when nothing is left to do (this is the default)"
    )
    until.add_argument("--watch", action="store_true", help="wait for new tasks for ever")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=WAIT,
        metavar="S",
        help=f"before the end, seconds to wait for a task that failed and is tried again ({WAIT:.0f})",
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
    parser.add_argument(
        "--restrict",
        metavar="SQL",
        help='train only tasks for which this holds, such as "seed = 1", and do nothing else; with --table, '
        "serve only tasks of that kind for which it holds",
    )
    parser.add_argument("--table", choices=TABLES, help="serve these alone; all by default")
    parser.add_argument(
        "--grace", type=seconds, metavar="S", help="seconds that a stopped training may take to save (grace_seconds)"
    )
    parser.set_defaults(action=_work, watch=False)


def _work(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline.group_member import GroupMember
        from pipeline.rank_group import RankGroup
        from pipeline.task_kind import served
        from pipeline.training_progress import train
        from pipeline.worker_pool import Assignment

        settings = session.settings
        if args.grace is not None:
            settings = settings.model_copy(update={"grace_seconds": args.grace})
        group = RankGroup.of_environment()
        if group is not None and args.processes > 1:
            raise ConfigurationError("torchrun starts the processes of this worker; leave out --processes")
        if group is not None and group.rank > 0:
            return GroupMember(session, group).follow()
        assignment = Assignment(args.order, args.restrict, args.max_tasks, args.watch, args.wait, args.table)
        with nullcontext() if group is None else group.led():
            code = train(settings, args.processes, assignment)
        left = {kind.participle: kind.count() for kind in served(settings, args.table, args.restrict)}
    for participle, counts in left.items():
        listed = ", ".join(f"{counts[state]} {state}" for state in LEFT if counts[state])
        if listed:
            print(f"not {participle}: {listed}; `trainloom status` says why")
    return code
