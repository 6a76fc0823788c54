"""What happens between two batches of a training: progress is told, checkpoints are saved, a stop is obeyed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from trainers.checkpoint_schedule import CheckpointSchedule
from trainers.contract import Checkpoints, Progress, Retention, Stop, Stopped
from trainers.learned_state import UnstorableState

logger = logging.getLogger("trainloom")


def stopped(epoch: int, step: int) -> Stopped:
    """What says that a training ends early, `epoch` epochs and `step` batches of the next one lying behind."""
    return Stopped(f"The training was asked to stop; {epoch} epochs and {step} batches of the next are done.")


class Watch:
    """Watches one run of `NNTrainer.train`.

    Args:
        checkpoints, stop, progress: any may be None.
        schedule: when to save.
        retention: which checkpoints stay.
        state: makes the checkpoint of the present state.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        stop: Stop | None,
        progress: Progress | None,
        schedule: CheckpointSchedule,
        retention: Retention,
        state: Callable[[], bytes],
    ) -> None:
        self._checkpoints = checkpoints
        self._stop = stop
        self._progress = progress
        self._schedule = schedule
        self._retention = retention
        self._state = state
        self._saved: tuple[int, int] | None = None
        if checkpoints is not None:
            checkpoints.retain(retention)

    @property
    def saves(self) -> bool:
        """Whether states are saved here."""
        return self._checkpoints is not None

    def after_each_batch(self) -> Callable[[int, int], None] | None:
        """What to call after every batch of training instead of `after_batch`: only what somebody asked for, since
        batches may be so short that a call more is felt."""
        return self._progress if self._checkpoints is None and self._stop is None else self.after_batch

    def after_batch(self, epoch: int, step: int) -> None:
        """A batch was trained or scored; `epoch` epochs and `step` batches of the next one lie behind.

        Raises:
            Stopped: a stop was asked for; the state is saved.
        """
        if self._progress is not None:
            self._progress(epoch, step)
        if self._checkpoints is not None:
            self._checkpoints.poll()
            if self._schedule.due():
                self._save(epoch, step, None)
        self._obey(epoch, step, None)

    def after_epoch(self, epoch: int, score: float | None) -> None:
        """`epoch` epochs lie behind, the last of this score; None where it was not validated.

        Raises:
            Stopped: a stop was asked for; the state is saved.
        """
        if self._checkpoints is not None and self._schedule.due_at_end(epoch):
            self._save(epoch, 0, score)
        self._obey(epoch, 0, score)

    def after_training(self, epoch: int) -> None:
        """All `epoch` epochs lie behind, and the best weights are not yet loaded: the state stays with the result where
        the schedule says so."""
        if self._final_stays():
            self._keep_final(epoch)

    def _final_stays(self) -> bool:
        return self._checkpoints is not None and self._schedule.final_stays()

    def _keep_final(self, epoch: int) -> None:
        if self._checkpoints is not None:
            self._checkpoints.retain(replace(self._retention, final=True))
        self._keep(epoch, 0, None)

    def _obey(self, epoch: int, step: int, score: float | None) -> None:
        if self._stop is not None and self._stop.requested:
            self._save(epoch, step, score)
            raise stopped(epoch, step)

    def _save(self, epoch: int, step: int, score: float | None) -> None:
        if self._checkpoints is not None:
            self._keep(epoch, step, score)

    def _keep(self, epoch: int, step: int, score: float | None) -> None:
        """Make the state, once at each place, and save it where there are checkpoints."""
        if self._saved == (epoch, step):
            return
        began = time.monotonic()
        try:
            content = self._state()
        except UnstorableState as error:
            if self._checkpoints is not None:
                logger.warning("This training cannot be resumed and makes no checkpoints: %s", error)
            self._checkpoints = None
            return
        if self._checkpoints is not None:
            self._checkpoints.save(content, epoch=epoch, step=step, score=score)
        self._saved = (epoch, step)
        self._schedule.saved(began)
