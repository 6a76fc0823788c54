"""`trainloom k8s scale`: another number of workers, once or as the queue grows and shrinks."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero, seconds
from pipeline.cli.k8s_cluster import Tasks, add_workers_arguments, open_workers
from pipeline.errors import ConfigurationError, PipelineError

if TYPE_CHECKING:
    from k8s.api import Api
    from k8s.job_state import JobState
    from k8s.scaling import FailureCount, Follower

LOWEST, HIGHEST = 1, 100
PATIENCE = 300.0  # s
MAX_FAILURES = 10
PACE = 15.0  # s between two looks
SHORTEST = 0.1  # s


class TasksUnknown(PipelineError):
    """The database does not tell how many tasks there are."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "scale",
        help="change the number of workers, once or as the queue grows and shrinks",
        description="Give a Job another number of workers. Those that are one too many save and give their tasks back; "
        "0 stops all and keeps the Job. With --follow as many as there are tasks, until Ctrl-C: more at once, fewer "
        "only when fewer have been enough for a while, and never so few that a worker at a task is stopped. "
        "Workers that fail for good are replaced, until too many in a row have failed (exit 1).",
    )
    parser.add_argument("number", type=at_least_zero, nargs="?", metavar="N", help="how many workers")
    add_workers_arguments(parser, group=True)
    parser.add_argument("--follow", action="store_true", help="follow the number of waiting and running tasks")
    parser.add_argument(
        "--min", type=at_least_zero, default=LOWEST, metavar="N", help=f"with --follow, at least so many ({LOWEST})"
    )
    parser.add_argument(
        "--max", type=at_least_one, default=HIGHEST, metavar="N", help=f"with --follow, at most so many ({HIGHEST})"
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=PATIENCE,
        metavar="S",
        help=f"with --follow, for how long fewer must be enough before there are fewer ({PATIENCE:.0f})",
    )
    parser.add_argument(
        "--max-failures",
        type=at_least_zero,
        default=MAX_FAILURES,
        metavar="N",
        help="with --follow, how many workers may fail for good in a row, none coming to a task meanwhile, before they "
        f"are no longer replaced ({MAX_FAILURES})",
    )
    parser.add_argument(
        "--interval",
        type=seconds,
        default=PACE,
        metavar="S",
        help=f"with --follow, seconds between two looks ({PACE:.0f})",
    )
    parser.set_defaults(action=_scale)


def _scale(args: argparse.Namespace) -> int:
    if (args.number is None) is not args.follow:
        raise ConfigurationError("give the number of workers, or --follow")
    api, name = open_workers(args)
    job = _one_job(api, name, args.group)
    if not args.follow:
        _change(api, job, args.number)
        return 0
    try:
        with ExitStack() as sessions:
            _follow(args, api, job.name, Tasks(args, sessions))
    except KeyboardInterrupt:
        print(f"{job.name} keeps the workers it has", file=sys.stderr)
    return 0


def _one_job(api: Api, name: str | None, group: str | None) -> JobState:
    from k8s.overview import find_jobs

    jobs = find_jobs(api, name, group)
    if len(jobs) > 1:
        raise ConfigurationError(f"these workers have several groups, choose with --group: {', '.join(_names(jobs))}")
    return jobs[0]


def _names(jobs: list[JobState]) -> list[str]:
    return [job.name.removeprefix(f"{job.instance}-") for job in jobs]


def _change(api: Api, job: JobState, number: int, why: str = "") -> None:
    """Give a Job its number of workers and say so."""
    from k8s.resource import JOB
    from k8s.scaling import scaling

    change = scaling(job, number)
    present = 0 if job.condition == "Suspended" else job.workers
    if not change.patch:
        print(f"{job.name} has {_workers(present)} already", flush=True)
        return
    api.patch(JOB, job.name, change.patch)
    stopped = "; those that are stopped save and give their tasks back" if number < present else ""
    print(f"{job.name}: {_workers(number)} instead of {present}{why}{stopped}", flush=True)


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _follow(args: argparse.Namespace, api: Api, name: str, tasks: Tasks) -> None:
    """Follow the queue until the Job has ended or is gone; raises where too many workers in a row have failed."""
    from k8s.api import ApiError
    from k8s.scaling import FailureCount, Follower

    follower, failures = Follower(args.min, args.max, args.patience), FailureCount(args.max_failures)
    print(f"{name} follows the queue with {args.min} to {args.max} workers, until Ctrl-C", flush=True)
    away = False
    began = False
    while True:
        try:
            if not _look(api, name, tasks, follower, failures):
                return
            away, began = False, True
        except (ApiError, TasksUnknown) as error:
            # A database that was there comes back.
            if not (error.is_transient if isinstance(error, ApiError) else began):
                raise
            if not away:
                print(f"{error}; it is tried again", file=sys.stderr, flush=True)
            away = True
        time.sleep(max(SHORTEST, args.interval))


def _look(api: Api, name: str, tasks: Tasks, follower: Follower, failures: FailureCount) -> bool:
    """Look once and change the number where that is due; False where there is nothing left to follow."""
    from k8s.job_state import job_state
    from k8s.pod_state import JOB_LABEL, pod_state
    from k8s.resource import JOB, POD
    from k8s.scaling import scaling
    from pipeline.pod_tasks import by_pod

    found = api.get(JOB, name)
    job = None if found is None else job_state(found)
    if job is None or job.is_leaving or job.has_ended:
        end = "is gone" if job is None or job.is_leaving else f"has ended ({job.condition})"
        print(f"{name} {end}, there is nothing left to follow", flush=True)
        return False
    demand, held = tasks.demand(), tasks.held()
    if demand is None or held is None:
        raise TasksUnknown(f"--follow counts the tasks, and they are not known: {tasks.problem}")
    pods = [pod_state(pod) for pod in api.list(POD, labels=f"{JOB_LABEL}={name}").items]
    at_work = by_pod(pods, held)
    busy = {pod.index for pod in pods if pod.name in at_work and pod.index is not None}
    failures.look(job, busy)
    wanted = follower.wanted(time.monotonic(), job, demand.waiting + len(busy), busy)
    if scaling(job, wanted).patch:  # a queue may keep it suspended, whatever is wanted
        _change(api, job, wanted, why=f" (waiting tasks: {demand.waiting}, workers at one: {len(busy)})")
    return True
