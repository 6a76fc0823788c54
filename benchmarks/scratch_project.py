"""A project in a temporary folder, with servers of its own, for as long as a benchmark runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainloom import Session, connect

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("trainloom")
TORCH_THREADS = 1
DATABASE_VARIABLES = ("DJ_HOST", "DJ_USER", "DJ_PASS", "DJ_BACKEND")


@contextmanager
def scratch_project(**settings: Any) -> Iterator[Session]:
    """An open session on an empty project; servers and folder are gone afterwards.

    No setting of the person who measures reaches it. Its code folder is this repository, so that recording the git
    commit costs what it costs people.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("TRAINLOOM_") or name in DATABASE_VARIABLES:
            del os.environ[name]
    try:
        with tempfile.TemporaryDirectory(prefix="tl-bench-", dir="/tmp") as folder:  # short enough for sockets in it
            Path(folder).chmod(0o755)  # as root, PostgreSQL runs as a user who has to pass through
            os.environ["TRAINLOOM_HOME"] = str(Path(folder, "home"))
            try:
                with connect(code_dir=REPOSITORY, torch_threads=TORCH_THREADS, **settings) as session:
                    yield session
            finally:
                subprocess.run([COMMAND, "db", "stop"], check=True, stdout=subprocess.DEVNULL)
    finally:
        os.environ.clear()
        os.environ.update(before)
