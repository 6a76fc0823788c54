"""What workers without work ask of the database."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter

from benchmarks.comparison import Check
from benchmarks.scratch_project import COMMAND
from benchmarks.statement_log import logged_statements
from trainloom import Session

WORKERS, POLL_SECONDS = 2, 0.5
SETTLING, WATCHED = 12.0, 15.0
"""Seconds for the workers to start, and for which their statements are counted then."""
SCATTER = 1.35
"""How many times oftener than every `POLL_SECONDS` a worker may come by chance."""


def one_query_per_poll(session: Session) -> Check:
    """Let workers watch empty queues, of trainings and of scripts, and count every statement that reaches the
    server."""
    environment = {**os.environ, "TRAINLOOM_POLL_SECONDS": str(POLL_SECONDS)}
    command = [str(COMMAND), "worker", "--watch", "--processes", str(WORKERS)]
    with logged_statements(session) as since:
        workers = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            time.sleep(SETTLING)
            since()
            time.sleep(WATCHED)
            counted = Counter(since())
        finally:
            workers.send_signal(signal.SIGTERM)
            workers.wait()
    most = SCATTER * WORKERS * WATCHED / POLL_SECONDS
    listed = "; ".join(f"{number} times `{text}`" for text, number in counted.most_common())
    holds = 0 < counted.total() <= most
    name = f"{WORKERS} workers that watch both empty queues every {POLL_SECONDS} s send one query each time"
    return Check(name, holds, f"in {WATCHED:.0f} s {listed}")
