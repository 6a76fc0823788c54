from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from models_impl.contract import ModelError, flat_size, output_and_regularization
from models_impl.residual_cnn import ResidualBlock, ResidualCNN
from models_impl.simple_mlp import SimpleMLP
from models_impl.small_cnn import SmallCNN


def set_weights(model: SimpleMLP, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.feature("S11")
@pytest.mark.parametrize("model_class", [SimpleMLP, SmallCNN, ResidualCNN])
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 28, 28), (8, 8)])
def test_models_map_images_to_outputs_that_can_be_trained(model_class, input_shape):
    torch.manual_seed(0)
    model = model_class(input_shape, (10,))
    output, regularization = model(torch.rand(4, *input_shape))
    assert output.shape == (4, 10)
    assert regularization == 0.0
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("model_class", [SimpleMLP, SmallCNN, ResidualCNN])
def test_output_has_the_output_shape(model_class):
    assert model_class((1, 8, 8), (2, 3))(torch.rand(5, 1, 8, 8))[0].shape == (5, 2, 3)
    assert model_class((1, 8, 8), ())(torch.rand(5, 1, 8, 8))[0].shape == (5,)


@pytest.mark.parametrize(
    ("model_class", "params"),
    [
        (SimpleMLP, {"num_hidden_layers": 2, "hidden_size": 7, "l1_loss_lamda": 0.1, "activation": "tanh"}),
        (SmallCNN, {"channels": (4, 8), "hidden_size": 5, "dropout": 0.5, "batch_norm": True}),
        (ResidualCNN, {"width": 4, "blocks_per_stage": 2, "stages": 3}),
    ],
)
def test_parameters_may_come_from_json(model_class, params):
    shapes = {"input_shape": (1, 8, 8), "output_shape": (10,)}
    direct = model_class(**shapes, **params)
    read_back = model_class(**json.loads(json.dumps({**shapes, **params})))
    assert [p.shape for p in read_back.parameters()] == [p.shape for p in direct.parameters()]


@pytest.mark.feature("S11")
def test_mlp_regularization_sums_weights_and_not_biases():
    model = SimpleMLP((2,), (1,), hidden_size=3, l1_loss_lamda=0.5, l2_loss_lamda=0.25)
    set_weights(model, -2.0)
    # 2 * 3 + 3 * 1 = 9 weights of -2: the absolute values sum to 18, the squares to 36.
    assert model(torch.zeros(1, 2))[1].item() == pytest.approx(0.5 * 18 + 0.25 * 36)


@pytest.mark.parametrize(("factor", "expected"), [("l1_loss_lamda", 18.0), ("l2_loss_lamda", 36.0)])
def test_mlp_regularization_with_one_factor(factor, expected):
    model = SimpleMLP((2,), (1,), hidden_size=3, **{factor: 1.0})
    set_weights(model, -2.0)
    assert model(torch.zeros(1, 2))[1].item() == pytest.approx(expected)


def test_mlp_computes_what_its_layers_say():
    model = SimpleMLP((2,), (1,), hidden_size=3)
    set_weights(model, 1.0)
    # Each hidden unit: 1 + 2 + 1 = 4; output: 3 * 4 + 1.
    assert model(torch.tensor([[1.0, 2.0]]))[0].item() == 13.0


def test_mlp_layers():
    linear = SimpleMLP((4,), (2,), num_hidden_layers=0)
    assert [type(layer) for layer in linear.layers] == [nn.Linear]
    deep = SimpleMLP((4,), (2,), num_hidden_layers=2, hidden_size=3, dropout=0.5, activation="tanh")
    hidden = [nn.Linear, nn.Tanh, nn.Dropout]
    assert [type(layer) for layer in deep.layers] == [*hidden, *hidden, nn.Linear]


def test_residual_block_adds_its_input():
    block = ResidualBlock(2, 2, stride=1).eval()
    nn.init.zeros_(block.residual[-1].weight)
    image = torch.rand(1, 2, 4, 4)
    assert torch.equal(block(image), image)


def test_residual_stages_halve_the_image_and_double_the_channels():
    model = ResidualCNN((1, 28, 28), (10,), width=4, blocks_per_stage=2, stages=3)
    assert model.blocks(model.stem(torch.rand(1, 1, 28, 28))).shape == (1, 16, 7, 7)


@pytest.mark.parametrize(
    ("model_class", "params", "message"),
    [
        (SimpleMLP, {"hidden_size": 0}, "hidden_size is 0"),
        (SimpleMLP, {"hidden_size": True}, "hidden_size is True"),
        (SimpleMLP, {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        (SimpleMLP, {"l1_loss_lamda": -0.1}, "l1_loss_lamda is -0.1"),
        (SimpleMLP, {"l2_loss_lamda": float("nan")}, "l2_loss_lamda is nan"),
        (SimpleMLP, {"dropout": 1.0}, "dropout is 1.0"),
        (SimpleMLP, {"activation": "rectifier"}, "activation is 'rectifier'; choose one of"),
        (SimpleMLP, {"input_shape": [(3,), (4,)]}, "input_shape is .* takes a single shape"),
        (SimpleMLP, {"output_shape": {"a": (3,)}}, "output_shape is .* takes a single shape"),
        (SmallCNN, {"input_shape": (64,)}, r"input_shape is \(64,\), but this model reads images"),
        (SmallCNN, {"channels": (4, 4, 4, 4)}, "too small for 4 stages"),
        (SmallCNN, {"channels": ()}, "number of channels"),
        (SmallCNN, {"channels": (4, 0)}, "channels is"),
        (ResidualCNN, {"width": 1.5}, "width is 1.5"),
        (ResidualCNN, {"stages": 0}, "stages is 0"),
    ],
)
def test_wrong_parameters_are_named(model_class, params, message):
    with pytest.raises(ModelError, match=message):
        model_class(**{"input_shape": (1, 8, 8), "output_shape": (10,), **params})


def test_flat_size():
    assert [flat_size(shape) for shape in [(), (3,), (2, 3, 4)]] == [1, 3, 24]


@pytest.mark.feature("S11")
def test_a_single_output_means_no_regularization():
    output = torch.ones(2)
    assert output_and_regularization(output) == (output, 0.0)
    assert output_and_regularization([output, output]) == ([output, output], 0.0)
    assert output_and_regularization((output, 0.5)) == (output, 0.5)
    with pytest.raises(ModelError, match="a tuple of 3"):
        output_and_regularization((output, output, 0.5))
