"""An Indexed Job whose indexes are worker slots."""

from __future__ import annotations

from typing import Any

from . import labels, pod
from .metadata import metadata
from .values import Group, Values

CONFIGURATION = 78  # the exit code of a worker whose configuration no retry can mend (EX_CONFIG of sysexits.h)


def jobs(values: Values) -> list[dict[str, Any]]:
    """One Job for each group."""
    return [job(values, name, group) for name, group in values.jobs().items()]


def job(values: Values, name: str, group: Group) -> dict[str, Any]:
    """The Job of a group."""
    chosen = {labels.COMPONENT: "worker", labels.GROUP: name}
    queue = {labels.QUEUE: group.queue} if group.queue else {}
    suspend = group.suspend if group.suspend is not None else bool(group.queue) or None
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": group.workers,
        "parallelism": group.workers,
        "suspend": suspend,
        "backoffLimitPerIndex": group.retries,
        "maxFailedIndexes": group.workers if group.max_failed is None else group.max_failed,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "activeDeadlineSeconds": group.deadline_seconds,
        "ttlSecondsAfterFinished": group.ttl_seconds,
        "template": {"metadata": _template_metadata(values, chosen), "spec": pod.spec(values, group)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(values, name, **chosen, **queue),
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def _template_metadata(values: Values, chosen: dict[str, str]) -> dict[str, Any]:
    made = metadata(values, "", **chosen)
    return {key: made[key] for key in ("labels", "annotations") if key in made}


def _failure_policy() -> dict[str, Any]:
    """A wrong configuration ends the Job at once; what the cluster does to a pod does not count against its index.

    A worker that was told to stop exits 143. That is a failure, so its index gets another pod; it counts, unless the
    cluster says (`DisruptionTarget`) that it wanted the pod away.
    """
    return {
        "rules": [
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": pod.CONTAINER, "operator": "In", "values": [CONFIGURATION]},
            },
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }
