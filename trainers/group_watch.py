"""What happens between two batches of a training of several ranks: the first one decides, and all do it together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainers.process_group import ProcessGroup
from trainers.watch import Watch, stopped

LOOK_SECONDS = 0.05
"""How often the ranks ask the first one, s: each time they wait for each other, which takes some 0.1 ms."""

LONGEST = 256
"""Batches after which they ask in any case: batches may become slower."""


class GroupWatch(Watch):
    """Watches one run of `NNTrainer.train` as `Watch` does, in every rank; only the first has anything to tell or ask.

    The ranks ask together after a number of batches that the first one chose the last time, by how long batches take;
    when training changes to scoring or back they ask at once.

    Args:
        group: the ranks.
        others: as `Watch` takes them; None in every rank but the first.
    """

    def __init__(self, group: ProcessGroup, *others: Any) -> None:
        super().__init__(*others)
        self._group = group
        self._position: tuple[int, int] | None = None
        self._scoring = False
        self._left = self._chosen = 1
        self._last_look = time.monotonic()

    @property
    def saves(self) -> bool:
        """Every rank takes part where the first one saves."""
        return True

    def after_each_batch(self) -> Callable[[int, int], None]:
        """What to call after every batch of training: the ranks ask together."""
        return self.after_batch

    def after_batch(self, epoch: int, step: int) -> None:
        """A batch was trained or scored; `epoch` epochs and `step` batches of the next one lie behind.

        Raises:
            Stopped: a stop was asked for; the state is saved.
        """
        if self._progress is not None:
            self._progress(epoch, step)
        if self._checkpoints is not None:
            self._checkpoints.poll()
        scoring = (epoch, step) == self._position
        self._position = epoch, step
        self._left -= 1
        if self._left <= 0 or scoring != self._scoring:
            self._look(epoch, step, None, due=self._checkpoints is not None and self._schedule.due())
        self._scoring = scoring

    def after_epoch(self, epoch: int, score: float | None) -> None:
        """`epoch` epochs lie behind, the last of this score; None where it was not validated.

        Raises:
            Stopped: a stop was asked for; the state is saved.
        """
        self._look(epoch, 0, score, due=self._checkpoints is not None and self._schedule.due_at_end(epoch))

    def after_training(self, epoch: int) -> None:
        """See `Watch`; the first rank says whether the state stays."""
        (stays,) = self._group.decide(self._final_stays())
        if stays:
            self._keep_final(epoch)

    def _look(self, epoch: int, step: int, score: float | None, *, due: bool) -> None:
        """Do what the first rank says: save, stop, and look again after so many batches."""
        stop = self._stop is not None and self._stop.requested
        save, stopping, self._left = self._group.decide(due or stop, stop, self._batches_to_next())
        self._chosen, self._last_look = self._left, time.monotonic()
        if save:
            self._keep(epoch, step, score)  # by all, since each has a part of the state
        if stopping:
            raise stopped(epoch, step)

    def _batches_to_next(self) -> int:
        """By how long those took that lie between the last look and this one."""
        seconds = time.monotonic() - self._last_look
        passed = max(1, self._chosen - max(0, self._left))
        return max(1, min(LONGEST, round(passed * LOOK_SECONDS / max(seconds, 1e-6))))
