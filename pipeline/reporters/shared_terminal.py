"""Who may draw on a terminal that several processes write to."""

from __future__ import annotations

import fcntl
import os
from typing import IO, Any


class SharedTerminal:
    """One process's share in the terminal behind a stream.

    Every process that shows trainings on a terminal holds a shared lock on the device. Only who can make it exclusive
    is alone and may draw over lines it drew before; as soon as a second one comes, both write whole lines instead.
    Where the stream is no terminal device, the process counts as alone.
    """

    def __init__(self, stream: IO[Any]) -> None:
        self._descriptor = _opened(stream)
        self._lock(fcntl.LOCK_SH)

    def alone(self) -> bool:
        """Whether no other process shows trainings here."""
        if self._descriptor is None:
            return True
        alone = self._lock(fcntl.LOCK_EX)
        self._lock(fcntl.LOCK_SH)
        return alone

    def close(self) -> None:
        """Give the share back. Closing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _lock(self, kind: int) -> bool:
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _opened(stream: IO[Any]) -> int | None:
    """The terminal, opened anew: locks belong to an opened file, and standard streams are shared with children."""
    try:
        return os.open(os.ttyname(stream.fileno()), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
