"""A stream that checks, while it is read, that it delivers the bytes its sha256 promises."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .content import PIECE
from .errors import ObjectDamaged


class Source(Protocol):
    """What is read: any binary stream of the storage engine."""

    def read(self, size: int = -1, /) -> bytes | memoryview: ...

    def close(self) -> None: ...


class VerifyingReader(io.BufferedIOBase):
    """Reads `source` to its end; cannot seek. Owns `source` and closes it.

    The last bytes are handed out only after the digest of the whole was found right, so that neither a reader who waits
    for the end of the stream nor one who reads exactly `size` bytes can take damaged content for the object.

    It is its own buffer: pieces as the source gives them are handed on without a copy where a reader asks for as much.

    Parameters
    ----------
    source : Source
        The stored bytes, from the first on.
    sha256 : str
        What they must hash to.
    size : int
        How many there must be, in bytes.
    where : str
        The store, as errors name it.
    guard : callable, optional
        Makes a context manager that is entered around each read of `source` and translates the engine's errors.

    Raises
    ------
    ObjectDamaged
        From a read, when the source ends early or holds other bytes.
    """

    def __init__(
        self,
        source: Source,
        *,
        sha256: str,
        size: int,
        where: str,
        guard: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__()
        self._source = source
        self._sha256 = sha256
        self._where = where
        self._guard = guard
        self._left = size  # bytes that the source still has to give
        self._held: bytes | memoryview = b""  # what it gave and nobody took
        self._digest = hashlib.sha256()
        self._verified = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        pieces = [*self._pieces(None if size is None or size < 0 else size)]
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        self._hold()
        return bytes(self._take(len(self._held) if size < 0 else size))

    def peek(self, size: int = 0, /) -> bytes:
        """What the next read begins with, without going on; empty only at the end."""
        self._hold()
        return bytes(self._held)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def _pieces(self, size: int | None) -> Iterator[bytes | memoryview]:
        """So many bytes in pieces, fewer at the end; all that is left for None."""
        while size is None or size > 0:
            self._hold()
            if not self._held:
                return
            piece = self._take(len(self._held) if size is None else size)
            if size is not None:
                size -= len(piece)
            yield piece

    def _take(self, size: int) -> bytes | memoryview:
        """At most so many bytes of what is held."""
        held = self._held
        if size >= len(held):
            self._held = b""
            return held
        self._held = memoryview(held)[size:]
        return memoryview(held)[:size]

    def _hold(self) -> None:
        """Have bytes to take, unless the end is reached; raises where it is reached with other bytes than promised."""
        if self.closed:
            raise ValueError("read of a closed stream")
        if self._held:
            return
        if self._left:
            with self._guard():
                piece = self._source.read(min(PIECE, self._left))
            if not piece:
                raise self._damaged(f"{self._left} bytes are missing at its end")
            self._digest.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._verify()
            self._held = piece
        elif not self._verified:
            self._verify()

    def _verify(self) -> None:
        found = self._digest.hexdigest()
        if found != self._sha256:
            raise self._damaged(f"its bytes have the sha256 {found}")
        self._verified = True

    def _damaged(self, what: str) -> ObjectDamaged:
        return ObjectDamaged(self._sha256, self._where, what)
