"""Workers taken from a cluster: stopped as by any SIGTERM, they save and give their tasks back within their grace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .api import FORBIDDEN, NOT_FOUND, Api, ApiError
from .job_state import JobState
from .labels import INSTANCE, MANAGED_BY
from .overview import label_selector
from .pod_state import PodState, pod_state
from .resource import CONFIG_MAP, JOB, POD, ROLE, ROLE_BINDING, SERVICE, SERVICE_ACCOUNT, Resource
from .watched import Watched

SCALERS = (Resource("ScaledJob", "v1alpha1", "keda.sh"), Resource("TriggerAuthentication", "v1alpha1", "keda.sh"))
"""Kinds of what would bring new Jobs: they go first. Most clusters do not know them."""
BESIDE = (CONFIG_MAP, SERVICE, ROLE_BINDING, ROLE, SERVICE_ACCOUNT)
"""Kinds of what is submitted beside the Jobs."""
MARGIN = 60.0  # s beyond the grace of the pods, for a busy node


def delete_jobs(api: Api, jobs: Sequence[JobState]) -> None:
    """Delete Jobs; they stay until their last pod is gone, so that no others of their names come before."""
    for job in jobs:
        api.delete(JOB, job.name, propagation="Foreground", uid=job.uid)


def delete_all(api: Api, instance: str, kinds: Sequence[Resource]) -> tuple[list[str], list[str]]:
    """Delete what was submitted of some kinds for some workers; what was deleted, and what this user may not delete."""
    deleted: list[str] = []
    left: list[str] = []
    for resource in kinds:
        try:
            found = api.list(resource, labels=f"{MANAGED_BY}=trainloom,{INSTANCE}={instance}").items
        except ApiError as error:
            if error.status not in (FORBIDDEN, NOT_FOUND):
                raise
            if resource not in SCALERS:  # whoever may not look for those has made none
                left.append(f"every {resource.kind}")
            continue
        for thing in found:
            name = thing["metadata"]["name"]
            (deleted if _may_delete(api, resource, name) else left).append(f"{resource.kind}/{name}")
    return deleted, left


def _may_delete(api: Api, resource: Resource, name: str) -> bool:
    try:
        api.delete(resource, name)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        return False
    return True


def await_end(api: Api, jobs: Sequence[JobState], told: Callable[[list[PodState]], None]) -> list[PodState]:
    """Wait until the pods of deleted Jobs are gone, as long as their grace lasts; those that are there all the same.

    `told` hears of those that are left whenever their number changes.
    """
    names = {job.name for job in jobs}
    changed = threading.Event()
    limit, before = 0.0, -1
    began = time.monotonic()
    with Watched(api, POD, labels=label_selector(jobs[0].instance), changed=changed) as pods:
        while True:
            changed.clear()
            present = [pod for pod in pods.objects() if pod_state(pod).job in names]
            left = [state for state in map(pod_state, present) if not state.is_over]
            limit = max([limit, *(float(pod["spec"].get("terminationGracePeriodSeconds") or 30) for pod in present)])
            if len(left) != before:
                told(left)
                before = len(left)
            remaining = began + limit + MARGIN - time.monotonic()
            if not left or remaining <= 0:
                return left
            changed.wait(remaining)
