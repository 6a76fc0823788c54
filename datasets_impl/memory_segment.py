"""Memory that is handed from process to process: one owner at a time, nothing in the file system.

A segment is an anonymous file in memory (`memfd_create`) that travels with a message as a file descriptor. The kernel
frees it when the last process that holds it ends, however it ends: nothing can be left behind, and the size of
/dev/shm, small in containers, does not matter.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence

ALIGNMENT = 64  # bytes: a cache line, and what vector instructions like best
SMALLEST = 1 << 16  # bytes; sizes are rounded up, so that a segment fits again when the next message is a bit larger
KEPT = 4  # segments without an owner that a process keeps for its next messages
LENT = 64  # segments that the objects of a process may lie in at a time; what comes beyond that is copied


class Segment:
    """A piece of memory that another process can map."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = -1
        self.size = size
        # Populated at once: a fault for each page costs several times what copying the page does.
        self.memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.fd = fd

    def close(self) -> None:
        """Give up the memory; it stays mapped as long as an object lies in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class SegmentPool:
    """The segments that a process owns: those that wait to be filled, and those that objects of its own lie in.

    One thread packs and unpacks; objects may be dropped in any.
    """

    def __init__(self) -> None:
        self._free: deque[Segment] = deque()
        self._lent: set[Segment] = set()
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

    def unpack(self, segment: Segment, sizes: Sequence[int]) -> list[memoryview]:
        """Return writable buffers of those sizes with what `pack` has put there, and take the segment over.

        They lie in the segment, which is used again once nothing refers to them; where many segments are in use
        already, they are copies.
        """
        if len(self._lent) >= LENT:
            whole = memoryview(bytearray(segment.memory))
            self.give_back(segment)
        else:
            # A ctypes array, because the end of its life can be noticed; views of it keep it alive.
            lent = (ctypes.c_char * segment.size).from_buffer(segment.memory)
            self._lent.add(segment)
            weakref.finalize(lent, self._returned, segment).atexit = False
            whole = memoryview(lent).cast("B")
        buffers = []
        start = 0
        for size in sizes:
            buffers.append(whole[start : start + size])
            start += _aligned(size)
        return buffers

    def give_back(self, segment: Segment) -> None:
        """Keep a segment for the next message, or close it where enough are kept."""
        if self._closed or len(self._free) >= KEPT:
            segment.close()
        else:
            self._free.append(segment)

    def close(self) -> None:
        """Close what is kept; what objects lie in is closed when they are gone."""
        self._closed = True
        for segment in self._free:
            segment.close()
        self._free.clear()

    def _returned(self, segment: Segment) -> None:
        self._lent.discard(segment)
        self.give_back(segment)

    def _take(self, size: int) -> Segment:
        for _ in range(len(self._free)):
            segment = self._free.popleft()
            if size <= segment.size <= max(SMALLEST, 4 * size):
                return segment
            self._free.append(segment)
        step = max(SMALLEST, 1 << max(0, size.bit_length() - 3))
        size = -(-size // step) * step
        fd = os.memfd_create("trainloom-minibatch", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return Segment(fd, size)
        except BaseException:
            os.close(fd)
            raise


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
