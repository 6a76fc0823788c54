"""Orders in which data that are read block by block are gone through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw

from datasets_impl.contract import DatasetError
from datasets_impl.window_sampler import WindowSampler


class Blocks:
    def __init__(self, length: int, block_length: int) -> None:
        self.length, self.block_length = length, block_length
        self.expected: list[torch.Tensor] = []

    def __len__(self) -> int:
        return self.length

    def expect(self, order: torch.Tensor) -> None:
        self.expected.append(order)


def order(dataset: Blocks, blocks: int, seed: int = 0, epoch: int = 0) -> torch.Tensor:
    sampler = WindowSampler(dataset, blocks=blocks)
    sampler.seed = seed
    sampler.set_epoch(epoch)
    return sampler.order()


@given(draw.integers(1, 200), draw.integers(1, 40), draw.integers(1, 9), draw.integers(0, 3), draw.integers(0, 3))
def test_each_example_comes_once_and_a_window_uses_few_blocks(
    length: int, block_length: int, blocks: int, seed: int, epoch: int
) -> None:
    dataset = Blocks(length, block_length)
    found = order(dataset, blocks, seed, epoch)
    assert sorted(found.tolist()) == list(range(length))
    used = [dict.fromkeys((part // block_length).tolist()) for part in found.split(1)]
    windows: list[set[int]] = [set()]
    for (number,) in used:
        if number not in windows[-1] and len(windows[-1]) == blocks:
            windows.append(set())
        windows[-1].add(number)
    assert sum(map(len, windows)) == -(-length // block_length)  # no block is needed in two windows
    assert torch.equal(dataset.expected[0], found)
    assert torch.equal(order(Blocks(length, block_length), blocks, seed, epoch), found)


def test_epochs_and_seeds_differ() -> None:
    dataset = Blocks(500, 10)
    orders = [order(dataset, 4, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    assert len(WindowSampler(dataset)) == 500


@pytest.mark.parametrize("blocks", [0, -1, 1.5, True])
def test_windows_have_at_least_one_block(blocks: object) -> None:
    with pytest.raises(DatasetError, match="blocks is"):
        WindowSampler(Blocks(3, 1), blocks=blocks)  # type: ignore[arg-type]
