"""Why pods wait and die, and how far Jobs are, as the API server shows them."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.job_state import indexes, job_state
from k8s.pod_state import PodState, pod_state
from pipeline.pod_tasks import by_pod


def pod(phase: str = "Running", *, index: int | None = 3, deleted: bool = False, **status: Any) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-name": "work"}
    if index is not None:
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
    metadata: dict[str, Any] = {"name": "work-3-abcde", "labels": labels}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": phase, **status}}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "worker", "state": state}]}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/5 nodes are available:\n5 Insufficient nvidia.com/gpu.",
}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "made room"}


@pytest.mark.parametrize(
    ("shown", "phase", "reason", "message", "exit_code"),
    [
        (
            pod("Pending", conditions=[UNSCHEDULABLE]),
            "Pending",
            "Unschedulable",
            "0/5 nodes are available: 5 Insufficient nvidia.com/gpu.",
            None,
        ),
        (
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]),
            "Pending",
            "SchedulingGated",
            "",
            None,
        ),
        (
            pod("Pending", **container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})),
            "Pending",
            "ImagePullBackOff",
            "no such image",
            None,
        ),
        (
            pod(
                "Pending",
                **container(waiting={"reason": "PodInitializing"}),
                initContainerStatuses=[{"state": {"waiting": {"reason": "CreateContainerConfigError"}}}],
            ),
            "Pending",
            "CreateContainerConfigError",
            "",
            None,
        ),
        (
            pod("Pending", **container(waiting={"reason": "ContainerCreating"})),
            "Pending",
            "ContainerCreating",
            "",
            None,
        ),
        (pod("Pending"), "Pending", "", "", None),
        (pod("Running", **container(running={})), "Running", "", "", None),
        (pod("Running", deleted=True), "Terminating", "", "", None),
        (pod("Succeeded", **container(terminated={"exitCode": 0, "reason": "Completed"})), "Succeeded", "", "", 0),
        (
            pod("Failed", **container(terminated={"exitCode": 137, "reason": "OOMKilled"})),
            "Failed",
            "OOMKilled",
            "it used more memory than its limit",
            137,
        ),
        (
            pod("Failed", **container(terminated={"exitCode": 78, "reason": "Error"})),
            "Failed",
            "Error",
            "wrong configuration, or its node lacks something; see its log",
            78,
        ),
        (
            pod("Failed", **container(terminated={"exitCode": 143, "reason": "Error"})),
            "Failed",
            "Error",
            "stopped, its task given back",
            143,
        ),
        (
            pod("Failed", **container(terminated={"exitCode": 4, "reason": "Error", "message": "said so"})),
            "Failed",
            "Error",
            "said so",
            4,
        ),
        (
            pod("Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage."),
            "Failed",
            "Evicted",
            "The node was low on resource: ephemeral-storage.",
            None,
        ),
        (
            pod("Failed", conditions=[DISRUPTED], **container(terminated={"exitCode": 143, "reason": "Error"})),
            "Failed",
            "PreemptionByScheduler",
            "made room",
            143,
        ),
        (
            pod("Failed", initContainerStatuses=[{"state": {"terminated": {"exitCode": 128, "reason": "Error"}}}]),
            "Failed",
            "Error",
            "",
            128,
        ),
        ({"metadata": {"name": "bare"}}, "Pending", "", "", None),
    ],
)
def test_a_pod_says_why_it_waits_or_died(
    shown: dict[str, Any], phase: str, reason: str, message: str, exit_code: int | None
) -> None:
    state = pod_state(shown)
    assert (state.phase, state.reason, state.message, state.exit_code) == (phase, reason, message, exit_code)


def test_the_host_of_an_indexed_pod_is_its_job_and_index() -> None:
    state = pod_state(pod())
    assert (state.name, state.job, state.index, state.host, state.node) == ("work-3-abcde", "work", 3, "work-3", "n1")
    assert pod_state(pod(index=None)).host == "work-3-abcde"


def test_tasks_are_found_by_the_pods_name_or_else_by_the_host_of_the_one_that_lives() -> None:
    old = PodState("work-0-old", "work", 0, "work-0", "Failed")
    new = PodState("work-0-new", "work", 0, "work-0", "Running")
    other = PodState("work-1-x", "work", 1, "work-1", "Running")
    by_name = {"pod": "work-1-x", "host": "work-1", "task": "a"}
    by_host = {"pod": "", "host": "work-0", "task": "b"}
    gone = {"pod": "work-0-oldest", "host": "work-0", "task": "c"}
    elsewhere = {"pod": "", "host": "laptop", "task": "d"}
    found = by_pod([new, old, other], [by_name, by_host, gone, elsewhere])
    assert found == {"work-1-x": [by_name], "work-0-new": [by_host]}


def job(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "work", "labels": {"app.kubernetes.io/instance": "lab", "trainloom/group": "work"}},
        "spec": {"completions": 6, "parallelism": 6, "maxFailedIndexes": 6},
        "status": status,
    }


def test_the_workers_of_a_job_are_the_indexes_that_are_not_over() -> None:
    state = job_state(job(completedIndexes="0,2-3", failedIndexes="5", active=2))
    assert (state.workers, state.completions, len(state.done), len(state.failed)) == (2, 6, 3, 1)
    assert (state.instance, state.has_ended, state.condition) == ("lab", False, "")


def test_indexes_that_were_scaled_away_do_not_count() -> None:
    assert job_state(job(completedIndexes="0,7-9")).workers == 5


def test_the_end_of_a_job_counts_more_than_its_suspension() -> None:
    suspended = {"type": "Suspended", "status": "True"}
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit\ncode 78"}
    state = job_state(job(conditions=[suspended, {"type": "Complete", "status": "False"}, failed]))
    assert (state.condition, state.reason, state.message, state.has_ended) == (
        "Failed",
        "PodFailurePolicy",
        "exit code 78",
        True,
    )
    assert job_state(job(conditions=[suspended])).condition == "Suspended"
    assert job_state({**job(), "spec": {"completions": 1, "suspend": True}}).condition == "Suspended"


@pytest.mark.parametrize(
    ("text", "found"), [("", set()), ("4", {4}), ("0-2,5", {0, 1, 2, 5}), ("1,3-4,7-9", {1, 3, 4, 7, 8, 9})]
)
def test_ranges_of_indexes_are_read(text: str, found: set[int]) -> None:
    assert indexes(text) == found
