"""When the next plain line is due."""

from __future__ import annotations

import time

FIRST, SHARE, LONGEST = 10.0, 0.1, 60.0  # s; share of the time that has passed; s


class Pace:
    """A line after 10 s, and later ones the rarer the longer it lasts, at least one a minute."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._next = self._began + FIRST

    def due(self) -> bool:
        """Whether a line is due; asked as often as one likes."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + min(LONGEST, max(FIRST, SHARE * (now - self._began)))
        return True
