"""The UCI handwritten digits: real data that every installation has, through scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_impl.contract import TIERS, DatasetError
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers

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
    if len(split) != len(TIERS) or min(split) <= 0 or abs(sum(split) - 1) > 1e-9:
        raise DatasetError(f"split is {tuple(split)!r}: give three positive shares of sum 1, for {', '.join(TIERS)}.")
    digits = load_digits()
    images = (digits.images / BRIGHTEST).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    chosen = zip(TIERS, _stratified(labels, split, seed), strict=True)
    tiers = {tier: {"inputs": images[indices], "targets": labels[indices]} for tier, indices in chosen}
    return write_tiers(path, tiers, {"source": "UCI Optical Recognition of Handwritten Digits, test part"})


def _stratified(labels: np.ndarray, split: Sequence[float], seed: int) -> list[np.ndarray]:
    """Return the ascending indices of each share of every class."""
    # RandomState because its streams are frozen (NEP 19): a newer NumPy must not change the file and so its identity.
    generator = np.random.RandomState(seed)
    shares: list[list[np.ndarray]] = [[] for _ in split]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(split)[:-1] * len(members)).astype(int)
        for share, part in zip(shares, np.split(members, ends), strict=True):
            share.append(part)
    return [np.sort(np.concatenate(share)) for share in shares]
