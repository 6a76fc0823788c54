"""The store: objects addressed by the sha256 of their content."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.file_digest import SETTLED, FileDigests, FileStillWritten

from .address import SCHEME, checked_sha256, parse_address
from .content import PIECE, Pieces, bytes_left, digest_of, rewindable
from .errors import ContentChanged, NotAnAddress, ObjectDamaged, ObjectMissing, StoreError, StoreUnavailable
from .verifying_reader import VerifyingReader

__all__ = [
    "PIECE",
    "ContentChanged",
    "NotAnAddress",
    "ObjectDamaged",
    "ObjectMissing",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "StoredObject",
    "Unfinished",
    "checked_sha256",
    "parse_address",
]

LARGE = 32 << 20  # bytes from which on hashing takes longer than asking the store and remembering the digests of files
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,63}|")


@dataclass(frozen=True)
class StoredObject:
    """What the store knows of an object.

    Attributes
    ----------
    sha256 : str
        The digest of the content, 64 lower-case hexadecimal digits.
    size : int
        Its length in bytes.
    kind : str
        What the one who stored it first called it ("model", "checkpoint", ...), or "".
    created : datetime
        When it became visible (UTC).
    marked : datetime
        When its content was last put (UTC, by the clock of the store). A garbage collector spares what was marked
        lately, so that content put again just before a row names it is safe.
    """

    sha256: str
    size: int
    kind: str
    created: datetime
    marked: datetime


@dataclass(frozen=True)
class Unfinished:
    """What is left of an upload that was not published, or of a deletion that was not completed.

    Attributes
    ----------
    upload : str
        How the store names it.
    touched : datetime
        When bytes were last added (UTC, by the clock of the uploader).
    size : int
        Bytes it takes.
    """

    upload: str
    touched: datetime
    size: int


class Store(ABC):
    """Keeps objects by the sha256 of their content; each is kept once, however often it is put.

    An object is visible only when it is whole: an upload that was interrupted, by SIGKILL too, is never listed, opened
    or counted as present, and two processes that put the same content at once end with one object.

    Thread-safety: all methods may be called from several threads; a stream belongs to the thread that opened it.
    Fork-safety: a forked child may go on using the store (implementations connect anew); streams do not survive a
    fork. Ownership: the store owns its objects and copies what it is given; it never closes a stream that was handed to
    `put`, and who calls `open` closes the stream. An object is needed as long as a row names it; the store does not
    know the rows and deletes only what it is told to.

    Subclasses implement the underscored methods, which get checked arguments.

    Parameters
    ----------
    digests : FileDigests, optional
        Remembers the digests of large files that are put by their path, so that a file that did not change is not read
        again.
    """

    def __init__(self, digests: FileDigests | None = None) -> None:
        self._digests = digests

    @property
    @abstractmethod
    def where(self) -> str:
        """The store as messages name it, without credentials."""

    def put(
        self, content: bytes | BinaryIO | os.PathLike[str], *, kind: str = "", sha256: str | None = None
    ) -> StoredObject:
        """Store content and return what the store now knows of it.

        If it is there already, only its mark is renewed (the first `kind` stays) and nothing is uploaded. To know that,
        the content is hashed first, unless its digest is known or the store has no object of its length; whatever is
        uploaded is hashed on its way. Memory is bounded whatever its size; a stream that cannot be rewound is spooled
        to a temporary file.

        Parameters
        ----------
        content : bytes, binary stream or path
            A stream is read from its present position to its end.
        kind : str, optional
            At most 64 letters, digits and `_.+/-`.
        sha256 : str, optional
            The digest, where the caller knows it. If an object has it, the content is not read at all; else it is
            checked while it is uploaded.

        Raises
        ------
        ContentChanged
            If the content was modified meanwhile, or `sha256` is not its digest.
        StoreUnavailable
            If the store cannot be reached or written.
        TypeError
            If the content is text.
        ValueError
            If `kind` or `sha256` has another form.
        """
        checked_kind(kind)
        if sha256 is not None:
            present = self._renew(checked_sha256(sha256))
            if present is not None:
                return present
        with rewindable(content) as stream:
            expected = sha256
            if sha256 is None:
                expected = self._digest_first(content, stream)
                present = None if expected is None else self._renew(expected)
                if present is not None:
                    return present
            opened, status = time.time_ns(), os.fstat(stream.fileno()) if isinstance(content, os.PathLike) else None
            stored = self._upload(Pieces(stream, expected), kind)
            if status is not None:
                self._remember(Path(cast(os.PathLike[str], content)), stored, status, opened)
            return stored

    def _digest_first(self, content: object, stream: BinaryIO) -> str | None:
        """The sha256 of content that may be there already; None where no object is of its length: that of new content
        comes out of its upload."""
        size = bytes_left(stream)
        if size >= LARGE and not self._may_hold(size):
            return None
        if size >= LARGE and self._digests is not None and isinstance(content, os.PathLike):
            try:
                return self._digests.sha256_of(content)
            except FileStillWritten as error:
                raise StoreError(str(error)) from error
        return digest_of(stream)

    def _remember(self, path: Path, stored: StoredObject, status: os.stat_result, opened: int) -> None:
        """Remember the digest of a large file that was stable from before it was read, at `opened` (ns), until now."""
        if self._digests is None or stored.size < LARGE:
            return
        # Changed just before it was opened, it may change again within the resolution of its time stamps.
        if opened - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED and _same_file(path, status):
            self._digests.remember_read(path, stored.sha256, status)

    def put_all(self, contents: Sequence[tuple[bytes, str]]) -> Sequence[str]:
        """Store several small contents, each with its kind, with fewer waits for the store than one by one; returns
        their sha256.

        Raises as `put` does; some may have been stored then, and to put them all again is harmless.
        """
        return [self.put(content, kind=kind).sha256 for content, kind in contents]

    def open(self, sha256: str) -> BinaryIO:
        """Open an object as a buffered stream that is verified while it is read and cannot seek.

        Raises
        ------
        ObjectMissing
            If it is not there.
        ObjectDamaged
            From a read, at the latest from the one that would have delivered the last bytes.
        StoreUnavailable
            If the store cannot be reached, also from a read.
        """
        return cast(BinaryIO, self._open(checked_sha256(sha256)))

    def stat(self, sha256: str) -> StoredObject:
        """What the store knows of an object; `ObjectMissing` if it is not there."""
        return self._stat(checked_sha256(sha256))

    def list(self) -> Iterator[StoredObject]:
        """All whole objects, ordered by sha256; ones put or deleted meanwhile may be missed."""
        return self._list()

    def delete(self, sha256: str) -> None:
        """Remove an object at once.

        Deleting what is not there is no error: who repeats a deletion whose answer was lost has what was wanted.
        """
        self._delete(checked_sha256(sha256))

    def delete_unrenewed(self, seen: StoredObject) -> bool:
        """Remove an object unless it was put again since it was `seen`; returns whether this call removed it."""
        return self._delete_unrenewed(seen)

    def unfinished(self, before: datetime) -> Iterator[Unfinished]:
        """What was begun and neither finished nor touched since `before`."""
        return self._unfinished_before(before)

    def drop_unfinished(self, left: Unfinished) -> None:
        """Remove what is left of an upload; one that goes on after all ends with an error and publishes nothing."""
        self._drop_unfinished(left.upload)

    def now(self) -> datetime:
        """The time (UTC) by the clock that marks objects."""
        return self._now()

    def claim(self, project_id: str) -> str:
        """Let the store belong to a project unless it belongs to one; returns the id of the one it belongs to."""
        return self._claim(project_id)

    def get_bytes(self, sha256: str) -> bytes:
        """The whole verified content in memory; raises as `open` and its reads do."""
        with self.open(sha256) as stream:
            return stream.read()

    def download(self, sha256: str, path: str | os.PathLike[str]) -> None:
        """Write an object to `path`: the file appears whole, verified and synced to disk, or not at all.

        Raises as `open` and its reads do, and `OSError` if the file cannot be written.
        """
        target = Path(path)
        with self.open(sha256) as stream:
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    shutil.copyfileobj(stream, file, PIECE)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        sync_folder(target.parent)

    def address(self, sha256: str) -> str:
        """The object's address as rows hold it: `trainloom://<sha256>`."""
        return SCHEME + checked_sha256(sha256)

    @abstractmethod
    def _renew(self, sha256: str) -> StoredObject | None:
        """Renew the mark of an object that is there; None if it is not."""

    @abstractmethod
    def _upload(self, pieces: Pieces, kind: str) -> StoredObject:
        """Write all pieces, then publish them in one step; when another was faster, drop them and renew its mark.

        `pieces` knows its digest and size after its end, and raises `ContentChanged` there if it did not deliver what
        was promised: publish only after that.
        """

    def _may_hold(self, size: int) -> bool:
        """Whether an object of that many bytes may be there; True where that is not quickly known."""
        return True

    @abstractmethod
    def _open(self, sha256: str) -> VerifyingReader: ...

    @abstractmethod
    def _stat(self, sha256: str) -> StoredObject: ...

    @abstractmethod
    def _list(self) -> Iterator[StoredObject]: ...

    @abstractmethod
    def _delete(self, sha256: str) -> None: ...

    @abstractmethod
    def _delete_unrenewed(self, seen: StoredObject) -> bool: ...

    @abstractmethod
    def _unfinished_before(self, before: datetime) -> Iterator[Unfinished]: ...

    @abstractmethod
    def _drop_unfinished(self, upload: str) -> None: ...

    @abstractmethod
    def _now(self) -> datetime: ...

    @abstractmethod
    def _claim(self, project_id: str) -> str: ...


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder survive a power failure (a file's own fsync does not cover its name)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checked_kind(kind: str) -> str:
    """`kind`, if it has the form that `Store.put` asks for; else `ValueError`."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"The kind {kind!r} of an object must be at most 64 letters, digits and '_.+/-'")
    return kind


def _same_file(path: Path, status: os.stat_result) -> bool:
    """Whether the file still is the one, unchanged, whose `status` was taken."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return all(
        getattr(now, name) == getattr(status, name)
        for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    )
