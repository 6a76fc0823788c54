"""The list of keys that an insertion returns."""

from __future__ import annotations

from collections.abc import Iterable


class Keys(list[dict[str, str]]):
    """Primary keys in the order of the inserted rows; `new` lists those that were not there before."""

    def __init__(self, keys: Iterable[dict[str, str]] = (), new: Iterable[dict[str, str]] = ()) -> None:
        super().__init__(keys)
        self.new: list[dict[str, str]] = list(new)
