"""`trainloom k8s logs`: what the workers on a cluster write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_zero
from pipeline.cli.k8s_cluster import add_workers_arguments, open_workers
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from k8s.api import Api

TAIL = 10
"""Lines of each pod where those of several are shown."""
FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "logs",
        help="what the workers write: one pod or all, as it comes with -f",
        description="The logs of the newest pod of every worker, each line after the name of its pod; those of one pod "
        "without. With -f as lines come, from pods that come later too, until the Jobs have ended or Ctrl-C.",
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
    from k8s.overview import find_jobs, label_selector
    from k8s.resource import POD

    api, name = open_workers(args)
    jobs = find_jobs(api, name, args.group)
    selector = label_selector(jobs[0].instance)
    names = {job.name for job in jobs}
    pods = [pod for pod in api.list(POD, labels=selector).items if _job(pod) in names]
    one = None if args.pod is None else _named(pods, args.pod)
    tail = args.tail if args.tail is not None or one is not None else TAIL
    if args.follow:
        return _follow(api, selector, names, one, tail)
    return _print(api, pods, one, tail, args.previous)


def _job(pod: Mapping[str, Any]) -> str:
    from k8s.pod_state import pod_state

    return pod_state(pod).job


def _named(pods: list[Mapping[str, Any]] | list[dict[str, Any]], typed: str) -> str:
    """The name of the one pod that is meant, the newest of those of one index."""
    from k8s.log_streams import newest

    names = [str(pod["metadata"]["name"]) for pod in pods if str(pod["metadata"]["name"]).startswith(typed)]
    if typed in names or len(names) == 1:
        return typed if typed in names else names[0]
    latest = [str(pod["metadata"]["name"]) for pod in newest(pods) if pod["metadata"]["name"] in names]
    if len(latest) == 1:
        return latest[0]
    if not names:
        raise PipelineError(f"there is no pod whose name begins with {typed!r}; `trainloom k8s status` lists them")
    raise PipelineError(f"several pods have names that begin with {typed!r}: {', '.join(sorted(latest or names))}")


def _follow(api: Api, selector: str, jobs: set[str], one: str | None, tail: int | None) -> int:
    from k8s.log_streams import LogStreams

    streams = LogStreams(
        api, selector, chosen=lambda pod: pod.job in jobs if one is None else pod.name == one, tail=tail
    )
    try:
        for pod, line in streams.lines():
            print(line if one is not None else f"[{pod}] {line}", flush=True)
    except KeyboardInterrupt:
        pass  # how one ends it
    return 0


def _print(api: Api, pods: list[dict[str, Any]], one: str | None, tail: int | None, previous: bool) -> int:
    """Print what there is; what cannot be read is said, and the exit code is 1 if nothing could."""
    from k8s.api import ApiError

    printed = failed = 0
    for name, restarted in _chosen(pods, one, previous):
        try:
            for line in _lines(api, name, tail, restarted):
                print(line if one is not None else f"[{name}] {line}")
            printed += 1
        except ApiError as error:
            if one is not None:
                raise
            failed += 1
            print(f"{name} has no log to show: {error}", file=sys.stderr)
    if not printed and not failed:
        print("no pod ran before those that run now" if previous else "no pod is there", file=sys.stderr)
    return 0 if printed or not failed else FAILED


def _chosen(pods: list[dict[str, Any]], one: str | None, previous: bool) -> Iterator[tuple[str, bool]]:
    """Names of pods, and whether the log of a container before its restart is meant."""
    from k8s.log_streams import newest

    latest = newest(pods) if one is None else [pod for pod in pods if pod["metadata"]["name"] == one]
    if not previous:
        yield from ((str(pod["metadata"]["name"]), False) for pod in latest)
        return
    restarted = [pod for pod in latest if _restarts(pod)]
    yield from ((str(pod["metadata"]["name"]), True) for pod in restarted)
    indexes = {(_job(pod), pod_index(pod)) for pod in latest if pod not in restarted}
    for pod in newest(pods, before=True):
        if (_job(pod), pod_index(pod)) in indexes:
            yield str(pod["metadata"]["name"]), False


def pod_index(pod: Mapping[str, Any]) -> int | None:
    from k8s.pod_state import pod_state

    return pod_state(pod).index


def _restarts(pod: Mapping[str, Any]) -> int:
    return sum(int(status.get("restartCount") or 0) for status in pod["status"].get("containerStatuses") or ())


def _lines(api: Api, pod: str, tail: int | None, restarted: bool) -> Iterator[str]:
    from k8s.log_streams import read

    return read(api, pod, tail=tail, previous=restarted)
