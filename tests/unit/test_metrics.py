from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    explained_variance_score,
    f1_score,
    top_k_accuracy_score,
)

from trainers.contract import TrainerError
from trainers.metrics import METRICS, MetricSet, find

CLASSIFICATION = {"accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy"}


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


@pytest.mark.feature("S13")
@pytest.mark.parametrize("absent", [(), (2,), (2, 5)], ids=["all classes", "one never there", "two never there"])
@pytest.mark.parametrize("one_hot", [False, True], ids=["indices", "one-hot"])
def test_classifications_are_those_of_scikit_learn(absent, one_hot):
    generator = torch.Generator().manual_seed(len(absent))
    output = torch.randn(50, 8, generator=generator)
    output[:, 2] -= 9.0 * (2 in absent)  # is predicted as seldom
    allowed = torch.tensor([place for place in range(8) if place not in absent])
    target = allowed[torch.randint(len(allowed), (50,), generator=generator)]
    predicted = output.argmax(dim=1)
    expected = {
        "accuracy": accuracy_score(target, predicted),
        "balanced_accuracy": balanced_accuracy_score(target[target >= 0], predicted)
        if set(predicted.tolist()) <= set(target.tolist())
        else np.mean([(predicted[target == place] == place).double().mean() for place in allowed]),
        "macro_f1": f1_score(target, predicted, average="macro", zero_division=0.0),
        "top5_accuracy": top_k_accuracy_score(target, output, k=5, labels=range(8)),
    }
    given = torch.nn.functional.one_hot(target, 8) if one_hot else target
    batches = in_uneven_batches(output, given)
    assert {name: value(name, *batches) for name in expected} == pytest.approx(expected, rel=1e-12)


def test_counts_of_every_pixel():
    output = torch.tensor([[[0.9, 0.1, 0.2], [0.1, 0.9, 0.8]]])  # (1 example, 2 classes, 3 pixels)
    target = torch.tensor([[0, 0, 1]])
    assert value("balanced_accuracy", (output, target)) == (1 / 2 + 1) / 2
    assert value("macro_f1", (output, target)) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_five_of_five_classes_say_nothing():
    with pytest.raises(TrainerError, match="top5_accuracy needs outputs of shape .* with at least 6 classes"):
        value("top5_accuracy", (torch.zeros(3, 5), torch.zeros(3, dtype=torch.long)))


def test_values_of_single_units(responses):
    output, target = responses
    target = torch.cat([target, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    output = torch.cat([output, output[:, :1]], dim=1)
    metrics = MetricSet(["mse", "correlation", "explained_variance"])
    for batch in in_uneven_batches(output, target):
        metrics.update(*batch)
    by_unit = metrics.by_unit()
    assert list(by_unit) == ["correlation", "explained_variance"]
    expected = [np.corrcoef(output[:, unit], target[:, unit])[0, 1] for unit in range(3)]
    assert by_unit["correlation"][:3] == pytest.approx(expected, rel=1e-9)
    expected = explained_variance_score(target[:, :3], output[:, :3], multioutput="raw_values")
    assert by_unit["explained_variance"][:3] == pytest.approx(expected, rel=1e-9)
    assert all(np.isnan(values[3]) for values in by_unit.values())  # a target that never changes
    assert metrics.compute()["correlation"] == by_unit["correlation"][:3].mean()


@pytest.mark.parametrize("name", sorted(set(METRICS) - CLASSIFICATION))
def test_shapes_that_differ_are_refused(name):
    with pytest.raises(TrainerError, match="same shape"):
        value(name, (torch.zeros(4, 3), torch.zeros(4, 2)))


@pytest.mark.parametrize("name", METRICS)
def test_no_example_gives_no_number(name):
    assert math.isnan(value(name))


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(TrainerError, match="'precision'; choose from accuracy, balanced_accuracy"):
        find("precision")


def test_every_metric_has_a_direction():
    assert {name: metric.direction for name, metric in METRICS.items()} == {
        "accuracy": "max",
        "balanced_accuracy": "max",
        "correlation": "max",
        "explained_variance": "max",
        "macro_f1": "max",
        "mae": "min",
        "mse": "min",
        "poisson_loss": "min",
        "top5_accuracy": "max",
    }


@pytest.mark.feature("S21")
def test_units_of_several_outputs_stay_apart():
    metrics = MetricSet(["correlation"])
    metrics.update([torch.eye(2), torch.eye(2)[:, :1]], [torch.eye(2), -torch.eye(2)[:, :1]])
    assert [values.tolist() for values in metrics.by_unit()["correlation"]] == [pytest.approx([1, 1]), [-1]]


@pytest.mark.feature("S21")
def test_metrics_of_several_outputs_are_averaged():
    metrics = MetricSet(["mae", "mse"])
    outputs = {"a": torch.ones(2, 1), "b": torch.ones(2, 3)}
    metrics.update(outputs, {"b": torch.zeros(2, 3), "a": torch.full((2, 1), 4.0)})
    assert metrics.compute() == {"mae": (3 + 1) / 2, "mse": (9 + 1) / 2}
