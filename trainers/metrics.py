"""Metrics of a tier by name, accumulated batch by batch.

Every metric takes outputs and targets of one batch, examples along the first dimension, and gives one float for all
batches together. Sums are kept in float64 where the batches lie and read once, by `compute`. "Units" are the numbers of
one output, flattened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from trainers import batch
from trainers import classification_metrics as classification
from trainers.contract import TrainerError

Direction = Literal["max", "min"]


class Metric(Protocol):
    """A number over all examples of a tier."""

    direction: ClassVar[Direction]

    def update(self, output: Tensor, target: Tensor) -> None:
        """Take in one batch."""

    def compute(self) -> float:
        """The value over all batches so far; NaN where it is not defined."""

    def state(self) -> dict[str, Any]:
        """What was taken in, as tensors and numbers, for `merge`."""

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take in what another of the same class has, as its `state` gave it."""


class _MeanError:
    """Mean over all units and examples of an error of each."""

    direction: ClassVar[Direction] = "min"

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        output, target = _by_unit(output, target)
        self._sum = self._sum + self._errors(output, target).sum()
        self._count += target.numel()

    def compute(self) -> float:
        return float(self._sum) / self._count if self._count else math.nan

    def state(self) -> dict[str, Any]:
        return {"sum": self._sum, "count": self._count}

    def merge(self, state: Mapping[str, Any]) -> None:
        self._sum = self._sum + state["sum"]
        self._count += state["count"]

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class MeanSquaredError(_MeanError):
    """Mean of (output - target) ** 2."""

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()


class MeanAbsoluteError(_MeanError):
    """Mean of |output - target|."""

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs()


class PoissonLoss(_MeanError):
    """Mean of output - target * log(output + 1e-8): the negative log-likelihood of counts whose rate is the output, up
    to a constant (`torch.nn.PoissonNLLLoss` with log_input=False, full=False). Outputs must not be negative."""

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.poisson_nll_loss(output, target, log_input=False, full=False, eps=1e-8, reduction="none")


class _Moments:
    """Means, squared deviations and co-deviations of two values per unit, merged batch by batch in float64.

    The pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979), which unlike sums of squares does not cancel where means are large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.means = torch.zeros(2, 1, dtype=torch.float64)
        self.deviations = torch.zeros(2, 1, dtype=torch.float64)
        self.co_deviations = torch.zeros(1, dtype=torch.float64)

    def update(self, first: Tensor, second: Tensor) -> None:
        """Take in (N, units) values in float64."""
        count = first.shape[0]
        if not count:
            return
        both = torch.stack([first, second])
        means = both.mean(dim=1)
        centred = both - means.unsqueeze(1)
        self._take_in(count, means, centred.square().sum(dim=1), (centred[0] * centred[1]).sum(dim=0))

    def state(self) -> dict[str, Any]:
        """For `merge`."""
        moments = {"means": self.means, "deviations": self.deviations, "co_deviations": self.co_deviations}
        return {"count": self.count, **moments}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take in what another has, as its `state` gave it."""
        if state["count"]:
            self._take_in(state["count"], state["means"], state["deviations"], state["co_deviations"])

    def _take_in(self, count: int, means: Tensor, deviations: Tensor, co_deviations: Tensor) -> None:
        if self.count:
            weight = self.count * count / (self.count + count)
            shift = means - self.means
            deviations = self.deviations + deviations + shift.square() * weight
            co_deviations = self.co_deviations + co_deviations + shift[0] * shift[1] * weight
            means = self.means + shift * (count / (self.count + count))
        self.count += count
        self.means, self.deviations, self.co_deviations = means, deviations, co_deviations

    def varies(self) -> Tensor:
        """(2, units) booleans: whether a value was not the same in all examples, but for rounding in float64."""
        return self.deviations > self.count * (self.means * 1e-12).square()


class Correlation:
    """Pearson's correlation of output and target over all examples, averaged over units.

    Units whose target never changes are left out, since no model can correlate with them; a unit whose output never
    changes counts as 0.
    """

    direction: ClassVar[Direction] = "max"

    def __init__(self) -> None:
        self._moments = _Moments()

    def update(self, output: Tensor, target: Tensor) -> None:
        self._moments.update(*_by_unit(output, target))

    def compute(self) -> float:
        return _mean(self.by_unit())

    def state(self) -> dict[str, Any]:
        return self._moments.state()

    def merge(self, state: Mapping[str, Any]) -> None:
        self._moments.merge(state)

    def by_unit(self) -> Tensor:
        """The correlation of each unit, NaN where it is left out."""
        moments = self._moments
        output_varies, target_varies = moments.varies()
        correlations = moments.co_deviations / moments.deviations.prod(dim=0).sqrt()
        return _where(target_varies, correlations.where(output_varies, torch.zeros_like(correlations)))


class ExplainedVariance:
    """1 - Var(target - output) / Var(target) over all examples, averaged over units whose target changes.

    As scikit-learn's `explained_variance_score` with uniform averaging, but for units of constant target.
    """

    direction: ClassVar[Direction] = "max"

    def __init__(self) -> None:
        self._moments = _Moments()

    def update(self, output: Tensor, target: Tensor) -> None:
        output, target = _by_unit(output, target)
        self._moments.update(target - output, target)

    def compute(self) -> float:
        return _mean(self.by_unit())

    def state(self) -> dict[str, Any]:
        return self._moments.state()

    def merge(self, state: Mapping[str, Any]) -> None:
        self._moments.merge(state)

    def by_unit(self) -> Tensor:
        """The value of each unit, NaN where it is left out."""
        residual, total = self._moments.deviations
        return _where(self._moments.varies()[1], 1 - residual / total)


METRICS: Mapping[str, type[Metric]] = {
    "accuracy": classification.Accuracy,
    "balanced_accuracy": classification.BalancedAccuracy,
    "correlation": Correlation,
    "explained_variance": ExplainedVariance,
    "macro_f1": classification.MacroF1,
    "mae": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "poisson_loss": PoissonLoss,
    "top5_accuracy": classification.Top5Accuracy,
}


def find(name: Any) -> type[Metric]:
    """The metric of this name.

    Raises:
        TrainerError: there is none.
    """
    if isinstance(name, str) and name in METRICS:
        return METRICS[name]
    raise TrainerError(f"metrics names {name!r}; choose from {', '.join(METRICS)}.")


class MetricSet:
    """Several metrics over the batches of one tier; with several outputs, each metric's mean over the outputs."""

    def __init__(self, names: Iterable[str]) -> None:
        self._classes = {name: find(name) for name in names}
        self._by_output: list[dict[str, Metric]] = []

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in one batch of outputs and targets, tensors or structures of them."""
        if not self._classes:
            return
        for place, (output, target) in enumerate(batch.pairs(outputs, targets)):
            if place == len(self._by_output):
                self._by_output.append({name: metric() for name, metric in self._classes.items()})
            for metric in self._by_output[place].values():
                metric.update(output, target)

    def compute(self) -> dict[str, float]:
        """The value of every metric by name."""
        return {
            name: sum(metrics[name].compute() for metrics in self._by_output) / len(self._by_output)
            for name in self._classes
        }

    def state(self) -> list[dict[str, Any]]:
        """What was taken in, by output and name of the metric, for `joined`."""
        return [{name: metric.state() for name, metric in metrics.items()} for metrics in self._by_output]

    @classmethod
    def joined(cls, names: Iterable[str], states: Iterable[list[dict[str, Any]]]) -> MetricSet:
        """All batches of several sets of these metrics, as their `state` gave them."""
        whole = cls(names)
        for state in states:
            for place, metrics in enumerate(state):
                if place == len(whole._by_output):
                    whole._by_output.append({name: metric() for name, metric in whole._classes.items()})
                for name, part in metrics.items():
                    whole._by_output[place][name].merge(part)
        return whole

    def by_unit(self) -> dict[str, Any]:
        """Of the metrics that are means over units, the value of each unit: (units,) float64 arrays, a list of them
        with several outputs. Units that such a mean leaves out are NaN."""
        names = [name for name, metric in self._classes.items() if hasattr(metric, "by_unit")]
        values = {
            name: [metrics[name].by_unit().cpu().numpy() for metrics in self._by_output]  # type: ignore[attr-defined]
            for name in names
        }
        return {name: arrays[0] if len(arrays) == 1 else arrays for name, arrays in values.items()}


def _by_unit(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (N, units) in float64."""
    examples = target.shape[0]
    if output.numel() != target.numel() or output.shape[0] != examples:
        raise TrainerError(
            f"This metric compares outputs with targets of the same shape, not {tuple(output.shape)} "
            f"with {tuple(target.shape)}."
        )
    return output.reshape(examples, -1).double(), target.reshape(examples, -1).double()


def _where(chosen: Tensor, values: Tensor) -> Tensor:
    return values.where(chosen, torch.full_like(values, math.nan))


def _mean(values: Tensor) -> float:
    """Over those that are not left out; NaN where all are."""
    chosen = values[~values.isnan()]
    return chosen.mean().item() if chosen.numel() else math.nan
