"""Which examples of a batch one rank reads, and how much they weigh."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from datasets_impl.contract import BatchShare
from trainers import batch as batches
from trainers.contract import TrainerError
from trainers.process_group import ProcessGroup


class Share(NamedTuple):
    """One rank's examples of a batch.

    Attributes:
        inputs, targets: as the batch has them. Where a rank has no share, an example all the same, so that it can take
            part in the step.
        size: the number of examples that count.
        weight: the factor of this rank's loss by which the mean gradient over ranks is that of the mean over examples.
    """

    inputs: Any
    targets: Any
    size: int
    weight: float


def split_loaders(loaders: Iterable[Any], group: ProcessGroup) -> None:
    """Let every loader give this rank's share of its batches, as `datasets_impl.contract.BatchShare`.

    Raises:
        TrainerError: a loader has no `split_between`.
    """
    if group.size == 1:
        return
    for loader in loaders:
        if not hasattr(loader, "split_between"):
            raise TrainerError(
                f"A {type(loader).__name__} cannot be split between {group.size} devices; make loaders with "
                "datasets_impl.loaders.build_loader, or give yours a method split_between(rank, ranks)."
            )
        loader.split_between(group.rank, group.size)


def sharing(group: ProcessGroup) -> Callable[[Any], Share]:
    """Gives this rank's share of what a loader yields."""
    return _whole if group.size == 1 else lambda batch: _share(batch, group.size)


def _whole(batch: Any) -> Share:
    inputs, targets = batches.split(batch)
    return Share(inputs, targets, batches.size(targets), 1.0)


def _share(share: BatchShare, ranks: int) -> Share:
    return Share(*batches.split(share.batch), share.size, share.size * ranks / share.total)
