"""Loaders: the documented defaults, and the same bits whatever the number of loader processes."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler

from datasets_impl.contract import DatasetError
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers
from datasets_impl.loaders import BatchLoader, build_loader
from datasets_impl.samplers import SubsetSampler, WeightedSampler

LENGTH = 22
BATCH = 4


class Augmented:
    """A dataset of one's own, read one by one, with noise from all three global generators."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        noise = torch.tensor([random.random(), np.random.random(), torch.rand(()).item()])
        return {"noise": noise, "index": torch.tensor(index)}, index


class AugmentedInBatches(Augmented):
    """The same, read a batch at a time."""

    def __getitems__(self, indices: list[int]) -> Any:
        assert type(indices) is list and type(indices[0]) is int
        return {"noise": torch.rand(len(indices)), "index": torch.tensor(indices)}, torch.tensor(indices)

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        return batch


class Quiet(Augmented):
    """One that says that it draws nothing."""

    draws_randomness = False

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), index


class MixedUp(Augmented):
    """One whose collate function draws, too."""

    @staticmethod
    def collate_fn(examples: list[Any]) -> torch.Tensor:
        return torch.tensor([target for _, target in examples])[torch.randperm(len(examples))]


class GlobalOrder(Sampler[int]):
    """A sampler of one's own, that draws from global generators as it goes."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        for _ in self.dataset:
            yield random.randrange(len(self.dataset)) if torch.rand(()) < 0.5 else np.random.randint(len(self.dataset))

    def __len__(self) -> int:
        return len(self.dataset)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., HDF5Dataset]:
    tier = {"inputs": np.random.RandomState(0).standard_normal((LENGTH, 3)), "targets": np.arange(LENGTH)}
    write_tiers(tmp_path / "data.h5", {"train": tier})
    return lambda **params: HDF5Dataset({"dataset_file_name": "data.h5"}, tmp_path, "train", **params)


def flat(structure: Any) -> list[Any]:
    """Return the numbers of nested tensors as plain lists, to compare bit by bit."""
    if isinstance(structure, torch.Tensor):
        return [str(structure.dtype), *structure.tolist()]
    values = structure.values() if isinstance(structure, dict) else structure
    return [flat(value) for value in values]


def epochs(dataset: Any, workers: int, *, sampler: Any = None, tier: str = "train", seed: int = 3) -> list[Any]:
    """Return all batches of three epochs, of which the second breaks off early and the third is number 7."""
    loader = build_loader(dataset, tier=tier, batch_size=BATCH, sampler=sampler, num_workers=workers, seed=seed)
    try:
        first = [flat(batch) for batch in loader]
        second = flat(next(iter(loader)))
        loader.set_epoch(7)
        return [first, second, [flat(batch) for batch in loader]]
    finally:
        loader.close()


def targets(loader: Any) -> list[int]:
    return [target for _, batch in loader for target in batch.tolist()]


CASES: dict[str, Callable[[Callable[..., HDF5Dataset]], tuple[Any, Any]]] = {
    "in memory": lambda stored: (stored(), None),
    "on disk": lambda stored: (stored(memory_budget=0), None),
    "one by one": lambda stored: (Augmented(), None),
    "in batches": lambda stored: (AugmentedInBatches(), None),
    "without randomness": lambda stored: (Quiet(), None),
    "random collation": lambda stored: (MixedUp(), None),
    "weighted": lambda stored: (Augmented(), WeightedSampler(Augmented(), weights=[1.0] * LENGTH)),
    "subset": lambda stored: (stored(), SubsetSampler(range(LENGTH), fraction=0.5)),
    "torch's sampler": lambda stored: (stored(), RandomSampler(range(LENGTH))),
    "sampler of one's own": lambda stored: (Augmented(), GlobalOrder(range(LENGTH))),
}


@pytest.mark.parametrize("case", CASES)
def test_loader_processes_change_no_bit(case: str, stored: Callable[..., HDF5Dataset]) -> None:
    torch.manual_seed(11)
    dataset, sampler = CASES[case](stored)
    here = epochs(dataset, 0, sampler=sampler)
    for workers in (1, 2):
        torch.manual_seed(workers)  # what the process drew before must not matter either
        random.seed(workers)
        np.random.seed(workers)
        dataset, sampler = CASES[case](stored)
        assert epochs(dataset, workers, sampler=sampler) == here
    assert len(here[0]) == (LENGTH if case != "subset" else LENGTH // 2) // BATCH
    assert here[0] != here[2]


@pytest.mark.parametrize("case", CASES)
def test_seed_and_epoch_decide(case: str, stored: Callable[..., HDF5Dataset]) -> None:
    def epoch(seed: int, number: int) -> list[Any]:
        dataset, sampler = CASES[case](stored)
        loader = build_loader(dataset, tier="train", batch_size=BATCH, sampler=sampler, seed=seed)
        loader.set_epoch(number)
        return [flat(batch) for batch in loader]

    assert epoch(0, 4) == epoch(0, 4)
    assert epoch(0, 4) != epoch(0, 5)
    assert epoch(0, 4) != epoch(1, 4)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_loading_leaves_the_global_generators_alone(
    case: str, workers: int, stored: Callable[..., HDF5Dataset]
) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]

    dataset, sampler = CASES[case](stored)
    loader = build_loader(dataset, tier="train", batch_size=BATCH, sampler=sampler, num_workers=workers)
    before = states()
    for _ in loader:
        assert states() == before
    loader.close()
    assert states() == before


def test_an_error_while_reading_leaves_the_global_generators_alone() -> None:
    class Failing(Augmented):
        def __getitem__(self, index: int) -> Any:
            raise OSError(f"no example {index}")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="no example"):
        list(build_loader(Failing(), tier="test", batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_augmentation_depends_on_the_example_and_not_on_its_batch(workers: int) -> None:
    def noise(batch_size: int, epoch: int) -> dict[int, list[float]]:
        loader = build_loader(Augmented(), tier="validation", batch_size=batch_size, num_workers=workers)
        loader.set_epoch(epoch)
        found = {
            int(index): row
            for inputs, _ in loader
            for index, row in zip(inputs["index"], inputs["noise"].tolist(), strict=True)
        }
        loader.close()
        return found

    second, third = noise(4, 2), noise(4, 3)
    assert noise(5, 2) == second
    assert len({tuple(row) for row in [*second.values(), *third.values()]}) == 2 * LENGTH


@pytest.mark.feature("S9")
def test_train_is_shuffled_anew_each_epoch_and_drops_the_short_batch() -> None:
    loader = build_loader(Quiet(), tier="train", batch_size=BATCH)
    first, second = targets(loader), targets(loader)
    assert len(loader) == 5 and len(first) == 20
    assert first != sorted(first)
    assert first != second
    assert len(set(first)) == 20


@pytest.mark.feature("S9")
@pytest.mark.parametrize("tier", ["validation", "test"])
def test_validation_and_test_keep_their_order_and_all_examples(tier: str) -> None:
    loader = build_loader(Quiet(), tier=tier, batch_size=BATCH)
    assert len(loader) == 6
    assert targets(loader) == targets(loader) == list(range(LENGTH))


@pytest.mark.feature("S9")
@pytest.mark.parametrize("tier", ["train", "validation"])
def test_a_sampler_decides_the_order_instead(tier: str) -> None:
    sampler = SubsetSampler(Quiet(), indices=[5, 3, 8, 1, 13], shuffle=False)
    loader = build_loader(Quiet(), tier=tier, batch_size=2, sampler=sampler)
    assert targets(loader) == ([5, 3, 8, 1] if tier == "train" else [5, 3, 8, 1, 13])


@pytest.mark.feature("S9")
def test_shuffling_can_be_asked_for_and_declined() -> None:
    assert targets(build_loader(Quiet(), tier="test", batch_size=BATCH, shuffle=True)) != list(range(LENGTH))
    assert targets(build_loader(Quiet(), tier="train", batch_size=BATCH, shuffle=False)) == list(range(20))


def test_iterations_count_the_epochs_on_from_the_one_chosen() -> None:
    def of(epoch: int) -> list[int]:
        loader = build_loader(Quiet(), tier="train", batch_size=BATCH)
        loader.set_epoch(epoch)
        return targets(loader)

    loader = build_loader(Quiet(), tier="train", batch_size=BATCH)
    assert [targets(loader), targets(loader)] == [of(0), of(1)]
    loader.set_epoch(5)
    assert [targets(loader), targets(loader)] == [of(5), of(6)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_broke_off(case: str, workers: int, stored: Callable[..., HDF5Dataset]) -> None:
    def loader() -> BatchLoader:
        dataset, sampler = CASES[case](stored)
        return build_loader(dataset, tier="train", batch_size=BATCH, sampler=sampler, num_workers=workers, seed=3)

    whole, resumed = loader(), loader()
    whole.set_epoch(2)
    third, fourth = [[flat(batch) for batch in whole] for _ in range(2)]
    resumed.resume(2, 1)
    assert [flat(batch) for batch in resumed] == third[1:]
    assert [flat(batch) for batch in resumed] == fourth  # from its first batch
    resumed.resume(2, len(third))
    assert list(resumed) == []
    resumed.resume(2, 1)
    resumed.set_epoch(2)
    assert [flat(batch) for batch in resumed] == third
    whole.close()
    resumed.close()


def test_examples_of_batches_left_out_are_not_read() -> None:
    class Counting(Quiet):
        def __init__(self) -> None:
            self.read: list[int] = []

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            self.read.append(index)
            return super().__getitem__(index)

    dataset = Counting()
    loader = build_loader(dataset, tier="train", batch_size=BATCH, shuffle=False)
    loader.resume(1, 3)
    list(loader)
    assert dataset.read == list(range(12, 20))


def test_a_sampler_with_a_seed_of_its_own_keeps_it() -> None:
    own, lent = SubsetSampler(Quiet(), fraction=0.5), SubsetSampler(Quiet(), fraction=0.5)
    own.seed = 1
    for sampler in (own, lent):
        list(build_loader(Quiet(), tier="train", batch_size=BATCH, sampler=sampler, seed=9))
    assert (own.seed, lent.seed) == (1, 9)


def test_a_sampler_is_told_the_epoch() -> None:
    class Told(SubsetSampler):
        told: list[int]

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    sampler = Told(Quiet(), fraction=0.5)
    sampler.told = []
    loader = build_loader(Quiet(), tier="train", batch_size=BATCH, sampler=sampler)
    list(loader)
    list(loader)
    assert sampler.told == [0, 1]


def test_it_is_a_data_loader_of_the_dataset(stored: Callable[..., HDF5Dataset]) -> None:
    data = stored()
    loader = build_loader(data, tier="train", batch_size=BATCH, num_workers=2, pin_memory=True)
    assert isinstance(loader, DataLoader) and isinstance(loader, BatchLoader)
    assert loader.dataset is data
    assert (loader.batch_size, loader.num_workers, loader.drop_last, len(loader)) == (BATCH, 2, True, 5)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="pins memory for an accelerator")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_hold_the_same(workers: int, stored: Callable[..., HDF5Dataset]) -> None:
    loader = build_loader(stored(), tier="train", batch_size=BATCH, num_workers=workers, pin_memory=True)
    batches = list(loader)
    loader.close()
    assert all(inputs.is_pinned() for inputs, _ in batches)
    assert [flat(batch) for batch in batches] == [
        flat(batch) for batch in build_loader(stored(), tier="train", batch_size=BATCH)
    ]


def test_processes_persist_until_they_are_closed(stored: Callable[..., HDF5Dataset]) -> None:
    def running() -> set[int | None]:
        return {child.pid for child in multiprocessing.active_children()} - before

    before = {child.pid for child in multiprocessing.active_children()}
    loader = build_loader(stored(), tier="train", batch_size=BATCH, num_workers=2)
    assert not running()
    first = targets(loader)
    started = running()
    second = targets(loader)
    assert len(started) == 2 and running() == started
    loader.close()
    loader.close()
    assert not running()
    loader.set_epoch(0)
    assert [targets(loader), targets(loader)] == [first, second]
    unfinished = iter(loader)
    next(unfinished)
    loader.close()
    assert not running()
    del unfinished


def test_processes_share_what_the_parent_has_loaded(stored: Callable[..., HDF5Dataset], tmp_path: Path) -> None:
    data = stored()
    loader = build_loader(data, tier="train", batch_size=BATCH, num_workers=1)
    batches = iter(loader)
    (tmp_path / "data.h5").unlink()
    data._loaded[1][0].fill_(-1)
    next(batches)
    loader.close()
    assert data.__getitems__([0])[1].tolist() == [-1]


def test_an_error_in_a_process_keeps_its_type(stored: Callable[..., HDF5Dataset], tmp_path: Path) -> None:
    loader = build_loader(stored(memory_budget=0), tier="train", batch_size=BATCH, num_workers=1)
    (tmp_path / "data.h5").unlink()
    with pytest.raises(DatasetError, match=r"data\.h5 does not exist"):
        list(loader)
    loader.close()


class Endless(IterableDataset[int]):
    """Not a dataset that has places."""

    def __iter__(self) -> Iterator[int]:
        return iter(int, 1)


@pytest.mark.parametrize(
    ("dataset", "params", "said"),
    [
        (Quiet(), {"tier": "dev"}, "'dev' is not a tier"),
        (Quiet(), {"batch_size": 0}, "batch_size is 0"),
        (Quiet(), {"batch_size": 2.0}, "batch_size is 2.0"),
        (Quiet(), {"batch_size": 23}, "'train' gives 22 examples per epoch, fewer than one batch of 23"),
        (Quiet(), {"sampler": [1, 2, 3]}, "gives 3 examples per epoch"),
        (Quiet(), {"sampler": [1, 2, 3, 4], "shuffle": True}, "give only one"),
        (Endless(), {}, "Endless has no length"),
    ],
)
def test_unsuitable_arguments_are_errors(dataset: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        build_loader(dataset, **{"tier": "train", "batch_size": BATCH, **params})
