"""How a Job gets another number of workers, and which number follows a queue."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.job_state import JobState, job_state
from k8s.scaling import FailureCount, Follower, ScalingError, TooManyFailures, scaling


def state(workers: int = 4, *, done: str = "", failed: str = "", **rest: Any) -> JobState:
    """A Job of so many slots."""
    spec = {"completions": workers, "parallelism": workers, "maxFailedIndexes": workers, **rest.pop("spec", {})}
    status = {"completedIndexes": done, "failedIndexes": failed, "conditions": rest.pop("conditions", [])}
    return job_state({"metadata": {"name": "work", **rest}, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("before", "workers", "spec"),
    [
        (state(4), 6, {"parallelism": 6, "completions": 6, "maxFailedIndexes": 6}),
        (state(4), 2, {"parallelism": 2, "completions": 2, "maxFailedIndexes": 2}),
        # An index that is done never runs again: new workers get new indexes.
        (state(4, done="0-1"), 4, {"parallelism": 6, "completions": 6, "maxFailedIndexes": 6}),
        (state(4, done="0-1", failed="2"), 3, {"parallelism": 6, "completions": 6, "maxFailedIndexes": 6}),
        (state(6, done="5"), 2, {"parallelism": 2, "completions": 2, "maxFailedIndexes": 2}),
        (state(4, spec={"maxFailedIndexes": 3}), 8, {"parallelism": 8, "completions": 8, "maxFailedIndexes": 3}),
        (state(4, spec={"maxFailedIndexes": 3}), 2, {"parallelism": 2, "completions": 2, "maxFailedIndexes": 2}),
        (state(4), 0, {"suspend": True}),
        (state(4, spec={"suspend": True}), 4, {"suspend": False}),
        (
            state(4, spec={"suspend": True}),
            5,
            {"parallelism": 5, "completions": 5, "maxFailedIndexes": 5, "suspend": False},
        ),
    ],
)
def test_the_end_of_the_indexes_moves_with_the_parallelism(
    before: JobState, workers: int, spec: dict[str, Any]
) -> None:
    assert scaling(before, workers).patch == {"spec": spec}


@pytest.mark.parametrize(
    ("before", "workers"), [(state(4), 4), (state(6, done="0-1"), 4), (state(3, spec={"suspend": True}), 0)]
)
def test_nothing_is_changed_where_the_number_is_right(before: JobState, workers: int) -> None:
    assert scaling(before, workers).patch == {}


@pytest.mark.parametrize(
    ("before", "workers", "message"),
    [
        (state(conditions=[{"type": "Complete", "status": "True"}]), 2, "has ended \\(Complete\\)"),
        (state(deletionTimestamp="2026-01-01T00:00:00Z"), 2, "is being deleted"),
        (state(labels={"kueue.x-k8s.io/queue-name": "q"}), 0, "the queue of the Job work decides"),
    ],
)
def test_what_cannot_be_scaled_is_said(before: JobState, workers: int, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        scaling(before, workers)


def test_a_queue_keeps_its_say_over_when_a_job_runs() -> None:
    queued = state(4, spec={"suspend": True}, labels={"kueue.x-k8s.io/queue-name": "q"})
    assert "suspend" not in scaling(queued, 8).patch["spec"]


def wants(follower: Follower, *looks: tuple[float, JobState, int, set[int]]) -> list[int]:
    return [follower.wanted(*look) for look in looks]


def test_more_workers_come_at_once_within_the_limit() -> None:
    assert wants(Follower(1, 10, 60), (0, state(2), 7, set()), (1, state(7), 40, set())) == [7, 10]


def test_fewer_workers_come_only_when_fewer_were_enough_for_a_while() -> None:
    follower = Follower(1, 10, 60)
    looks = [(0, 8), (30, 2), (59, 2), (61, 3), (91, 2), (122, 2)]
    assert [follower.wanted(time, state(8), tasks, set()) for time, tasks in looks] == [8, 8, 8, 3, 3, 2]


def test_a_follower_that_has_just_begun_stops_nobody() -> None:
    assert wants(Follower(1, 10, 60), (1000, state(8), 0, set()), (1059, state(8), 0, set())) == [8, 8]


def test_no_worker_at_a_task_is_stopped() -> None:
    follower = Follower(1, 10, 0)
    assert follower.wanted(0, state(8), 2, {5}) == 6
    assert follower.wanted(1, state(8, done="0-2"), 2, {5}) == 3
    assert follower.wanted(2, state(8), 2, {1}) == 2


def test_the_lowest_number_stays() -> None:
    assert wants(Follower(2, 10, 0), (0, state(8), 0, set()), (1, state(2), 0, set())) == [2, 2]
    assert wants(Follower(0, 10, 0), (0, state(8), 0, set())) == [0]


def test_a_suspended_job_is_taken_up_when_tasks_come() -> None:
    asleep = state(4, spec={"suspend": True})
    assert wants(Follower(0, 10, 0), (0, asleep, 0, set()), (1, asleep, 3, set())) == [0, 3]


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ScalingError, match="the lowest number of workers, 5, is above the highest, 3"):
        Follower(5, 3, 0)


def test_workers_that_fail_one_after_the_other_are_not_replaced_for_ever() -> None:
    failures = FailureCount(2)
    failures.look(state(3), set())
    failures.look(state(4, failed="0"), set())
    failures.look(state(5, failed="0-1"), set())
    with pytest.raises(TooManyFailures, match="3 workers in a row of the Job work failed .* the last at index 4"):
        failures.look(state(6, failed="0-1,4"), set())


def test_workers_that_all_fail_at_once_are_not_replaced_either() -> None:
    failures = FailureCount(2)
    failures.look(state(9), set())
    with pytest.raises(TooManyFailures, match="7 workers in a row"):
        failures.look(state(9, failed="0-6"), set())


def test_failures_from_before_it_was_looked_are_not_counted() -> None:
    failures = FailureCount(0)
    failures.look(state(9, failed="0-6"), set())
    failures.look(state(16, failed="0-6"), set())
    with pytest.raises(TooManyFailures, match="1 worker in a row"):
        failures.look(state(16, failed="0-7"), set())


@pytest.mark.parametrize(
    ("meanwhile", "busy"), [(state(5, failed="0-2"), {3}), (state(5, failed="0-2", done="3"), set())]
)
def test_a_worker_that_comes_to_a_task_or_is_done_begins_the_row_anew(meanwhile: JobState, busy: set[int]) -> None:
    failures = FailureCount(2)
    failures.look(state(5), set())
    failures.look(state(5, failed="0-1"), set())
    failures.look(meanwhile, busy)
    failures.look(state(7, failed="0-2,4-5"), busy)
    with pytest.raises(TooManyFailures):
        failures.look(state(7, failed="0-2,4-6"), busy)


def test_a_worker_that_came_to_a_task_before_says_nothing_of_those_that_came_later() -> None:
    failures = FailureCount(2)
    failures.look(state(5), {0})
    failures.look(state(5, failed="1"), {0})
    failures.look(state(5, failed="1-2"), set())
    with pytest.raises(TooManyFailures):
        failures.look(state(5, failed="1-3"), {0})


def test_an_index_that_is_taken_away_and_comes_again_is_a_new_worker() -> None:
    failures = FailureCount(1)
    failures.look(state(3), {2})
    failures.look(state(3, failed="0"), {2})
    failures.look(state(2, failed="0"), set())
    failures.look(state(3, failed="0"), {2})
    failures.look(state(3, failed="0-1"), {2})
    with pytest.raises(TooManyFailures):
        failures.look(state(4, failed="0-1,3"), {2})


def test_the_lease_that_a_failed_worker_has_left_behind_is_no_sign_of_another_one() -> None:
    failures = FailureCount(1)
    failures.look(state(3), set())
    failures.look(state(3, failed="0"), {0})
    with pytest.raises(TooManyFailures):
        failures.look(state(3, failed="0-1"), {0})
