"""In which order, and how often, an epoch visits the examples."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from datasets_impl.contract import DatasetError
from datasets_impl.randomness import mix, preserved_global_randomness


class SeededSampler(Sampler[int]):
    """A sampler whose order depends on (seed, epoch) alone.

    Attributes:
        seed: a loader sets its own where this is None; without a loader None counts as 0.
        epoch: the epoch that the next iteration gives, 0 at first.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    @abstractmethod
    def order(self) -> torch.Tensor:
        """Return the indices of the current epoch, int64 of shape (len,)."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many indices an epoch has."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def batches(self, batch_size: int, drop_last: bool) -> Iterator[torch.Tensor]:
        """Yield the indices of the current epoch as int64 tensors of `batch_size`, a short last one unless dropped."""
        return split_into_batches(self.order(), batch_size, drop_last)

    def _generator(self, *numbers: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix(self.seed or 0, *numbers))


class EpochSampler(SeededSampler):
    """Every index from 0 to length - 1 once, in ascending order, or shuffled anew each epoch."""

    def __init__(self, length: int, *, seed: int, shuffle: bool) -> None:
        super().__init__()
        self.length = length
        self.seed = seed
        self.shuffle = shuffle

    def order(self) -> torch.Tensor:
        """Return the indices of the current epoch, int64 of shape (length,)."""
        if self.shuffle:
            return torch.randperm(self.length, generator=self._generator(self.epoch))
        return torch.arange(self.length)

    def __len__(self) -> int:
        return self.length


class WeightedSampler(SeededSampler):
    """Examples drawn with given weights, or so that all classes are drawn equally often.

    Args:
        dataset: the dataset; for `class_balanced` with `get_labels()`, or with integer targets (all are read then).
        weights: one weight per example, relative, finite, not negative, not all 0; at most 2**24 of them.
        class_balanced: weigh each example by 1 / (size of its class) instead.
        num_samples: draws per epoch; as many as the dataset is long by default.
        replacement: whether an example can be drawn again in the same epoch.

    Raises:
        DatasetError: a parameter is not of this form.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        weights: Sequence[float] | None = None,
        class_balanced: bool = False,
        num_samples: int | None = None,
        replacement: bool = True,
    ) -> None:
        super().__init__()
        if (weights is None) != bool(class_balanced):
            raise DatasetError("a weighted sampler takes either weights or class_balanced: give exactly one of them.")
        self.weights = _class_weights(dataset) if weights is None else _checked_weights(weights, len(dataset))
        self.num_samples = len(dataset) if num_samples is None else num_samples
        self.replacement = replacement
        if not _is_whole(self.num_samples) or self.num_samples < 1:
            raise DatasetError(f"num_samples is {num_samples!r}: give a positive integer.")
        drawable = int(self.weights.count_nonzero())
        if not replacement and self.num_samples > drawable:
            raise DatasetError(
                f"{self.num_samples} examples cannot be drawn without replacement from {drawable} of positive weight: "
                "lower num_samples or allow replacement."
            )

    def order(self) -> torch.Tensor:
        """Return the indices drawn for the current epoch, int64 of shape (num_samples,)."""
        generator = self._generator(self.epoch)
        return torch.multinomial(self.weights, self.num_samples, self.replacement, generator=generator)

    def __len__(self) -> int:
        return self.num_samples


class SubsetSampler(SeededSampler):
    """A part of the examples, the same in every epoch.

    Args:
        dataset: the dataset.
        indices: which examples, from 0 to len(dataset) - 1.
        fraction: or which share of them, over 0 and up to 1 (at least one example), chosen at random by the seed alone.
        shuffle: whether their order changes each epoch; otherwise as given, or ascending for a fraction.

    Raises:
        DatasetError: a parameter is not of this form.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        indices: Sequence[int] | None = None,
        fraction: float | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        if (indices is None) == (fraction is None):
            raise DatasetError("a subset sampler takes either indices or a fraction: give exactly one of them.")
        self.length = len(dataset)
        self.shuffle = shuffle
        self.indices: torch.Tensor | None = None
        if indices is not None:
            self.indices = _checked_indices(indices, self.length)
            self.size = len(indices)
        else:
            if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
                raise DatasetError(f"fraction is {fraction!r}: give a number over 0 and up to 1.")
            self.size = max(1, round(fraction * self.length))

    def order(self) -> torch.Tensor:
        """Return the indices of the current epoch, int64 of shape (len,)."""
        chosen = self.indices
        if chosen is None:
            chosen = torch.randperm(self.length, generator=self._generator())[: self.size].sort().values
        if not self.shuffle:
            return chosen
        return chosen[torch.randperm(self.size, generator=self._generator(self.epoch))]

    def __len__(self) -> int:
        return self.size


def split_into_batches(order: torch.Tensor, batch_size: int, drop_last: bool) -> Iterator[torch.Tensor]:
    """Yield consecutive parts of `order`, int64 of shape (n,), of `batch_size`; a short last one unless dropped."""
    if drop_last:
        order = order[: len(order) - len(order) % batch_size]
    return iter(order.split(batch_size) if len(order) else ())


def _checked_weights(weights: Sequence[float], length: int) -> torch.Tensor:
    if len(weights) != length:
        raise DatasetError(f"there are {len(weights)} weights for {length} examples: give one weight per example.")
    for place, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise DatasetError(f"weight {place} is {weight!r}: weights are finite numbers, 0 or more.")
    if not any(weights):
        raise DatasetError("all weights are 0, so nothing can be drawn: make at least one positive.")
    return torch.tensor(weights, dtype=torch.float64)


def _class_weights(dataset: Any) -> torch.Tensor:
    _, places, sizes = _labels(dataset).unique(return_inverse=True, return_counts=True)
    return 1.0 / sizes[places].double()


def _labels(dataset: Any) -> torch.Tensor:
    if hasattr(dataset, "get_labels"):
        return torch.as_tensor(dataset.get_labels())
    with preserved_global_randomness():  # reading may augment, and making a sampler must not change what follows
        targets = [torch.as_tensor(dataset[index][1]) for index in range(len(dataset))]
    if any(target.numel() != 1 or target.is_floating_point() for target in targets):
        raise DatasetError(
            f"{type(dataset).__name__} has no class labels to balance: its targets must be single integers, "
            "or it must define get_labels()."
        )
    return torch.stack([target.reshape(()) for target in targets])


def _checked_indices(indices: Sequence[int], length: int) -> torch.Tensor:
    if not len(indices):
        raise DatasetError("indices is empty: name at least one example.")
    for index in indices:
        if not _is_whole(index) or not 0 <= index < length:
            raise DatasetError(f"index {index!r} is not an example of this dataset: give integers 0 to {length - 1}.")
    return torch.tensor(indices, dtype=torch.int64)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
