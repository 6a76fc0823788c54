"""How far a Job is: its worker slots, how many are done or failed, and what keeps its pods from being made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .labels import GROUP, INSTANCE, QUEUE

COMPLETE, FAILED, SUSPENDED = "Complete", "Failed", "Suspended"
ENDS = (COMPLETE, FAILED)


@dataclass(frozen=True)
class JobState:
    """A Job whose indexes are worker slots.

    Attributes
    ----------
    workers : slots that are neither done nor failed.
    completions : all slots.
    done, failed : indexes of slots that found nothing left to do, and of those that failed for good.
    active, ready, terminating : pods.
    condition : Complete or Failed where it has ended, Suspended where it waits, else empty.
    reason, message : what the cluster says of the condition.
    is_leaving : whether it is being deleted.
    is_queued : whether a queue (Kueue) decides when it runs.
    """

    name: str
    instance: str
    group: str
    uid: str
    completions: int
    max_failed: int | None
    done: frozenset[int]
    failed: frozenset[int]
    active: int
    ready: int
    terminating: int
    condition: str
    reason: str
    message: str
    is_leaving: bool
    is_queued: bool

    @property
    def workers(self) -> int:
        return self.completions - len(self.done | self.failed)

    @property
    def has_ended(self) -> bool:
        return self.condition in ENDS


def job_state(job: Mapping[str, Any]) -> JobState:
    """The state of a Job as the API server shows it."""
    metadata, spec, status = job["metadata"], job["spec"], job.get("status") or {}
    labels = metadata.get("labels") or {}
    condition = _condition(spec, status.get("conditions") or ())
    completions = int(spec.get("completions") or spec.get("parallelism") or 0)
    return JobState(
        name=metadata["name"],
        instance=labels.get(INSTANCE, metadata["name"]),
        group=labels.get(GROUP, ""),
        uid=metadata.get("uid", ""),
        completions=completions,
        max_failed=spec.get("maxFailedIndexes"),
        # After it was scaled down, indexes past the end may still be listed for a moment.
        done=frozenset(index for index in indexes(status.get("completedIndexes") or "") if index < completions),
        failed=frozenset(index for index in indexes(status.get("failedIndexes") or "") if index < completions),
        active=int(status.get("active") or 0),
        ready=int(status.get("ready") or 0),
        terminating=int(status.get("terminating") or 0),
        condition=condition.get("type", ""),
        reason=condition.get("reason", ""),
        message=" ".join(condition.get("message", "").split()),
        is_leaving=bool(metadata.get("deletionTimestamp")),
        is_queued=QUEUE in labels,
    )


def _condition(spec: Mapping[str, Any], conditions: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    holding = {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}
    for kind in (*ENDS, SUSPENDED):
        if kind in holding:
            return holding[kind]
    return {"type": SUSPENDED} if spec.get("suspend") else {}


def indexes(text: str) -> frozenset[int]:
    """The indexes in a text such as ``1,3-5,7``."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
