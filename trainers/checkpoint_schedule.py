"""When a training's state is saved."""

from __future__ import annotations

import time

AUTOMATIC_SHARE = 0.01
"""Share of the time that saving may cost where nobody said when to save."""

AUTOMATIC_PAUSE = 2.0
"""Seconds of training that are rather repeated than saved, there."""


class CheckpointSchedule:
    """Says when to save: after so many epochs, and after so many minutes since the last time.

    Args:
        epochs: after every so many; 0 for never; None for the end of every epoch by which saving has become cheap: at
            most 1 % of the time since the last one, as long as the last one took, and some seconds apart.
        minutes: since the last one, looked at after every batch; 0 for never.
        kept_every: at the end of every so many epochs too, since those states are wanted for themselves; 0 for none.
        final: whether the state at the end of the training stays; None for where states were saved on the way, though
            not with `epochs` 0, and one more costs at most 1 % of the training's time.
        resumed: whether states were saved before this begins.
    """

    def __init__(
        self,
        epochs: int | None,
        minutes: float,
        kept_every: int = 0,
        *,
        final: bool | None = None,
        resumed: bool = False,
    ) -> None:
        self._epochs = epochs
        self._kept_every = kept_every
        self._pause = minutes * 60 if minutes else float("inf")
        self._final = final
        self._cost: float | None = 0.0 if resumed else None  # s, of the last time that the state was saved
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether to save after this batch."""
        return time.monotonic() - self._last >= self._pause

    def due_at_end(self, epochs_done: int) -> bool:
        """Whether to save at the end of an epoch, the `epochs_done`-th."""
        if self._kept_every and epochs_done % self._kept_every == 0:
            return True
        if self._epochs is None:
            return (
                time.monotonic() - self._last >= max(AUTOMATIC_PAUSE, (self._cost or 0.0) / AUTOMATIC_SHARE)
                or self.due()
            )
        return (self._epochs > 0 and epochs_done % self._epochs == 0) or self.due()

    def final_stays(self) -> bool:
        """Whether the state at the end of the training is to stay; asked when all epochs lie behind."""
        if self._final is not None:
            return self._final
        if self._epochs == 0 or self._cost is None:
            return False
        return self._cost <= AUTOMATIC_SHARE * (time.monotonic() - self._began)

    def saved(self, began: float) -> None:
        """The state was saved; that began at `began` of `time.monotonic()`."""
        self._last = time.monotonic()
        self._cost = self._last - began
