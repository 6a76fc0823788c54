"""The UCI handwritten digits: real data that every installation has, through scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_impl.contract import DatasetError
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers
from datasets_impl.tier_split import check_shares, tiers_by_share

CLASSES = 10
BRIGHTEST = 16.0  # pixels count the dark cells of a 4 x 4 field: 0 to 16


class DigitsDataset(HDF5Dataset):
    """The digits as `build_digits` packs them: input float32 (1, 8, 8) in [0, 1], target a class index 0 to 9."""

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        memory_budget: int = 1 << 30,
    ) -> None:
        super().__init__(tuple_dict, dataset_cache_dir, tier, classes=CLASSES, memory_budget=memory_budget)


def build_digits(path: str | os.PathLike[str], *, split: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> Path:
    """Write the 1,797 digits to an HDF5 file, each class split among the tiers alike, and return its path.

    The data are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository (1998), doi:10.24432/C50P49, as scikit-learn ships them.

    Args:
        path: the file to write; the same split and seed always give the same bytes.
        split: shares of train, validation and test; positive, of sum 1.
        seed: of the random split, 0 to 2**32 - 1.

    Raises:
        DatasetError: scikit-learn is not installed, or the split is not of this form.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetError("the digits come with scikit-learn, which is missing: pip install scikit-learn.") from error
    shares = check_shares(split)
    digits = load_digits()
    images = (digits.images / BRIGHTEST).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    chosen = tiers_by_share(labels, shares, seed)
    tiers = {tier: {"inputs": images[indices], "targets": labels[indices]} for tier, indices in chosen.items()}
    return write_tiers(path, tiers, {"source": "UCI Optical Recognition of Handwritten Digits, test part"})
