"""What workers without work ask of the database, read from its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from benchmarks.comparison import Check
from benchmarks.scratch_project import COMMAND
from pipeline.services import PostgresServer
from trainloom import Session

WORKERS, POLL_SECONDS = 2, 0.5
SETTLING, WATCHED = 12.0, 15.0
"""Seconds for the workers to start, and for which their statements are counted then."""
SCATTER = 1.35
"""How many times oftener than every `POLL_SECONDS` a worker may come by chance."""
STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")


def one_query_per_poll(session: Session) -> Check:
    """Let workers watch an empty queue and count every statement that reaches the server."""
    _log_statements(session, "all")
    environment = {**os.environ, "TRAINLOOM_POLL_SECONDS": str(POLL_SECONDS)}
    command = [str(COMMAND), "worker", "--watch", "--processes", str(WORKERS)]
    workers = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        time.sleep(SETTLING)
        counted = _statements(PostgresServer(session.home).log.path)
    finally:
        workers.send_signal(signal.SIGTERM)
        workers.wait()
        _log_statements(session, "none")
    most = SCATTER * WORKERS * WATCHED / POLL_SECONDS
    listed = "; ".join(f"{number} times `{text}`" for text, number in counted.most_common())
    holds = 0 < counted.total() <= most
    name = f"{WORKERS} workers that watch an empty queue every {POLL_SECONDS} s send one query each time"
    return Check(name, holds, f"in {WATCHED:.0f} s {listed}")


def _log_statements(session: Session, which: str) -> None:
    session.connection.query(f"ALTER SYSTEM SET log_statement = '{which}'")
    session.connection.query("SELECT pg_reload_conf()")


def _statements(log: Path) -> Counter[str]:
    """The statements that come within `WATCHED` seconds, by text."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        time.sleep(WATCHED)
        return Counter(found[1] for line in lines if (found := STATEMENT.search(line)))
