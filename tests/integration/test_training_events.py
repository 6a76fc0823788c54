"""What a training reports while it runs, read from the project's events."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.event_record import Selection
from pipeline.events import EventLog
from pipeline.session import Session
from schemas.attempt import Attempt
from tests.integration.small_tasks import EPOCHS, SEEDS, insert
from trainloom import TrainingResult

KEY = "training_task_md5_hash"


@pytest.mark.feature("T4")
def test_every_epoch_and_the_test_are_events_of_the_task(session: Session) -> None:
    keys = insert(session)
    TrainingResult().populate(reserve_jobs=True)
    for key in keys:
        row = (TrainingResult & key).fetch1()
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for event in session.events.read(Selection(task=key[KEY])):
            by_kind.setdefault(event["kind"], []).append(event)
        assert {*by_kind} == {"training", "validation", "testing"}
        assert [event["epoch"] for event in by_kind["training"]] == [*range(1, EPOCHS + 1)]
        assert [event["loss"] for event in by_kind["training"]] == row["training_epoch_loss_history"]
        assert [event["loss"] for event in by_kind["validation"]] == row["validation_epoch_loss_history"]
        assert all(0 <= event["accuracy"] <= 1 for event in by_kind["validation"])
        assert by_kind["testing"][0]["loss"] == row["test_score"]
        (attempt,) = (Attempt & {"attempt_key": key[KEY]}).to_arrays("attempt_id")
        assert {event["attempt"] for events in by_kind.values() for event in events} == {attempt}


def test_events_that_cannot_be_kept_are_said_once_and_end_no_training(
    postgres_session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(postgres_session, SEEDS[:1])
    append = EventLog.append

    def refused(self: EventLog, kind: str, fields: Any, **rest: Any) -> None:
        append(self, "No Kind", fields, **rest)

    monkeypatch.setattr(EventLog, "append", refused)
    assert TrainingResult().populate(reserve_jobs=True)["success_count"] == 1
    assert caplog.text.count("are not kept as events") == 1
