"""When `trainloom watch` has seen enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli import watch
from pipeline.followed_training import Look
from pipeline.task_states import State


class Told:
    """A followed training that tells what it is given, and its last state from then on."""

    def __init__(self, *looks: tuple[State, list[str]]) -> None:
        self._looks = list(looks)
        self.curve = SimpleNamespace(epochs={})
        self.completed = 0

    def look(self) -> Look:
        state, kinds = self._looks.pop(0) if len(self._looks) > 1 else (self._looks[0][0], [])
        self.curve.epochs.update(dict.fromkeys(range(kinds.count("training"))))
        return Look([{"kind": kind} for kind in kinds], {"state": state}, None)

    def complete(self) -> None:
        self.completed += 1


def seen(monkeypatch: pytest.MonkeyPatch, *looks: tuple[State, list[str]]) -> tuple[list[str], list[float]]:
    """The kinds of events that are shown, and the seconds that pass between looks."""
    slept: list[float] = []
    clock: Any = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(watch, "time", clock)
    told: Any = Told(*looks)
    kinds = [event["kind"] for look in watch._looks(told, 2.0) for event in look.events]
    assert told.completed == 1
    return kinds, slept


def test_events_that_come_after_the_result_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    late = (State.FINISHED, ["training", "testing"])
    kinds, slept = seen(monkeypatch, (State.PENDING, []), (State.FINISHED, []), late, late)
    assert kinds == ["training", "testing"]
    assert slept == [2.0, 1.0]


def test_a_training_that_tells_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, slept = seen(monkeypatch, (State.PENDING, []), (State.FINISHED, []))
    assert kinds == []
    assert sum(slept) == 2.0 + watch.LAST_EVENTS


def test_one_that_had_ended_before_and_whose_events_were_deleted_is_shown_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert seen(monkeypatch, (State.FINISHED, [])) == ([], [])
