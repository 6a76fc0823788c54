"""Events that wait on this node until the place where they belong can be reached."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bson import ObjectId

from .event_record import Event, fields_of, fields_text, milliseconds, time_of

logger = logging.getLogger("trainloom")

SUFFIX = ".jsonl"


class EventSpool:
    """Files of JSON lines in a folder, one writer each, at most `limit` bytes of one process.

    A file belongs to the process that holds its lock. Files of processes that have died are taken over by whoever sends
    next, so what they hold is sent by the next session on this node.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._size = 0
        self._writing: tuple[Path, int] | None = None
        self._waiting: list[tuple[Path, int]] = []  # to be sent; their locks are ours
        self.dropped = 0

    @property
    def empty(self) -> bool:
        """Whether nothing of this process waits."""
        return self._writing is None and not self._waiting

    def for_child(self) -> EventSpool:
        """The same for a forked child, with files of its own."""
        return EventSpool(self._folder, self._limit)

    def write(self, events: list[Event]) -> None:
        """Keep events on the disk; what finds no room is dropped, counted and said."""
        with self._lock:
            lines = [_line(event) for event in events]
            kept = len(lines)
            while kept and self._size + sum(map(len, lines[:kept])) > self._limit:
                kept -= max(1, kept // 8)
            try:
                self._append(b"".join(lines[:kept]))
            except OSError as error:
                logger.warning("events cannot be kept in %s: %s", self._folder, error)
                self._end_file()  # it may end in half a line
                kept = 0
            if kept < len(lines):
                if not self.dropped:
                    logger.warning("%s is full or cannot be written: events are lost until it has room", self._folder)
                self.dropped += len(lines) - kept

    def _append(self, content: bytes) -> None:
        if not content:
            return
        if self._writing is None:
            self._writing = self._new_file()
        written = 0
        while written < len(content):
            written += os.write(self._writing[1], content[written:])
        self._size += len(content)

    def _new_file(self) -> tuple[Path, int]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = self._folder / f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if _locked(descriptor):
                return path, descriptor
            os.close(descriptor)  # another process took it for one that was left behind

    def adopt(self) -> None:
        """Take over the files of processes that have died."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                descriptor = os.open(path, os.O_RDWR)
            except OSError:
                continue  # sent meanwhile, or another user's
            if _locked(descriptor):
                with self._lock:
                    self._size += os.fstat(descriptor).st_size
                    self._waiting.append((path, descriptor))
            else:
                os.close(descriptor)

    def files(self) -> Iterator[Iterator[Event]]:
        """What waits, one file after the other; a file is removed when the next one is asked for."""
        while True:
            with self._lock:
                self._end_file()
                if not self._waiting:
                    return
                path, descriptor = self._waiting[0]
            yield _events(path)
            with self._lock:
                if not self._waiting:  # closed meanwhile: sent again by whoever comes next, which changes nothing
                    return
                self._waiting.pop(0)
                self._size -= os.fstat(descriptor).st_size
                path.unlink(missing_ok=True)
                os.close(descriptor)

    def close(self) -> None:
        """Leave the files to whoever sends next."""
        with self._lock:
            self._end_file()
            for _, descriptor in self._waiting:
                os.close(descriptor)
            self._waiting.clear()

    def _end_file(self) -> None:
        if self._writing is not None:
            self._waiting.append(self._writing)
            self._writing = None


def _locked(descriptor: int) -> bool:
    """Take the lock of a file; False if another process has it or removed the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def _line(event: Event) -> bytes:
    head: dict[str, Any] = {name: event[name] for name in ("task", "kind")}
    record = [str(event["_id"]), milliseconds(event["time"]), head, fields_text(event)]
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def _events(path: Path) -> Iterator[Event]:
    with path.open(encoding="ascii") as file:
        for line in file:
            try:
                number, time, head, fields = json.loads(line)
            except ValueError:  # its writer was killed in the middle of it
                logger.warning("the last event in %s is incomplete and is left out", path)
                continue
            yield {"_id": ObjectId(number), **head, "time": time_of(time), **fields_of(fields)}
