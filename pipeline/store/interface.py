"""The store: objects addressed by the sha256 of their content."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from .address import SCHEME, checked_sha256, parse_address
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
    "checked_sha256",
    "parse_address",
]

PIECE = 1 << 20  # bytes copied and handed to a store at a time
HASHED_PIECE = 1 << 18  # bytes hashed at a time when nothing else is done with them: they stay in the processor's cache
SPOOL_IN_MEMORY = 8 << 20  # bytes of a stream that cannot be rewound kept in memory before a temporary file is used
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
    """

    @property
    @abstractmethod
    def where(self) -> str:
        """The store as messages name it, without credentials."""

    def put(self, content: bytes | BinaryIO | os.PathLike[str], *, kind: str = "") -> StoredObject:
        """Store content and return what the store now knows of it.

        The content is hashed first: if it is there already, only its mark is renewed (the first `kind` stays) and
        nothing is uploaded. It is hashed again while it is uploaded. Memory is bounded whatever its size; a stream that
        cannot be rewound is spooled to a temporary file.

        Parameters
        ----------
        content : bytes, binary stream or path
            A stream is read from its present position to its end.
        kind : str, optional
            At most 64 letters, digits and `_.+/-`.

        Raises
        ------
        ContentChanged
            If the content was modified meanwhile.
        StoreUnavailable
            If the store cannot be reached or written.
        TypeError
            If the content is text.
        ValueError
            If `kind` has another form.
        """
        checked_kind(kind)
        with _rewindable(content) as stream:
            start = stream.tell()
            sha256, size = _digest(stream)
            present = self._renew(sha256)
            if present is not None:
                return present
            stream.seek(start)
            return self._upload(_pieces(stream, sha256), sha256, size, kind)

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
        reader = self._open(checked_sha256(sha256))
        return cast(BinaryIO, io.BufferedReader(reader, buffer_size=PIECE))

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
    def _upload(self, pieces: Iterator[bytes], sha256: str, size: int, kind: str) -> StoredObject:
        """Write all pieces, then publish them in one step; when another was faster, drop them and renew its mark.

        `pieces` raises `ContentChanged` at its end if it did not deliver what was promised: publish only after that.
        """

    @abstractmethod
    def _open(self, sha256: str) -> VerifyingReader: ...

    @abstractmethod
    def _stat(self, sha256: str) -> StoredObject: ...

    @abstractmethod
    def _list(self) -> Iterator[StoredObject]: ...

    @abstractmethod
    def _delete(self, sha256: str) -> None: ...


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


@contextmanager
def _rewindable(content: Any) -> Iterator[BinaryIO]:
    """`content` (whatever a caller gave) as a stream that can be read twice."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        yield io.BytesIO(content)
    elif isinstance(content, os.PathLike):
        with open(content, "rb") as file:
            yield file
    elif not hasattr(content, "read"):
        given = type(content).__name__
        raise TypeError(f"Content of type {given} cannot be stored: give bytes, a binary stream or a Path")
    elif isinstance(content, io.TextIOBase):
        raise TypeError("A text stream cannot be stored: open the file in binary mode")
    elif content.seekable():
        yield content
    else:
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY) as spool:
            shutil.copyfileobj(content, spool, PIECE)
            spool.seek(0)
            yield cast(BinaryIO, spool)


def _digest(stream: BinaryIO) -> tuple[str, int]:
    """The sha256 and the number of bytes from the present position to the end."""
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(HASHED_PIECE):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def _pieces(stream: BinaryIO, sha256: str) -> Iterator[bytes]:
    """Yield the stream in pieces; raise `ContentChanged` after the last if they do not hash to `sha256`."""
    digest = hashlib.sha256()
    while piece := stream.read(PIECE):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != sha256:
        raise ContentChanged(sha256, digest.hexdigest())
