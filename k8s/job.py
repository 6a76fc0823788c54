"""Indexed Jobs whose indexes are places of workers."""

from __future__ import annotations

from typing import Any

from . import keda, labels, pod
from .metadata import metadata
from .values import Group, Values

CONFIGURATION = 78  # the exit code of a worker whose configuration no retry can mend (EX_CONFIG of sysexits.h)


def workloads(values: Values) -> list[dict[str, Any]]:
    """The Job of each group, and before it what its pods need of their own."""
    made: list[dict[str, Any]] = []
    for name, group in values.jobs().items():
        if group.peers:
            made.append(_service(values, name))
        if group.autoscale is None:
            made.append(_job(values, name, group))
        else:
            scaled = spec(values, name, group.model_copy(update={"workers": 1, "max_failed": None}))
            made += keda.objects(values, name, group, scaled, _labels(values, name))
    return made


def _labels(values: Values, name: str) -> dict[str, str]:
    return {labels.COMPONENT: "worker", labels.GROUP: name.removeprefix(f"{values.name}-")}


def _job(values: Values, name: str, group: Group) -> dict[str, Any]:
    queue = {labels.QUEUE: group.queue} if group.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(values, name, {**_labels(values, name), **queue}),
        "spec": spec(values, name, group),
    }


def spec(values: Values, name: str, group: Group) -> dict[str, Any]:
    """The specification of a group's Job."""
    about_pods = metadata(values, name, _labels(values, name))
    suspended = bool(group.queue) if group.suspend is None else group.suspend
    made: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": group.workers,
        "parallelism": group.workers,
        "suspend": suspended or None,
        "backoffLimitPerIndex": group.retries,
        "maxFailedIndexes": group.workers if group.max_failed is None else group.max_failed,
        # A new pod before the old one has saved would find its task taken.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(group),
        "activeDeadlineSeconds": group.deadline_seconds,
        "ttlSecondsAfterFinished": group.ttl_seconds,
        "template": {
            "metadata": {field: about_pods[field] for field in ("labels", "annotations") if field in about_pods},
            "spec": pod.spec(values, group, name),
        },
    }
    return {field: given for field, given in made.items() if given is not None}


def _failure_policy(group: Group) -> dict[str, Any]:
    """What no retry can mend fails at once; what the cluster does to a pod does not count against its index.

    It fails its own index, since a worker also exits so where its node alone lacks something, such as space on its
    disk. Where all workers are misconfigured all indexes fail with their first pods, and the Job with them.

    A worker that was told to stop exits 143. That is a failure, so that its index gets another pod, and it counts
    unless the cluster itself wanted the pod away (`DisruptionTarget`): a pod that fills the disk is evicted too, and
    would be replaced for ever.
    """
    codes = {"containerName": pod.CONTAINER, "operator": "In", "values": [CONFIGURATION]}
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": group.misconfigured, "onExitCodes": codes},
        ]
    }


def _service(values: Values, name: str) -> dict[str, Any]:
    """Names for the pods of a Job, also while they wait for each other."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(values, name, _labels(values, name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {**labels.common(values.name), **_labels(values, name)},
        },
    }
