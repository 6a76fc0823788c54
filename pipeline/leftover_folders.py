"""Folders that a process which was killed has left behind."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import psutil

AGE = 3600.0  # s since the last change; a younger one may be another machine's, which shares the disk


def prefix(name: str) -> str:
    """What the name of such a folder begins with, so that `sweep` finds out whether its process lives."""
    return f"{name}-{os.getpid()}-"


def sweep(parent: Path, name: str) -> None:
    """Remove the folders in `parent` with such names, of this user, whose process has ended, and which are old."""
    pattern = re.compile(re.escape(name) + r"-(\d+)-.+")
    for folder in parent.glob(f"{name}-*"):
        named = pattern.fullmatch(folder.name)
        with suppress(OSError):  # gone meanwhile
            found = folder.lstat()
            old = time.time() - found.st_mtime > AGE
            if named and old and found.st_uid == os.getuid() and not psutil.pid_exists(int(named[1])):
                shutil.rmtree(folder, ignore_errors=True)
