"""Packs blocks in several processes, in order and with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from datasets_impl.errors import DatasetError
from datasets_impl.packed_block import BlockPacker, PackedBlock
from datasets_impl.packing_source import PackingError, SourceRow

AHEAD = 3  # blocks per process that are packed or wait to be written


def packed_in_order(
    packer: BlockPacker, tasks: Iterable[tuple[int, str, list[SourceRow]]], processes: int
) -> Generator[PackedBlock, None, None]:
    """Yield the blocks of the tasks in their order; close the generator to end the processes.

    Raises:
        PackingError: of a task, or where a process was killed.
    """
    if processes <= 1:
        yield from map(packer, tasks)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (packer,))
    try:
        waiting: deque[Future[PackedBlock | DatasetError]] = deque()
        for task in tasks:
            waiting.append(pool.submit(_packed, task))
            if len(waiting) >= AHEAD * processes:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool as error:
        raise PackingError(
            "a process that packs was killed, perhaps for want of memory: pack again, with fewer processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_packer: BlockPacker


def _begin(packer: BlockPacker) -> None:
    global _packer
    _packer = packer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # killed: nobody waits for this process any more


def _packed(task: tuple[int, str, list[SourceRow]]) -> PackedBlock | DatasetError:
    try:
        return _packer(task)
    except DatasetError as error:  # a sentence for people: the traceback of this process is not for them
        return error


def _result(future: Future[PackedBlock | DatasetError]) -> PackedBlock:
    result = future.result()
    if isinstance(result, DatasetError):
        raise result
    return result
