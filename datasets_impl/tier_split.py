"""Which example belongs to which tier: as a column says, or at random in given shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets_impl.errors import DatasetError
from datasets_impl.tiers import TIERS

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class TierSplit:
    """How examples are divided among the tiers.

    Attributes:
        column: names the tier of each example (`train`, `validation` or `test`); the rest is not used then.
        shares: of train, validation and test; positive, of sum 1.
        stratify: a column within each of whose values the shares hold, as far as whole examples allow.
        seed: of the random split, 0 to 2**32 - 1.

    Raises:
        DatasetError: it is not of this form.
    """

    column: str = ""
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    stratify: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", check_shares(self.shares))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise DatasetError(f"the seed of the split is {self.seed!r}: give a whole number from 0 to {MAX_SEED}.")
        if self.column and self.stratify:
            raise DatasetError("a split by a column cannot be stratified: give one of the two columns.")

    def as_json(self) -> dict[str, Any]:
        """The split in a manifest: only what it depends on."""
        if self.column:
            return {"column": self.column}
        return {"shares": list(self.shares), "stratify": self.stratify, "seed": self.seed}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TierSplit:
        """The inverse of `as_json`."""
        fields: dict[str, Any] = {**entry, **({"shares": tuple(entry["shares"])} if "shares" in entry else {})}
        return cls(**fields)


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """The shares of the three tiers, if they are that.

    Raises:
        DatasetError: they are not three positive numbers of sum 1.
    """
    if len(shares) != len(TIERS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise DatasetError(f"split is {tuple(shares)!r}: give three positive shares of sum 1, for {', '.join(TIERS)}.")
    return tuple(map(float, shares))


def tiers_by_name(names: Sequence[Any] | np.ndarray, column: str) -> dict[str, np.ndarray]:
    """The ascending indices (int64) of each tier, where `names[i]` is the tier of example i.

    Raises:
        DatasetError: one of them is no tier.
    """
    texts = [str(name).strip() for name in names]
    for index, text in enumerate(texts):
        if text not in TIERS:
            raise DatasetError(
                f"example {index} has {text!r} in the column {column!r}, which is no tier: give {', '.join(TIERS)}."
            )
    found = np.asarray(texts)
    return {tier: np.flatnonzero(found == tier) for tier in TIERS}


def tiers_by_share(groups: Sequence[Any] | np.ndarray, shares: Sequence[float], seed: int) -> dict[str, np.ndarray]:
    """The ascending indices (int64) of each tier: of every group the given shares, drawn at random by the seed.

    Args:
        groups: the group of each example, numbers or text; all alike where the split is not stratified.
    """
    # RandomState because its streams are frozen (NEP 19): a newer NumPy must not change a file and so its identity.
    generator = np.random.RandomState(seed)
    chosen: dict[str, list[np.ndarray]] = {tier: [] for tier in TIERS}
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    for group in range(places.max(initial=-1) + 1):
        members = generator.permutation(np.flatnonzero(places == group))
        ends = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for tier, part in zip(TIERS, np.split(members, ends), strict=True):
            chosen[tier].append(part)
    return {tier: np.sort(np.concatenate([np.empty(0, np.int64), *parts])) for tier, parts in chosen.items()}
