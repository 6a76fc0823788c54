"""SIGTERM and SIGINT as one event: the first asks to finish the step and save, the second, or the end of the grace,
stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TERMINATED = 143  # the exit code as a shell reports it


class StopSignal:
    """Whether this process was asked to stop.

    Attributes
    ----------
    signal : the first signal that came, or None.
    polled : whether whoever works now asks `requested` by itself; otherwise the first signal already stops at once.
    """

    def __init__(self, grace: float = 0.0) -> None:
        """`grace`: seconds after the first signal in which the work may end by itself; 0 for no limit."""
        self.grace = grace
        self.signal: signal.Signals | None = None
        self.polled = False
        self._alarm: Any = None  # whose alarm clock it was before the grace began

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def raise_if_requested(self) -> None:
        """End as the signal would have: SystemExit(143) or KeyboardInterrupt."""
        if self.signal is not None:
            raise _ending(self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals meanwhile; only the main thread may, elsewhere they are left to whoever handles them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            if self._alarm is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, self._alarm)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again or not self.polled:
            raise _ending(self.signal)
        if self.grace > 0:
            self._alarm = signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, self.grace)

    def _expire(self, *_: object) -> None:
        assert self.signal is not None, "the timer is set by a signal"
        raise _ending(self.signal)


def _ending(number: signal.Signals) -> BaseException:
    return KeyboardInterrupt() if number is signal.SIGINT else SystemExit(TERMINATED)
