"""Reads the chunks of a GridFS file in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gridfs.errors import CorruptGridFile
from pymongo import ASCENDING, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure

# Bytes of chunks asked for at a time: so few that a chunk is still in the processor's cache when it is hashed and
# written. A download holds two answers in memory.
ANSWER = 12 << 20
CHUNKS_PER_ANSWER = 1_000  # at most, of small ones


class ChunkReader:
    """A source for `VerifyingReader`: hands out the bytes of chunks without copying them.

    Reads where the collection's read preference says. What is missing there, because it came only lately, or cannot
    be had, because the server is gone or not ready, is asked of the primary, once. Each answer is a query of its own
    and no cursor waits on a server: to go on with one, the driver would wait for a server that is lost. A thread asks
    for the next answer while one is used.

    Parameters
    ----------
    chunks : Collection
        `<bucket>.chunks`.
    document : mapping
        The file document.

    Raises
    ------
    CorruptGridFile
        From a read, if chunks are missing, of other sizes or too many.
    """

    def __init__(self, chunks: Collection[dict[str, Any]], document: Mapping[str, Any]) -> None:
        self._chunks = chunks
        self._upload = document["_id"]
        self._length = int(document["length"])
        self._chunk_size = int(document["chunkSize"])
        self._number = 0
        self._rest: bytes | memoryview = b""
        self._answer: deque[dict[str, Any]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._asked: deque[Future[list[dict[str, Any]]]] = deque()
        self._unasked = 0  # the first chunk that was not asked for

    def read(self, size: int = -1, /) -> bytes | memoryview:
        """At most `size` bytes, not across the end of a chunk; none at the end of the file."""
        piece = self._rest or self._next()
        self._rest = b""
        if 0 <= size < len(piece):  # else the chunk itself, without a copy
            piece = memoryview(piece)
            piece, self._rest = piece[:size], piece[size:]
        return piece

    def close(self) -> None:
        """Let go of what was not handed out, and of the thread when it has its answer."""
        self._forget()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _forget(self) -> None:
        self._answer.clear()
        self._asked.clear()
        self._unasked = self._number

    def _next(self) -> bytes:
        due = min(self._chunk_size, self._length - self._number * self._chunk_size)
        if due <= 0:
            return b""
        try:
            data = self._fetch(due)
        except (AutoReconnect, CorruptGridFile, OperationFailure):
            self._forget()
            self._chunks = self._chunks.with_options(read_preference=ReadPreference.PRIMARY)
            data = self._fetch(due)
        self._number += 1
        return data

    def _fetch(self, due: int) -> bytes:
        """The next chunk, of `due` bytes; the last only if none follows."""
        if not self._answer:
            self._answer.extend(self._following())
        chunk = self._answer.popleft() if self._answer else None
        if chunk is None or chunk["n"] != self._number:
            raise CorruptGridFile(f"chunk {self._number} is missing")
        data: bytes = chunk.get("data", b"")
        if len(data) != due:
            raise CorruptGridFile(f"chunk {self._number} has {len(data)} bytes instead of {due}")
        if self._answer and (self._number + 1) * self._chunk_size >= self._length:
            raise CorruptGridFile(f"chunks follow the last one, {self._number}")
        return data

    def _following(self) -> list[dict[str, Any]]:
        """The next answer; the one after it is asked for at once."""
        total = -(-self._length // self._chunk_size)
        several = max(1, min(ANSWER // self._chunk_size, CHUNKS_PER_ANSWER))
        if not self._asked and total - self._number <= several:
            return self._ask(self._number, total - self._number, last=True)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="download")
        while len(self._asked) < 2 and self._unasked < total:
            count = min(several, total - self._unasked)
            self._asked.append(self._thread.submit(self._ask, self._unasked, count, self._unasked + count == total))
            self._unasked += count
        return self._asked.popleft().result()

    def _ask(self, number: int, count: int, last: bool) -> list[dict[str, Any]]:
        """So many chunks from a number on; with the last of them one that follows, which must not be there."""
        wanted = {"files_id": self._upload, "n": {"$gte": number}}
        # A negative limit: the server keeps no cursor.
        return list(self._chunks.find(wanted, {"n": 1, "data": 1}).sort("n", ASCENDING).limit(-(count + last)))
