"""The program of the side process that keeps a worker's lease alive; `pipeline.heartbeat` starts it and talks to it.

It is run by its path and imports the standard library and one database driver only: it starts in a tenth of a second
and stays small. Its first line of standard input is a JSON object (`Config`); after it nothing but the end comes, and
with the end it ends. Everything else passes through one shared page, so that neither side ever waits for the other.

It beats only for a parent that lives, runs and trains. A failed beat harms nothing: the lease ages, and is tried again.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import random
import select
import signal
import struct
import sys
import time
import zlib
from contextlib import suppress
from typing import Any, TypedDict

CONNECT_LIMIT = 10  # s
STATEMENT_LIMIT = 10  # s, for a server that has fallen silent
LOCK_LIMIT = 5  # s
FIRST_DELAY = 0.2  # s before a failed beat is tried again, doubled each time
LONGEST_DELAY = 5.0  # s
APPLICATION = "trainloom heartbeat"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOPPED_OR_DEAD = frozenset("TtZX")  # states in /proc/<pid>/stat: stopped, traced, zombie, dead
SSL_MODES = {None: "prefer", True: "require", False: "disable"}
QUOTES = {"postgresql": '"', "mysql": "`"}
# Spelled so that the time zone of the connection does not matter.
NOW = {"postgresql": "(CURRENT_TIMESTAMP(3) AT TIME ZONE 'UTC')", "mysql": "UTC_TIMESTAMP(3)"}


class Config(TypedDict):
    """What the parent says once. `tls`, `host` and the others as in `pipeline.settings.Database`; times in seconds."""

    parent: int
    page: int
    interval: float
    stall_limit: float
    backend: str
    host: str
    port: int
    user: str
    password: str
    name: str | None
    tls: bool | None


class Claim(TypedDict):
    """What is held: `jobs` and `attempts` are quoted full names of tables, `key` the job's primary key."""

    number: int
    jobs: str
    key: dict[str, Any]
    attempts: str
    attempt: str


def clock() -> float:
    """Seconds on the machine's clock that all processes share and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# The reasons for which a lease is lost, as the page holds them.
REASONS = {1: "taken", 2: "cancelled", 3: "gone"}


class Page:
    """Memory that parent and side process share: aligned slots of 8 bytes, each written by one side only and whole at
    any moment, and the text of the current claim under a checksum.

    Written by the parent: `LEASE` (number of the current claim, 0: none), `EPOCH`, `STEP` (-1: none yet) in `integers`;
    `PROGRESS` (clock, s), `LOSS` (NaN: none) in `reals`.
    Written by the side process, which may be a claim behind and so says which one it means: `BEAT` (clock before the
    last confirmed beat, s) in `reals`, `BEAT_LEASE` and `LOST` (8 * number + reason) in `integers`.
    """

    LEASE, EPOCH, STEP, PROGRESS, LOSS, BEAT, BEAT_LEASE, LOST = range(8)
    SIZE = 65536
    _HEADER = struct.Struct("=II")  # bytes of the text, its CRC-32
    _TEXT = 128

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, self.SIZE)
        slots = memoryview(self._map)[: self._TEXT - self._HEADER.size]
        self.integers = slots.cast("q")
        self.reals = slots.cast("d")

    def begin(self, claim: Claim, now: float) -> None:
        """Publish a claim that was made at `now`."""
        text = json.dumps(claim).encode()
        self.integers[self.LEASE] = 0
        self.integers[self.EPOCH] = self.integers[self.STEP] = -1
        self.reals[self.LOSS] = math.nan
        self.reals[self.PROGRESS] = now
        self._HEADER.pack_into(self._map, self._TEXT - self._HEADER.size, len(text), zlib.crc32(text))
        self._map[self._TEXT : self._TEXT + len(text)] = text
        self.integers[self.LEASE] = claim["number"]

    def claim(self) -> Claim | None:
        """The current claim; None also while it is being written: it is too young then to need a beat."""
        number = self.integers[self.LEASE]
        length, checksum = self._HEADER.unpack_from(self._map, self._TEXT - self._HEADER.size)
        text = self._map[self._TEXT : self._TEXT + length]
        if not number or zlib.crc32(text) != checksum:
            return None
        claim: Claim = json.loads(text)
        return claim if claim["number"] == number else None

    def confirm(self, number: int, at: float) -> None:
        # In this order: who sees the number sees a time of that claim or an older one.
        self.reals[self.BEAT] = at
        self.integers[self.BEAT_LEASE] = number

    def lose(self, number: int, reason: str) -> None:
        self.integers[self.LOST] = 8 * number + next(code for code, name in REASONS.items() if name == reason)

    def lost(self, number: int) -> str | None:
        """Why the claim of this number was lost, or None."""
        of, code = divmod(self.integers[self.LOST], 8)
        return REASONS[code] if of == number and code else None


class Server:
    """The database, for two statements. Connects when it is asked and forgets a connection on which anything failed;
    every method may raise `failures`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection: Any = None
        self.failures: tuple[type[Exception], ...]
        if config["backend"] == "postgresql":
            import psycopg2

            self.failures = (psycopg2.Error, OSError)
        else:
            import pymysql

            self.failures = (pymysql.MySQLError, OSError)

    def beat(self, claim: Claim, epoch: int | None, step: int | None, loss: float | None) -> str | None:
        """Renew the lease and report the progress, in one round trip; why the lease is lost, or None."""
        cursor = self._run(*beat_statement(self._config["backend"], claim, epoch, step, loss))
        held = cursor.fetchone()[0] if self._config["backend"] == "postgresql" else cursor.rowcount
        return None if held else self._reason(claim)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*self.failures):  # it may be broken already
                connection.close()

    def _reason(self, claim: Claim) -> str:
        """What became of a job on which a beat found no lease of ours."""
        condition, values = key_condition(self._config["backend"], claim)
        row = self._run(f"SELECT j.status FROM {claim['jobs']} AS j WHERE {condition}", values).fetchone()
        if row is None:
            return "gone"
        return "cancelled" if row[0] == "ignore" else "taken"

    def _run(self, statement: str, values: list[Any]) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        cursor = self._connection.cursor()
        cursor.execute(statement, values)
        return cursor

    def _connect(self) -> Any:
        if self._config["backend"] == "postgresql":
            return _connect_postgresql(self._config)
        try:
            return _connect_mysql(self._config, encrypted=self._config["tls"])
        except self.failures:
            if self._config["tls"] is not None:
                raise
            return _connect_mysql(self._config, encrypted=False)


def _connect_postgresql(config: Config) -> Any:
    import psycopg2

    connection = psycopg2.connect(
        host=config["host"],
        port=config["port"],
        user=config["user"],
        password=config["password"],
        dbname=config["name"] or "postgres",
        sslmode=SSL_MODES[config["tls"]],
        connect_timeout=CONNECT_LIMIT,
        application_name=APPLICATION,
        # A network that swallows everything is noticed as well.
        keepalives_idle=CONNECT_LIMIT,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=STATEMENT_LIMIT * 1000,
    )
    connection.autocommit = True
    connection.cursor().execute(
        f"SET statement_timeout = {STATEMENT_LIMIT * 1000}; SET lock_timeout = {LOCK_LIMIT * 1000}"
    )
    return connection


def _connect_mysql(config: Config, *, encrypted: bool | None) -> Any:
    import pymysql

    tls: dict[str, Any] = {} if encrypted is None else {"ssl_disabled": True}
    if encrypted:
        import ssl

        context = ssl.create_default_context()  # encrypts without checking names, as the worker's own connection
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = {"ssl": context}
    return pymysql.connect(
        host=config["host"],
        port=config["port"],
        user=config["user"],
        password=config["password"],
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=CONNECT_LIMIT,
        read_timeout=STATEMENT_LIMIT,
        write_timeout=STATEMENT_LIMIT,
        init_command=f"SET SESSION innodb_lock_wait_timeout = {LOCK_LIMIT}",
        program_name=APPLICATION,
        # Rows that match count, not rows that change: two beats may fall into one millisecond.
        client_flag=pymysql.constants.CLIENT.FOUND_ROWS,
        **tls,
    )


def key_condition(backend: str, claim: Claim) -> tuple[str, list[Any]]:
    """The SQL condition that finds the claimed job, called ``j``, and its values."""
    quote = QUOTES[backend]
    names = (name.replace(quote, 2 * quote).replace("%", "%%") for name in claim["key"])
    return " AND ".join(f"j.{quote}{name}{quote} = %s" for name in names), list(claim["key"].values())


def beat_statement(
    backend: str, claim: Claim, epoch: int | None, step: int | None, loss: float | None
) -> tuple[str, list[Any]]:
    """The beat and its values. The job is locked before the attempt. PostgreSQL returns the number of jobs that were
    held, 0 or 1; on MySQL the row count is 0 where none was."""
    condition, key = key_condition(backend, claim)
    held = f"{condition} AND j.status = 'reserved' AND j.version = %s"
    now = NOW[backend]
    if backend == "postgresql":
        return (
            f"WITH beat AS (UPDATE {claim['jobs']} AS j SET reserved_time = {now} WHERE {held} RETURNING 1), "
            f"report AS (UPDATE {claim['attempts']} SET attempt_beat = {now}, "
            "attempt_epoch = COALESCE(%s, attempt_epoch), attempt_step = COALESCE(%s, attempt_step), "
            "attempt_loss = %s WHERE attempt_id = %s AND EXISTS (SELECT 1 FROM beat)) SELECT count(*) FROM beat",
            [*key, claim["attempt"], epoch, step, loss, claim["attempt"]],
        )
    return (
        f"UPDATE {claim['jobs']} AS j LEFT JOIN {claim['attempts']} AS a ON a.attempt_id = %s "
        f"SET j.reserved_time = {now}, a.attempt_beat = {now}, a.attempt_epoch = COALESCE(%s, a.attempt_epoch), "
        f"a.attempt_step = COALESCE(%s, a.attempt_step), a.attempt_loss = %s WHERE {held}",
        [claim["attempt"], epoch, step, loss, *key, claim["attempt"]],
    )


class Beater:
    """Beats every `interval` for the current claim, while the parent deserves it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._page = Page(config["page"])
        self._server = Server(config)
        self._failed = 0

    def run(self) -> None:
        """Return when the parent has closed standard input or has gone."""
        end = select.poll()
        end.register(sys.stdin.fileno(), select.POLLIN)
        pause = 0.0
        while not end.poll(pause * 1000) and os.getppid() == self._config["parent"]:
            pause = self._tick()

    def _tick(self) -> float:
        """Beat, if a beat is due; seconds until the next one."""
        started, interval = clock(), self._config["interval"]
        claim = self._page.claim()
        if claim is None:
            self._server.close()  # a worker without a task needs no second connection
            return interval
        stalled = started - self._page.reals[Page.PROGRESS] > self._config["stall_limit"]
        if stalled or self._page.lost(claim["number"]) or not runs(self._config["parent"]):
            return interval
        try:
            self._beat(claim, started)
        except self._server.failures as error:
            self._server.close()
            return min(interval, self._delay(error))
        if self._failed:
            say("the database is back; the lease is renewed again")
        self._failed = 0
        return max(0.0, interval - (clock() - started))

    def _beat(self, claim: Claim, started: float) -> None:
        epoch, step = (value if value >= 0 else None for value in self._page.integers[Page.EPOCH : Page.STEP + 1])
        loss = self._page.reals[Page.LOSS]
        reason = self._server.beat(claim, epoch, step, loss if math.isfinite(loss) else None)
        if reason is None:
            self._page.confirm(claim["number"], started)
        else:
            self._page.lose(claim["number"], reason)

    def _delay(self, error: Exception) -> float:
        """Seconds until a failed beat is tried again, scattered: all workers lose a server at the same moment."""
        if not self._failed:
            lines = str(error).strip().splitlines()
            say(f"a beat failed and is tried again: {lines[0] if lines else type(error).__name__}")
        delay: float = min(FIRST_DELAY * 2.0**self._failed, LONGEST_DELAY)
        self._failed += 1
        return delay * random.uniform(0.5, 1.0)


def runs(pid: int) -> bool:
    """Whether a process exists and is not stopped; its name, in parentheses, may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0].decode() not in STOPPED_OR_DEAD
    except OSError:
        return False


def say(text: str) -> None:
    with suppress(OSError):  # whoever read our messages may have gone
        print(f"trainloom: heartbeat: {text}", file=sys.stderr, flush=True)


def main() -> None:
    # What ends a job step politely goes to all its processes; the worker decides, and we end with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Reaches us inside a driver's call too, and where a forked child of the parent holds our standard input open. A
    # parent that died before this line is noticed in `run`.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    line = sys.stdin.buffer.readline()
    if line:
        Beater(json.loads(line)).run()


if __name__ == "__main__":
    main()
