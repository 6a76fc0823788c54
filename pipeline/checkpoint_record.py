"""What is known of a checkpoint, and who remembers it for every node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainers.contract import Retention


@dataclass(frozen=True)
class Recorded:
    """A checkpoint: the sha256 and size of its content, how far it is, and its epoch's score if it ends one."""

    sha256: str
    size: int
    epoch: int
    step: int
    score: float | None = None

    @property
    def position(self) -> tuple[int, int]:
        """How far it is: epochs done, and batches of the next."""
        return self.epoch, self.step


class Ledger(Protocol):
    """Remembers which checkpoints of one task are whole in the store; called from the training's thread only.

    `DatabaseUnavailable` from `record` and `forget` means that it is tried again later; whatever else they raise (the
    task belongs to another by now) ends the training.
    """

    def record(self, sha256: str, size: int, epoch: int, step: int, score: float | None) -> None:
        """The object is whole in the store; recording it again changes nothing."""

    def newest_first(self) -> Sequence[Recorded]:
        """The task's checkpoints, of any attempt, the farthest first."""

    def forget(self, sha256: str) -> None:
        """The object is about to be deleted; one that is not recorded is no error."""


def farthest_first(checkpoints: Iterable[Recorded]) -> list[Recorded]:
    """Sorted by how far they are."""
    return sorted(checkpoints, key=lambda one: one.position, reverse=True)


def dropped(checkpoints: Iterable[Recorded], retention: Retention) -> list[Recorded]:
    """Those of a task's checkpoints that need not stay."""
    newest = farthest_first(checkpoints)
    stay = {one.sha256 for one in newest[: retention.last]}
    ends = [one for one in newest if one.step == 0]
    if retention.every:
        stay |= {one.sha256 for one in ends if one.epoch % retention.every == 0}
    sign = -1 if retention.direction == "max" else 1
    scored = [(sign * one.score, one.epoch, one.sha256) for one in ends if one.score is not None]
    stay |= {sha256 for *_, sha256 in sorted(scored)[: retention.best]}
    return [one for one in newest if one.sha256 not in stay]
