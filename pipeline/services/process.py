"""A server process that commands start on demand and find again.

The life of a server: the first command that needs it takes a lock, starts it and waits until it answers; it outlives
that command; later commands see it answer and take no lock. Its pid file may be stale (a crash, a reboot) and its pid
may by now belong to somebody else, so a pid counts only if that process has the server's name and works in its data
folder. That holds when a home is moved, and does not when it is copied.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from pipeline import mounts
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.home import Home
from pipeline.services.log_file import LogFile

if TYPE_CHECKING:
    import psutil

START_LIMIT = 120.0
"""Seconds for a start; recovery after a crash is the long case."""
STOP_LIMIT = 60.0
"""Seconds for a stop; the last checkpoint is the long case."""
SETTLED = START_LIMIT
"""Seconds after which a server that has no socket has lost it, and is not about to make it."""
LOCK_LIMIT = 2 * START_LIMIT
"""Seconds to wait for others who start or stop the same server."""
ANSWER_LIMIT = 2.0
"""Seconds in which a server that runs answers one question."""
FIRST_SPACE = 200 * 2**20
"""Bytes that must be free before a data folder is made."""

LAUNCH = '"$@" </dev/null >&2 & echo $!'
"""The shell leaves at once, so that the server is nobody's child: no zombie stays when it dies before its starter."""


class Address(Protocol):
    """Where a server answers."""

    @property
    def url(self) -> str: ...


AddressT = TypeVar("AddressT", bound=Address)


@dataclass(frozen=True)
class ServerStatus:
    """What is known of a server: `running` means that it answers; `pid` is None where there is no process."""

    name: str
    running: bool
    pid: int | None
    address: str
    version: str | None
    data_dir: Path
    log: Path


class Server(ABC, Generic[AddressT]):
    """One server of a home. The public methods may be called by any number of processes at once."""

    name: ClassVar[str]
    """For people."""
    process_name: ClassVar[str]
    """What the operating system calls the process."""
    pid_file: ClassVar[str]
    """Name of the file in the data folder whose first line is the pid."""
    stop_signal: ClassVar[signal.Signals]
    """Asks for an orderly stop that does not wait for clients."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.log = LogFile(home.log_dir / f"{self.process_name}.log")

    # What a kind of server has to say.

    @property
    @abstractmethod
    def address(self) -> AddressT:
        """Where the server answers, or will."""

    @property
    @abstractmethod
    def data_dir(self) -> Path: ...

    @property
    @abstractmethod
    def socket(self) -> Path: ...

    @property
    @abstractmethod
    def version(self) -> str | None:
        """Version of the server program; None where it cannot be run."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server at `socket` serves clients now."""

    @abstractmethod
    def _prepare(self) -> None:
        """Check the program and make or check the data folder. Raises `PipelineError` with what to do."""

    @abstractmethod
    def _clear(self) -> None:
        """Remove what a dead server left behind and a new one would trip over."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _owner(self) -> tuple[int, int] | None:
        """uid and gid that the server runs with; None: this process's own."""

    @abstractmethod
    def _diagnose(self, log: str) -> str | None:
        """A sentence about a failed start that says what to do, where the log tells."""

    # What people and other parts call.

    def ensure_running(self) -> AddressT:
        """Start the server unless it runs; return where it answers.

        Raises `ConfigurationError` where the folder, the disk or the program is not fit, `PipelineError` where the
        server does not come up.
        """
        if not self.is_running():
            with self._lock():
                if not self.is_running():
                    self._start()
        self.log.bound()
        return self.address

    def is_running(self) -> bool:
        """Whether the server answers; takes a millisecond. Raises where others could have put a socket in its place."""
        return self.home.has_private_socket_dir() and self._answers()

    def stop(self) -> bool:
        """Stop the server in order and wait until it has gone; False where none ran."""
        with self._lock():
            process = self._process()
            if process is None:
                return False
            self._end(process)
            return True

    def status(self) -> ServerStatus:
        process = self._process()
        return ServerStatus(
            name=self.name,
            running=self.is_running(),
            pid=process.pid if process else None,
            address=self.address.url,
            version=self.version,
            data_dir=self.data_dir,
            log=self.log.path,
        )

    # How it is done.

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Held while the server is started or stopped; the operating system frees it when its holder dies."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.home.path / f"start-{self.process_name}.lock", timeout=LOCK_LIMIT, mode=0o600)
        try:
            lock.acquire()
        except Timeout as error:
            raise PipelineError(
                f"Another process has been starting or stopping {self.name} for {LOCK_LIMIT:.0f} seconds; "
                f"see {self.log.path}."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _start(self) -> None:
        """Bring the server up; the lock is held and it does not answer."""
        process = self._process()
        if process is not None and self._lost_socket(process):
            self._end(process)
        elif process is not None and self._await_answer(process):
            return
        mounts.refuse_network_share(self.data_dir)
        self._prepare()
        self.home.make_socket_dir(self._owner())
        self._end_orphans()
        self._clear()
        self.log.bound()
        offset = self.log.size
        process = self._launch()
        if process is None or not self._await_answer(process):
            raise self._failure(self.log.since(offset))

    def _launch(self) -> psutil.Process | None:
        """Start the server as a daemon; None where it ended at once."""
        import psutil

        # An explicit environment: a server lives for weeks and shall not carry its starter's passwords.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        uid, gid = self._owner() or (None, None)
        with self.log.open() as log:
            try:
                started = subprocess.run(
                    ["/bin/sh", "-c", LAUNCH, "sh", *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.data_dir,
                    env={**kept, "LC_ALL": "C", "TZ": "UTC"},
                    user=uid,
                    group=gid,
                    extra_groups=None if uid is None else [],
                    start_new_session=True,  # Ctrl-C and a closed terminal do not reach it
                    umask=0o077,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise PipelineError(f"{self.name} could not be started: {error}.") from error
        try:
            return psutil.Process(int(started.stdout))
        except psutil.NoSuchProcess:
            return None

    def _process(self) -> psutil.Process | None:
        """The server's process by its pid file, if that pid really is this server."""
        import psutil

        try:
            pid = int((self.data_dir / self.pid_file).read_text(encoding="ascii").split("\n", 1)[0])
            process = psutil.Process(pid)
        except (OSError, ValueError, psutil.Error):
            return None
        return process if self._is_ours(process) else None

    def _is_ours(self, process: psutil.Process) -> bool:
        import psutil

        try:
            return process.name() == self.process_name and os.path.samefile(process.cwd(), self.data_dir)
        except (OSError, psutil.Error):
            return False  # gone, a zombie, or another user's

    def _lost_socket(self, process: psutil.Process) -> bool:
        """Whether a server that has been up for long has no socket any more: the home has moved, or /tmp was swept."""
        return not self.socket.exists() and time.time() - process.create_time() > SETTLED

    def _await_answer(self, process: psutil.Process) -> bool:
        """Wait until the server answers; False if it died instead. Raises `PipelineError` if it does neither."""
        if not wait_until(lambda: self.is_running() or has_gone(process), START_LIMIT):
            raise PipelineError(
                f"{self.name} (process {process.pid}) has not answered for {START_LIMIT:.0f} seconds; it may be "
                f"recovering from a crash, so see {self.log.path} and try again, or stop it with `trainloom db stop`."
            )
        return self.is_running()

    def _end(self, process: psutil.Process) -> None:
        import psutil

        try:
            process.send_signal(self.stop_signal)
        except psutil.NoSuchProcess:
            return
        if not wait_until(lambda: has_gone(process), STOP_LIMIT):
            raise PipelineError(
                f"{self.name} (process {process.pid}) has not stopped within {STOP_LIMIT:.0f} seconds; "
                f"see {self.log.path}."
            )

    def _end_orphans(self) -> None:
        """End what outlived a killed server: its children hold its data, so a new one must not start beside them."""
        import psutil

        orphans = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in orphans:
            with suppress(psutil.NoSuchProcess):  # it has ended by itself since
                process.terminate()
        if not wait_until(lambda: all(has_gone(process) for process in orphans), STOP_LIMIT):
            raise PipelineError(
                f"Processes of a {self.name} that died still use {self.data_dir} "
                f"({', '.join(str(process.pid) for process in orphans)}); end them and try again."
            )

    def _failure(self, log: str) -> PipelineError:
        if "No space left on device" in log:
            return ConfigurationError(f"{self.name} could not start: {_disk_full(self.data_dir)}")
        sentence = self._diagnose(log)
        if sentence is not None:
            return ConfigurationError(sentence)
        last = "\n".join(log.strip().splitlines()[-8:])
        return PipelineError(f"{self.name} ended while it started; see {self.log.path}, which ends with:\n{last}")


def require_space(folder: Path) -> None:
    """Raise `ConfigurationError` where a new data folder at `folder` would fill the disk."""
    if shutil.disk_usage(folder).free < FIRST_SPACE:
        raise ConfigurationError(_disk_full(folder))


def exchange(path: Path, question: bytes, complete: Callable[[bytes], bool], farewell: bytes = b"") -> bytes:
    """Put one question to the Unix socket at `path`; return the answer, empty where nobody answers in time.

    `complete` says whether the answer so far is all of it; `farewell` is sent before the connection is closed.
    """
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_LIMIT)
            connection.connect(str(path))
            connection.sendall(question)
            while not complete(answer) and (part := connection.recv(65536)):
                answer += part
            connection.sendall(farewell)
    except OSError:
        pass  # not there, not listening, too slow or just going away: the answer so far decides
    return answer


def wait_until(condition: Callable[[], bool], limit: float) -> bool:
    """Ask `condition` at growing intervals until it holds; False after `limit` seconds."""
    deadline = time.monotonic() + limit
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    return True


def has_gone(process: psutil.Process) -> bool:
    """Whether the process has ended; a zombie has (in containers whose first process reaps none, they stay)."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _disk_full(folder: Path) -> str:
    free = shutil.disk_usage(folder).free // 2**20
    return (
        f"the disk of {folder} is full ({free} MB free, {FIRST_SPACE // 2**20} MB wanted); free some space or name a "
        f"home on another disk in TRAINLOOM_HOME."
    )
