"""The store in a folder: for tests and for machines on which no `mongod` runs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from .errors import ObjectMissing, StoreUnavailable
from .interface import Store, StoredObject, sync_folder
from .verifying_reader import VerifyingReader

_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")


class FolderStore(Store):
    """Keeps each object as a folder `objects/ab/cdef.../` with the files `content` and `kind`.

    The object's folder is written and synced under `unfinished/` and appears under its name by one rename, so that
    content and kind are published together; what an interrupted upload leaves in `unfinished/` is never looked at.
    `created` is the modification time of `content`, `marked` that of `kind`. Folders are 0700, files 0600.

    Thread-safety, fork-safety: it holds no state but its path. Several hosts may share it on a file system whose
    renames are atomic.

    Parameters
    ----------
    root : path
        Made at the first `put`; reading from a store whose folder does not exist finds nothing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).absolute()
        self._objects = self._root / "objects"
        self._unfinished = self._root / "unfinished"

    @property
    def where(self) -> str:
        return f"the folder store {self._root}"

    def _renew(self, sha256: str) -> StoredObject | None:
        folder = self._folder(sha256)
        with self._usable():
            try:
                os.utime(folder / "kind")
            except FileNotFoundError:
                return None
            # Who published it may not have come to this yet, and our caller will rely on the object.
            sync_folder(folder.parent)
        return self._stat(sha256)

    def _upload(self, pieces: Iterator[bytes], sha256: str, size: int, kind: str) -> StoredObject:
        with self._usable():
            for needed in (self._root, self._objects, self._unfinished):
                needed.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=self._unfinished))
        try:
            self._write(draft / "content", pieces)
            self._write(draft / "kind", iter([kind.encode()]))
            self._publish(draft, self._folder(sha256))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # the reason of the failure matters more than what is left here
            raise
        return self._stat(sha256)

    def _write(self, path: Path, pieces: Iterator[bytes]) -> None:
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
                with suppress(FileNotFoundError):  # deleted in between: _stat will say so
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
        folder = self._folder(sha256)
        with self._usable():
            if not folder.is_dir():
                return
            self._unfinished.mkdir(mode=0o700, exist_ok=True)
            # By the rename the object vanishes as a whole, also when this process dies before the files are gone.
            grave = self._unfinished / f"deleted-{uuid.uuid4().hex}"
            with suppress(FileNotFoundError):  # another process was faster
                folder.rename(grave)
                shutil.rmtree(grave)

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
