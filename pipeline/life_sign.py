"""How a worker process shows its pool that it gets on."""

from __future__ import annotations

import ctypes
import time
from multiprocessing.context import SpawnContext


class LifeSign:
    """A number that the worker process raises and its pool looks at; both share its memory. It is handed over when the
    process is started."""

    def __init__(self, context: SpawnContext) -> None:
        self._count = context.RawValue(ctypes.c_uint64)

    def show(self) -> None:
        """Say that this process gets on; costs next to nothing."""
        self._count.value += 1

    @property
    def shown(self) -> int:
        """How often it was said."""
        return int(self._count.value)


class Silence:
    """For how long a sign has not moved, by the looks at it.

    Time in which nobody looked counts as one look's pause at most: where the machine was suspended or the pool itself
    was stopped, its processes were too.
    """

    LONGEST_PAUSE = 5.0  # s

    def __init__(self, sign: LifeSign) -> None:
        self._sign = sign
        self._seen = 0
        self._looked = time.monotonic()
        self.seconds = 0.0

    @property
    def unbroken(self) -> bool:
        """Whether the sign was never seen to move."""
        return self._seen == 0

    def look(self) -> None:
        """Bring `seconds` up to date."""
        now, shown = time.monotonic(), self._sign.shown
        pause, self._looked = min(now - self._looked, self.LONGEST_PAUSE), now
        self.seconds = 0.0 if shown != self._seen else self.seconds + pause
        self._seen = shown
