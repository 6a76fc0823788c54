"""Shuffles data that are read block by block."""

from __future__ import annotations

from collections.abc import Sized

import torch

from datasets_impl.contract import DatasetError
from datasets_impl.samplers import SeededSampler

BLOCK = 1024  # examples, of a dataset that does not say how long its blocks are


class WindowSampler(SeededSampler):
    """Every example once per epoch, shuffled within windows of some blocks that are drawn at random.

    Only the blocks of a window are in use at a time, so that a data set larger than memory is read block by block. With
    one window over all blocks this is a full shuffle.

    Args:
        dataset: the dataset; its attribute `block_length` says how many examples are read together, and `expect(order)`
            is told the order of each epoch, where it has these.
        blocks: how many blocks make a window.

    Raises:
        DatasetError: `blocks` is not a positive integer.
    """

    def __init__(self, dataset: Sized, *, blocks: int = 16) -> None:
        super().__init__()
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
            raise DatasetError(f"blocks is {blocks!r}: give a positive integer.")
        self._dataset = dataset
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._dataset)

    def order(self) -> torch.Tensor:
        """Return the indices of the current epoch, int64 of shape (len,)."""
        generator = self._generator(self.epoch)
        blocks = torch.arange(len(self)).split(getattr(self._dataset, "block_length", BLOCK))
        drawn = torch.randperm(len(blocks), generator=generator).tolist()
        windows = []
        for start in range(0, len(drawn), self._blocks):
            window = torch.cat([blocks[number] for number in drawn[start : start + self._blocks]])
            windows.append(window[torch.randperm(len(window), generator=generator)])
        order = torch.cat(windows)
        expect = getattr(self._dataset, "expect", None)
        if expect is not None:
            expect(order)
        return order
