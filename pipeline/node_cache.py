"""The data files of a node: content-addressed copies shared by all its processes, verified and bounded in size."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from filelock import FileLock, Timeout

from .errors import PipelineError
from .file_digest import FileDigests
from .store.address import checked_sha256
from .store.errors import ObjectMissing
from .store.interface import PIECE, Store

WAIT = 5.0  # s for another process that makes a copy, before this one shows again that it waits
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DataFileChanged(PipelineError, ValueError):
    """A data file no longer has the content under whose sha256 it was recorded."""

    def __init__(self, path: Path, recorded: str, found: str) -> None:
        super().__init__(
            f"The data file {path} has changed since it was recorded (sha256 {recorded} then, {found} now): "
            "restore the old file, or insert the new one as a new dataset configuration"
        )


class DataFileMissing(PipelineError, ValueError):
    """A data file is neither in its folder, nor in the cache, nor in the store."""


class DataFileName(PipelineError, ValueError):
    """A name of a data file leads out of its folder."""


class CacheFull(PipelineError):
    """There is no room for a data file in the node's cache."""


class NodeCache:
    """Copies of data files at `<folder>/<sha256>/<name>`, read-only.

    A file that belongs to another one (`companion_of`) lies in the folder of that one.

    Files are copied, never linked: a hard link would follow when somebody writes into the original. Each call verifies
    the copy and, where it exists, the original; both are read again only if they changed.

    A file that was fetched is in use until `release`, `close` or the end of the process, however it ends, and is not
    evicted meanwhile. Forked children share their parent's use. Otherwise the least recently used files make room.

    Thread-safe; any number of processes may share a folder on a local disk. After a fork the child may call `fetch`
    only if no other thread of its parent was inside one.

    Parameters
    ----------
    folder : path
        Made at the first `fetch`.
    budget_bytes : int
        How many bytes the copies may have in total.
    moved : callable
        Called for every piece that is copied, and now and then while another process fills what is asked for.
    """

    def __init__(
        self, folder: str | os.PathLike[str], budget_bytes: int, moved: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = Path(folder).absolute()
        self._budget = budget_bytes
        self._moved = moved
        self._digests = FileDigests(self._folder)
        self._locks = self._folder / "locks"
        self._filling = self._folder / "filling"
        self._in_use: dict[str, int] = {}  # sha256 -> descriptor that holds the shared lock
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def directory(self, sha256: str) -> Path:
        """The folder in which the files of this content lie."""
        return self._folder / checked_sha256(sha256)

    def fetch(
        self,
        name: str,
        sha256: str,
        source: str | os.PathLike[str] | None = None,
        *,
        store: Store | None = None,
        companion_of: str | None = None,
    ) -> Path:
        """Return the verified copy of a data file; make it first if it is not there.

        Parameters
        ----------
        name : str
            The file's name, relative to `directory(sha256)`, or to that of the file it belongs to.
        sha256 : str
            The digest of the content it must have.
        source : path, optional
            Where the original lies; if there is no such file, the copy is made from the store.
        store : Store, optional
            Asked for the object `sha256` when the original is missing.
        companion_of : str, optional
            The digest of another data file, in whose folder this one belongs; they are in use and evicted together.

        Raises
        ------
        DataFileChanged
            If the original exists and has other content, also when a good copy is there.
        DataFileMissing
            If there is no copy, no original and no such object.
        DataFileName
            If the name leads out of the folder.
        CacheFull
            If the budget or the disk has no room; nothing half-written stays.
        """
        held = sha256 if companion_of is None else companion_of
        target = self.directory(held) / _checked_name(name)
        original = Path(source) if source is not None else None
        first_use = self._hold(held)
        try:
            with self._filled_alone(sha256):
                if not self._is_good(target, sha256):
                    self._fill(target, sha256, original, store)
                elif original is not None and original.is_file():
                    self._refuse_changed(original, sha256)
        except BaseException:
            if first_use:
                self.release(held)
            raise
        return target

    @contextmanager
    def _filled_alone(self, sha256: str) -> Iterator[None]:
        """The lock under which one process at a time makes the copy of a content."""
        lock = FileLock(self._locks / f"{sha256}.fill", mode=0o600)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=WAIT)
            except Timeout:
                self._moved()
        try:
            yield
        finally:
            lock.release()

    def release(self, sha256: str) -> None:
        """Say that this process no longer uses the files of this content; no error if it did not."""
        with self._guard:
            handle = self._in_use.pop(sha256, None)
        if handle is not None:
            os.close(handle)  # not LOCK_UN, which would take the lock from forked children too

    def close(self) -> None:
        """Release everything."""
        for sha256 in list(self._in_use):
            self.release(sha256)

    def _hold(self, sha256: str) -> bool:
        """Mark as in use, and as used last; tells whether this process did not use it before."""
        self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._guard:
            first_use = sha256 not in self._in_use
            if first_use:
                handle = self._open_use_lock(sha256)
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits only while another process evicts just these files
                self._in_use[sha256] = handle
            os.utime(self._in_use[sha256])
        return first_use

    def _open_use_lock(self, sha256: str) -> int:
        return os.open(self._locks / f"{sha256}.use", os.O_RDWR | os.O_CREAT, 0o600)

    def _is_good(self, target: Path, sha256: str) -> bool:
        return target.is_file() and self._digests.sha256_of(target) == sha256

    def _refuse_changed(self, original: Path, sha256: str) -> None:
        found = self._digests.sha256_of(original)
        if found != sha256:
            raise DataFileChanged(original, sha256, found)

    def _fill(self, target: Path, sha256: str, original: Path | None, store: Store | None) -> None:
        status = original.stat() if original is not None and original.is_file() else None
        with _opened(target.name, sha256, original, store) as (stream, size):
            draft = self._reserve(sha256, size)
            try:
                with self._space_for(size):
                    found = _copy(stream, draft, self._moved)
                if found != sha256:  # an object's own stream verifies itself: this is the original
                    assert original is not None
                    raise DataFileChanged(original, sha256, found)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.replace(draft, target)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        self._digests.remember_written(target, sha256)
        if original is not None and status is not None:
            self._digests.remember_read(original, sha256, status)

    def _reserve(self, sha256: str, size: int) -> Path:
        """Make room and take it, so that other processes count it: an empty file of the final length on disk."""
        self._filling.mkdir(mode=0o700, exist_ok=True)
        draft = self._filling / sha256
        with FileLock(self._locks / "room", mode=0o600):
            draft.unlink(missing_ok=True)  # of a process that died
            self._make_room(size)
            try:
                with self._space_for(size), open(draft, "xb") as file:
                    if size:
                        os.posix_fallocate(file.fileno(), 0, size)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return draft

    def _make_room(self, size: int) -> None:
        self._drop_abandoned()
        cached = [folder for folder in self._folder.iterdir() if len(folder.name) == 64]
        excess = size - self._budget + sum(map(_size_of, [*cached, self._filling]))
        for folder in sorted(cached, key=self._last_use):
            if excess <= 0:
                return
            excess -= self._evict(folder)
        if excess > 0:
            raise CacheFull(
                f"The cache {self._folder} has no room for {size} bytes: its budget is {self._budget} bytes and what "
                "it holds is in use, give it a larger budget or wait until other trainings end"
            )

    def _drop_abandoned(self) -> None:
        """Remove what processes left behind that died while they filled or evicted."""
        for draft in self._filling.iterdir():
            if draft.is_dir():  # evicted under the lock that is held here
                shutil.rmtree(draft)
                continue
            with suppress(Timeout), FileLock(self._locks / f"{draft.name}.fill", timeout=0, mode=0o600):
                draft.unlink(missing_ok=True)

    def _last_use(self, folder: Path) -> float:
        try:
            return (self._locks / f"{folder.name}.use").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _evict(self, folder: Path) -> int:
        """Remove a content's files unless they are in use; returns how many bytes that freed."""
        handle = self._open_use_lock(folder.name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        else:
            size = _size_of(folder)
            for path in folder.rglob("*"):
                self._digests.forget(path)
            # First out of sight as a whole, so that a crash in between leaves no half a folder.
            shutil.rmtree(folder.rename(self._filling / f"evicted-{folder.name}"))
            return size
        finally:
            os.close(handle)

    @contextmanager
    def _space_for(self, size: int) -> Iterator[None]:
        """Say of a full disk that it is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise CacheFull(
                f"The disk of the cache {self._folder} has no room for {size} bytes ({error.strerror}): "
                "free space on it, or set dataset_cache_dir to a folder on another disk"
            ) from error


def _checked_name(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataFileName(f"The data file name {name!r} leads out of its folder: give a relative name without '..'")
    return name


@contextmanager
def _opened(name: str, sha256: str, original: Path | None, store: Store | None) -> Iterator[tuple[BinaryIO, int]]:
    """The stream to copy from and its length in bytes: the original's if it exists, else the stored object's."""
    if original is not None and original.is_file():
        with open(original, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
        return
    searched = [str(original.parent)] if original is not None else []
    try:
        if store is None:
            raise ObjectMissing(sha256, "no store")
        size, stream = store.stat(sha256).size, store.open(sha256)
    except ObjectMissing:
        searched += [store.where] if store is not None else []
        raise DataFileMissing(
            f"The data file {name} (sha256 {sha256}) is not in {' nor in '.join(searched) or 'the cache'}: "
            "copy it to the dataset folder of this machine"
        ) from None
    with stream:
        yield stream, size


def _copy(stream: BinaryIO, draft: Path, moved: Callable[[], None]) -> str:
    """Write the stream to `draft`, read-only and synced to disk; returns the sha256 of what was written. `moved` is
    called for every piece."""
    digest = hashlib.sha256()
    with open(draft, "r+b") as file:
        while piece := stream.read(PIECE):
            digest.update(piece)
            file.write(piece)
            moved()
        file.truncate()
        file.flush()
        # The digest is remembered from here on: the bytes must not be lost in a power failure that it survives.
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o400)
    return digest.hexdigest()


def _size_of(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish meanwhile do not count."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
