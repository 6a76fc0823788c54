"""The digits: the real data, split alike for every class, in the same bytes each time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datasets_impl.contract import TIERS, DatasetError
from datasets_impl.digits import DigitsDataset, build_digits

ROW = {"dataset_file_name": "digits.h5"}


def tiers(folder: Path) -> dict[str, DigitsDataset]:
    return {tier: DigitsDataset(ROW, folder, tier) for tier in TIERS}


def test_every_digit_is_in_exactly_one_tier(tmp_path: Path) -> None:
    assert build_digits(tmp_path / "digits.h5") == tmp_path / "digits.h5"
    inputs, targets = zip(*(data.__getitems__(range(len(data))) for data in tiers(tmp_path).values()), strict=True)
    packed = torch.cat([torch.cat(inputs).flatten(1), torch.cat(targets)[:, None]], dim=1).numpy()
    original = load_digits()
    expected = np.column_stack([original.data / 16, original.target]).astype(np.float32)
    assert packed.shape == (1797, 65)
    np.testing.assert_array_equal(packed[np.lexsort(packed.T)], expected[np.lexsort(expected.T)])


def test_each_class_is_split_alike(tmp_path: Path) -> None:
    build_digits(tmp_path / "digits.h5", split=(0.5, 0.25, 0.25))
    counts = {tier: torch.bincount(data.get_labels(), minlength=10) for tier, data in tiers(tmp_path).items()}
    totals = sum(counts.values())
    for tier, share in zip(TIERS, (0.5, 0.25, 0.25), strict=True):
        assert (counts[tier] - share * totals).abs().max() <= 1


def test_an_example_is_an_image_and_a_class(tmp_path: Path) -> None:
    build_digits(tmp_path / "digits.h5")
    train = tiers(tmp_path)["train"]
    image, label = train[0]
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((1, 8, 8), torch.float32, (), torch.int64)
    images, _ = train.__getitems__(range(len(train)))
    assert (images.min(), images.max()) == (0, 1)
    assert train.get_output_shape() == (10,)
    assert train.get_additional_model_params() == {}


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    first, again, other = (
        build_digits(tmp_path / name, seed=seed).read_bytes() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.4, 0.2)])
def test_an_unsuitable_split_is_an_error(tmp_path: Path, split: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match="three positive shares of sum 1"):
        build_digits(tmp_path / "digits.h5", split=split)


def test_without_scikit_learn_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        build_digits(tmp_path / "digits.h5")
