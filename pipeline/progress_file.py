"""A file that tells whether a worker gets on: the worker writes it, `pipeline.liveness` reads it in another process.

It imports the standard library only. Ages are counted by the clock that all processes of a machine share and that
stands still while it is suspended.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .settings import Settings

logger = logging.getLogger("trainloom")

VARIABLE = "TRAINLOOM_PROGRESS_FILE"
PERIOD = 5.0  # s between two writes


class ProgressFile:
    """The file of one worker, which counts as stuck when it has shown no life for `limit` seconds."""

    def __init__(self, path: Path, limit: float) -> None:
        """Write it for the first time.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self._path = path
        self._limit = limit
        self._next = time.monotonic() + PERIOD
        self._failed = False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(0.0)

    def show_life(self, silent: float = 0.0) -> None:
        """Say that the worker showed life `silent` seconds ago; written now and then only, so that it costs little. A
        write that fails is told once: the file grows old, and nothing else depends on it."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PERIOD
        try:
            self._write(silent)
        except OSError as error:
            if not self._failed:
                logger.warning("the progress file %s cannot be written: %s", self._path, error.strerror)
            self._failed = True

    def _write(self, silent: float) -> None:
        written = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        written.write_text(json.dumps({"life": time.monotonic() - silent, "limit": self._limit}), encoding="ascii")
        written.replace(self._path)


def stall_limit(settings: Settings) -> float:
    """Seconds without a sign of life after which a worker counts as stuck; who waits for tasks shows life at each
    look."""
    return max(settings.stall_seconds, 2 * settings.poll_seconds)


def opened(settings: Settings, spare: float = 0.0) -> ProgressFile | None:
    """The progress file that the settings name, written for the first time; None where they name none.

    Parameters
    ----------
    spare : seconds beyond the limit until the worker counts as stuck: for a pool, which ends stuck processes itself.

    Raises
    ------
    ConfigurationError
        If it cannot be written.
    """
    path = settings.progress_file
    if path is None:
        return None
    try:
        return ProgressFile(path, stall_limit(settings) + spare)
    except OSError as error:
        raise ConfigurationError(
            f"the progress file {path} cannot be written ({error.strerror}); set TRAINLOOM_PROGRESS_FILE to a path "
            "where this worker may write, or to nothing"
        ) from error


def read(path: Path) -> tuple[float, float]:
    """How many seconds ago the worker showed life, and after how many it counts as stuck.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or it is none of ours.
    """
    content = json.loads(path.read_text(encoding="ascii"))
    try:
        return time.monotonic() - float(content["life"]), float(content["limit"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no progress file") from error
