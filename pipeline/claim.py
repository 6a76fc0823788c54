"""Who claims a job, and what is held then."""

from __future__ import annotations

import os
import platform
import secrets
from dataclasses import dataclass, field

from .capacity import Capacity
from .pod import Pod


@dataclass(frozen=True)
class Worker:
    """Who claims: recorded with every attempt."""

    device: str = ""
    host: str = field(default_factory=lambda: platform.node()[:255])
    pid: int = field(default_factory=os.getpid)
    pod: Pod | None = field(default_factory=Pod.this)
    gpu: str = ""  # what the driver calls it
    capacity: Capacity | None = None  # None: it takes every task
    name: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class Claim:
    """A key that this worker holds."""

    key: dict[str, str]
    attempt: str
