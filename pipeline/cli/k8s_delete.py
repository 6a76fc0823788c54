"""`trainloom k8s delete`: workers taken from a cluster, with their grace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.k8s_cluster import add_workers_arguments, open_workers

if TYPE_CHECKING:
    from k8s.api import Api
    from k8s.job_state import JobState
    from k8s.overview import NoSuchWorkers
    from k8s.pod_state import PodState
    from k8s.resource import Resource

FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "delete",
        help="end the workers, which save and give their tasks back, and remove their objects",
        description="Delete the Jobs and what was submitted beside them. Workers get SIGTERM and their grace: they "
        "save and give their tasks back. Waits until they are gone; Ctrl-C only ends the waiting. Secrets and volumes "
        "stay.",
    )
    add_workers_arguments(parser, group=True)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the workers have ended")
    parser.set_defaults(action=_delete)


def _delete(args: argparse.Namespace) -> int:
    from k8s import removal

    api, name = open_workers(args)
    jobs, instance, missing = _chosen(api, name, args.group)
    whole = args.group is None
    deleted, left = _deleted(api, instance, removal.SCALERS if whole else ())
    removal.delete_jobs(api, jobs)
    for job in jobs:
        print(f"Job/{job.name}: deleted", flush=True)
    rest, kept = _deleted(api, instance, removal.BESIDE if whole else ())
    if left or kept:
        print(f"left, as this user may not delete it: {', '.join([*left, *kept])}", file=sys.stderr)
    if missing is not None and not (deleted or rest):
        raise missing
    if args.no_wait or not jobs:
        return 0
    remaining = removal.await_end(api, jobs, _tell)
    if remaining:
        names = ", ".join(pod.name for pod in remaining)
        print(f"still there after their grace: {names}; see whether their nodes answer", file=sys.stderr)
    return FAILED if remaining else 0


def _deleted(api: Api, instance: str, kinds: Sequence[Resource]) -> tuple[list[str], list[str]]:
    """Delete what there is of some kinds and say so: the names of what was deleted, and of what must stay."""
    from k8s import removal

    deleted, left = removal.delete_all(api, instance, kinds)
    for thing in deleted:
        print(f"{thing}: deleted", flush=True)
    return deleted, left


def _chosen(api: Api, name: str | None, group: str | None) -> tuple[list[JobState], str, NoSuchWorkers | None]:
    """The Jobs and the name of the workers; Jobs that have gone by themselves leave the rest to be deleted."""
    from k8s.overview import NoSuchWorkers, find_jobs

    try:
        jobs = find_jobs(api, name, group)
    except NoSuchWorkers as error:
        if name is None or group is not None:
            raise
        return [], name, error
    return jobs, jobs[0].instance, None


def _tell(pods: list[PodState]) -> None:
    if not pods:
        print("all workers have ended", flush=True)
    elif len(pods) == 1:
        print("1 worker saves and gives its task back", flush=True)
    else:
        print(f"{len(pods)} workers save and give their tasks back", flush=True)
