"""Draws again and again from a side thread, at a bounded share of the processor."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("trainloom")

INTERVAL = 0.5  # s between two drawings at least
MOST = 5.0  # s between two drawings at most
SHARE = 0.002  # of the time goes into drawing: it holds the interpreter's lock, which the training needs


class Refresher:
    """Calls `draw` from a thread of its own until it is stopped; when it raises, that is said and was the last."""

    def __init__(self, draw: Callable[[], None]) -> None:
        self._draw = draw
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when no drawing is under way and none will come."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause = INTERVAL
        while not self._stopped.wait(pause):
            began = time.thread_time()
            try:
                self._draw()
            except Exception as error:  # a terminal that has gone, for example
                logger.warning("progress is no longer drawn: %s", error or type(error).__name__)
                return
            pause = min(MOST, max(INTERVAL, (time.thread_time() - began) / SHARE))
