"""What reaches the embedded PostgreSQL, read from its log."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.services import PostgresServer
from trainloom import Session

STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")


@contextmanager
def logged_statements(session: Session) -> Iterator[Callable[[], list[str]]]:
    """While this is open every statement is logged; what is yielded gives those that came since it was last called."""
    _log(session, "all")
    with PostgresServer(session.home).log.path.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(0, os.SEEK_END)

        def since() -> list[str]:
            return [found[1] for line in lines if (found := STATEMENT.search(line))]

        try:
            yield since
        finally:
            _log(session, "none")


def _log(session: Session, which: str) -> None:
    session.connection.query(f"ALTER SYSTEM SET log_statement = '{which}'")
    session.connection.query("SELECT pg_reload_conf()")
    while (
        session.connection.query("SHOW log_statement").fetchone()[0] != which
    ):  # servers read their settings when idle
        time.sleep(0.01)
