"""The states from which a training can go on."""

from __future__ import annotations

import datajoint as dj

from .schema import Connected, schema
from .training_task import TrainingTask  # noqa: F401 - the definition names it


@schema
class Checkpoint(Connected, dj.Manual):
    """A whole state of a training in the store; any worker goes on from the newest one."""

    definition = """
    # A state from which a training can go on
    -> TrainingTask
    checkpoint_sha256  : char(64)      # of the object in the store
    ---
    checkpoint_size    : int64         # bytes
    checkpoint_epoch   : int32         # epochs that lie behind
    checkpoint_step    : int32         # batches of the next epoch that lie behind
    checkpoint_score=null : float64
    checkpoint_code    : char(32)      # md5 of the code that trained: other code does not go on from it
    checkpoint_attempt : char(32)      # the attempt that wrote it
    checkpoint_time=CURRENT_TIMESTAMP(3) : datetime(3)
    """
