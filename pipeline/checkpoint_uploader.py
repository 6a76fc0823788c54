"""Uploads checkpoints beside the training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Container
from pathlib import Path

from .checkpoint_record import Recorded
from .store.errors import ContentChanged, StoreError
from .store.interface import Store

logger = logging.getLogger("trainloom")


class CheckpointUploader:
    """A thread that brings checkpoints into the store, the farthest first.

    After a failure it waits for the next `upload` or `flush`. The thread is a daemon, started when it is first needed:
    a process that must end at once is not kept by a slow store.

    Thread-safety: `uploaded` is filled by the thread and emptied by the owner; the methods belong to the owner.

    Attributes:
        uploaded: what is whole in the store by now, in the order in which it came there.
    """

    def __init__(self, store: Store) -> None:
        self.uploaded: deque[Recorded] = deque()
        self._store = store
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[Recorded, bytes | Path]] = {}
        self._deletions: deque[str] = deque()
        self._trying = False
        self._busy = False
        self._ending = False
        self._failing_since: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def failing_s(self) -> float:
        """For how many seconds uploads have been failing; 0.0 while they succeed."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def upload(self, checkpoint: Recorded, content: bytes | Path, needed: Container[str]) -> None:
        """Upload a checkpoint; of those still waiting only the `needed` (by sha256) stay, and none held in memory."""
        with self._changed:
            self._waiting = {
                sha256: job
                for sha256, job in self._waiting.items()
                if sha256 in needed and not isinstance(job[1], bytes)
            }
            self._waiting[checkpoint.sha256] = checkpoint, content
            self._start()

    def delete(self, sha256: str) -> None:
        """Delete an object; one that cannot be deleted is left to the store's garbage collection."""
        with self._changed:
            self._deletions.append(sha256)
            self._start()

    def flush(self, wait_s: float) -> bool:
        """Try for at most so many seconds to do everything that waits; returns whether nothing waits any more."""
        with self._changed:
            if self._waiting:
                self._start()
            idle = self._changed.wait_for(lambda: not (self._busy or self._trying or self._deletions), wait_s)
            return idle and not self._waiting

    def end(self, wait_s: float) -> None:
        """Let the thread end when nothing waits, and wait for that for at most so many seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_s)

    def abandon(self, wait_s: float) -> None:
        """Drop what waits and end the thread; what is just being uploaded is waited for at most so many seconds."""
        with self._changed:
            self._waiting.clear()
            self._trying = False
        self.end(wait_s)

    def _start(self) -> None:
        self._trying = bool(self._waiting)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint upload", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._trying or self._deletions or self._ending)
                if not (self._trying or self._deletions):
                    return
                self._busy = True
                job = max(self._waiting.values(), key=lambda one: one[0].position) if self._trying else None
                doomed = self._deletions.popleft() if job is None else ""
            if job is not None:
                self._finish(job[0], self._put(*job))
            else:
                self._delete(doomed)

    def _finish(self, checkpoint: Recorded, settled: bool) -> None:
        with self._changed:
            if settled:
                self._waiting.pop(checkpoint.sha256, None)
            # A newer one that came meanwhile is tried although the store failed just now.
            newer = any(one.position > checkpoint.position for one, _ in self._waiting.values())
            self._trying = bool(self._waiting) and (settled or newer)

    def _put(self, checkpoint: Recorded, content: bytes | Path) -> bool:
        """Whether nothing more is to be done for this checkpoint."""
        what = f"The checkpoint of epoch {checkpoint.epoch}, step {checkpoint.step}"
        try:
            self._store.put(content, kind="checkpoint", sha256=checkpoint.sha256)
        except FileNotFoundError:
            logger.warning("%s is gone from the node before it was uploaded.", what)
            return True
        except ContentChanged:
            logger.warning("%s was damaged on the node before it was uploaded; it is left out.", what)
            return True
        except Exception as error:  # of whatever kind: the training does not depend on this thread, and it must go on
            if self._failing_since is None:
                self._failing_since = time.monotonic()
                logger.warning("%s could not be uploaded (%s); it stays here and is tried again.", what, error)
            return False
        if self._failing_since is not None:
            self._failing_since = None
            logger.warning("Checkpoints are uploaded again.")
        self.uploaded.append(checkpoint)
        return True

    def _delete(self, sha256: str) -> None:
        try:
            self._store.delete(sha256)
        except StoreError as error:
            logger.debug("The checkpoint %s is left to the garbage collection: %s", sha256, error)
