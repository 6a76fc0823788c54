"""Where the states of a training are kept: on the node first, then in the store."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Container
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trainers.contract import DEFAULT_RETENTION, Retention

from .checkpoint_folder import CheckpointFolder
from .checkpoint_record import Ledger, Recorded, dropped, farthest_first
from .checkpoint_uploader import CheckpointUploader
from .errors import DatabaseUnavailable
from .store.errors import ObjectDamaged, ObjectMissing, StoreError, StoreUnavailable
from .store.interface import Store

logger = logging.getLogger("trainloom")

ABANDON_LIMIT = 5.0  # s that a finished task waits for an upload nobody needs any more


class CheckpointKeeper:
    """Keeps the checkpoints of one task; implements `trainers.contract.Checkpoints`.

    A checkpoint is written whole to `folder` before `save` returns, uploaded by a thread of its own, and recorded in
    the ledger by the training's thread (in the next `poll`, `save` or `close`) once it is whole in the store. One that
    need not stay any more by then is never uploaded. A full disk, a store or a database that is away are said and do
    not end the training: the content waits in memory or on the node and is tried again when the next is saved, and on
    `close`.

    Thread-safety: all methods belong to the training's thread.

    Args:
        folder: of this task, on the node; made when it is needed.
        store: where checkpoints are uploaded to.
        ledger: what is in the store, by task.
    """

    def __init__(self, folder: Path, store: Store, ledger: Ledger) -> None:
        self._folder = CheckpointFolder(folder)
        self._store = store
        self._ledger = ledger
        self._uploader = CheckpointUploader(store)
        self._unrecorded: deque[Recorded] = deque()
        self._recorded: list[Recorded] | None = None  # None: not asked yet
        self._retention = DEFAULT_RETENTION
        self._peeked = False
        self._ahead: bytes | None = None  # what was peeked at

    @property
    def store_away_s(self) -> float:
        """For how many seconds uploads have been failing; 0.0 while they succeed."""
        return self._uploader.failing_s

    def retain(self, retention: Retention) -> None:
        """Which states stay; see `trainers.contract.Checkpoints`."""
        self._retention = retention

    def load(self) -> bytes | None:
        """The newest whole checkpoint of this task, None if there is none; damaged ones are said and left out.

        Raises:
            StoreUnavailable: it lies in the store, which cannot be reached: an older one would lose what is there.
            DatabaseUnavailable: the ledger cannot be read.
        """
        content, self._peeked, self._ahead = self.peek(), False, None
        return content

    def peek(self) -> bytes | None:
        """What `load` will return, read once for both; raises as it does."""
        if not self._peeked:
            self._ahead = self._newest_whole()
            self._peeked = True
        return self._ahead

    def _newest_whole(self) -> bytes | None:
        self._folder.clean()
        here = {found.sha256: found for found in self._folder.list()}
        self._recorded = [*self._ledger.newest_first()]
        stored = {found.sha256: found for found in self._recorded}
        for found in farthest_first({**stored, **here}.values()):
            content = self._read_here(found) if found.sha256 in here else None
            if content is None and found.sha256 in stored:
                content = self._read_stored(stored[found.sha256])
            if content is not None:
                if found.sha256 not in stored:  # left behind by an attempt that did not come to uploading it
                    self._uploader.upload(found, content, ())
                return content
        return None

    def save(
        self,
        content: bytes,
        *,
        epoch: int,
        step: int,
        score: float | None = None,
    ) -> None:
        """Keep a state; see `trainers.contract.Checkpoints`."""
        if score is not None and not math.isfinite(score):
            score = None
        saved = Recorded(hashlib.sha256(content).hexdigest(), len(content), epoch, step, score)
        path = None
        try:
            path = self._folder.write(content, saved)
        except OSError as error:
            logger.warning(
                "The checkpoint of epoch %d, step %d could not be written to %s (%s); the training goes on.",
                epoch,
                step,
                self._folder.path,
                error.strerror,
            )
        self._uploader.upload(saved, content if path is None else path, self._prune())
        self._settle()

    def poll(self) -> None:
        """Record what was uploaded since."""
        if self._uploader.uploaded:
            self._settle()

    def close(self, wait_s: float) -> bool:
        """Try for at most so many seconds to bring the newest checkpoint into store and ledger, then end the thread.

        Returns whether it is there; if not, it is on the node.
        """
        deadline = time.monotonic() + wait_s
        complete = self._uploader.flush(wait_s)
        self._settle()
        self._uploader.end(max(0.0, deadline - time.monotonic()))
        return complete and not self._unrecorded

    def abandon(self) -> None:
        """Upload and record nothing any more; call it when the task belongs to another."""
        self._uploader.abandon(0.0)

    def kept_for_good(self, wait_s: float) -> list[Recorded]:
        """The states that stay when the training is over, by epoch: the best, every so manieth, and the last one. They
        are in the store then.

        Raises:
            StoreUnavailable: one could not be brought there within so many seconds.
        """
        for_good = replace(self._retention, last=int(self._retention.final))
        if not (for_good.best or for_good.every or for_good.last):
            return []
        complete = self._uploader.flush(wait_s)
        self._settle()
        states = {one.sha256: one for one in (*self._folder.list(), *(self._recorded or ()), *self._unrecorded)}
        superfluous = {one.sha256 for one in dropped(states.values(), for_good)}
        # The last one may lie within an epoch where that of the training's end could not be made.
        kept = [one for sha256, one in states.items() if sha256 not in superfluous and not one.step]
        stored = {one.sha256 for one in (*(self._recorded or ()), *self._unrecorded)}
        if not complete and any(one.sha256 not in stored for one in kept):
            raise StoreUnavailable("checkpoints that are to stay with the result could not be uploaded yet")
        return sorted((one for one in kept if one.sha256 in stored), key=lambda one: one.position)

    def discard(self, kept: Container[str] = ()) -> None:
        """Remove everything of this task but the objects `kept` (by sha256) once its result is published; nothing is
        uploaded or recorded any more.

        What cannot be removed, or is on its way into the store for longer than a moment, is left to the store's garbage
        collection.
        """
        self._uploader.abandon(ABANDON_LIMIT)
        self._folder.erase()
        unrecorded = [*self._unrecorded, *self._uploader.uploaded]
        self._unrecorded.clear()
        self._uploader.uploaded.clear()
        try:
            recorded = self._ledger.newest_first() if self._recorded is None else self._recorded
            for found in (*recorded, *unrecorded):
                self._ledger.forget(found.sha256)
                if found.sha256 not in kept:
                    self._store.delete(found.sha256)
        except (DatabaseUnavailable, StoreError) as error:
            logger.warning("Checkpoints of a finished training are left in the store (%s).", error)

    def _prune(self) -> set[str]:
        """Remove from the node what need not stay; returns what does, by sha256."""
        here = self._folder.list()
        superfluous = dropped(here, self._retention)
        for found in superfluous:
            self._folder.remove(found)
        return {found.sha256 for found in here} - {found.sha256 for found in superfluous}

    def _settle(self) -> None:
        """Record what was uploaded and forget what need not stay, as far as the database answers."""
        while self._uploader.uploaded:
            self._unrecorded.append(self._uploader.uploaded.popleft())
        try:
            if self._recorded is None:
                self._recorded = [*self._ledger.newest_first()]
            while self._unrecorded:
                new = self._unrecorded[0]
                self._ledger.record(new.sha256, new.size, new.epoch, new.step, new.score)
                self._recorded = [*(one for one in self._recorded if one.sha256 != new.sha256), new]
                self._unrecorded.popleft()
            for found in dropped(self._recorded, self._retention):
                self._ledger.forget(found.sha256)
                self._recorded.remove(found)
                self._uploader.delete(found.sha256)
        except DatabaseUnavailable as error:
            logger.warning("A checkpoint could not be recorded (%s); this is tried again with the next.", error)

    def _read_here(self, found: Recorded) -> bytes | None:
        content = self._folder.read(found)
        if content is None:
            self._say_damaged(found, f"its file in {self._folder.path} is damaged or cannot be read")
            self._folder.remove(found)
        return content

    def _read_stored(self, found: Recorded) -> bytes | None:
        try:
            content = self._store.get_bytes(found.sha256)
        except (ObjectMissing, ObjectDamaged) as error:
            self._say_damaged(found, str(error))
            # The resumed training comes to the same state again, and the store would take its content for present.
            self._store.delete(found.sha256)
            self._ledger.forget(found.sha256)
            self._recorded = [one for one in self._recorded or () if one.sha256 != found.sha256]
            return None
        with suppress(OSError):  # the copy only saves reading it from the store once more
            self._folder.write(content, found)
        return content

    def _say_damaged(self, found: Recorded, why: str) -> None:
        logger.warning(
            "The checkpoint of epoch %d, step %d is left out for another: %s.", found.epoch, found.step, why.rstrip(".")
        )
