"""The sha256 of files, remembered for as long as a file does not change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from .errors import PipelineError

logger = logging.getLogger("trainloom")

SETTLED = 2_000_000_000  # nanoseconds; the coarsest time stamps of a file system (FAT) are 2 s apart


class FileStillWritten(PipelineError, ValueError):
    """A file was modified while its digest was taken."""


class FileDigests:
    """Digests of files, kept in `<folder>/digests` by path, size, inode and times of modification and change.

    Thread-safe, fork-safe and shared by any number of processes: every record is a file of its own that is replaced
    atomically. A folder that cannot be written costs time only.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder) / "digests"

    def sha256_of(self, path: str | os.PathLike[str]) -> str:
        """The sha256 of a file's content, in lower-case hex; it is read only if it changed since it was last read.

        Raises
        ------
        FileStillWritten
            If the file changes while it is read.
        OSError
            If it cannot be read.
        """
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            known = self._recall(path, _fingerprint(before))
            if known is not None:
                return known
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        if _fingerprint(before) != _fingerprint(after):
            raise FileStillWritten(f"The file {path} changed while it was read: try again when nobody writes to it")
        self.remember_read(path, sha256, before)
        return sha256

    def remember_read(self, path: str | os.PathLike[str], sha256: str, status: os.stat_result) -> None:
        """Record the digest of a file that was read after its `status` was taken."""
        # A change within the resolution of the time stamps would leave them as they are: trust only those that are old.
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED:
            self._record(path, _fingerprint(status), sha256)

    def remember_written(self, path: str | os.PathLike[str], sha256: str) -> None:
        """Record the digest of a file that the caller has just written and nobody will write again."""
        self._record(path, _fingerprint(os.stat(path)), sha256)

    def forget(self, path: str | os.PathLike[str]) -> None:
        """Drop what is known of a file that was deleted."""
        with suppress(OSError):  # what stays behind does not match any other file
            self._record_of(path).unlink(missing_ok=True)

    def _recall(self, path: str | os.PathLike[str], fingerprint: dict[str, int]) -> str | None:
        try:
            record = json.loads(self._record_of(path).read_bytes())
            return str(record["sha256"]) if record["fingerprint"] == fingerprint else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # unknown, or a damaged record: the file is read again

    def _record(self, path: str | os.PathLike[str], fingerprint: dict[str, int], sha256: str) -> None:
        record = json.dumps({"path": os.path.abspath(path), "fingerprint": fingerprint, "sha256": sha256})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(record)
                os.replace(temporary, self._record_of(path))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            logger.debug("the digest of %s is not remembered: %s", path, error)

    def _record_of(self, path: str | os.PathLike[str]) -> Path:
        name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return self._folder / f"{name}.json"


def _fingerprint(status: os.stat_result) -> dict[str, int]:
    return {
        "size": status.st_size,
        "inode": status.st_ino,
        "device": status.st_dev,
        "mtime_ns": status.st_mtime_ns,
        # The time of modification can be set back (rsync --inplace --times does), this one cannot.
        "ctime_ns": status.st_ctime_ns,
    }
