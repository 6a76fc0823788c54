from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainers.parameter_history import ParameterHistory


def test_records_mean_and_population_variance_of_the_present_values():
    model = nn.Linear(2, 1)
    history = ParameterHistory(model)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 3.0]]))
        model.bias.fill_(5.0)
        history.record()
        model.weight.mul_(2.0)
        history.record()
    assert history.values == {
        "weight": {"mean": [2.0, 4.0], "variance": [1.0, 4.0]},
        "bias": {"mean": [5.0, 5.0], "variance": [0.0, 0.0]},
    }


def test_agrees_with_numpy_for_many_parameters_of_several_types():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5).double())
    history = ParameterHistory(model)
    history.record()
    assert list(history.values) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        assert history.values[name]["mean"] == [pytest.approx(np.mean(array), rel=1e-4)]
        assert history.values[name]["variance"] == [pytest.approx(np.var(array), rel=1e-4)]


def test_a_model_without_parameters_has_an_empty_history():
    history = ParameterHistory(nn.ReLU())
    history.record()
    assert history.values == {}
