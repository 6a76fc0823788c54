"""`trainloom k8s logs`: what the workers on a cluster write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_zero
from pipeline.cli.k8s_cluster import add_workers_arguments, open_workers
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from k8s.api import Api
    from k8s.log_streams import LogStreams
    from k8s.pod_state import PodState

TAIL = 10
"""Lines of each pod where those of several are shown."""
FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "logs",
        help="what the workers write: one pod or all, as it comes with -f",
        description="The logs of the newest pod of every worker, each line after the name of its pod; those of one pod "
        "without. With -f as lines come, from pods that come later too, until the Jobs, or that pod, have ended, or "
        "Ctrl-C.",
    )
    parser.add_argument("pod", nargs="?", metavar="POD", help="one pod: its name, or the beginning of its name")
    add_workers_arguments(parser, group=True)
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing lines as they come")
    parser.add_argument(
        "--tail", type=at_least_zero, metavar="N", help=f"the last N lines of each pod (one pod: all, several: {TAIL})"
    )
    parser.add_argument(
        "--previous", action="store_true", help="the logs of the pods, or of the container, that ran before these"
    )
    parser.set_defaults(action=_logs)


def _logs(args: argparse.Namespace) -> int:
    from k8s.log_streams import LogStreams
    from k8s.overview import find_jobs, label_selector
    from k8s.pod_state import pod_state
    from k8s.resource import POD

    api, name = open_workers(args)
    jobs = find_jobs(api, name, args.group)
    selector = label_selector(jobs[0].instance)
    names = {job.name for job in jobs}
    pods = [pod for pod in map(pod_state, api.list(POD, labels=selector).items) if pod.job in names]
    one = None if args.pod is None else _named(pods, args.pod)
    tail = args.tail if args.tail is not None or one is not None else TAIL
    if args.follow:
        chosen = None if one is None else one.name
        return _follow(LogStreams(api, selector, jobs=names, pod=chosen, tail=tail), bare=one is not None)
    return _print(api, _chosen(pods, one, args.previous), tail, bare=one is not None)


def _named(pods: Sequence[PodState], typed: str) -> PodState:
    """The one pod that is meant, of those of one index the newest."""
    from k8s.log_streams import newest

    found = [pod for pod in pods if pod.name.startswith(typed)]
    exact = [pod for pod in found if pod.name == typed]
    latest = exact or newest(found)
    if not latest:
        raise PipelineError(f"there is no pod whose name begins with {typed!r}; `trainloom k8s status` lists them")
    if len(latest) > 1:
        names = ", ".join(pod.name for pod in latest)
        raise PipelineError(f"several pods have names that begin with {typed!r}: {names}; give more characters")
    return latest[0]


def _follow(streams: LogStreams, *, bare: bool) -> int:
    try:
        for pod, line in streams.lines():
            print(line if bare else f"[{pod}] {line}", flush=True)
    except KeyboardInterrupt:
        pass  # how one ends it
    return 0


def _chosen(pods: Sequence[PodState], one: PodState | None, previous: bool) -> list[tuple[str, bool]]:
    """Names of pods, and whether the log of a container before its restart is meant."""
    from k8s.log_streams import newest

    latest = newest(pods) if one is None else [one]
    if not previous:
        return [(pod.name, False) for pod in latest]
    restarted = [(pod.name, True) for pod in latest if pod.restarts]
    replaced = {(pod.job, pod.index) for pod in latest if not pod.restarts}
    before = [(pod.name, False) for pod in newest(pods, before=True) if (pod.job, pod.index) in replaced]
    return [*restarted, *before]


def _print(api: Api, chosen: Sequence[tuple[str, bool]], tail: int | None, *, bare: bool) -> int:
    """Print what there is; what cannot be read is said, and the exit code is 1 if nothing could."""
    from k8s.errors import KubernetesError
    from k8s.log_streams import read

    failed = 0
    for name, previous in chosen:
        try:
            for line in read(api, name, tail=tail, previous=previous):
                print(line if bare else f"[{name}] {line}")
        except KubernetesError as error:
            failed += 1
            print(f"{name} has no log to show: {error}", file=sys.stderr)
    if not chosen:
        print("there is no such pod", file=sys.stderr)
    return FAILED if failed and failed == len(chosen) else 0
