"""Where in its data a loader goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from trainers import randomness


def tell_epoch(loader: Any, epoch: int, left_out: int = 0, *, resumed: bool = False) -> bool:
    """Choose a loader's epoch, where it can be chosen; returns whether it leaves out its first `left_out` batches."""
    if resumed and hasattr(loader, "resume"):
        loader.resume(epoch, left_out)
        return True
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    return False


def rest_of_epoch(
    loader: Any, epoch: int, left_out: int, resumed: dict[str, Any] | None, device: torch.device
) -> Iterator[Any]:
    """The batches of an epoch behind the first `left_out`; where the training was `resumed`, with those random states
    in place."""
    skipped = tell_epoch(loader, epoch, left_out, resumed=resumed is not None)
    rest = iter(loader)
    if resumed is not None and left_out:
        if not skipped:
            for _ in itertools.islice(rest, left_out):
                pass
        randomness.restore(resumed, device)
    return rest
