"""Python objects in messages between processes: small ones inside the message, large buffers in handed-over memory.

A message is one packet of a Unix socket, which the kernel delivers whole or not at all: any number of processes may
send into one end and receive from the other without a lock, so that none can die holding one, and none can leave half
a message behind.
"""

from __future__ import annotations

import array
import errno
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from datasets_impl.memory_segment import Segment, SegmentPool

INLINE = 1 << 15  # bytes of a pickled object that travel in the packet; Linux allows some 200,000 by default
LARGE = 1 << 14  # bytes of a buffer (of an array) from which it travels in a segment
SMALL = 1 << 11  # bytes of a pickled object up to which several travel in one packet: a packet costs more than that
BUNDLED = INLINE // SMALL  # objects in one packet, at most
BUNDLE = 0  # the first byte of a packet with several objects; a pickled object begins otherwise
MOST_BUFFERS = 2000  # that travel in a segment beside the pickled object: their sizes have to fit into the packet


class PeerGoneError(Exception):
    """Nobody is at the other end any more."""


class UnreadableMessageError(Exception):
    """A message arrived whose object cannot be rebuilt here; the cause says why."""


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
            self.payload = pickle.dumps((self.segment.identity, self.segment.size, sizes, inline))

    @property
    def is_small(self) -> bool:
        """Whether it may travel in a packet with others."""
        return self.segment is None and len(self.payload) <= SMALL


class ObjectChannel:
    """One end of a socket, in one process."""

    def __init__(self, end: socket.socket, pool: SegmentPool) -> None:
        self._end = end
        self._pool = pool
        self._packet = bytearray(2 * INLINE)
        self._view = memoryview(self._packet)
        self._unread: deque[memoryview] = deque()  # pickled objects of the last packet
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
                parcel.segment.send(self._end, parcel.payload)
                self._pool.passed_on(parcel.segment)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGoneError from error

    def post_together(self, parcels: Sequence[Parcel]) -> None:
        """Send up to `BUNDLED` small parcels, which one process receives.

        Raises:
            PeerGoneError: nobody receives any more.
        """
        if len(parcels) == 1:
            self.post(parcels[0])
            return
        payloads = [parcel.payload for parcel in parcels]
        lengths = struct.pack(f"={len(payloads)}H", *map(len, payloads))
        try:
            self._end.send(b"".join((bytes((BUNDLE, len(payloads))), lengths, *payloads)))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGoneError from error

    def receive(self, wait: bool = True) -> Any:
        """Return the next object, with `wait` as soon as there is one, unless the channel does not block.

        Raises:
            PeerGoneError: nobody sends any more.
            BlockingIOError: there is none.
            UnreadableMessageError: the object cannot be rebuilt in this process.
            OSError: this process has no file descriptor left for the memory.
        """
        if self._unread:
            return _loads(self._unread.popleft())
        flags = socket.MSG_CMSG_CLOEXEC if wait else socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            length, ancillary, told, _ = self._end.recvmsg_into([self._packet], self._ancillary, flags)
        except ConnectionResetError as error:
            raise PeerGoneError from error
        if not length:
            raise PeerGoneError
        if told & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if self._packet[0] == BUNDLE:
            return self._first_of_bundle()
        if not ancillary:
            return _loads(self._view[:length])
        identity, size, sizes, inline = pickle.loads(self._view[:length])
        (fd,) = array.array("i", ancillary[0][2])
        segment = self._pool.received(fd, identity, size)
        return self._unpacked(segment, sizes, inline)

    def _first_of_bundle(self) -> Any:
        count = self._packet[1]
        start = 2 + 2 * count
        for length in struct.unpack_from(f"={count}H", self._packet, 2):
            self._unread.append(self._view[start : start + length])
            start += length
        return _loads(self._unread.popleft())

    def _unpacked(self, segment: Segment, sizes: Sequence[int], inline: bytes | None) -> Any:
        buffers = self._pool.unpack(segment, sizes)
        payload = buffers.pop() if inline is None else inline
        return _loads(payload, buffers)

    def close(self) -> None:
        """Close this end: the others then notice that nobody is here."""
        self._end.close()


def _loads(payload: Any, buffers: Sequence[memoryview] = ()) -> Any:
    try:
        return pickle.loads(payload, buffers=buffers)
    except Exception as error:  # the class of any object may do anything while it is rebuilt
        raise UnreadableMessageError(f"{type(error).__name__}: {error}") from error
