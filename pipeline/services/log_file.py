"""A server's log: appended by the server, bounded by us."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

SIZE_LIMIT = 16 * 2**20
"""Bytes after which a log is set aside as `<name>.1`."""
TAIL = 64 * 2**10
"""Bytes read at most to explain a failure."""


class LogFile:
    """A log file at `path` that one server writes to and any command may shorten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes; 0 where there is none yet."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def open(self) -> BinaryIO:
        """A stream to hand to the server. Appending, so that the server goes on at the start when it is emptied."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return open(descriptor, "ab")

    def bound(self) -> None:
        """Empty a log that has grown past its limit, keeping one copy; it stays in place, for the server holds it."""
        if self.size > SIZE_LIMIT:
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
            os.truncate(self.path, 0)

    def since(self, offset: int) -> str:
        """What was written after byte `offset`, at most the last 64 KiB of it."""
        with open(self.path, "rb") as stream:
            stream.seek(max(offset, self.size - TAIL))
            return stream.read().decode("utf-8", errors="replace")
