"""Samplers: orders that depend on (seed, epoch) alone, and parameters that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets_impl.contract import DatasetError
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers
from datasets_impl.randomness import mix
from datasets_impl.samplers import EpochSampler, SeededSampler, SubsetSampler, WeightedSampler

LABELS = [0] * 90 + [1] * 9 + [2]


class Labelled:
    """A dataset of one's own, without anything but the contract."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2), LABELS[index]


def make(name: str, seed: int | None = 5) -> SeededSampler:
    sampler: SeededSampler = {
        "epoch": lambda: EpochSampler(100, seed=0, shuffle=True),
        "weighted": lambda: WeightedSampler(Labelled(), weights=[float(i) for i in range(100)]),
        "unrepeated": lambda: WeightedSampler(Labelled(), class_balanced=True, num_samples=50, replacement=False),
        "fraction": lambda: SubsetSampler(Labelled(), fraction=0.3),
        "indices": lambda: SubsetSampler(Labelled(), indices=list(range(10, 40))),
    }[name]()
    sampler.seed = seed
    return sampler


def epoch(sampler: SeededSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


RANDOM = ["epoch", "weighted", "unrepeated", "fraction", "indices"]


@pytest.mark.parametrize("name", RANDOM)
def test_the_order_depends_on_seed_and_epoch_alone(name: str) -> None:
    used = make(name)
    later = [epoch(used, number) for number in (0, 1, 2)]
    torch.manual_seed(1)
    assert epoch(make(name), 2) == later[2]
    assert later[0] != later[1] != later[2]
    assert epoch(make(name, seed=6), 2) != later[2]
    assert all(len(order) == len(used) for order in later)


@pytest.mark.parametrize("name", RANDOM)
def test_global_randomness_is_neither_used_nor_changed(name: str) -> None:
    before = torch.get_rng_state()
    epoch(make(name), 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_the_order_in_parts(shuffle: bool, drop_last: bool) -> None:
    sampler = EpochSampler(10, seed=1, shuffle=shuffle)
    batches = list(sampler.batches(4, drop_last))
    assert [len(batch) for batch in batches] == ([4, 4] if drop_last else [4, 4, 2])
    assert all(batch.dtype == torch.int64 for batch in batches)
    assert torch.cat(batches).tolist() == list(sampler)[: 8 if drop_last else 10]
    assert sorted(sampler) == list(range(10))
    assert (list(sampler) == list(range(10))) is not shuffle


def test_nothing_gives_no_batches() -> None:
    assert list(EpochSampler(3, seed=0, shuffle=True).batches(4, drop_last=True)) == []


def test_weights_are_relative_frequencies() -> None:
    sampler = WeightedSampler(range(3), weights=[1, 0, 3], num_samples=4000)
    counts = np.bincount(list(sampler), minlength=3)
    assert counts[1] == 0
    assert abs(counts[2] / 4000 - 0.75) < 0.04  # six standard deviations


def test_class_balance_draws_all_classes_alike() -> None:
    drawn = [LABELS[index] for index in WeightedSampler(Labelled(), class_balanced=True, num_samples=3000)]
    assert (np.abs(np.bincount(drawn) / 3000 - 1 / 3) < 0.06).all()


def test_class_balance_asks_a_dataset_that_knows_its_labels(tmp_path: Path) -> None:
    write_tiers(tmp_path / "data.h5", {"train": {"inputs": np.zeros((100, 1)), "targets": np.array(LABELS)}})
    data = HDF5Dataset({"dataset_file_name": "data.h5"}, tmp_path, "train")
    assert torch.equal(
        WeightedSampler(data, class_balanced=True).weights, WeightedSampler(Labelled(), class_balanced=True).weights
    )


def test_without_replacement_no_example_is_drawn_twice() -> None:
    drawn = list(WeightedSampler(range(50), weights=[1.0] * 50, replacement=False))
    assert sorted(drawn) == list(range(50))


def test_a_fraction_is_the_same_subset_in_every_epoch() -> None:
    sampler = make("fraction")
    assert len(sampler) == 30
    assert set(epoch(sampler, 0)) == set(epoch(sampler, 1))
    assert len(set(sampler)) == 30
    assert len(SubsetSampler(Labelled(), fraction=0.001)) == 1


def test_indices_are_visited_as_given_without_shuffling() -> None:
    assert list(SubsetSampler(Labelled(), indices=[9, 3, 3, 7], shuffle=False)) == [9, 3, 3, 7]
    assert sorted(SubsetSampler(Labelled(), indices=[9, 3, 3, 7])) == [3, 3, 7, 9]


@pytest.mark.parametrize(
    ("cls", "params", "said"),
    [
        (WeightedSampler, {}, "either weights or class_balanced"),
        (WeightedSampler, {"weights": [1.0] * 100, "class_balanced": True}, "either weights or class_balanced"),
        (WeightedSampler, {"weights": [1.0] * 99}, "99 weights for 100 examples"),
        (WeightedSampler, {"weights": [1.0] * 99 + [-1.0]}, "weight 99 is -1.0"),
        (WeightedSampler, {"weights": [float("nan")] * 100}, "weight 0 is nan"),
        (WeightedSampler, {"weights": ["1"] * 100}, "weight 0 is '1'"),
        (WeightedSampler, {"weights": [0.0] * 100}, "all weights are 0"),
        (WeightedSampler, {"class_balanced": True, "num_samples": 0}, "num_samples is 0"),
        (WeightedSampler, {"class_balanced": True, "num_samples": 2.0}, "num_samples is 2.0"),
        (WeightedSampler, {"weights": [1.0] + [0.0] * 99, "replacement": False}, "100 examples .* from 1 of positive"),
        (SubsetSampler, {}, "either indices or a fraction"),
        (SubsetSampler, {"indices": [1], "fraction": 0.5}, "either indices or a fraction"),
        (SubsetSampler, {"indices": []}, "indices is empty"),
        (SubsetSampler, {"indices": [0, 100]}, "index 100 is not an example"),
        (SubsetSampler, {"indices": [-1]}, "index -1 is not an example"),
        (SubsetSampler, {"indices": [1.5]}, "index 1.5 is not an example"),
        (SubsetSampler, {"fraction": 0}, "fraction is 0"),
        (SubsetSampler, {"fraction": 1.5}, "fraction is 1.5"),
    ],
)
def test_unsuitable_parameters_are_errors(cls: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        cls(Labelled(), **params)


def test_real_numbers_are_no_classes() -> None:
    with pytest.raises(DatasetError, match="targets must be single integers"):
        WeightedSampler([(torch.zeros(2), torch.tensor(0.5))], class_balanced=True)


def test_mixed_seeds_are_fixed_and_distinct() -> None:
    # Written down, because a change would train every recorded row differently.
    assert (mix(0), mix(1, 2, 3)) == (4756139552955062580, 4856333059907065862)
    values = {mix(seed, *numbers) for seed in range(20) for numbers in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (10,)]}
    assert len(values) == 140
    assert all(0 <= value < 2**63 for value in values)
