"""A stream that checks, while it is read, that it delivers the bytes its sha256 promises."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from .errors import ObjectDamaged

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Source(Protocol):
    """What is read: any binary stream of the storage engine."""

    def read(self, size: int = -1, /) -> bytes | memoryview: ...

    def close(self) -> None: ...


class VerifyingReader(io.RawIOBase):
    """Reads `source` to its end; cannot seek. Owns `source` and closes it.

    The last bytes are handed out only after the digest of the whole was found right, so that neither a reader who waits
    for the end of the stream nor one who reads exactly `size` bytes can take damaged content for the object.

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
        self._left = size
        self._digest = hashlib.sha256()
        self._verified = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        if not self._left:
            self._verify()
            return 0
        with self._guard():
            piece = self._source.read(min(len(target), self._left))
        if not piece:
            raise self._damaged(f"{self._left} bytes are missing at its end")
        self._digest.update(piece)
        self._left -= len(piece)
        if not self._left:
            self._verify()
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def _verify(self) -> None:
        if self._verified:
            return
        if self._digest.hexdigest() != self._sha256:
            raise self._damaged(f"its bytes have the sha256 {self._digest.hexdigest()}")
        self._verified = True

    def _damaged(self, what: str) -> ObjectDamaged:
        return ObjectDamaged(self._sha256, self._where, what)
