"""What rank 0 makes of the ends of other ranks, and of their silence."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipeline import group_launch
from pipeline.data_parallel import DataParallelTrainer
from pipeline.group_launch import GroupLaunch
from pipeline.rank_failure import RankFailed, RankLacks
from pipeline.rank_group import GroupLost
from pipeline.retry import blame_for
from schemas.attempt import Blame

pytestmark = pytest.mark.feature("B9")


class Others:
    """A group of three, as rank 0 sees it: `ends` are those of the others, by rank."""

    rank, size = 0, 3

    def __init__(self, ends: Mapping[int, Any], joined: bool = True) -> None:
        self.ends = ends
        self.joined = joined
        self.aborted: list[int] = []

    def announce(self, task: Mapping[str, Any]) -> int:
        return 7

    def round(self, number: int) -> str:
        return f"0.{number}"

    def has_joined(self, number: int, rank: int) -> bool:
        return self.joined

    def end_of(self, number: int, rank: int) -> Any:
        if self.ends.get(rank) == "lost":
            raise GroupLost("the store has gone")
        return self.ends.get(rank)

    def abort(self, number: int) -> None:
        self.aborted.append(number)


class Rank:
    """Ends at once with a code; with None it trains until it is killed."""

    ends_with: ClassVar[int | None] = 0

    def __init__(self, recipe: Any, rank: int, group_round: str) -> None:
        self.channel, self.theirs = multiprocessing.Pipe()
        self.theirs.close()
        self.exit_code = self.ends_with
        self.killed = False

    def kill(self) -> None:
        self.killed, self.exit_code = True, -9


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Others]:
    monkeypatch.setattr(group_launch, "OwnRank", Rank)
    monkeypatch.setattr(group_launch, "PAUSE", 0.001)
    monkeypatch.setattr(group_launch, "END_SECONDS", 0.05)

    def run(own: int | None, ends: Mapping[int, Any], joined: bool = True, join_seconds: float = 60.0) -> Others:
        monkeypatch.setattr(Rank, "ends_with", own)
        monkeypatch.setattr(group_launch, "JOIN_SECONDS", join_seconds)
        group = Others(ends, joined)
        trainer = DataParallelTrainer(lambda: GroupLaunch(group, SimpleNamespace(), {}), 3, {})  # type: ignore[arg-type]
        trainer._finished = own == 0  # as its channel would have told
        trainer.train()
        return group

    return run


FINE = {"exit_code": 0, "failures": []}


def test_ranks_that_end_well_are_a_training(train: Callable[..., Others]) -> None:
    assert train(0, {1: FINE, 2: FINE}).aborted == [7]  # harmless: all have ended


@pytest.mark.parametrize(
    ("own", "ends", "kind", "said"),
    [
        (None, {1: FINE, 2: {"exit_code": -9, "failures": []}}, RankFailed, "rank 2 of 3 was ended by SIGKILL"),
        (
            None,
            {1: {"exit_code": 1, "failures": [{"message": "no data", "lacks": True, "lost": False}]}, 2: FINE},
            RankLacks,
            "rank 1 of 3: no data",
        ),
        (1, {1: FINE}, RankLacks, "rank 2 of 3: its process or its machine has gone"),
        (0, {1: FINE}, RankLacks, "rank 2 of 3: its process or its machine has gone"),
        (None, {1: "lost"}, RankLacks, "rank 1 of 3: the store has gone"),
    ],
)
def test_how_another_rank_ended_is_told(
    train: Callable[..., Others], own: int | None, ends: Mapping[int, Any], kind: type, said: str
) -> None:
    with pytest.raises(kind, match=said):
        train(own, ends)


def test_who_does_not_answer_is_named(train: Callable[..., Others]) -> None:
    with pytest.raises(RankLacks, match="rank 1 of 3: it does not answer; start the whole group again"):
        train(None, {}, joined=False, join_seconds=0.0)


def test_a_group_that_cannot_be_reached_speaks_against_the_worker_not_the_task(
    train: Callable[..., Others], monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce(*_: Any) -> int:
        raise GroupLost("the store has gone")

    monkeypatch.setattr(Others, "announce", announce)
    with pytest.raises(GroupLost) as caught:
        train(0, {})
    assert blame_for(caught.value) is Blame.WORKER
