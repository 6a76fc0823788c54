"""Content on its way into a store."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from .errors import ContentChanged

PIECE = 1 << 20  # bytes copied and handed to a store at a time
HASHED_PIECE = 1 << 18  # bytes hashed at a time when nothing else is done with them: they stay in the processor's cache
SPOOL_IN_MEMORY = 8 << 20  # bytes of a stream that cannot be rewound kept in memory before a temporary file is used


class Pieces:
    """A stream from its present position to its end, in pieces, hashed while they are handed out.

    Parameters
    ----------
    stream : binary stream
        Read once; not closed.
    expected : str or None
        What it must hash to; None for whatever it hashes to.

    Attributes
    ----------
    sha256 : str
        The digest of what was handed out; empty before the end was reached.
    size : int
        Bytes handed out so far.
    """

    def __init__(self, stream: BinaryIO, expected: str | None) -> None:
        self._stream = stream
        self._expected = expected
        self.sha256 = ""
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        """Raises `ContentChanged` after the last piece if they do not hash to what was expected."""
        digest = hashlib.sha256()
        while piece := self._stream.read(PIECE):
            digest.update(piece)
            self.size += len(piece)
            yield piece
        self.sha256 = digest.hexdigest()
        if self._expected not in (None, self.sha256):
            raise ContentChanged(str(self._expected), self.sha256)


@contextmanager
def rewindable(content: Any) -> Iterator[BinaryIO]:
    """`content` (whatever a caller gave) as a stream that can be read twice; `TypeError` if it is none."""
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


def bytes_left(stream: BinaryIO) -> int:
    """How many bytes lie between the present position, which stays, and the end."""
    start = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    return end - start


def digest_of(stream: BinaryIO) -> str:
    """The sha256 of what lies between the present position, which stays, and the end."""
    start, digest = stream.tell(), hashlib.sha256()
    while piece := stream.read(HASHED_PIECE):
        digest.update(piece)
    stream.seek(start)
    return digest.hexdigest()
