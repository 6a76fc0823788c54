"""`trainloom task`: list, add, cancel and retrain tasks."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero
from pipeline.cli.context import open_session, print_json, print_table

if TYPE_CHECKING:
    from pipeline.session import Session

STATES = ("pending", "reserved", "error", "ignore", "finished")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("task", help="list, add, cancel or retrain tasks")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_add(actions)
    cancel = actions.add_parser("cancel", help="take tasks out of the queue; `retrain` puts them back")
    cancel.add_argument("keys", nargs="+", metavar="KEY", help="keys of tasks, or their beginnings")
    cancel.set_defaults(action=_cancel)
    retrain = actions.add_parser(
        "retrain", help="delete the results of tasks, or forget their errors, and queue them again"
    )
    retrain.add_argument("keys", nargs="+", metavar="KEY", help="keys of tasks, or their beginnings")
    retrain.add_argument("--yes", action="store_true", help="delete results without asking")
    retrain.add_argument(
        "--force", action="store_true", help="also tasks that a worker elsewhere holds: only if that worker is dead"
    )
    retrain.set_defaults(action=_retrain)


def _add_list(actions: Any) -> None:
    parser = actions.add_parser("list", help="show tasks, the newest first")
    parser.add_argument("--state", choices=STATES, help="only tasks in this state")
    parser.add_argument("--limit", type=at_least_one, default=50, metavar="N", help="at most so many (50)")
    parser.add_argument("--json", action="store_true", help="print JSON, with whole keys")
    parser.set_defaults(action=_list)


def _add_add(actions: Any) -> None:
    parser = actions.add_parser("add", help="add the tasks of some configurations, every combination of them")
    for name in ("dataset", "model", "training"):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            required=True,
            metavar="KEY",
            help=f"keys of {name} configurations, or their beginnings",
        )
    parser.add_argument("--seed", nargs="+", type=at_least_zero, default=[0], metavar="N", help="seeds (0)")
    parser.add_argument("--priority", type=at_least_zero, default=5, metavar="N", help="0 to 127, lower runs first (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_add)


def _list(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import task_states
        from pipeline.short_keys import shown

        state = task_states.State(args.state) if args.state else None
        rows = task_states.rows(state=state, limit=args.limit)
        counts = task_states.count()
    if args.json:
        print_json(rows)
        return 0
    print_table(
        ("task", "state", "dataset", "model", "training", "seed", "priority", "test score"),
        [
            (
                shown(row["task"]),
                row["state"],
                f"{row['dataset_file']} {shown(row['dataset'])}",
                f"{row['model_class']} {shown(row['model'])}",
                f"{row['optimizer_class']} {shown(row['training'])}",
                row["seed"],
                row["priority"],
                row["test_score"],
            )
            for row in rows
        ],
    )
    matching = counts[args.state] if args.state else sum(counts.values())
    if matching > len(rows):
        print(f"{matching - len(rows)} more; --limit {matching} shows them")
    return 0


def _add(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline.short_keys import full_key, shown
        from schemas.training_task import CONFIGS, TrainingTask

        given = zip(CONFIGS, (args.dataset, args.model, args.training), strict=True)
        configs = [[{table.key_column: full_key(table, typed)} for typed in keys] for table, keys in given]
        keys = TrainingTask().insert_grid(*configs, seeds=args.seed, priority=args.priority)
    new = {key["training_task_md5_hash"] for key in keys.new}
    listed = list(dict.fromkeys(key["training_task_md5_hash"] for key in keys))
    if args.json:
        print_json([{"task": key, "new": key in new} for key in listed])
        return 0
    for key in listed:
        print(f"{shown(key)}  {'new' if key in new else 'was there already'}")
    return 0


def _cancel(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import task_queue
        from pipeline.short_keys import full_key, shown
        from schemas.training_task import TrainingTask

        keys = [full_key(TrainingTask, typed) for typed in args.keys]
        task_queue.cancel(keys)
    for key in keys:
        print(f"{shown(key)}  will not be trained")
    return 0


def _retrain(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import task_queue
        from pipeline.short_keys import full_key, shown
        from schemas.training_task import TrainingTask

        keys = list(dict.fromkeys(full_key(TrainingTask, typed) for typed in args.keys))
        finished = task_queue.check_retrain(keys, force=args.force)
        if finished and not args.yes and not _confirmed(session, finished):
            print("nothing was changed", file=sys.stderr)
            return 1
        task_queue.retrain(keys)
    for key in keys:
        print(f"{shown(key)}  waits to be trained{' again' if key in finished else ''}")
    return 0


def _confirmed(session: Session, finished: list[str]) -> bool:
    """Ask whether results may be deleted; without a terminal nobody could answer."""
    from pipeline.errors import PipelineError

    count = f"{len(finished)} {'result' if len(finished) == 1 else 'results'}"
    if not sys.stdin.isatty():
        raise PipelineError(f"this deletes {count} of {session.settings.schema_name}; add --yes to agree")
    return input(f"Delete {count} of {session.settings.schema_name} and train again? [y/N] ").strip().lower() in (
        "y",
        "yes",
    )
