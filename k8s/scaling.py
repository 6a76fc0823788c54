"""How many workers a Job has: the change that gives it another number, the number that follows a queue, and when those
that fail are no longer replaced.

An index that is done never runs again, and the end of an Indexed Job may move only together with its parallelism: N
workers are the first N indexes that are not done, and both numbers are the end of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from .errors import KubernetesError
from .job_state import JobState


class ScalingError(KubernetesError, ValueError):
    """The Job cannot be given that number of workers."""


class TooManyFailures(KubernetesError):
    """Workers fail one after the other, so that others in their places would fail too."""


@dataclass(frozen=True)
class Scaling:
    """Another number of workers for a Job; none: its pods are stopped and the Job waits.

    Attributes
    ----------
    workers : as many as it has then.
    patch : what is merged into the Job; empty where nothing changes.
    """

    workers: int
    patch: dict[str, Any]


def scaling(state: JobState, workers: int) -> Scaling:
    """The change that gives a Job so many workers.

    Raises
    ------
    ScalingError
        If the Job has ended or is being deleted, or a queue decides when it runs.
    """
    if state.has_ended:
        raise ScalingError(
            f"the Job {state.name} has ended ({state.condition}) and cannot be scaled; submit it again with --replace"
        )
    if state.is_leaving:
        raise ScalingError(f"the Job {state.name} is being deleted; submit it again when it is gone")
    if workers == 0:
        if state.is_queued:
            raise ScalingError(f"the queue of the Job {state.name} decides when it is suspended; delete it instead")
        return Scaling(0, {} if state.condition == "Suspended" else {"spec": {"suspend": True}})
    end = end_for(state, workers)
    spec: dict[str, Any] = {}
    if end != state.completions:
        spec = {"parallelism": end, "completions": end}
        if state.max_failed is not None:
            # As many as there are slots, where it was so; never more, or the server refuses.
            spec["maxFailedIndexes"] = end if state.max_failed == state.completions else min(state.max_failed, end)
    if state.condition == "Suspended" and not state.is_queued:
        spec["suspend"] = False
    return Scaling(workers, {"spec": spec} if spec else {})


def end_for(state: JobState, workers: int) -> int:
    """The number of indexes of which so many are neither done nor failed."""
    over = state.done | state.failed
    end = 0
    while workers:
        workers -= end not in over
        end += 1
    return end


class Follower:
    """The number of workers that follows a queue: more at once, fewer only after a while, within limits.

    Not for several threads. Time is given, in seconds, and must not go back.
    """

    def __init__(self, lowest: int, highest: int, patience: float) -> None:
        """`patience`: seconds for which fewer must have been enough before any worker is stopped."""
        if lowest > highest:
            raise ScalingError(f"the lowest number of workers, {lowest}, is above the highest, {highest}")
        self._lowest, self._highest, self._patience = lowest, highest, patience
        self._began: float | None = None
        self._wanted: deque[tuple[float, int]] = deque()

    def wanted(self, now: float, state: JobState, tasks: int, busy: frozenset[int] | set[int]) -> int:
        """How many workers the Job should have.

        Parameters
        ----------
        tasks : those that wait and those that its workers are at.
        busy : indexes whose workers are at a task; no number is so low that one of them would be stopped.
        """
        target = min(max(tasks, self._lowest), self._highest)
        self._began = now if self._began is None else self._began
        self._wanted.append((now, target))
        while self._wanted[0][0] < now - self._patience:
            self._wanted.popleft()
        present = 0 if state.condition == "Suspended" else state.workers
        if target >= present:
            return target
        if now - self._began < self._patience:
            return present
        over = state.done | state.failed
        kept = sum(index not in over for index in range(max(busy, default=-1) + 1))
        return min(present, max(kept, *(number for _, number in self._wanted)))


class FailureCount:
    """How many workers in a row have failed for good, so that what breaks all of them is not tried for ever.

    The cluster ends the tries at an index (`retries`), but who follows a queue puts a new index in the place of one
    that has failed. A worker that comes to its first task, or is done, begins the row anew: what breaks workers later
    is counted against tasks, whose attempts are limited. Not for several threads.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: how many may fail in a row."""
        self._limit = limit
        self._count = 0
        self._last: JobState | None = None
        self._known: set[int] = set()

    def look(self, state: JobState, busy: frozenset[int] | set[int]) -> None:
        """Count what has failed since the last look; what had failed before the first is not counted.

        Parameters
        ----------
        busy : indexes whose workers are at a task.

        Raises
        ------
        TooManyFailures
            If more than `limit` workers in a row have failed.
        """
        last, self._last = self._last, state
        # An index that was taken away is another worker when it comes again, and one that has failed may leave a lease.
        present = set(range(state.completions)) - state.done - state.failed
        at_work = busy & present
        proven = (state.done - last.done if last else frozenset[int]()) | (at_work - self._known)
        failed = state.failed - last.failed if last else frozenset[int]()
        self._known = (self._known & present) | at_work
        self._count = 0 if proven else self._count + len(failed)
        if self._count > self._limit:
            workers = "1 worker" if self._count == 1 else f"{self._count} workers"
            raise TooManyFailures(
                f"{workers} in a row of the Job {state.name} failed for good, the last at index {max(failed)}, and no "
                "other came to its first task meanwhile: they are not replaced any more; see `trainloom k8s status` "
                "and `trainloom k8s logs`, or allow more with --max-failures"
            )
