"""`trainloom k8s submit`: workers brought to a cluster."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one
from pipeline.cli.context import print_json
from pipeline.cli.k8s_cluster import Tasks, add_cluster_arguments, open_api
from pipeline.cli.k8s_values import add_values_arguments, checked_objects, project_settings, values_over
from pipeline.errors import ConfigurationError, PipelineError

if TYPE_CHECKING:
    from k8s.submission import Submitted
    from k8s.values import Values
    from pipeline.pod_tasks import Demand

AUTO = "auto"
LIMIT = 100
"""Workers that `--workers auto` brings at most."""
FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "submit",
        help="check the objects and bring the workers to the cluster",
        description="Render, check and create what `render` prints, but for example Secrets. The server is asked first "
        "whether it would take all of it; if something fails all the same, what was made is taken back.",
    )
    add_values_arguments(parser, workers=_workers)
    add_cluster_arguments(parser)
    parser.add_argument(
        "--max-workers",
        type=at_least_one,
        default=LIMIT,
        metavar="N",
        help=f"at most so many with --workers auto, which brings one for each waiting task ({LIMIT})",
    )
    parser.add_argument("--replace", action="store_true", help="delete Jobs of the same name that have ended")
    parser.add_argument("--dry-run", action="store_true", help="only ask the server whether it would take everything")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_submit)


def _workers(text: str) -> int | str:
    """A number from 1, or ``auto``."""
    return AUTO if text == AUTO else at_least_one(text)


def _submit(args: argparse.Namespace) -> int:
    from k8s.submission import submit

    with ExitStack() as sessions:
        tasks = Tasks(args, sessions)
        is_auto, args.workers = args.workers == AUTO, None if args.workers == AUTO else args.workers
        settings = project_settings(args)
        values = values_over(settings, args)
        demand = tasks.demand()
        if is_auto:
            number = _number(values, demand, tasks.problem, args.max_workers)
            if not number:
                print("no task waits, so no worker is brought", file=sys.stderr)
                return 0
            args.workers = number
            values = values_over(settings, args)
    api = open_api(args, values.namespace)
    values = values.model_copy(update={"namespace": api.cluster.namespace})
    objects = checked_objects(args, values)
    if objects is None:
        return FAILED
    if not args.json:
        print(_announcement(values, demand, tasks.problem, api.cluster.context), flush=True)
    made = submit(
        api,
        objects,
        dry_run=args.dry_run,
        replace=args.replace,
        told=(lambda _: None) if args.json else _tell,
    )
    _conclude(args, values, demand, made)
    return 0


def _number(values: Values, demand: Demand | None, problem: str, limit: int) -> int:
    """How many workers the waiting tasks ask for."""
    if demand is None:
        raise PipelineError(f"--workers auto counts the waiting tasks, and they are not known: {problem}")
    if len(values.jobs()) > 1:
        groups = ", ".join(values.groups)
        raise ConfigurationError(
            f"--workers auto cannot tell which of the groups {groups} the tasks are for; give each its number with "
            "--set groups.NAME.workers=N"
        )
    return min(demand.waiting, limit)


def _announcement(values: Values, demand: Demand | None, problem: str, context: str) -> str:
    """What is going to happen."""
    groups = values.jobs()
    number = sum(group.workers for group in groups.values())
    workers = "1 worker" if number == 1 else f"{number} workers"
    named = (
        ", ".join(f"{group.workers} of {name}" for name, group in groups.items()) if len(groups) > 1 else values.name
    )
    waits = f"how many tasks wait is not known ({problem})"
    if demand is not None:
        failed = f", {demand.retry} more failed and will be tried again" if demand.retry else ""
        waits = (
            f"{demand.pending} {'task waits' if demand.pending == 1 else 'tasks wait'}{failed}, {demand.running} run"
        )
    return f"{waits}; {workers} ({named}) for the namespace {values.namespace} of the context {context!r}"


def _tell(done: Submitted) -> None:
    print(f"{done.object}: {done.done}", flush=True)


def _conclude(args: argparse.Namespace, values: Values, demand: Demand | None, made: list[Submitted]) -> None:
    if args.json:
        print_json(
            {
                "namespace": values.namespace,
                "workers": {name: group.workers for name, group in values.jobs().items()},
                "waiting": None if demand is None else demand.waiting,
                "dry_run": args.dry_run,
                "objects": [{"object": done.object, "done": done.done} for done in made],
            }
        )
    elif args.dry_run:
        print("the server would take all of it; nothing was made")
    else:
        print("`trainloom k8s status --watch` shows how they get on")
