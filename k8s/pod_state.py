"""What a pod is doing, and why it waits or died, in the words that people otherwise dig for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
PENDING, RUNNING, TERMINATING, SUCCEEDED, FAILED = "Pending", "Running", "Terminating", "Succeeded", "Failed"
STARTING = frozenset({"ContainerCreating", "PodInitializing"})  # reasons that say only that it is not there yet
EXIT_CODES = {
    1: "an error; see its log",
    78: "wrong configuration, or its node lacks something; see its log",
    130: "interrupted",
    137: "killed",
    139: "crashed (segmentation fault)",
    143: "stopped, its task given back",
}


@dataclass(frozen=True)
class PodState:
    """A pod of a Job.

    Attributes
    ----------
    host : what the worker in it calls its machine.
    phase : Pending, Running, Succeeded, Failed, or Terminating while it is being deleted.
    reason : the cluster's word for why it waits or died, such as Unschedulable or OOMKilled; empty if there is none.
    message : what more the cluster says.
    exit_code : of the container that ended, the worker's before that of others.
    created, started : when it was made, and when its node took it, as RFC 3339.
    restarts : of containers in place.
    """

    name: str
    job: str
    index: int | None
    host: str
    phase: str
    reason: str = ""
    message: str = ""
    node: str = ""
    exit_code: int | None = None
    created: str = ""
    started: str = ""
    restarts: int = 0

    @property
    def is_over(self) -> bool:
        return self.phase in (SUCCEEDED, FAILED)

    @property
    def is_stuck_at_start(self) -> bool:
        """Whether it waits for something that only an event tells, such as a volume."""
        return self.phase == PENDING and self.reason in STARTING


def pod_state(pod: Mapping[str, Any]) -> PodState:
    """The state of a pod as the API server shows it."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    labels = metadata.get("labels") or {}
    phase = status.get("phase") or PENDING
    if metadata.get("deletionTimestamp") and phase in (PENDING, RUNNING):
        phase = TERMINATING
    reason, message, exit_code = _why(phase, status)
    index = labels.get(INDEX_LABEL)
    job = labels.get(JOB_LABEL, "")
    return PodState(
        name=metadata["name"],
        job=job,
        index=int(index) if index and index.isdigit() else None,
        host=spec.get("hostname") or (f"{job}-{index}" if index else metadata["name"]),
        phase=phase,
        reason=reason,
        message=" ".join(message.split()),
        node=spec.get("nodeName") or "",
        exit_code=exit_code,
        created=metadata.get("creationTimestamp") or "",
        started=status.get("startTime") or "",
        restarts=sum(int(one.get("restartCount") or 0) for one in status.get("containerStatuses") or ()),
    )


def _why(phase: str, status: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Reason, message and exit code."""
    if phase == PENDING:
        return *_waiting(status), None
    if phase == FAILED:
        return _died(status)
    if phase == SUCCEEDED:
        return "", "", 0
    return status.get("reason") or "", status.get("message") or "", None


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    """Why a pod does not run yet: no node, no image, no secret."""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason") or "Unschedulable", condition.get("message") or ""
    waiting = [state["waiting"] for state in _states(status) if state.get("waiting")]
    # One that cannot start says more than those that wait for it.
    waiting.sort(key=lambda state: state.get("reason") in STARTING)
    for state in waiting:
        return state.get("reason") or "", state.get("message") or ""
    return status.get("reason") or "", status.get("message") or ""


def _died(status: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Why a pod failed: what the cluster did to it, else what its container did."""
    ended = [state["terminated"] for state in _states(status) if state.get("terminated")]
    failed = next((state for state in ended if state.get("exitCode") or state.get("signal")), None)
    exit_code = None if failed is None else failed.get("exitCode")
    disruption = next(
        (
            condition
            for condition in status.get("conditions") or ()
            if condition["type"] == "DisruptionTarget" and condition["status"] == "True"
        ),
        None,
    )
    if failed is not None and failed.get("reason") == "OOMKilled":
        return "OOMKilled", failed.get("message") or "it used more memory than its limit", exit_code
    if disruption is not None:
        reason = status.get("reason") or disruption.get("reason") or "DisruptionTarget"
        return reason, status.get("message") or disruption.get("message") or "", exit_code
    if status.get("reason"):
        return status["reason"], status.get("message") or "", exit_code
    if failed is None:
        return "", status.get("message") or "", None
    said = failed.get("message") or EXIT_CODES.get(failed.get("exitCode", 0), "")
    return failed.get("reason") or "Error", said, exit_code


def _states(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The states of the containers: the workers' first."""
    for name in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(name) or ():
            yield container.get("state") or {}
