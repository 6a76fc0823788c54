from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import leftover_folders

OLD = time.time() - 2 * leftover_folders.AGE


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def folder(parent: Path, name: str, changed: float = OLD) -> Path:
    made = parent / name
    made.mkdir()
    (made / "file").touch()
    os.utime(made, (changed, changed))
    return made


def test_what_a_dead_process_left_long_ago_is_removed(tmp_path: Path, ended: int) -> None:
    left = folder(tmp_path, f"work-{ended}-a8")
    others = [
        folder(tmp_path, f"work-{ended}-b9", time.time()),
        folder(tmp_path, f"{leftover_folders.prefix('work')}c1"),
        folder(tmp_path, "work-of-mine"),
        folder(tmp_path, f"homework-{ended}-d"),
    ]
    leftover_folders.sweep(tmp_path, "work")
    assert not left.exists()
    assert all((other / "file").exists() for other in others)
