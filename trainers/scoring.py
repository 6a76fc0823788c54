"""The loss and the metrics of a model on a tier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from trainers import batch as batches
from trainers.contract import TrainerError
from trainers.epoch_losses import EpochLosses
from trainers.histories import LOSS
from trainers.metrics import MetricSet
from trainers.objective import Objective
from trainers.process_group import ProcessGroup
from trainers.share import sharing


class TierScore:
    """What one pass over a tier found."""

    def __init__(self, losses: EpochLosses, metrics: MetricSet) -> None:
        self._losses = losses
        self._metrics = metrics

    def values(self) -> dict[str, float]:
        """The loss and every metric: here all batches become one number each."""
        return {LOSS: self._losses.means()[0], **self._metrics.compute()}

    def by_unit(self) -> dict[str, Any]:
        """The metrics that have a value for each unit of the output; see `MetricSet.by_unit`."""
        return self._metrics.by_unit()


class Scoring:
    """Scores what an objective calls.

    Args:
        metrics: names from `trainers.metrics.METRICS`.
        device: where batches are scored.
        group: who scores together; each scores its share, and all have the score of the whole tier.
    """

    def __init__(self, objective: Objective, metrics: Sequence[str], device: torch.device, group: ProcessGroup) -> None:
        self._objective = objective
        self._metrics = metrics
        self._device = device
        self._group = group
        self._share = sharing(group)

    @torch.inference_mode()
    def score(
        self,
        loader: Iterable[Any],
        tier: str,
        after_batch: Callable[[], None] | None = None,
        keep: Callable[[Any, Any], None] | None = None,
    ) -> TierScore:
        """Pass over a tier; `keep` is given the outputs and targets of every batch, in main memory.

        Raises:
            TrainerError: the loader yields nothing.
        """
        self._group.share_buffers(self._objective.called)
        self._objective.called.eval()
        losses = EpochLosses()
        metrics = MetricSet(self._metrics)
        for batch in loader:
            share = self._share(batch)
            if share.size:
                inputs, targets = (batches.to_device(part, self._device) for part in share[:2])
                loss, regularization, output = self._objective.losses(inputs, targets)
                losses.add(loss, regularization, share.size)
                metrics.update(output, targets)
                if keep is not None:
                    keep(batches.to_cpu(output), batches.to_cpu(targets))
            else:
                losses.add(0.0, 0.0, 0)
            if after_batch is not None:
                after_batch()
        if self._group.size > 1:
            losses, metrics = self._of_all(losses, metrics)
        require_batches(losses, tier)
        return TierScore(losses, metrics)

    def _of_all(self, losses: EpochLosses, metrics: MetricSet) -> tuple[EpochLosses, MetricSet]:
        """Those of all ranks together."""
        states = self._group.gather([losses.state(), metrics.state()])
        return EpochLosses.joined([part[0] for part in states]), MetricSet.joined(
            self._metrics, [part[1] for part in states]
        )


def require_batches(losses: EpochLosses, tier: str) -> None:
    """Raise TrainerError where a tier had no batch."""
    if not len(losses):
        raise TrainerError(
            f"The {tier} loader yielded no batch: it is empty, or smaller than one batch where short ones are dropped."
        )
