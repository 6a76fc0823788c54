"""`trainloom k8s status`: the workers on a cluster, why those wait or died that do, and the tasks they are at."""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.cli import refresh
from pipeline.cli.context import print_json, print_table
from pipeline.cli.k8s_cluster import Tasks, add_workers_arguments, open_workers
from pipeline.reporters.duration import lasting

if TYPE_CHECKING:
    from k8s.api import Api
    from k8s.job_state import JobState
    from k8s.overview import Overview
    from k8s.pod_state import PodState

PACE = 5.0  # s between two looks at the database; the cluster tells its changes by itself
SHORTEST = 0.2  # s between two refreshes, however much changes


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "status",
        help="workers by state, why they wait or died, and the tasks they are at",
        description="The Jobs and pods of the workers, why pods wait or died, and beside them the tasks they are at, "
        "from the database. Without a database the pods alone.",
    )
    add_workers_arguments(parser)
    refresh.add_watch_argument(parser, PACE, "whenever something changes, and every S seconds")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one line per refresh")
    parser.set_defaults(action=_status)


def _status(args: argparse.Namespace) -> int:
    from k8s.overview import look

    api, name = open_workers(args)
    with ExitStack() as sessions:
        tasks = Tasks(args, sessions)
        if args.watch is not None:
            looks = (_found(api, seen, tasks) for seen in _looks(api, name, max(SHORTEST, args.watch)))
            return refresh.watch(looks, _print, as_json=args.json)
        found = _found(api, look(api, name), tasks)
        if args.json:
            print_json(found)
        else:
            _print(found)
    return 0


def _looks(api: Api, name: str | None, pace: float) -> Iterator[Overview]:
    """What there is, again whenever something has changed or some time has passed."""
    from k8s.overview import label_selector, overview
    from k8s.resource import JOB, POD
    from k8s.watched import Watched

    changed = threading.Event()
    watched = partial(Watched, api, labels=label_selector(name), changed=changed)
    with watched(JOB) as jobs, watched(POD) as pods:
        while True:
            changed.clear()
            yield overview(api, jobs.objects(), pods.objects())
            threading.Event().wait(SHORTEST)  # what changes together is shown together
            changed.wait(pace)


def _found(api: Api, look: Overview, tasks: Tasks) -> dict[str, Any]:
    """What there is to say; tasks are None where the database is not known."""
    from pipeline.pod_tasks import by_pod

    held = tasks.held()
    counts = tasks.counts()
    theirs = by_pod(look.pods, held or ())
    return {
        "context": api.cluster.context,
        "namespace": api.cluster.namespace,
        "jobs": [_job(job, look.pods) for job in look.jobs],
        "pods": [{**asdict(pod), "tasks": None if held is None else theirs.get(pod.name, [])} for pod in look.pods],
        "warnings": [asdict(warning) for warning in look.warnings],
        "tasks": counts,
        "problems": [*look.problems, *([f"the tasks are not known: {tasks.problem}"] if tasks.problem else [])],
    }


def _job(job: JobState, pods: Sequence[PodState]) -> dict[str, Any]:
    phases = Counter(pod.phase for pod in pods if pod.job == job.name)
    return {
        "name": job.name,
        "workers": job.workers,
        "slots": job.completions,
        "done": len(job.done),
        "failed": len(job.failed),
        "state": "Terminating" if job.is_leaving else job.condition or "Active",
        "reason": job.reason,
        "message": job.message,
        "pods": dict(sorted(phases.items())),
    }


def _print(found: Mapping[str, Any]) -> None:
    if not found["jobs"]:
        print(f"no workers in the namespace {found['namespace']} of the context {found['context']!r}")
    else:
        _print_jobs(found)
        for line in _reasons(found):
            print(line)
        _print_pods(found["pods"])
    if found["tasks"]:
        print()
        for kind, states in found["tasks"].items():
            listed = ", ".join(f"{number} {state}" for state, number in states.items() if number)
            print(f"{kind}: {listed or 'none'}")
    for problem in found["problems"]:
        print(problem, file=sys.stderr)


def _print_jobs(found: Mapping[str, Any]) -> None:
    print_table(
        ("job", "state", "workers", "done", "failed", "pods"),
        [
            (
                job["name"],
                f"{job['state']}, {job['reason']}" if job["reason"] else job["state"],
                job["workers"],
                job["done"],
                job["failed"],
                ", ".join(f"{number} {phase}" for phase, number in job["pods"].items()) or "none",
            )
            for job in found["jobs"]
        ],
    )


def _reasons(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for everything that keeps pods from running, and for everything that they died of."""
    lines = [f"{job['name']}: {job['message']}" for job in found["jobs"] if job["message"]]
    for warning in found["warnings"]:
        times = f" ({warning['times']} times)" if warning["times"] > 1 else ""
        lines.append(f"{warning['object']}: {warning['reason']}{times}: {warning['message']}")
    alike = Counter(
        (pod["job"], pod["phase"], pod["reason"], pod["exit_code"], pod["message"])
        for pod in found["pods"]
        if pod["reason"] or pod["exit_code"]
    )
    for (job, phase, reason, exit_code, message), number in alike.items():
        code = f" (exit {exit_code})" if exit_code else ""
        pods = "1 pod" if number == 1 else f"{number} pods"
        lines.append(f"{job}: {pods} {phase}, {reason}{code}{': ' + message if message else ''}")
    if lines:
        yield ""
        yield from lines


def _print_pods(pods: Sequence[Mapping[str, Any]]) -> None:
    """The pods that have not ended, with what they are at."""
    present = [pod for pod in pods if pod["phase"] not in ("Succeeded", "Failed")]
    if not present:
        return
    print()
    rows = [(pod, task) for pod in present for task in pod["tasks"] or [None]]
    print_table(
        ("pod", "state", "node", "for", "task", "what", "epoch", "loss", "time left", "last beat"),
        [(*_pod_cells(pod), *_task_cells(task)) for pod, task in rows],
    )


def _pod_cells(pod: Mapping[str, Any]) -> tuple[object, ...]:
    state = f"{pod['phase']}, {pod['reason']}" if pod["reason"] else pod["phase"]
    age = None
    if pod["started"]:
        age = lasting(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(pod["started"])).total_seconds()))
    return pod["name"], state, pod["node"] or None, age


def _task_cells(task: Mapping[str, Any] | None) -> tuple[object, ...]:
    from pipeline.short_keys import shown

    if task is None:
        return (None,) * 6
    left, beat = task.get("seconds_left"), task["beat_seconds"]
    return (
        shown(task["task"]),
        task.get("model_class") or task.get("name") or task.get("file_name"),
        f"{task['epoch']}/{task['epoch_limit']}" if task.get("epoch") is not None else None,
        task.get("loss"),
        None if left is None else lasting(left),
        None if beat is None else lasting(beat),
    )
