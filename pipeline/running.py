"""What a training may know of the attempt it is part of: whether to stop, and how to show life."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .checkpoint_ledger import CheckpointLedger
from .checkpoints import CheckpointKeeper
from .errors import DatabaseUnavailable
from .heartbeat import Lease
from .queue import Claim, LeaseLost, Queue
from .stop import StopSignal
from .store.interface import Store

logger = logging.getLogger("trainloom")


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

    @property
    def requested(self) -> bool:
        """Whether the training is to end early; asked after every batch."""
        return (
            self.stop.signal is not None
            or self.lease.lost is not None
            or (self.keeper is not None and self.keeper.store_away_s > self.store_away_limit)
        )

    def keep_checkpoints(self, folder: Path, store: Store, code: str) -> CheckpointKeeper:
        """Where the training's states go; `folder` is the task's own. States of other code are left alone."""
        self._checkpoint_folder, self._ledger = folder, CheckpointLedger(self.claim, code)
        self.keeper = CheckpointKeeper(folder / code, store, self._ledger)
        return self.keeper

    def close(self, *, published: bool, wait_s: float) -> None:
        """Bring the newest checkpoint into safety, or remove all of them once the result is there."""
        if self.keeper is None:
            return
        try:
            self.keeper.close(0.0 if published else wait_s)
            if published:
                self.keeper.discard()
                self._ledger.forget_all()
                shutil.rmtree(self._checkpoint_folder, ignore_errors=True)
        except (LeaseLost, DatabaseUnavailable) as error:
            logger.warning("%s", error)

    def progress(self, epoch: int, step: int) -> None:
        """Show that the training moves."""
        self.lease.progress(epoch, step)

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """The reporter's first call."""
        self.lease.epoch(epochs_done, None)

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show the loss of an epoch, counted from 0, to whoever asks for the status."""
        loss = values.get("training_loss")
        self.lease.epoch(epoch + 1, loss if loss is not None and math.isfinite(loss) else None)
