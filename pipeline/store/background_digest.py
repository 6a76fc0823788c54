"""The sha256 of a stream, computed while its pieces are on their way."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

AHEAD = 8  # pieces that may wait to be hashed: with the reader's pieces of 1 MiB, what this holds in memory


class BackgroundDigest:
    """Hashes in a thread of its own from the second piece on: the network and the disk are waited for meanwhile.

    hashlib gives the other threads way while it works. The thread ends with `close` or with the object. Belongs to one
    thread; does not survive a fork.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._pieces = 0
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: bytes | memoryview) -> None:
        """Hash a piece, which must not change any more."""
        self._pieces += 1
        if self._pieces == 1:  # mostly the only one, and not worth a thread
            self._digest.update(piece)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        if len(self._waiting) >= AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._digest.update, piece))

    def hexdigest(self) -> str:
        """The sha256 of all pieces so far, in lower-case hex."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread; what it has not hashed yet is dropped."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
