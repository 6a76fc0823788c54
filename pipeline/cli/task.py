"""`trainloom task`: list, add, cancel, retry, prioritize and retrain tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero, priority
from pipeline.cli.context import open_session, print_json, print_table

if TYPE_CHECKING:
    from pipeline.session import Session
    from schemas.keys import Keys

TABLES = ("trainings", "predictions", "scripts")
STATES = ("pending", "retry", "waiting", "running", "error", "cancelled", "finished")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("task", help="list, add, cancel, retry, prioritize or retrain tasks")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_add(actions)
    cancel = _add_action(actions, "cancel", _cancel, "take tasks out of the queue; `retry` puts them back")
    cancel.description = "Take tasks out of the queue. One that runs stops at the next heartbeat."
    _add_action(actions, "retry", _retry, "queue tasks again that failed or were cancelled; attempts count anew")
    prioritize = _add_action(actions, "prioritize", _prioritize, "change the priority of tasks")
    prioritize.add_argument("--priority", type=priority, required=True, metavar="N", help="0 to 127, lower runs first")
    retrain = _add_action(
        actions, "retrain", _retrain, "delete the results of tasks, or forget their errors, and queue them again"
    )
    retrain.add_argument("--yes", action="store_true", help="delete results without asking")
    retrain.add_argument("--force", action="store_true", help="also tasks that a worker holds: that is stopped")


def _add_action(actions: Any, name: str, action: Any, text: str) -> Any:
    """The parser of an action on tasks that are named."""
    parser = actions.add_parser(name, help=text)
    parser.add_argument("keys", nargs="+", metavar="KEY", help="keys of tasks, or their beginnings")
    parser.set_defaults(action=action)
    return parser


def _add_list(actions: Any) -> None:
    parser = actions.add_parser("list", help="show tasks, the newest first")
    parser.add_argument("--table", choices=TABLES, default="trainings", help="which tasks (trainings)")
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
            metavar="KEY",
            help=f"keys of {name} configurations, or their beginnings",
        )
    going_on = parser.add_argument_group("going on with a finished training, in place of configurations")
    going_on.add_argument(
        "--continue", dest="source", metavar="KEY", help="the task that the new one goes on from, with its last state"
    )
    going_on.add_argument("--epochs", type=at_least_one, metavar="N", help="epochs in all, those of the other included")
    parser.add_argument("--seed", nargs="+", type=at_least_zero, metavar="N", help="seeds (0; that of the other task)")
    parser.add_argument("--priority", type=priority, default=5, metavar="N", help="0 to 127, lower runs first (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_add)


def _list(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline.task_kind import KINDS
        from pipeline.task_states import State

        kind = KINDS[args.table]
        rows = kind.rows(states=(State(args.state),) if args.state else (), limit=args.limit)
        counts = kind.count()
    if args.json:
        print_json(rows)
        return 0
    {"trainings": _print_trainings, "predictions": _print_predictions, "scripts": _print_scripts}[args.table](rows)
    matching = counts[args.state] if args.state else sum(counts.values())
    if matching > len(rows):
        print(f"{matching - len(rows)} more; --limit {matching} shows them")
    return 0


def _print_scripts(rows: Sequence[Mapping[str, Any]]) -> None:
    from pipeline.short_keys import shown

    columns = ("state", "attempts", "name", "file_name", "priority", "time")
    print_table(
        ("task", "state", "attempts", "name", "file", "priority", "created"),
        [(shown(row["task"]), *(row[column] for column in columns)) for row in rows],
    )


def _print_predictions(rows: Sequence[Mapping[str, Any]]) -> None:
    from pipeline.short_keys import shown

    print_table(
        ("task", "state", "attempts", "model", "data", "tier", "priority", "score"),
        [
            (
                shown(row["task"]),
                row["state"],
                row["attempts"],
                f"{row['model_class']} {shown(row['training'])}",
                row["data"],
                row["tier"] or None,
                row["priority"],
                row["score"],
            )
            for row in rows
        ],
    )


def _print_trainings(rows: Sequence[Mapping[str, Any]]) -> None:
    from pipeline.short_keys import shown

    print_table(
        ("task", "state", "attempts", "dataset", "model", "training", "seed", "priority", "test score"),
        [
            (
                shown(row["task"]),
                row["state"],
                row["attempts"],
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


def _add(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline.short_keys import shown

        keys = _inserted(args)
    new = {key["training_task_md5_hash"] for key in keys.new}
    listed = list(dict.fromkeys(key["training_task_md5_hash"] for key in keys))
    if args.json:
        print_json([{"task": key, "new": key in new} for key in listed])
        return 0
    for key in listed:
        print(f"{shown(key)}  {'new' if key in new else 'was there already'}")
    return 0


def _inserted(args: argparse.Namespace) -> Keys:
    """The keys of the tasks that were asked for; in a session."""
    from pipeline.errors import PipelineError
    from pipeline.short_keys import full_key
    from schemas.keys import Keys
    from schemas.training_task import CONFIGS, TrainingTask

    named = (args.dataset, args.model, args.training)
    if args.source is None:
        if None in named or args.epochs is not None:
            raise PipelineError("give --dataset, --model and --training, or --continue and --epochs")
        configs = [
            [{table.key_column: full_key(table, typed)} for typed in keys]
            for table, keys in zip(CONFIGS, named, strict=True)
        ]
        return TrainingTask().insert_grid(*configs, seeds=args.seed or [0], priority=args.priority)
    if args.epochs is None or any(named):
        raise PipelineError("--continue takes --epochs and the configurations of the task that it names")
    source = full_key(TrainingTask, args.source)
    found = [
        TrainingTask().insert_continuation(source, args.epochs, seed=seed, priority=args.priority)
        for seed in args.seed or [None]
    ]
    return Keys([key for keys in found for key in keys], [key for keys in found for key in keys.new])


def _cancel(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import task_queue
        from pipeline.short_keys import shown

        keys = _keys(args)
        running = task_queue.cancel(keys)
    for key, participle in keys.items():
        stops = "; its worker stops at the next heartbeat and writes nothing" if key in running else ""
        print(f"{shown(key)}  will not be {participle}{stops}")
    return 0


def _retry(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import task_queue
        from pipeline.short_keys import shown

        keys = _keys(args)
        task_queue.retry(keys)
    for key, participle in keys.items():
        print(f"{shown(key)}  waits to be {participle}")
    return 0


def _prioritize(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import task_queue
        from pipeline.short_keys import shown

        keys = _keys(args)
        task_queue.prioritize(keys, args.priority)
    for key in keys:
        print(f"{shown(key)}  has the priority {args.priority}")
    return 0


def _retrain(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import task_queue
        from pipeline.short_keys import shown

        keys = _keys(args)
        finished = task_queue.check_retrain(keys, force=args.force)
        if finished and not args.yes and not _confirmed(session, finished):
            print("nothing was changed", file=sys.stderr)
            return 1
        task_queue.retrain(keys)
    for key, participle in keys.items():
        print(f"{shown(key)}  waits to be {participle}{' again' if key in finished else ''}")
    return 0


def _keys(args: argparse.Namespace) -> dict[str, str]:
    """The tasks that were named, each once, with what is done with tasks of its kind; in a session."""
    from pipeline.task_kind import named

    return {key: kind.participle for kind, key in map(named, args.keys)}


def _confirmed(session: Session, finished: list[str]) -> bool:
    """Ask whether results may be deleted; without a terminal nobody could answer."""
    from pipeline.errors import PipelineError
    from pipeline.task_queue import predictions_of

    count = f"{len(finished)} {'result' if len(finished) == 1 else 'results'}"
    if predictions := predictions_of(finished):
        count += f" and {predictions} {'prediction' if predictions == 1 else 'predictions'} made with"
        count += " it" if len(finished) == 1 else " them"
    if not sys.stdin.isatty():
        raise PipelineError(f"this deletes {count} of {session.settings.schema_name}; add --yes to agree")
    return input(f"Delete {count} of {session.settings.schema_name} and train again? [y/N] ").strip().lower() in (
        "y",
        "yes",
    )
