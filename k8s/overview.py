"""The workers of a namespace at one moment: Jobs, pods, and what the cluster says of those that do not come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import labels
from .api import FORBIDDEN, Api, ApiError
from .errors import KubernetesError
from .job_state import JobState, job_state
from .pod_state import PodState, pod_state
from .resource import EVENT, JOB, POD

WORKERS = f"{labels.MANAGED_BY}=trainloom,{labels.COMPONENT}=worker"
ASKED = 5
"""Of how many pods that hang at their start the events are asked: others hang for the same reasons."""


class NoSuchWorkers(KubernetesError, ValueError):
    """There are no workers of that name, or those of several to choose from."""


@dataclass(frozen=True)
class Warned:
    """What the cluster says again and again of a Job or a pod."""

    object: str
    reason: str
    message: str
    times: int


@dataclass(frozen=True)
class Overview:
    """Jobs and pods by name; `warnings` of Jobs whose pods cannot be made and of pods that hang at their start."""

    jobs: tuple[JobState, ...]
    pods: tuple[PodState, ...]
    warnings: tuple[Warned, ...]
    problems: tuple[str, ...]  # what could not be looked at


def label_selector(name: str | None) -> str:
    """Of the Jobs and pods of the workers that were submitted under a name; None for those of every name."""
    return WORKERS if name is None else labels.selector(name)


def is_in_group(job: JobState, group: str | None) -> bool:
    """Whether a Job is the one of a group, which may be given by its own name or by the Job's."""
    return group is None or group in (job.name, job.name.removeprefix(f"{job.instance}-"))


def find_jobs(api: Api, name: str | None, group: str | None = None) -> list[JobState]:
    """The Jobs of workers of one name.

    Parameters
    ----------
    name : None where only workers of one name are there.
    group : only this one of their groups.

    Raises
    ------
    NoSuchWorkers
        If there are none, or those of several names to choose from.
    """
    found = [job_state(job) for job in api.list(JOB, labels=label_selector(name)).items]
    where = f"in the namespace {api.cluster.namespace} of the context {api.cluster.context!r}"
    names = sorted({job.instance for job in found})
    if len(names) > 1:
        raise NoSuchWorkers(f"there are workers of several names {where}: {', '.join(names)}; choose with --name")
    chosen = [job for job in found if is_in_group(job, group)]
    if not chosen and found:
        raise NoSuchWorkers(f"there is no group {group!r}; there are {', '.join(job.name for job in found)}")
    if not chosen:
        called = f"named {name} " if name else ""
        raise NoSuchWorkers(f"there are no workers {called}{where}; `trainloom k8s submit` brings some")
    return sorted(chosen, key=lambda job: job.name)


def look(api: Api, name: str | None = None) -> Overview:
    """Look at the workers of one name, or of every name."""
    selector = label_selector(name)
    jobs = api.list(JOB, labels=selector).items
    return overview(api, jobs, api.list(POD, labels=selector).items)


def overview(api: Api, jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]) -> Overview:
    """What Jobs and pods tell, with the events of those that do not come; the server is asked for these alone."""
    states = sorted(map(job_state, jobs), key=lambda job: job.name)
    theirs = sorted(map(pod_state, pods), key=lambda pod: (pod.job, pod.index is None, pod.index or 0, pod.started))
    uids = {pod["metadata"]["name"]: pod["metadata"].get("uid", "") for pod in pods}
    asked = {job.name: job.uid for job in states if _lacks_pods(job, theirs)}
    asked |= {pod.name: uids[pod.name] for pod in [pod for pod in theirs if pod.is_stuck_at_start][:ASKED]}
    warnings: list[Warned] = []
    problems: list[str] = []
    for name, uid in asked.items():
        try:
            warnings += _warnings(name, api.list(EVENT, fields=f"involvedObject.uid={uid},type=Warning").items)
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            problems.append(f"why pods do not come is not known: {error}")
            break
    return Overview(tuple(states), tuple(theirs), tuple(warnings), tuple(problems))


def _lacks_pods(job: JobState, pods: Sequence[PodState]) -> bool:
    present = sum(pod.job == job.name and not pod.is_over for pod in pods)
    return not job.has_ended and not job.is_leaving and job.condition != "Suspended" and present < job.workers


def _warnings(name: str, events: Iterable[Mapping[str, Any]]) -> list[Warned]:
    """The latest event of every reason."""
    latest: dict[str, Mapping[str, Any]] = {}
    times: dict[str, int] = {}
    for event in sorted(events, key=_time):
        latest[event.get("reason", "")] = event
        series = event.get("series") or {}
        count = int(series.get("count") or event.get("count") or 1)
        times[event.get("reason", "")] = times.get(event.get("reason", ""), 0) + count
    return [
        Warned(name, reason, " ".join(event.get("message", "").split()), times[reason])
        for reason, event in latest.items()
    ]


def _time(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
