"""Packs blocks in several processes, in order and with bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing

from datasets_impl.errors import DatasetError, WorkerLostError
from datasets_impl.packed_block import BlockPacker, PackedBlock
from datasets_impl.packing_source import PackingError, SourceRow
from datasets_impl.streaming import SequentialQueuedPipeline

Task = tuple[int, str, list[SourceRow]]
"""Shard, tier and rows."""


class _PackingStep:
    """The step of a streaming pipeline that packs."""

    def __init__(self, packer: BlockPacker) -> None:
        self._packer = packer

    def transform(self, tasks: list[Task]) -> list[PackedBlock | DatasetError]:
        """Pack each of the tasks."""
        return [self._packed(task) for task in tasks]

    def _packed(self, task: Task) -> PackedBlock | DatasetError:
        try:
            return self._packer(task)
        except DatasetError as error:  # a sentence for people: the traceback of another process is not for them
            return error


def packed_in_order(packer: BlockPacker, tasks: Iterable[Task], processes: int) -> Generator[PackedBlock, None, None]:
    """Yield the blocks of the tasks in their order; close the generator to end the processes.

    Raises:
        PackingError: of a task, or where a process was killed.
    """
    if processes <= 1:
        yield from map(packer, tasks)
        return
    step = ("pack", processes, 2 * processes, _PackingStep(packer))
    pipeline = SequentialQueuedPipeline([step], batch_size=1, use_processes=True)
    try:
        with closing(pipeline.stream(tasks)) as results:
            for result in results:
                (block,) = result.data_inputs
                if isinstance(block, DatasetError):
                    raise block
                yield block
    except WorkerLostError as error:
        raise PackingError(
            "a process that packs was killed, perhaps for want of memory: pack again, with fewer processes."
        ) from error
