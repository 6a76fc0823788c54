"""Python objects in messages between processes: small ones inside the message, large buffers in handed-over memory.

A message is one packet of a Unix socket, which the kernel delivers whole or not at all: any number of processes may
send into one end and receive from the other without a lock, so that none can die holding one, and none can leave half
a message behind.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
from collections.abc import Sequence
from typing import Any

from datasets_impl.memory_segment import Segment, SegmentPool

INLINE = 1 << 15  # bytes of a pickled object that travel in the packet; Linux allows some 200,000 by default
LARGE = 1 << 14  # bytes of a buffer (of an array) from which it travels in a segment
MOST_BUFFERS = 2000  # that travel in a segment beside the pickled object: their sizes have to fit into the packet


class PeerGoneError(Exception):
    """Nobody receives any more."""


class Parcel:
    """A message that is ready to be sent."""

    def __init__(self, value: Any, pool: SegmentPool) -> None:
        buffers: list[memoryview] = []

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < LARGE or len(buffers) == MOST_BUFFERS:
                return True
            buffers.append(raw)
            return False

        self.payload = pickle.dumps(value, protocol=5, buffer_callback=keep_in_band)
        self.segment: Segment | None = None
        if buffers or len(self.payload) > INLINE:
            sizes = [buffer.nbytes for buffer in buffers]
            inline: bytes | None = self.payload
            if len(self.payload) > INLINE:
                buffers.append(memoryview(self.payload))
                sizes.append(len(self.payload))
                inline = None
            self.segment = pool.pack(buffers)
            self.payload = pickle.dumps((self.segment.size, sizes, inline))


class ObjectChannel:
    """One end of a socket, in one process."""

    def __init__(self, end: socket.socket, pool: SegmentPool) -> None:
        self._end = end
        self._pool = pool
        self._packet = bytearray(2 * INLINE)
        self._view = memoryview(self._packet)
        self._ancillary = socket.CMSG_SPACE(array.array("i").itemsize)

    def fileno(self) -> int:
        """The descriptor, to be waited for."""
        return self._end.fileno()

    def send(self, value: Any) -> None:
        """Send an object; waits while the channel is full.

        Raises:
            PeerGoneError: nobody receives any more.
        """
        self.post(Parcel(value, self._pool))

    def post(self, parcel: Parcel) -> None:
        """Send what is packed already.

        Raises:
            PeerGoneError: nobody receives any more.
            BlockingIOError: the channel does not block, and is full: try again.
        """
        try:
            if parcel.segment is None:
                self._end.send(parcel.payload)
            else:
                descriptor = array.array("i", [parcel.segment.fd])
                self._end.sendmsg([parcel.payload], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
                parcel.segment.close()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGoneError from error

    def receive(self) -> Any:
        """Return the next object; waits for it.

        Raises:
            EOFError: nobody sends any more.
            BlockingIOError: the channel does not block, and there is none.
        """
        try:
            length, ancillary, _, _ = self._end.recvmsg_into([self._packet], self._ancillary, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise EOFError from error
        if not length:
            raise EOFError
        if not ancillary:
            return pickle.loads(self._view[:length])
        size, sizes, inline = pickle.loads(self._view[:length])
        fds = array.array("i", ancillary[0][2])
        try:
            segment = Segment(fds[0], size)
        except BaseException:
            os.close(fds[0])
            raise
        return self._unpacked(segment, sizes, inline)

    def _unpacked(self, segment: Segment, sizes: Sequence[int], inline: bytes | None) -> Any:
        buffers = self._pool.unpack(segment, sizes)
        payload = buffers.pop() if inline is None else inline
        return pickle.loads(payload, buffers=buffers)

    def close(self) -> None:
        """Close this end: the others then notice that nobody is here."""
        self._end.close()
