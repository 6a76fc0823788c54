"""Whom a failure counts against, and when a task is tried again."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.attempt import Blame

from .errors import ConfigurationError
from .node_cache import CacheFull, DataFileMissing
from .resolver import UnresolvedClass
from .store.interface import StoreUnavailable

GROWTH = 4.0  # factor between the delays of successive tries
LONGEST_DELAY = 3600.0  # s
HOSTS_THAT_CONVICT = 2  # a task that lacks something on so many hosts is itself at fault
# What a worker lacks: another one may have it.
WORKER_LACKS = (
    *(UnresolvedClass, DataFileMissing, CacheFull, StoreUnavailable, ConfigurationError, ImportError),
    ConnectionError,  # to a server of data
)
DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
# Libraries that write files by themselves tell no number: safetensors, h5py, torch.
DISK_MARKS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
DEVICE_MARKS = ("CUDA error", "CUDA driver", "no kernel image", "NVML", "cuDNN error")


@dataclass(frozen=True)
class Policy:
    """How often and how soon.

    Attributes
    ----------
    max_attempts : failures after which a task is set aside.
    first_delay : seconds before the second try; each later one waits four times as long, at most an hour.
    """

    max_attempts: int = 3
    first_delay: float = 30.0

    def delay(self, failures: int) -> float | None:
        """Seconds until the next try after so many failures; None to set the task aside."""
        if failures >= self.max_attempts:
            return None
        return min(LONGEST_DELAY, self.first_delay * GROWTH ** max(0, failures - 1))


def blame_for(error: BaseException) -> Blame:
    """Whether an exception speaks against the task or against the worker that met it."""
    if isinstance(error, WORKER_LACKS):
        return Blame.WORKER
    if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
        return Blame.WORKER
    if any(mark in str(error) for mark in DISK_MARKS):
        return Blame.WORKER
    if isinstance(error, RuntimeError) and any(mark in str(error) for mark in DEVICE_MARKS):
        return Blame.WORKER
    return Blame.TASK


def failures(attempts: Sequence[dict[str, Any]]) -> int:
    """Attempts that count against the task itself; see `Queue.blamed`."""
    return sum(attempt["attempt_blame"] == Blame.TASK for attempt in attempts)


def convicting_hosts(attempts: Sequence[dict[str, Any]]) -> set[str]:
    """Hosts on which something was lacking."""
    return {attempt["attempt_host"] for attempt in attempts if attempt["attempt_blame"] == Blame.WORKER}
