"""The lease of a task, kept alive by a small side process that neither the training's threads nor a C call that holds
the GIL can hold up.

A lease is the job's own row: `status` is ``reserved``, `version` the attempt's id, `reserved_time` the last beat by
the database's clock. A worker has one side process for all its tasks (`pipeline/heartbeat_process.py`). Both share a
page of memory: the trainer writes there how far it is, at the cost of a few assignments, and reads from there whether
its lease still holds.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, cast

from . import heartbeat_process
from .errors import PipelineError
from .heartbeat_process import Config, Page, clock
from .settings import Database

__all__ = ["Heartbeat", "Lease", "LostReason", "clock"]

logger = logging.getLogger("trainloom")

LostReason = Literal["taken", "cancelled", "gone"]

PROGRAM = Path(heartbeat_process.__file__)
END_LIMIT = 1.0  # s for the side process to end by itself
# What the interpreter and the drivers need; the rest may hold secrets.
KEPT_VARIABLES = frozenset({"PATH", "HOME", "USER", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"})
KEPT_PREFIXES = ("LC_", "PG", "SSL_CERT_", "KRB5")
PASSWORD_VARIABLE = "PGPASSWORD"


class Heartbeat:
    """The side process of a worker and what it is told; started with the first lease, started again when it dies.

    It beats every `interval` seconds while this process lives, is not stopped and has made progress within
    `stall_limit` seconds. A forked child may inherit this object, but not use it. The side process ends with the thread
    that started it and is then started anew, so the first lease is best held by a thread that lives long.

    Attributes
    ----------
    show_life : is called whenever the holder of a lease shows life; see `LifeSign`.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: float,
        stall_limit: float,
        show_life: Callable[[], None] = lambda: None,
    ) -> None:
        self.show_life = show_life
        self._pid = os.getpid()
        self._descriptor = os.memfd_create("trainloom-heartbeat")
        os.ftruncate(self._descriptor, Page.SIZE)
        self._page = Page(self._descriptor)
        password = database.password.get_secret_value()
        self._config: Config = {
            "parent": self._pid,
            "page": self._descriptor,
            "interval": interval,
            "stall_limit": stall_limit,
            "backend": database.backend,
            "host": database.host,
            "port": database.port,
            "user": database.user,
            "password": password or (os.environ.get(PASSWORD_VARIABLE, "") if database.backend == "postgresql" else ""),
            "name": database.name,
            "tls": database.tls,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._next_look = 0.0
        self._number = 0
        self._closed = False

    def hold(
        self,
        jobs_table: str,
        key: Mapping[str, str | int],
        attempts_table: str,
        attempt_id: str,
        *,
        since: float | None = None,
    ) -> Lease:
        """Keep a job alive that was claimed under `attempt_id`.

        Parameters
        ----------
        jobs_table, attempts_table : full names, quoted for the backend.
        key : the job's primary key by column.
        since : `clock()` before the claim was sent, from which the lease's age is counted; by default now.

        Raises
        ------
        PipelineError
            If another lease is held or this object is closed or of another process.
        """
        if self._closed or os.getpid() != self._pid:
            raise PipelineError("this heartbeat is closed or belongs to another process; make a new one")
        if self._page.integers[Page.LEASE]:
            raise PipelineError("a worker holds one task at a time; close its lease before the next one")
        now = clock()
        self._number += 1
        self._page.begin(
            {
                "number": self._number,
                "jobs": jobs_table,
                "key": dict(key),
                "attempts": attempts_table,
                "attempt": attempt_id,
            },
            now,
        )
        self._look_after(now)
        self.show_life()
        return Lease(self, self._page, self._number, now if since is None else since)

    @property
    def process_id(self) -> int | None:
        """The side process, None before the first lease."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the side process and the lease that is held. Closing twice is harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._page.integers[Page.LEASE] = 0
        with self._starting:
            if self._process is not None:
                _end(self._process)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look_after(self, now: float) -> None:
        """Start the side process again if it has died; looks at most once per interval. `now` is `clock()`."""
        if now >= self._next_look:
            self._look_after(now)

    def _look_after(self, now: float) -> None:
        self._next_look = now + self._config["interval"]
        if not self._starting.acquire(blocking=False):
            return  # another thread is at it
        try:
            if self._closed or (self._process is not None and self._process.poll() is None):
                return
            if self._process is not None:
                logger.warning("the heartbeat ended (%s) and is started again", self._process.returncode)
                _end(self._process)
            self._process = self._start()
        except OSError as error:  # no memory, no process to be had: the training goes on and the lease ages
            logger.warning("the heartbeat cannot be started (%s); trying again", error)
        finally:
            self._starting.release()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # -P: this folder's modules must not stand before the standard library's.
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            pass_fds=(self._descriptor,),
            start_new_session=True,  # Ctrl-C and Ctrl-Z in a terminal are the worker's alone
        )
        with suppress(BrokenPipeError):  # it died at once, which the next look finds
            stdin = cast(IO[bytes], process.stdin)
            stdin.write(json.dumps(self._config).encode() + b"\n")  # the password never enters a process list
            stdin.flush()
        return process


class Lease:
    """A job that this worker holds; a context manager.

    All methods are cheap enough to be called at every step. When the job has been settled by its holder, what `lost`
    says means nothing any more.
    """

    def __init__(self, heartbeat: Heartbeat, page: Page, number: int, since: float) -> None:
        self._heartbeat = heartbeat
        self._page = page
        self._integers, self._reals = page.integers, page.reals
        self._number = number
        self._since = since
        self._pid = os.getpid()
        self._closed = False

    def progress(self, epoch: int, step: int) -> None:
        """Say that the training moves: `epoch` epochs are done and `step` steps of the next. Said less often than every
        `stall_limit`, the lease is left to age."""
        if self._closed or os.getpid() != self._pid:  # a forked child must not speak for its parent
            return
        now = clock()
        self._integers[Page.EPOCH] = epoch
        self._integers[Page.STEP] = step
        self._show_life(now)

    def epoch(self, epoch: int, loss: float | None) -> None:
        """Say that `epoch` epochs are done, with the loss that people shall see; a non-finite one is stored as none."""
        if self._closed or os.getpid() != self._pid:
            return
        self._integers[Page.EPOCH] = epoch
        self._reals[Page.LOSS] = math.nan if loss is None else loss
        self._show_life(clock())

    def show_life(self) -> None:
        """Say that something moves although the training does not: a transfer, or a wait that has an end."""
        if not self._closed and os.getpid() == self._pid:
            self._show_life(clock())

    def _show_life(self, now: float) -> None:
        self._reals[Page.PROGRESS] = now
        self._heartbeat.show_life()
        self._heartbeat.look_after(now)

    @property
    def lost(self) -> LostReason | None:
        """Why this worker holds the job no more, as far as a beat has found out; None while it does.

        ``taken``: given back or taken by another attempt; ``cancelled``: taken out of the queue by a person; ``gone``:
        the job was deleted, by a person or since another attempt finished it.
        """
        if not self._closed and os.getpid() == self._pid:
            self._heartbeat.look_after(clock())
        return cast("LostReason | None", self._page.lost(self._number))

    def age(self) -> float:
        """Seconds since the last confirmed beat was sent, or since the claim; a suspended machine's sleep counts."""
        beat = self._reals[Page.BEAT] if self._integers[Page.BEAT_LEASE] == self._number else self._since
        return clock() - beat

    def close(self) -> None:
        """Stop beating for this job, without changing it. Closing twice is harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        if self._integers[Page.LEASE] == self._number:
            self._integers[Page.LEASE] = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if (name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)) and name != PASSWORD_VARIABLE
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a side process in order, or at once where it does not listen: it is stateless."""
    with suppress(BrokenPipeError):
        cast(IO[bytes], process.stdin).close()
    try:
        process.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
