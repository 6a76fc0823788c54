"""What a task does while the store is away: it waits, up to a limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from trainers.contract import Stopped

from .running import RunningAttempt
from .store.interface import StoreUnavailable

logger = logging.getLogger("trainloom")

FIRST_DELAY, LONGEST_DELAY = 1.0, 15.0  # s between tries to reach a store that is away
T = TypeVar("T")


class StorePatience:
    """Uses the store for tasks, and waits for it up to so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def with_store(self, attempt: RunningAttempt | None, use: Callable[[], T]) -> T:
        """Use the store; in an attempt again and again while it is away.

        Past the limit the attempt ends as if it had been told to stop: nothing is wrong with its task, and its
        checkpoint stays on this node.
        """
        deadline, delay = time.monotonic() + self._seconds, FIRST_DELAY
        while True:
            if attempt is not None:
                attempt.show_life()
            try:
                return use()
            except StoreUnavailable as error:
                if attempt is None:
                    raise
                if attempt.requested or time.monotonic() > deadline:
                    raise Stopped(f"The attempt ends while the store is away: {error}") from error
                logger.warning("%s; trying again in %.0f s", error, delay)
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
