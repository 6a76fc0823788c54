"""What can go wrong with data. Apart from the contract, which needs torch, so that packing starts quickly."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset, sampler or loader was given something that it cannot use."""


class ExampleIndexError(DatasetError, IndexError):
    """An example was asked for that the tier does not have; also an `IndexError`, so that plain iteration ends."""
