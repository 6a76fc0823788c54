"""What a process of a group makes of its own rank."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipeline import group_member
from pipeline.group_member import GroupMember

pytestmark = pytest.mark.feature("B9")


class Hanging:
    """A rank that has said all it had to say, and does not end until it is killed."""

    made: ClassVar[list[Hanging]] = []

    def __init__(self, *_: Any) -> None:
        self.channel, theirs = multiprocessing.Pipe()
        theirs.close()
        self.sentinel, self._end = multiprocessing.Pipe(duplex=False)
        self.exit_code: int | None = None
        self.made.append(self)

    def kill(self) -> None:
        self.exit_code = -9
        self._end.close()


class Group:
    """A group whose first rank ends the training after some looks, and which counts how often it is asked."""

    rank, size = 1, 2

    def __init__(self) -> None:
        self.looks = 0

    def round(self, number: int) -> str:
        return f"0.{number}"

    def is_aborted(self, number: int) -> bool:
        self.looks += 1
        return self.looks > 3


@pytest.mark.timeout(20)
def test_a_rank_that_hangs_at_its_end_is_ended_with_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_member, "OwnRank", Hanging)
    monkeypatch.setattr(group_member, "PAUSE", 0.001)
    session: Any = SimpleNamespace(settings=SimpleNamespace(grace_seconds=1.0))
    group: Any = Group()
    ended = GroupMember(session, group)._serve(SimpleNamespace())  # type: ignore[arg-type]
    assert ended == {"exit_code": 0, "failures": []}
    assert Hanging.made[0].exit_code == -9
