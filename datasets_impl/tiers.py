"""The three parts of a dataset. Apart from the contract, which needs torch, so that packing starts quickly."""

from __future__ import annotations

from datasets_impl.errors import DatasetError

TIERS = ("train", "validation", "test")


def check_tier(tier: str) -> str:
    """Return the tier if it is one.

    Raises:
        DatasetError: it is not in `TIERS`.
    """
    if tier not in TIERS:
        raise DatasetError(f"{tier!r} is not a tier: choose one of {', '.join(TIERS)}.")
    return tier
