"""The store in a folder: for tests and for machines on which no `mongod` runs."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from pipeline.file_digest import FileDigests

from .content import Pieces
from .errors import ObjectMissing, StoreUnavailable
from .interface import Store, StoredObject, Unfinished, sync_folder
from .verifying_reader import VerifyingReader

_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")


class FolderStore(Store):
    """Keeps each object as a folder `objects/ab/cdef.../` with the files `content` and `kind`.

    The object's folder is written and synced under `unfinished/` and appears under its name by one rename, so that
    content and kind are published together; what an interrupted upload leaves in `unfinished/` is never looked at.
    `created` is the modification time of `content`, `marked` that of `kind`. Who renews a mark holds the file `lock`
    shared, who deletes by the mark holds it alone: the system frees it when a process dies. Folders are 0700, files
    0600.

    Thread-safety, fork-safety: it holds no state but its path. Several hosts may share it on a file system whose
    renames are atomic.

    Parameters
    ----------
    root : path
        Made at the first `put`; reading from a store whose folder does not exist finds nothing.
    digests : FileDigests, optional
        As `Store` says.
    """

    def __init__(self, root: str | os.PathLike[str], *, digests: FileDigests | None = None) -> None:
        super().__init__(digests)
        self._root = Path(root).absolute()
        self._objects = self._root / "objects"
        self._unfinished = self._root / "unfinished"

    @property
    def where(self) -> str:
        return f"the folder store {self._root}"

    def _renew(self, sha256: str) -> StoredObject | None:
        folder = self._folder(sha256)
        with self._usable():
            if not folder.exists():
                return None
            with self._locked(fcntl.LOCK_SH):
                try:
                    os.utime(folder / "kind")
                except FileNotFoundError:
                    return None
            # Who published it may not have come to this yet, and our caller will rely on the object.
            sync_folder(folder.parent)
        try:
            return self._stat(sha256)
        except ObjectMissing:  # deleted in between
            return None

    def _upload(self, pieces: Pieces, kind: str) -> StoredObject:
        self._make()
        with self._usable():
            draft = Path(tempfile.mkdtemp(dir=self._unfinished))
        try:
            self._write(draft / "content", pieces)
            self._write(draft / "kind", [kind.encode()])
            self._publish(draft, self._folder(pieces.sha256))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # the reason of the failure matters more than what is left here
            raise
        return self._stat(pieces.sha256)

    def _make(self) -> None:
        with self._usable():
            for needed in (self._root, self._objects, self._unfinished):
                needed.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, path: Path, pieces: Iterable[bytes]) -> None:
        with self._usable():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            for piece in pieces:
                left = memoryview(piece)
                with self._usable():
                    while left:
                        left = left[file.write(left) :]
            with self._usable():
                os.fsync(handle)

    def _publish(self, draft: Path, folder: Path) -> None:
        with self._usable():
            sync_folder(draft)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                draft.rename(folder)
            except OSError as error:
                if error.errno not in (ENOTEMPTY, EEXIST):
                    raise
                with self._locked(fcntl.LOCK_SH), suppress(FileNotFoundError):  # deleted in between: _stat will say so
                    os.utime(folder / "kind")
                shutil.rmtree(draft)
            sync_folder(folder.parent)
            sync_folder(self._objects)

    def _open(self, sha256: str) -> VerifyingReader:
        with self._usable():
            try:
                file = open(self._folder(sha256) / "content", "rb", buffering=0)  # noqa: SIM115 - the reader owns it
            except FileNotFoundError:
                raise ObjectMissing(sha256, self.where) from None
        size = os.fstat(file.fileno()).st_size
        return VerifyingReader(file, sha256=sha256, size=size, where=self.where, guard=self._usable)

    def _stat(self, sha256: str) -> StoredObject:
        folder = self._folder(sha256)
        with self._usable():
            try:
                content, mark = (folder / "content").stat(), (folder / "kind").stat()
                kind = (folder / "kind").read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                raise ObjectMissing(sha256, self.where) from None
        return StoredObject(
            sha256=sha256,
            size=content.st_size,
            kind=kind,
            created=datetime.fromtimestamp(content.st_mtime, UTC),
            marked=datetime.fromtimestamp(mark.st_mtime, UTC),
        )

    def _list(self) -> Iterator[StoredObject]:
        for shard in self._names(self._objects, _SHARD):
            for rest in self._names(self._objects / shard, _REST):
                with suppress(ObjectMissing):  # deleted since it was listed
                    yield self._stat(shard + rest)

    def _delete(self, sha256: str) -> None:
        with self._usable():
            self._bury(self._folder(sha256))

    def _delete_unrenewed(self, seen: StoredObject) -> bool:
        folder = self._folder(seen.sha256)
        with self._usable():
            if not folder.exists():
                return False
            with self._locked(fcntl.LOCK_EX):
                try:
                    renewed = self._stat(seen.sha256).marked != seen.marked
                except ObjectMissing:
                    return False
                grave = None if renewed else self._hide(folder)
            if grave is not None:
                shutil.rmtree(grave)
        return grave is not None

    def _bury(self, folder: Path) -> None:
        grave = self._hide(folder)
        if grave is not None:
            shutil.rmtree(grave)

    def _hide(self, folder: Path) -> Path | None:
        """Let a folder vanish as a whole, also when this process dies before its files are gone; None if it is not
        there."""
        if not folder.is_dir():
            return None
        self._unfinished.mkdir(mode=0o700, exist_ok=True)
        grave = self._unfinished / f"deleted-{uuid.uuid4().hex}"
        try:
            folder.rename(grave)
        except FileNotFoundError:  # another process was faster
            return None
        return grave

    def _unfinished_before(self, before: datetime) -> Iterator[Unfinished]:
        with self._usable():
            names = sorted(os.listdir(self._unfinished)) if self._unfinished.is_dir() else []
        for name in names:
            folder = self._unfinished / name
            with self._usable(), suppress(FileNotFoundError):  # published or removed since it was listed
                found = [path.stat() for path in (folder, *folder.iterdir())]
                touched = datetime.fromtimestamp(max(status.st_mtime for status in found), UTC)
                if touched < before:
                    yield Unfinished(name, touched, sum(status.st_size for status in found[1:]))

    def _drop_unfinished(self, upload: str) -> None:
        # Hidden first: an uploader that goes on finds nothing to publish, instead of what is left of it.
        with self._usable():
            self._bury(self._unfinished / upload)

    def _now(self) -> datetime:
        self._make()
        with self._usable(), tempfile.TemporaryFile(dir=self._root) as file:  # a server of files has a clock of its own
            return datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)

    def _claim(self, project_id: str) -> str:
        self._make()
        mark = self._root / "project"
        with self._usable(), self._locked(fcntl.LOCK_EX):
            if not mark.exists():
                handle, draft = tempfile.mkstemp(dir=self._root)
                with os.fdopen(handle, "w") as file:
                    file.write(project_id)
                    file.flush()
                    os.fsync(handle)
                os.replace(draft, mark)
                sync_folder(self._root)
            return mark.read_text(encoding="ascii", errors="replace")

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        handle = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    def _folder(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256[2:]

    def _names(self, folder: Path, form: re.Pattern[str]) -> list[str]:
        with self._usable():
            try:
                return sorted(name for name in os.listdir(folder) if form.fullmatch(name))
            except FileNotFoundError:
                return []

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Say of any other operating system error that the folder cannot be used."""
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"Cannot use {self.where} ({error.strerror}): "
                "free space on its disk, or give this user the right to read and write it"
            ) from error
