"""A task's checkpoints on the node."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from .checkpoint_record import Recorded
from .store.interface import sync_folder

_NAME = re.compile(r"epoch(\d+)_step(\d+)_score([^_]+)_([0-9a-f]{64})\.checkpoint")
_UNFINISHED = ".unfinished-"


class CheckpointFolder:
    """One file per checkpoint, whose name says all that is known of it: the folder needs no index.

    A file appears whole and synced to disk, and is verified by the sha256 in its name when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def list(self) -> list[Recorded]:
        """What is here, by the names; none where there is no folder."""
        found = []
        for path in self.path.glob("*.checkpoint"):
            if parts := _NAME.fullmatch(path.name):
                epoch, step, score, sha256 = parts.groups()
                with suppress(OSError):  # gone: another process of this task removed it
                    size = path.stat().st_size
                    found.append(
                        Recorded(sha256, size, int(epoch), int(step), None if score == "None" else float(score))
                    )
        return found

    def write(self, content: bytes, checkpoint: Recorded) -> Path:
        """Write a checkpoint; raises `OSError` and leaves nothing where the disk refuses."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=_UNFINISHED)
        target = self.path / _name(checkpoint)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(self.path)
        return target

    def read(self, checkpoint: Recorded) -> bytes | None:
        """The content; None if it is damaged, gone or cannot be read."""
        try:
            content = (self.path / _name(checkpoint)).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == checkpoint.sha256 else None

    def remove(self, checkpoint: Recorded) -> None:
        """Remove one; one that cannot be removed stays, which harms nobody."""
        with suppress(OSError):
            (self.path / _name(checkpoint)).unlink()

    def clean(self) -> None:
        """Remove what a writer that was killed left behind."""
        for leftover in self.path.glob(f"{_UNFINISHED}*"):
            with suppress(OSError):
                leftover.unlink()

    def erase(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)  # what cannot be removed harms nobody


def _name(checkpoint: Recorded) -> str:
    position = f"epoch{checkpoint.epoch:06d}_step{checkpoint.step:09d}"
    return f"{position}_score{checkpoint.score!r}_{checkpoint.sha256}.checkpoint"
