"""Memory that is handed from process to process: one owner at a time, nothing in the file system.

A segment is an anonymous file in memory (`memfd_create`) that travels with a message as a file descriptor. The kernel
frees it when the last process that holds it ends, however it ends: nothing can be left behind, and the size of
/dev/shm, small in containers, does not matter.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

# Each segment takes two file descriptors of the process (that of the mapping is the second), of which it has 1,024 by
# default: the numbers below leave room for several pipelines.
ALIGNMENT = 64  # bytes: a cache line, and what vector instructions like best
SMALLEST = 1 << 16  # bytes; sizes are rounded up, so that a segment fits again when the next message is a bit larger
KEPT = 8  # segments without content that a process keeps for its next messages
SPARE_BYTES = 6 << 10  # of the socket of spare segments: about 16 fit into what Linux makes of it
LENT = 32  # segments that the objects of a process may lie in at a time; what comes beyond that is copied
MAPPED = 32  # segments of others that a process keeps mapped, since they come back: mapping costs more than copying

_SPARE = struct.Struct("QQ")  # identity and size
_numbers = count()


class Segment:
    """A piece of memory that other processes can map.

    Attributes:
        identity: the same in all processes.
        size: in bytes.
        fd: the file; -1 after `close`.
    """

    def __init__(self, fd: int, identity: int, size: int) -> None:
        self.fd = -1
        self.identity = identity
        self.size = size
        # Populated at once: a fault for each page costs several times what copying the page does.
        self.memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.fd = fd

    @classmethod
    def create(cls, size: int) -> Segment:
        """Make one of at least that size."""
        step = max(SMALLEST, 1 << max(0, size.bit_length() - 3))
        size = -(-size // step) * step
        fd = os.memfd_create("trainloom-minibatch", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return cls(fd, (os.getpid() << 32) + next(_numbers), size)
        except BaseException:
            os.close(fd)
            raise

    def discard(self) -> None:
        """Free the memory, also where others still have it mapped; nobody may use it any more."""
        os.ftruncate(self.fd, 0)
        self.close()

    def send(self, end: socket.socket, message: bytes) -> None:
        """Send a message with the file."""
        end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.fd]))])

    def close(self) -> None:
        """Give up the file; the memory stays mapped as long as an object lies in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class SpareSegments:
    """Segments that processes have too many of, for those who have too few.

    Where steps make large results of small items, memory runs to the end of the pipeline; from here it comes back.
    """

    def __init__(self, ends: tuple[socket.socket, socket.socket] | None = None) -> None:
        self._giving, self._taking = ends or socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._giving.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SPARE_BYTES)
        self._giving.setblocking(False)
        self._taking.setblocking(False)

    def __reduce__(self) -> tuple[Any, ...]:
        return SpareSegments, ((self._giving, self._taking),)

    def give(self, segment: Segment) -> bool:
        """Offer a segment; whether there was a place for it."""
        try:
            segment.send(self._giving, _SPARE.pack(segment.identity, segment.size))
        except OSError:
            return False  # full, or everyone else is gone
        return True

    def take(self) -> tuple[int, int, int] | None:
        """Take the file, identity and size of one, if there is any."""
        try:
            message, fds, _, _ = socket.recv_fds(self._taking, _SPARE.size, 1)
        except OSError:
            return None
        return (fds[0], *_SPARE.unpack(message)) if fds else None

    def close(self) -> None:
        """Close both ends."""
        self._giving.close()
        self._taking.close()


class SegmentPool:
    """The segments that a process owns: those that wait to be filled, and those that objects of its own lie in.

    One thread uses it; the objects may be dropped in any.
    """

    def __init__(self, spare: SpareSegments | None = None) -> None:
        self._spare = spare
        self._free: list[Segment] = []
        self._lent: set[Segment] = set()
        self._returned: deque[Segment] = deque()
        self._mapped: dict[int, Segment] = {}
        self._closed = False

    def pack(self, buffers: Sequence[memoryview]) -> Segment:
        """Copy buffers one after another into a segment, which then belongs to the caller."""
        segment = self._take(sum(_aligned(buffer.nbytes) for buffer in buffers))
        start = 0
        with memoryview(segment.memory) as memory:
            for buffer in buffers:
                memory[start : start + buffer.nbytes] = buffer
                start += _aligned(buffer.nbytes)
        return segment

    def passed_on(self, segment: Segment) -> None:
        """Say that another process has the segment now."""
        self._mapped[segment.identity] = segment
        if len(self._mapped) > MAPPED:
            self._mapped.pop(next(iter(self._mapped))).close()

    def received(self, fd: int, identity: int, size: int) -> Segment:
        """Return the segment that another process has passed on; its file belongs to the segment."""
        segment = self._mapped.pop(identity, None)
        try:
            if segment is None:
                return Segment(fd, identity, size)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return segment

    def unpack(self, segment: Segment, sizes: Sequence[int]) -> list[memoryview]:
        """Return writable buffers of those sizes with what `pack` has put there, and take the segment over.

        They lie in the segment, which is used again once nothing refers to them; where many segments are in use
        already, they are copies.
        """
        self.tidy()
        if len(self._lent) >= LENT:
            whole = memoryview(bytearray(segment.memory))
            self._free.append(segment)
        else:
            # A ctypes array, because the end of its life can be noticed; views of it keep it alive.
            lent = (ctypes.c_char * segment.size).from_buffer(segment.memory)
            self._lent.add(segment)
            weakref.finalize(lent, self._take_back, segment).atexit = False
            whole = memoryview(lent).cast("B")
        buffers = []
        start = 0
        for size in sizes:
            buffers.append(whole[start : start + size])
            start += _aligned(size)
        return buffers

    def tidy(self) -> None:
        """Keep what has become free, and give away or free what is too much."""
        while self._returned:
            self._free.append(self._returned.popleft())
        while len(self._free) > KEPT:
            segment = self._free.pop(0)
            if self._spare is not None and self._spare.give(segment):
                self.passed_on(segment)
            else:
                segment.discard()

    def close(self) -> None:
        """Free what nothing lies in; the rest is freed when its objects are gone."""
        self._closed = True
        self._free.clear()
        self._returned.clear()
        self._mapped.clear()

    def _take_back(self, segment: Segment) -> None:
        # Called in any thread and at any moment, within the methods above too: they find it there the next time.
        self._lent.discard(segment)
        if not self._closed:
            self._returned.append(segment)

    def _take(self, size: int) -> Segment:
        self.tidy()
        # The last used first: the fewer circulate, the more of them are mapped already.
        for place in reversed(range(len(self._free))):
            if _fits(self._free[place], size):
                return self._free.pop(place)
        spare = None if self._spare is None else self._spare.take()
        if spare is not None:
            segment = self.received(*spare)
            if _fits(segment, size):
                return segment
            self._free.append(segment)
        return Segment.create(size)


def _fits(segment: Segment, size: int) -> bool:
    return size <= segment.size <= max(SMALLEST, 4 * size)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
