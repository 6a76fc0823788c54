"""One training shown in several ways."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from .training_state import Training, TrainingState
from .view import View

logger = logging.getLogger("trainloom")

PAUSE = 0.1  # s between two calls of `View.moved`


class Several:
    """The reporter of one training; a context manager that ends its views.

    After a batch it writes two numbers. A view that fails is left out from then on, which is said, and the training
    goes on.
    """

    def __init__(self, training: Training, views: Sequence[View]) -> None:
        self.state = TrainingState(training)
        self._views = list(views)
        self._begun: list[View] = []
        self._next_call = 0.0

    def expects(self, batches: int) -> None:
        """An epoch has so many batches."""
        self.state.batches = batches or None

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """Training begins, `epochs_done` of its `max_epoch` epochs lying behind it."""
        self.state.begin(epochs_done, max_epoch)
        self._begun = list(self._views)
        self._tell(lambda view: view.begin(self.state))

    def progress(self, epoch: int, step: int) -> None:
        """So many epochs and batches of the next one lie behind."""
        state = self.state  # written to here: after short batches even the call of its `move` is felt
        if epoch >= 0:
            state.epoch = epoch
        state.step = step
        if time.monotonic() >= self._next_call:
            self._next_call = time.monotonic() + PAUSE
            self._tell(lambda view: view.moved(state))

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Epoch number `epoch`, counted from 0, ended with these values."""
        self.state.finish_epoch(epoch, values)
        self._tell(lambda view: view.epoch(self.state))

    def close(self) -> None:
        """End every view that has begun. Closing twice is harmless."""
        self._tell(lambda view: view.end(self.state))
        self._begun = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, call: Callable[[View], None]) -> None:
        for view in list(self._begun):
            try:
                call(view)
            except Exception as error:  # whatever it is, it is not worth a training
                self._begun.remove(view)
                logger.warning("%s is left out from here on: %s", type(view).__name__, error or type(error).__name__)
