"""A training tier made smaller, to see how much data a model needs."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch


class FractionSampler(torch.utils.data.Sampler):
    """Draws another random part of the dataset in every epoch.

    Args:
        dataset: the dataset of the tier.
        fraction: how much of it an epoch draws, above 0 and at most 1.
    """

    def __init__(self, dataset: Sized, fraction: float = 0.5) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be above 0 and at most 1")
        self.size = len(dataset)
        self.count = max(1, round(fraction * self.size))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.size)[: self.count].tolist())
