from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import explained_variance_score

from trainers.contract import TrainerError
from trainers.metrics import METRICS, MetricSet, find


def value(name: str, *batches: tuple[torch.Tensor, torch.Tensor]) -> float:
    metric = find(name)()
    for output, target in batches:
        metric.update(output, target)
    return metric.compute()


@pytest.fixture
def responses() -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets (50, 3) with a large common offset, which sums of squares would not survive in float32."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(50, 3, generator=generator, dtype=torch.float64) + 1e6
    return target + torch.randn(50, 3, generator=generator, dtype=torch.float64), target


def in_uneven_batches(output: torch.Tensor, target: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(output.split([20, 29, 1]), target.split([20, 29, 1]), strict=True))


def test_accuracy_over_batches_of_different_size():
    output = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert value("accuracy", (output, torch.tensor([0, 1, 1])), (output[:1], torch.tensor([0]))) == 3 / 4


def test_accuracy_reads_one_hot_targets():
    output = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert value("accuracy", (output, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))) == 1 / 2


def test_accuracy_of_every_pixel():
    output = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])  # (1 example, 2 classes, 2 pixels)
    assert value("accuracy", (output, torch.tensor([[0, 0]]))) == 1 / 2


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (torch.zeros(4, 1), torch.zeros(4, 1), "at least 2 classes"),
        (torch.zeros(4), torch.zeros(4), "at least 2 classes"),
        (torch.zeros(4, 3), torch.zeros(4, 1), "class indices or one-hot"),
    ],
)
def test_accuracy_refuses_what_it_cannot_compare(output, target, message):
    with pytest.raises(TrainerError, match=message):
        value("accuracy", (output, target))


def test_errors_by_hand():
    output, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert value("mse", (output, target)) == (0 + 4 + 9 + 0) / 4
    assert value("mae", (output, target)) == (0 + 2 + 3 + 0) / 4
    by_hand = (1 - 1 * math.log(1)) + 2 + 3 + (4 - 4 * math.log(4))
    assert value("poisson_loss", (output, target)) == pytest.approx(by_hand / 4, rel=1e-7)


def test_correlation_is_that_of_numpy_over_all_examples(responses):
    output, target = responses
    expected = np.mean([np.corrcoef(output[:, unit], target[:, unit])[0, 1] for unit in range(3)])
    assert value("correlation", *in_uneven_batches(output, target)) == pytest.approx(expected, rel=1e-9)


def test_explained_variance_is_that_of_scikit_learn(responses):
    output, target = responses
    expected = explained_variance_score(target, output)
    assert value("explained_variance", *in_uneven_batches(output, target)) == pytest.approx(expected, rel=1e-9)


def test_units_whose_target_is_constant_do_not_count():
    output = torch.tensor([[1.0, 0.3], [2.0, 0.1], [3.0, 0.2]])
    target = torch.tensor([[2.0, 0.1], [4.0, 0.1], [6.0, 0.1]])
    batches = [(output[:2], target[:2]), (output[2:], target[2:])]
    assert value("correlation", *batches) == pytest.approx(1.0)
    assert value("explained_variance", *batches) == pytest.approx(1 - 1 / 4)
    assert math.isnan(value("correlation", (output[:, 1:], target[:, 1:])))


def test_a_constant_is_recognised_in_spite_of_rounding():
    constant = torch.full((11, 1), 0.1, dtype=torch.float64)
    output = torch.arange(11, dtype=torch.float64).unsqueeze(1)
    batches = list(zip(output.split([5, 6]), constant.split([5, 6]), strict=True))
    assert math.isnan(value("correlation", *batches))
    assert math.isnan(value("explained_variance", *batches))


def test_a_constant_output_correlates_with_nothing():
    target = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    output = torch.tensor([[0.1, 1.0], [0.1, 2.0]])
    assert value("correlation", (output, target)) == pytest.approx((0 + 1) / 2)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"accuracy"}))
def test_shapes_that_differ_are_refused(name):
    with pytest.raises(TrainerError, match="same shape"):
        value(name, (torch.zeros(4, 3), torch.zeros(4, 2)))


@pytest.mark.parametrize("name", METRICS)
def test_no_example_gives_no_number(name):
    assert math.isnan(value(name))


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(TrainerError, match="'precision'; choose from accuracy, correlation"):
        find("precision")


def test_every_metric_has_a_direction():
    assert {name: metric.direction for name, metric in METRICS.items()} == {
        "accuracy": "max",
        "correlation": "max",
        "explained_variance": "max",
        "mae": "min",
        "mse": "min",
        "poisson_loss": "min",
    }


@pytest.mark.feature("S21")
def test_metrics_of_several_outputs_are_averaged():
    metrics = MetricSet(["mae", "mse"])
    outputs = {"a": torch.ones(2, 1), "b": torch.ones(2, 3)}
    metrics.update(outputs, {"b": torch.zeros(2, 3), "a": torch.full((2, 1), 4.0)})
    assert metrics.compute() == {"mae": (3 + 1) / 2, "mse": (9 + 1) / 2}
