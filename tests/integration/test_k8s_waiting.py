"""The query by which KEDA counts waiting tasks, on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

from k8s.render import render
from k8s.values import Values
from pipeline import task_queue, task_states
from pipeline.task_states import TASK_KEY
from schemas.training_task import TrainingTask
from tests.integration.test_task_queue import claim, fail, insert, insert_successor, train


def waiting(session: Any) -> int:
    """What KEDA would be told, in a session of another time zone."""
    values = Values.load(
        None,
        {"image": "a:1", "settings.project": session.settings.project, "worker.autoscale": {"secret": "servers"}},
    )
    (trigger,) = render(values)[-1]["spec"]["triggers"]
    connection = TrainingTask().connection
    connection.query("SET TIME ZONE 'Asia/Tokyo'")
    try:
        return int(connection.query(trigger["metadata"]["query"]).fetchone()[0])
    finally:
        connection.query("SET TIME ZONE 'UTC'")


def test_the_tasks_that_wait_are_counted_and_no_others(postgres_session: Any) -> None:
    keys = insert(postgres_session, 6)
    assert waiting(postgres_session) == 6  # though none is in the job table yet
    insert_successor(keys[5])
    assert waiting(postgres_session) == 6  # its source has no result
    train({TASK_KEY: keys[5]})
    assert waiting(postgres_session) == 6
    task_queue.cancel([keys[0]])
    claim(keys[1])
    fail(keys[2], delay=None)
    fail(keys[3], delay=3600.0)
    fail(keys[4], delay=0.0)
    assert waiting(postgres_session) == 2 == task_states.count()["pending"]
