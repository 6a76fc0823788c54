"""What a training may know of the attempt it is part of: whether to stop, and how to show life."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainers.contract import Stopped

from .checkpoint_ledger import CheckpointLedger
from .checkpoint_record import Recorded
from .checkpoints import CheckpointKeeper
from .claim import Claim
from .errors import DatabaseUnavailable
from .heartbeat import Lease
from .queue import LeaseLost, Queue
from .reporters.several import Several
from .stop import StopSignal
from .store.interface import Store
from .training_events import TrainingEvents

logger = logging.getLogger("trainloom")

UNKNOWN_EPOCH = -1  # leaves the attempt's epoch as it is
UPLOAD_WAIT = 60.0  # s for the upload of the states that stay, before the store is taken to be away
PAUSE = 0.05  # s between looks at the lease: batches may be shorter than what a look costs


@dataclass
class RunningAttempt:
    """One attempt while it runs: stop signal, progress and reporter of its trainer.

    While the database is away the training goes on: nobody else can take the lease meanwhile, and who lost it can write
    nothing. A store that stays away for more than `store_away_limit` seconds ends the attempt; its checkpoint stays
    here.
    """

    claim: Claim
    queue: Queue
    lease: Lease
    stop: StopSignal
    store_away_limit: float
    keeper: CheckpointKeeper | None = None
    events: TrainingEvents | None = None
    reporter: Several | None = None
    _ended: bool = False
    _next_look: float = 0.0
    _next_sign: float = 0.0
    _batches_read: int = 0
    _kept: frozenset[str] = frozenset()

    @property
    def requested(self) -> bool:
        """Whether the training is to end early; asked after every batch."""
        if self.stop.signal is not None or self._ended:
            return True
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + PAUSE
            away = self.keeper is not None and self.keeper.store_away_s > self.store_away_limit
            self._ended = away or self.lease.lost is not None
        return self._ended

    def keep_checkpoints(self, folder: Path, store: Store, code: str) -> CheckpointKeeper:
        """Where the training's states go; `folder` is the task's own. States of other code are left alone."""
        self._checkpoint_folder, self._ledger = folder, CheckpointLedger(self.claim, code)
        self.keeper = CheckpointKeeper(folder / code, store, self._ledger)
        return self.keeper

    def forget_checkpoints(self) -> None:
        """For the transaction that publishes the result."""
        if self.keeper is not None:
            self._ledger.forget_all()

    def kept_checkpoints(self) -> list[Recorded]:
        """The states that stay with the result; asked once the training is over, and raises `StoreUnavailable` while
        they cannot be brought into the store."""
        if self.keeper is None:
            return []
        kept = self.keeper.kept_for_good(UPLOAD_WAIT)
        self._kept = frozenset(found.sha256 for found in kept)
        return kept

    def close(self, *, published: bool, wait_s: float) -> None:
        """Bring the newest checkpoint into safety, or remove all of them once the result is there."""
        if self.keeper is None:
            return
        try:
            if published:
                self.keeper.discard(self._kept)
                shutil.rmtree(self._checkpoint_folder, ignore_errors=True)
            else:
                self.keeper.close(wait_s)
        except (LeaseLost, DatabaseUnavailable) as error:
            logger.warning("%s", error)

    def give_up(self, *, obsolete: bool) -> None:
        """The job is another's by now: nothing more is uploaded, and where nobody will go on from them (`obsolete`) the
        states on this node are removed."""
        if self.keeper is None:
            return
        self.keeper.abandon()
        if obsolete:
            shutil.rmtree(self._checkpoint_folder, ignore_errors=True)

    def progress(self, epoch: int, step: int) -> None:
        """Show that the training moves; called after every batch."""
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + PAUSE
            self.lease.progress(epoch, step)
            if self.reporter is not None:
                self.reporter.progress(epoch, step)

    def show_life(self) -> None:
        """Show that something moves although the training does not: a transfer, or a wait that has an end."""
        self.lease.show_life()

    def batch_was_read(self) -> None:
        """Show life for a trainer that knows nothing of progress and stops: the loaders call this before every batch.

        Raises
        ------
        Stopped
            Where the training is to end early.
        """
        self._batches_read += 1
        self.progress(UNKNOWN_EPOCH, self._batches_read)
        if self.requested:
            raise Stopped(f"The training was asked to stop after {self._batches_read} batches.")

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """The reporter's first call."""
        self.lease.epoch(epochs_done, None)
        if self.reporter is not None:
            self.reporter.started(epochs_done, max_epoch)

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show the loss of an epoch, counted from 0, to whoever asks for the status, and keep all values as events."""
        loss = values.get("training_loss")
        self.lease.epoch(epoch + 1, loss if loss is not None and math.isfinite(loss) else None)
        if self.events is not None:
            self.events.epoch_finished(epoch, values)
        if self.reporter is not None:
            self.reporter.epoch_finished(epoch, values)
