"""A DataJoint connection that survives a lost server, on PostgreSQL and on MySQL/MariaDB, and always speaks UTC."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datajoint as dj
from datajoint.errors import LostConnectionError
from datajoint.settings import _create_config
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from .errors import ConfigurationError, DatabaseUnavailable
from .settings import Database
from .transaction import is_deadlock

logger = logging.getLogger("trainloom")

BEGIN = "START TRANSACTION"
BLOCK = "BEGIN NOT ATOMIC"  # … END: one statement of several, on MariaDB
FIRST_DELAY = 0.2  # s between tries to reconnect, doubled each time
LONGEST_DELAY = 5.0  # s
STATEMENT_TRIES = 10  # of one that is cut off, or broken off to resolve a deadlock, each time
MYSQL_DEADLOCK = 1213  # undoes the whole transaction; PostgreSQL's leaves it open, and answers nothing more in it
# UTC, and the isolation that PostgreSQL has by default: repeatable reads lock gaps between the rows of a queue.
PREPARATION = {
    "postgresql": ("SET TIME ZONE 'UTC'",),
    "mysql": ("SET time_zone = '+00:00'", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"),
}
# Answers that no retry can mend: PostgreSQL's SQLSTATE classes and MySQL's error numbers.
REFUSED_TEXT = ("password authentication failed", "role ", "database ", "no pg_hba.conf entry", "fe_sendauth")
REFUSED_CODES = frozenset({1044, 1045, 1049, 1698})


class HealingConnection(dj.Connection):
    """Notices a lost connection before and after each statement, reconnects with growing delay, and runs the statement
    again, but never inside a transaction: there it raises, since what came before in the transaction is lost, and goes
    on raising until the transaction is ended: whoever swallows the first error (DataJoint does where it looks for its
    table of lineages) would else write the rest outside of it. A statement outside one that is broken off to resolve a
    deadlock is run again too.

    DataJoint itself does not notice a lost connection to PostgreSQL: psycopg2's error carries no code there. A forked
    child opens its own connection; the parent's socket is left alone. Not for use by several threads.
    """

    def __init__(self, *args: Any, reconnect_seconds: float = 300.0, **kwargs: Any) -> None:
        self.reconnect_seconds = reconnect_seconds
        self.while_away: Callable[[], None] = lambda: None  # called before each try to reconnect
        self._inherited: list[Any] = []
        self._repeated: dict[str, str] = {}  # statements to prepare: the name of each
        self._prepared: set[str] = set()  # those that the server knows on this connection
        self._to_begin = False  # a transaction begins with the next statement
        self._broken_off = False  # what the open transaction did is undone, and it has not been ended yet
        super().__init__(*args, **kwargs)

    def connect(self) -> None:
        """Open the connection, in UTC."""
        super().connect()
        self._pid = os.getpid()
        self._prepared.clear()
        self._runs_blocks = self.adapter.backend == "mysql" and "MariaDB" in self._conn.get_server_info()
        cursor = self._conn.cursor()
        for statement in PREPARATION[self.adapter.backend]:
            cursor.execute(statement)
        cursor.close()

    def _build_connect_kwargs(self, use_tls: Any = None) -> dict[str, Any]:
        """DataJoint's arguments for the driver, with what was said of TLS kept: PyMySQL takes its empty dict for no
        TLS, and it leaves out a False."""
        kwargs: dict[str, Any] = super()._build_connect_kwargs(use_tls)
        if self.conn_info["ssl_input"] is False:
            kwargs["use_tls"] = False
        elif kwargs["use_tls"] is True and self.adapter.backend == "mysql":
            kwargs["use_tls"] = {"check_hostname": False}
        return kwargs

    def query(self, query: str, args: Any = (), **options: Any) -> Any:
        """Run one statement; see the class for what happens when the connection is lost."""
        options["reconnect"] = False
        self._leave_parents_connection()
        if self._broken_off:
            raise LostConnectionError("The transaction was broken off before; nothing of it was written")
        if self._lost():
            self._recover(None)
        for remaining in reversed(range(STATEMENT_TRIES)):
            to_begin = self._to_begin
            try:
                return super().query(query, args, **options)
            except Exception as error:
                if isinstance(error, LostConnectionError) or self._lost():
                    self._to_begin = to_begin  # with the connection the server forgot that it had begun
                    self._recover(error)
                    if not remaining:
                        raise
                elif not (remaining and is_deadlock(error) and self._stands_alone(query)):
                    self._broken_off = self._in_transaction and error.args[:1] == (MYSQL_DEADLOCK,)
                    # A statement that cannot even be parsed takes the beginning before it along.
                    if to_begin and self.adapter.backend == "postgresql":
                        self._to_begin = self._conn.get_transaction_status() == TRANSACTION_STATUS_IDLE
                    raise
        raise AssertionError("the last try returns or raises")

    def _stands_alone(self, query: str) -> bool:
        """Whether a statement that the database broke off left nothing behind, so that it can be run again."""
        return not (self._in_transaction or query.startswith(BLOCK))

    @property
    def runs_blocks(self) -> bool:
        """Whether the server runs several statements that are sent as one, beginning with `BLOCK`: MariaDB does."""
        return self._runs_blocks

    def query_repeatedly(self, query: str, args: Sequence[Any]) -> Any:
        """Run one statement of those that run often with other values: PostgreSQL parses and plans it only once per
        connection. It must hold no percent sign but those of ``%s``."""
        if self.adapter.backend == "postgresql":
            self._repeated.setdefault(query, f"trainloom_{len(self._repeated)}")
        return self.query(query, args)

    def _execute_query(self, cursor: Any, query: str, args: Any, suppress_warnings: bool) -> None:
        name = self._repeated.get(query)
        if name is not None:
            if name not in self._prepared:
                numbers = itertools.count(1)
                numbered = re.sub("%s", lambda _: f"${next(numbers)}", query)
                super()._execute_query(cursor, f"PREPARE {name} AS {numbered}", None, suppress_warnings)
                self._prepared.add(name)
            query = f"EXECUTE {name}({', '.join(['%s'] * len(args))})"
        if self._to_begin:
            self._to_begin = False
            if self.adapter.backend == "postgresql":
                query = f"{BEGIN}; {query}"
            elif query.startswith(BLOCK):
                query = f"{BLOCK} {BEGIN}; {query.removeprefix(BLOCK)}"
            else:
                super()._execute_query(cursor, BEGIN, None, suppress_warnings)
        super()._execute_query(cursor, query, args, suppress_warnings)

    def start_transaction(self) -> None:
        """Begin a transaction with its next statement: on PostgreSQL, and with a block on MariaDB, in the same round
        trip."""
        if self.in_transaction:
            super().start_transaction()  # raises
        self._in_transaction = self._to_begin = True

    def commit_transaction(self) -> None:
        """Commit what the transaction did; raise if it was broken off, which ends it too."""
        with self._ending():
            if not self._to_begin:
                super().commit_transaction()

    def cancel_transaction(self) -> None:
        """Undo what the transaction did."""
        with self._ending():
            if not (self._to_begin or self._broken_off):
                super().cancel_transaction()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End a transaction also where it has not begun, or is broken off, be it by just this."""
        try:
            yield
        finally:
            if self._to_begin or self._broken_off:
                self._forget_transaction()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; one that was broken off is until it is ended."""
        return bool(self._in_transaction)

    def _forget_transaction(self) -> None:
        self._in_transaction = self._to_begin = self._broken_off = False

    @property
    def is_connected(self) -> bool:
        """Whether the server answers."""
        return self.is_open and bool(self.adapter.ping(self._conn))

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as has been noticed: none after all tries to reconnect have failed."""
        return not self._is_closed and not self._lost()

    def _lost(self) -> bool:
        if self._conn is None:
            return True
        if self.adapter.backend == "postgresql":
            return bool(self._conn.closed)
        return not self._conn.open

    def _leave_parents_connection(self) -> None:
        if os.getpid() != self._pid:
            self._inherited.append(self._conn)  # kept alive: closing it would end the parent's session
            self._forget_transaction()
            self.connect()

    def _recover(self, cause: Exception | None) -> None:
        """Reconnect; raise if a transaction was open."""
        if self._is_closed:
            raise LostConnectionError("The session is closed; open one with connect()") from cause
        self._broken_off = getattr(self, "_in_transaction", False) and not self._to_begin
        self._reconnect()
        if self._broken_off:
            raise LostConnectionError(
                "The connection was lost during a transaction; nothing of it was written"
            ) from cause

    def _reconnect(self) -> None:
        deadline, delay = time.monotonic() + self.reconnect_seconds, FIRST_DELAY
        while True:
            self.while_away()
            try:
                self.connect()
                self.connection_id = self.adapter.get_connection_id(self._conn)
                logger.info("reconnected to the database")
                return
            except Exception as error:
                if refused(error) or time.monotonic() + delay > deadline:
                    raise LostConnectionError(
                        f"the database did not come back within {self.reconnect_seconds:.0f} s: {first_line(error)}"
                    ) from error
                logger.warning("the database is away (%s); trying again in %.1f s", first_line(error), delay)
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)


def open_connection(database: Database, *, stores: dict[str, Any], reconnect_seconds: float) -> HealingConnection:
    """Connect to a database server.

    Raises
    ------
    ConfigurationError
        If the server refuses the user, password or database.
    DatabaseUnavailable
        If no server answers.
    """
    config = _create_config()
    config.database.backend = database.backend
    config.database.port = database.port
    config.safemode = False
    config.stores = stores
    logging.getLogger("datajoint").setLevel(logging.ERROR)  # it warns of every server without TLS
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="MariaDB is not officially supported")
            return HealingConnection(
                database.host,
                database.user,
                database.password.get_secret_value(),
                database.port,
                database.tls,
                database_name=database.name,
                backend=database.backend,
                config_override=config,
                reconnect_seconds=reconnect_seconds,
            )
    except Exception as error:
        if refused(error):
            raise ConfigurationError(
                f"{database.label} refuses the connection: {first_line(error)}; check user, password and database name"
            ) from error
        raise DatabaseUnavailable(
            f"no database answers at {database.label}: {first_line(error)}; check that the server runs"
        ) from error


def refused(error: Exception) -> bool:
    """Whether a server answered but will not let this user in."""
    if error.args and error.args[0] in REFUSED_CODES:
        return True
    text = str(error)
    return any(f"FATAL:  {mark}" in text or (mark in text and mark.startswith("fe_")) for mark in REFUSED_TEXT)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without addresses of secrets (drivers never print passwords)."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
