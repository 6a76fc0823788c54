"""Who tried which key of which computed table, where, from when to when, and how it ended."""

from __future__ import annotations

from enum import StrEnum

import datajoint as dj

from . import usage
from .schema import Connected, schema


class Outcome(StrEnum):
    """How an attempt ended; the values of the column `attempt_outcome`."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    LOST = "lost"
    CANCELLED = "cancelled"


class Blame(StrEnum):
    """Whom a failed or lost attempt counts against; the values of the column `attempt_blame`."""

    NOBODY = ""
    TASK = "task"
    WORKER = "worker"


@schema
class Attempt(Connected, dj.Manual):
    """A try at one key of one computed table. Its id is the lease that the worker holds on the key's job."""

    definition = """
    # A try at a key of a computed table
    attempt_id           : char(32)       # random; stands in the job's column `version` while the attempt runs
    ---
    attempt_table        : varchar(64)    # name of the computed table in the database
    attempt_key          : char(32)       # the key that is computed
    attempt_worker       : varchar(64)
    attempt_host         : varchar(255)
    attempt_pid          : int32
    attempt_pod          : varchar(255)   # empty outside a cluster; more is in the part `Pod`
    attempt_device       : varchar(255)
    attempt_start        : datetime(3)    # UTC, as all times, by the database's clock
    attempt_beat=null    : datetime(3)
    attempt_end=null     : datetime(3)
    attempt_epoch=0      : int32          # epochs finished
    attempt_step=0       : int32          # steps of the epoch that runs
    attempt_loss=null    : float64        # of the last finished epoch
    attempt_checkpoints=0 : int32         # checkpoints that are safe in the store
    attempt_outcome      : enum('running', 'finished', 'failed', 'preempted', 'lost', 'cancelled')
    attempt_blame        : varchar(8)     # whom it counts against: task, worker or nobody
    attempt_error        : varchar(2047)
    attempt_stack=null   : <blob>         # the traceback
    INDEX (attempt_key, attempt_start)
    """

    class Pod(Connected, dj.Part):
        """Where in a cluster an attempt ran."""

        definition = """
        -> master
        ---
        pod_namespace : varchar(63)
        pod_node      : varchar(253)
        pod_image     : varchar(1023)  # as the manifest named it
        pod_gpu       : varchar(255)   # what the driver calls the GPU; empty without one
        """

    class Usage(Connected, dj.Part):
        """What an attempt cost that ended without a result."""

        definition = f"""
        -> master
        ---
        {usage.DEFINITION}
        """
