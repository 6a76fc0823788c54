"""Blocks of examples on a node's disk, by the sha256 of their bytes: bounded, shared, and never trusted unread."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

logger = logging.getLogger("trainloom")

RECENT = (
    3_600.0  # s; what was read since then is not thrown away, or a training larger than the cache would find nothing
)
WAIT = 60.0  # s after which room is looked for again


class _Kept(NamedTuple):
    used: float  # time of the last use, s since the epoch
    size: int
    path: Path


class BlockCache:
    """Files `<folder>/<first two digits>/<sha256>`, which appear whole.

    The least recently used ones make room; where all of them were used within the last hour, new ones are not kept. A
    disk that is full, or a folder that cannot be written, costs time only. Any number of processes may share a folder.

    Args:
        folder: made at the first `put`.
        budget: how many bytes the files may have together; with 0 nothing is kept nor looked for.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self._verified: set[str] = set()
        self._room: int | None = None  # bytes that may still be written before room is looked for; None: unknown
        self._not_before = 0.0

    def get(self, sha256: str) -> np.ndarray | None:
        """Return a block's bytes, uint8 of shape (length,), mapped from its file; None where it is not kept.

        The file is verified once per process; a damaged one is removed.
        """
        if self._budget == 0:
            return None
        path = self._path(sha256)
        try:
            content = np.memmap(path, np.uint8, "r")
            if sha256 not in self._verified:
                if hashlib.sha256(content.data).hexdigest() != sha256:
                    logger.warning("the cached block %s is damaged, and is fetched again", path)
                    path.unlink(missing_ok=True)
                    return None
                self._verified.add(sha256)
            os.utime(path)
        except (OSError, ValueError):  # not there, removed by another process, or empty
            return None
        return content

    def put(self, sha256: str, content: bytes) -> None:
        """Keep a block if there is room."""
        path = self._path(sha256)
        if path.exists() or not self._has_room(len(content)):
            return
        partial = self._folder / "partial" / secrets.token_hex(8)
        try:
            for folder in (partial.parent, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(partial, "xb") as file:
                file.write(content)
            os.replace(partial, path)
            self._room = (self._room or 0) - len(content)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            logger.warning("blocks of examples are not kept in %s for now: %s", self._folder, error.strerror)
            self._room, self._not_before = 0, time.monotonic() + WAIT

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _has_room(self, size: int) -> bool:
        if size > self._budget:
            return False
        if self._room is not None and size <= self._room:
            return True
        if time.monotonic() < self._not_before:
            return False
        self._room = self._make_room(size)
        if self._room < size:
            self._not_before = time.monotonic() + WAIT
        return self._room >= size

    def _make_room(self, size: int) -> int:
        """Remove old files; return how many bytes may be written. A sixteenth is handed out at a time, as other
        processes write too."""
        share = max(size, self._budget // 16)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self._folder / "lock", timeout=1.0, mode=0o600):
                kept = sorted(self._files())
                free = self._budget - sum(file.size for file in kept)
                for file in kept:
                    if free >= share or file.used > time.time() - RECENT:
                        break
                    file.path.unlink(missing_ok=True)
                    free += file.size
        except (OSError, Timeout) as error:
            logger.debug("no room is made in %s: %s", self._folder, error)
            return 0
        return min(free, share)

    def _files(self) -> Iterator[_Kept]:
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield _Kept(status.st_mtime, status.st_size, path)
