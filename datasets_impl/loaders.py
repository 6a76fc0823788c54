"""Batches of a tier, epoch by epoch: what they hold depends on seed and epoch, never on the loader processes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from datasets_impl.contract import BatchShare, DatasetError, check_tier, share_of
from datasets_impl.randomness import mix, preserved_global_randomness, seed_global_randomness, uniform_draws
from datasets_impl.samplers import EpochSampler, SeededSampler, split_into_batches


class BatchReader(Dataset[Any]):
    """Reads whole batches of a dataset, with random draws that depend on (seed, epoch, indices) alone.

    What a dataset may define, and which random generators are seeded, says `contract.PipelineDataset`. The global
    generators are left as they were found, so that a model's dropout does not depend on where examples are read.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.collate: Callable[[Any], Any] = getattr(dataset, "collate_fn", None) or default_collate
        self._reads_batches = hasattr(dataset, "__getitems__")
        self._draws = bool(getattr(dataset, "draws_randomness", True))
        self._takes_tensors = self._reads_batches and bool(getattr(dataset, "takes_index_tensors", False))
        self._draws_per_example = int(getattr(dataset, "draws_per_example", 0)) if self._reads_batches else 0

    def read(self, epoch: int, indices: torch.Tensor) -> Any:
        """Return the collated batch of the examples at `indices`, int64 of shape (k,)."""
        chosen = indices if self._takes_tensors else indices.tolist()
        if self._draws_per_example:
            draws = uniform_draws(self.seed, epoch, indices, self._draws_per_example)
            return self.collate(self.dataset.__getitems__(chosen, draws))
        if not self._draws:
            return self.collate(self._examples(chosen))
        with preserved_global_randomness():
            if self._reads_batches:
                seed_global_randomness(mix(self.seed, epoch, *indices.tolist()))
                return self.collate(self._examples(chosen))
            return self.collate([self._seeded_example(epoch, index) for index in chosen])

    def __getitems__(self, request: tuple[int, list[int]]) -> Any:
        """Answer a request (epoch, indices) in a loader process; the epoch travels along because reading runs ahead."""
        epoch, indices = request
        return self.read(epoch, torch.tensor(indices, dtype=torch.int64))

    def _examples(self, indices: Any) -> Any:
        if self._reads_batches:
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def _seeded_example(self, epoch: int, index: int) -> Any:
        seed_global_randomness(mix(self.seed, epoch, index))
        return self.dataset[index]


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` for which 0, 1 and more loader processes give the same bits, made by `build_loader`.

    Each iteration is one epoch: 0, 1, 2, ..., or what `set_epoch` chose, and on from there. Order and random draws
    depend on (seed, epoch) alone, for torch's samplers too, which draw from a global generator seeded so; iteration
    leaves the global generators as they were. A sampler with `set_epoch` is told the epoch, and the seed where its
    attribute `seed` is None. A sampler that makes a generator of its own keeps it, and what it draws, to itself.

    Without loader processes batches are read in the caller's; with them, the processes live until `close`.

    Attributes:
        before_batch: called in the caller's thread before each batch is handed out; what it raises ends the iteration.
        order_checksum: of the indices of the epoch that is being read, where batches are split between ranks, which
            must have the same; None elsewhere.
    """

    before_batch: Callable[[], None] | None = None
    order_checksum: int | None = None

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        sampler: Any,
        drop_last: bool,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._seed = seed
        self._next_epoch = 0
        self._left_out = 0
        self._reader = BatchReader(dataset, seed)
        self._size = batch_size  # of a batch, all ranks' parts together
        self._rank, self._ranks = 0, 1
        self._requests = _Requests()
        self._workers: DataLoader[Any] | None = None
        self._lends_seed = getattr(sampler, "seed", seed) is None
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=self._reader.collate,
            # Pinning without an accelerator does nothing but warn.
            pin_memory=pin_memory and torch.accelerator.is_available(),
            drop_last=drop_last,
            generator=_own_generator(seed),
            persistent_workers=num_workers > 0,
        )

    def split_between(self, rank: int, ranks: int) -> None:
        """Yield only one rank's part of each batch, a `contract.BatchShare`, from now on. Batches are so many times as
        large, all ranks' parts together; order and random draws of an example stay the same.

        Raises:
            DatasetError: the tier has fewer examples than one batch, and a short one is dropped.
        """
        self._rank, self._ranks = rank, ranks
        self._size = (self.batch_size or 1) * ranks
        order: Any = self.sampler
        if self.drop_last and len(order) < self._size:
            raise DatasetError(
                f"the loader gives {len(order)} examples per epoch, fewer than one batch of {self.batch_size} "
                f"for each of {ranks} devices, and a short one is dropped: choose a smaller batch_size."
            )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        order: Any = self.sampler
        whole, rest = divmod(len(order), self._size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives, from its first batch."""
        self._next_epoch = epoch
        self._left_out = 0

    def resume(self, epoch: int, batches: int) -> None:
        """Let the next iteration of a new loader go on where another broke off: in this epoch, after so many batches.

        The examples of batches left out are not read. A sampler that is not told the epoch, and so may carry a state
        from one to the next, gives the orders of all epochs before as well, which are dropped.
        """
        self.set_epoch(epoch)
        self._left_out = batches
        if not hasattr(self.sampler, "set_epoch"):
            for past in range(epoch):
                self._order(past)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self._next_epoch
        left_out, self._left_out = self._left_out, 0
        self._next_epoch = epoch + 1
        batches = islice(self._batches(epoch), left_out, None)
        iterate = self._iterate if self._ranks == 1 else self._iterate_share
        if self.before_batch is not None:
            return _announced(iterate(epoch, batches), self.before_batch)
        return iterate(epoch, batches)

    def _iterate_share(self, epoch: int, batches: Iterator[torch.Tensor]) -> Iterator[BatchShare]:
        """This rank's part of each batch."""
        whole = [*batches]
        places = [share_of(len(indices), self._rank, self._ranks) for indices in whole]
        # Who has no part reads an example all the same: the ranks take every step together.
        parts = (
            indices[start:end] if end > start else indices[:1]
            for indices, (start, end) in zip(whole, places, strict=True)
        )
        for batch, indices, (start, end) in zip(self._iterate(epoch, parts), whole, places, strict=True):
            yield BatchShare(batch, end - start, len(indices))

    def _iterate(self, epoch: int, batches: Iterator[torch.Tensor]) -> Iterator[Any]:
        if self.num_workers == 0 and not self.pin_memory:
            return self._read_here(epoch, batches)
        if self._workers is None:
            self._workers = self._start()
        self._requests.pending = ((epoch, indices.tolist()) for indices in batches)
        return iter(self._workers)

    def close(self) -> None:
        """End the loader processes now; a later iteration starts new ones."""
        workers, self._workers = self._workers, None
        running = getattr(workers, "_iterator", None)
        if running is not None:
            # torch has no public call for this, and only does it once nobody refers to the iterator any more.
            running._shutdown_workers()

    def _batches(self, epoch: int) -> Iterator[torch.Tensor]:
        order = self._order(epoch)
        if self._ranks > 1:
            self.order_checksum = zlib.crc32(order.numpy().tobytes())
        return split_into_batches(order, self._size, self.drop_last)

    def _order(self, epoch: int) -> torch.Tensor:
        sampler: Any = self.sampler
        if self._lends_seed:
            sampler.seed = self._seed
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if isinstance(sampler, SeededSampler):
            return sampler.order()
        with preserved_global_randomness():
            seed_global_randomness(mix(self._seed, epoch))
            return torch.tensor([int(index) for index in sampler], dtype=torch.int64)

    def _read_here(self, epoch: int, batches: Iterator[torch.Tensor]) -> Iterator[Any]:
        read = self._reader.read
        for indices in batches:
            yield read(epoch, indices)

    def _start(self) -> DataLoader[Any]:
        preload = getattr(self.dataset, "preload", None)
        if preload is not None:
            preload()
        return DataLoader(
            self._reader,
            batch_sampler=self._requests,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            generator=_own_generator(self._seed),
            persistent_workers=self.num_workers > 0,
        )


class _Requests(Sampler[Any]):
    """Stands where a `DataLoader` wants a batch sampler, and hands out the requests (epoch, indices) of an epoch."""

    def __init__(self) -> None:
        self.pending: Iterable[tuple[int, list[int]]] = ()

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(self.pending)


def _announced(batches: Iterator[Any], announce: Callable[[], None]) -> Iterator[Any]:
    for batch in batches:
        announce()
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _own_generator(seed: int) -> torch.Generator:
    # Without one, each new iterator of a DataLoader draws from the global generator.
    return torch.Generator().manual_seed(mix(seed))


def build_loader(
    dataset: Any,
    *,
    tier: str,
    batch_size: int,
    sampler: Any = None,
    num_workers: int = 0,
    seed: int = 0,
    shuffle: bool | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Make the loader of one tier.

    By default train is shuffled unless a sampler is given, validation and test never; train drops a short last batch
    unless the dataset has `drop_last = False`, the others keep it.

    Args:
        dataset: see `contract.PipelineDataset`.
        tier: `train`, `validation` or `test`.
        batch_size: examples per batch.
        sampler: an object with `__iter__` and `__len__` that gives indices.
        num_workers: loader processes; they change the speed only.
        seed: of the order and of what reading draws.
        shuffle: overrides the default, for a loader without a sampler.
        pin_memory: page-locked batches, for copies to an accelerator; without one this does nothing.

    Raises:
        DatasetError: an argument is not of this form, or train is smaller than one batch.
    """
    check_tier(tier)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DatasetError(f"{type(dataset).__name__} has no length: define __len__ and __getitem__.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DatasetError(f"batch_size is {batch_size!r}: give a positive integer.")
    if sampler is not None and shuffle is not None:
        raise DatasetError("shuffle and a sampler both decide the order: give only one of them.")
    if sampler is None:
        sampler = EpochSampler(len(dataset), seed=seed, shuffle=tier == "train" if shuffle is None else shuffle)
    drop_last = tier == "train" and bool(getattr(dataset, "drop_last", True))
    if drop_last and len(sampler) < batch_size:
        raise DatasetError(
            f"tier 'train' gives {len(sampler)} examples per epoch, fewer than one batch of {batch_size}, and its "
            "short last batch is dropped: choose a smaller batch_size."
        )
    return BatchLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        seed=seed,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
