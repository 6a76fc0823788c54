from __future__ import annotations

import inspect
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from models_impl.simple_mlp import SimpleMLP
from tests.small_training import Batches, Scale, column, scale_trainer
from trainers.contract import OPTIONAL_INIT_PARAMS, TRAINER_INIT_PARAMS, TrainerError
from trainers.nn_trainer import NNTrainer
from trainers.trainer_options import TrainerOptions


class Untouchable:
    """A loader that must not be used."""

    def __iter__(self):
        raise AssertionError("the loader was used")


def digits_like(seed: int, count: int) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return Batches(*zip(inputs.split(16), inputs[:, :3].argmax(dim=1).split(16), strict=True))


def mlp_trainer(tmp_path, **changes: Any) -> NNTrainer:
    """A classifier with dropout, so that training draws random numbers."""
    mlp_params = {"input_shape": (6,), "output_shape": (3,), "hidden_size": 16, "dropout": 0.2}
    return scale_trainer(
        tmp_path,
        **{
            "train_dataloader": digits_like(0, 160),
            "validation_dataloader": digits_like(1, 50),
            "test_dataloader": digits_like(2, 50),
            "model_class": SimpleMLP,
            "model_class_params": mlp_params,
            "optimizer_class": torch.optim.Adam,
            "optimizer_class_params": {"lr": 0.01},
            "criterion_class": nn.CrossEntropyLoss,
            "max_epoch": 4,
            **changes,
        },
    )


def histories(trainer: NNTrainer) -> list:
    return [
        trainer.training_epoch_loss_history,
        trainer.validation_epoch_loss_history,
        trainer.regularization_loss_history,
        trainer.model_class_params_history_dict,
        trainer.validation_metric_history,
        trainer.test_metrics,
        {name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()},
    ]


@pytest.mark.feature("S12")
def test_two_epochs_by_hand(tmp_path):
    trainer = scale_trainer(tmp_path)
    trainer.train()
    # Squared error (f - 3) ** 2 from f = 1; a step of 0.25 * 2 * (3 - f) halves the distance: f = 2, then 2.5.
    assert trainer.training_epoch_loss_history == [4.0, 1.0]
    # Validation targets are 2 x: at f = 2 the error is 0, at 2.5 it is the mean of 0.25 * x ** 2 over three examples.
    assert trainer.validation_epoch_loss_history == [0.0, pytest.approx(0.25 * (1 + 4 + 9) / 3)]
    assert trainer.regularization_loss_history == [0.0, 0.0]
    assert trainer.model_class_params_history_dict == {"factor": {"mean": [2.0, 2.5], "variance": [0.0, 0.0]}}
    assert (trainer.best_epoch, trainer.epochs_done, trainer.parameter_count) == (0, 2, 1)
    # The test tier is scored at f = 2, the best on validation, and not at 2.5, where training ended.
    assert trainer.test_score == 4.0
    assert trainer.test_metrics == {"loss": 4.0}
    assert trainer.metric_directions == {"loss": "min"}
    assert trainer.train_dataloader.epochs == [0, 1]


@pytest.mark.feature("S12")
def test_best_weights_are_in_the_file_and_can_be_loaded_by_another_trainer(tmp_path):
    trainer = scale_trainer(tmp_path)
    trainer.train()
    assert safetensors.torch.load_file(trainer.model_save_path)["factor"].item() == 2.0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["best.safetensors"]

    other = scale_trainer(tmp_path, train_dataloader=Untouchable(), validation_dataloader=Untouchable())
    other.load_best_performing_model()
    assert other.evaluate() == 4.0


def test_weights_that_are_missing_or_of_another_model_are_refused(tmp_path):
    with pytest.raises(TrainerError, match=r"no weights at .*best\.safetensors; call train\(\) first"):
        scale_trainer(tmp_path).load_best_performing_model()
    scale_trainer(tmp_path, max_epoch=1).train()
    with pytest.raises(TrainerError, match="do not fit SimpleMLP"):
        mlp_trainer(tmp_path).load_best_performing_model()


def test_a_failed_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    trainer = scale_trainer(tmp_path)
    trainer.train()

    def fail(model: nn.Module, filename: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_model", fail)
    with pytest.raises(OSError, match="no space"):
        scale_trainer(tmp_path, max_epoch=1).train()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["best.safetensors"]
    assert safetensors.torch.load_file(trainer.model_save_path)["factor"].item() == 2.0


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self, input_shape: tuple, output_shape: tuple) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1)
        self.second = nn.Linear(1, 1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_shared_weights_survive_the_file(tmp_path):
    trainer = scale_trainer(tmp_path, model_class=Tied, optimizer_class_params={"lr": 0.01})
    trainer.train()
    other = scale_trainer(tmp_path, model_class=Tied, seed=1)
    other.load_best_performing_model()
    assert other.evaluate() == trainer.test_score
    assert other.model.first.weight is other.model.second.weight


def test_training_again_changes_nothing(tmp_path):
    trainer = mlp_trainer(tmp_path)
    trainer.train()
    before = histories(trainer)
    trainer.train()
    assert histories(trainer) == before


@pytest.mark.feature("S11")
def test_regularization_is_minimised_and_recorded_apart(tmp_path):
    trainer = scale_trainer(
        tmp_path, model_class_params={"input_shape": (1,), "output_shape": (1,), "regularized": True}, max_epoch=1
    )
    trainer.train()
    # d/df [(f - 3) ** 2 + f ** 2] at f = 1 is -4 + 2, so that f becomes 1.5.
    assert trainer.training_epoch_loss_history == [4.0]
    assert trainer.regularization_loss_history == [1.0]
    assert trainer.model.factor.item() == 1.5
    assert trainer.validation_epoch_loss_history == [pytest.approx(0.25 * (1 + 4 + 9) / 3)]


def test_epoch_losses_weigh_batches_by_their_size(tmp_path):
    batches = Batches((column(1.0, 1.0, 1.0), column(2.0, 2.0, 2.0)), (column(1.0), column(5.0)))
    trainer = scale_trainer(
        tmp_path, train_dataloader=batches, validation_dataloader=batches, optimizer_class_params={"lr": 0.0}
    )
    trainer.train()
    assert trainer.training_epoch_loss_history == trainer.validation_epoch_loss_history == [(3 * 1 + 16) / 4] * 2


@pytest.mark.feature("S12")
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    first, again, other = (mlp_trainer(tmp_path, seed=seed, metrics=["accuracy"]) for seed in (7, 7, 8))
    for trainer in (first, again, other):
        torch.rand(3)  # What others draw between building and training must not matter.
        trainer.train()
    assert histories(first) == histories(again)
    assert histories(first) != histories(other)


def test_each_epoch_of_each_seed_draws_its_own_numbers(tmp_path):
    drawn = []

    class Drawing(Scale):
        def forward(self, x: Tensor) -> Any:
            if self.training:
                drawn.append(torch.rand(()).item())
            return super().forward(x)

    for seed in (0, 1):
        scale_trainer(tmp_path, model_class=Drawing, seed=seed).train()
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(
    ("selection", "best_epoch", "score"),
    [("loss", 0, (0.5 * 2 - 10) ** 2), ("explained_variance", 1, math.nan), ("mae", 0, 9.0)],
)
def test_the_selected_value_chooses_the_best_epoch_and_is_the_score(tmp_path, selection, best_epoch, score):
    # The factor is 2, then 2.5; at 2.5 only the offset is missed, which explained variance does not see.
    tier = [(x, 2.5 * x - 10) for x in (column(2.0, 4.0), column(6.0))]
    trainer = scale_trainer(
        tmp_path,
        validation_dataloader=Batches(*tier),
        test_dataloader=Batches((column(2.0), column(-5.0))),
        metrics=["explained_variance", "mae"],
        selection=selection,
    )
    trainer.train()
    assert trainer.best_epoch == best_epoch
    assert trainer.model.factor.item() == [2.0, 2.5][best_epoch]
    assert trainer.test_score == pytest.approx(score, nan_ok=True)
    assert trainer.test_score is trainer.test_metrics[selection]
    assert list(trainer.test_metrics) == ["loss", "explained_variance", "mae"]
    assert trainer.metric_directions == {"loss": "min", "explained_variance": "max", "mae": "min"}
    # Residuals at factor 2 are 0.5 x - 10, with the variance of 0.5 x; targets have that of 2.5 x.
    assert trainer.validation_metric_history == {
        "explained_variance": pytest.approx([1 - 0.5**2 / 2.5**2, 1.0]),
        "mae": pytest.approx([8.0, 10.0]),
    }


@pytest.mark.parametrize(
    ("losses", "best_epoch"),
    [
        ([2.0, -1.0, 0.0], 1),
        ([1.0, 1.0, 2.0], 0),
        ([math.nan, 3.0, math.nan], 1),
        ([math.inf, math.nan, math.inf], 0),
        ([1.0, -math.inf, 0.5], 2),
    ],
)
def test_the_best_epoch_is_the_first_of_the_smallest_finite_losses(tmp_path, losses, best_epoch):
    scripted = iter(losses)

    class Scripted(NNTrainer):
        def validate(self) -> dict[str, float]:
            return {"loss": next(scripted)}

    trainer = scale_trainer(tmp_path, max_epoch=len(losses))
    trainer.__class__ = Scripted
    trainer.train()
    assert trainer.best_epoch == best_epoch


def test_of_equal_metrics_the_earlier_epoch_is_kept(tmp_path):
    changes = {"metrics": ["correlation"], "selection": "correlation", "optimizer_class_params": {"lr": 0.0}}
    trainer = scale_trainer(tmp_path, **changes)
    trainer.train()
    assert trainer.validation_metric_history["correlation"] == [pytest.approx(1.0)] * 2
    assert trainer.best_epoch == 0


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path):
    good = (column(1.0), column(3.0))
    bad = (column(1.0), column(math.nan))

    class TurnsBad(Batches):
        def __iter__(self):
            return iter([good, good] if self.epochs[-1] == 0 else [good, bad, good])

    trainer = scale_trainer(tmp_path, train_dataloader=TurnsBad(), max_epoch=5)
    with pytest.raises(TrainerError, match="not a number in epoch 2 of 5, step 2 of 3"):
        trainer.train()
    assert len(trainer.training_epoch_loss_history) == trainer.epochs_done == 1


def test_a_regularization_that_is_not_finite_is_an_error_too(tmp_path):
    params = {"input_shape": (1,), "output_shape": (1,), "factor": 1e30, "regularized": True}
    with pytest.raises(TrainerError, match="epoch 1 of 2, step 1 of 1"):
        scale_trainer(tmp_path, model_class_params=params).train()


class TwoHeads(nn.Module):
    """Several inputs to several outputs, in dicts of lists."""

    def __init__(self, input_shape: Any, output_shape: Any) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: dict) -> tuple[dict, float]:
        first, second = x["pair"]
        return {"sums": [self.factor * (first + second)], "product": self.factor * first * second}, 0.0


@pytest.mark.feature("S21")
def test_several_inputs_and_targets(tmp_path):
    def batch(*values: float) -> tuple[dict, dict]:
        x = column(*values)
        # In another order than the model's outputs: dicts are matched by name.
        return {"pair": (x, 2 * x)}, {"product": 3 * x, "sums": [4 * x]}

    trainer = scale_trainer(
        tmp_path,
        train_dataloader=Batches(batch(1.0)),
        validation_dataloader=Batches(batch(1.0)),
        test_dataloader=Batches(batch(1.0, 1.0), batch(2.0)),
        model_class=TwoHeads,
        metrics=["mae"],
        max_epoch=1,
        optimizer_class_params={"lr": 0.0},
    )
    trainer.train()
    # Outputs 3 x and 2 x ** 2: at x = 1 both errors are 1, at x = 2 they are 2 and 2.
    assert trainer.training_epoch_loss_history == [2.0]
    assert trainer.test_metrics == {"loss": (2 + 2 + 8) / 3, "mae": (4 / 3 + 4 / 3) / 2}
    result = trainer.evaluate(return_outputs_targets_and_loss=True)
    assert result["loss"] == 4.0
    assert np.array_equal(result["outputs"]["sums"][0], [[3], [3], [6]])
    assert np.array_equal(result["outputs"]["product"], [[2], [2], [8]])
    assert np.array_equal(result["targets"]["product"], [[3], [3], [6]])


@pytest.mark.feature("S21")
def test_outputs_that_do_not_match_the_targets_are_refused(tmp_path):
    loader = Batches((column(1.0), [column(1.0), column(2.0)]))
    with pytest.raises(TrainerError, match=r"output is a tensor of shape \(1, 1\) and the target a list of 2"):
        scale_trainer(tmp_path, train_dataloader=loader).train()


@pytest.mark.feature("S12")
def test_evaluate_gives_arrays_of_the_whole_tier(tmp_path):
    trainer = mlp_trainer(tmp_path)
    result = trainer.evaluate(return_outputs_targets_and_loss=True)
    assert (result["outputs"].shape, result["outputs"].dtype) == ((50, 3), np.float32)
    assert (result["targets"].shape, result["targets"].dtype) == ((50,), np.int64)
    whole = nn.functional.cross_entropy(torch.from_numpy(result["outputs"]), torch.from_numpy(result["targets"]))
    assert result["loss"] == trainer.evaluate() == pytest.approx(whole.item(), rel=1e-6)


def test_bfloat16_outputs_become_float32(tmp_path):
    class Coarse(Scale):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).bfloat16()

    class Fine(nn.MSELoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return super().forward(output.float(), target)

    trainer = scale_trainer(tmp_path, model_class=Coarse, criterion_class=Fine)
    assert trainer.evaluate(return_outputs_targets_and_loss=True)["outputs"].dtype == np.float32


def test_dropout_is_off_while_scoring_and_on_while_training(tmp_path):
    modes = []

    class Watching(Scale):
        def forward(self, x: Tensor) -> Any:
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    scale_trainer(tmp_path, model_class=Watching).train()
    training, scoring = (True, True), (False, False)
    assert modes == [training, scoring, scoring, training, scoring, scoring, scoring]


def test_loaders_are_not_touched_before_they_are_needed(tmp_path):
    trainer = scale_trainer(tmp_path, train_dataloader=Untouchable(), test_dataloader=Untouchable())
    assert trainer.validate() == {"loss": (1 + 4 + 9) / 3}


@pytest.mark.parametrize("tier", ["train", "validation", "test"])
def test_an_empty_tier_is_named(tmp_path, tier):
    name = "training" if tier == "train" else tier
    with pytest.raises(TrainerError, match=f"The {name} loader yielded no batch"):
        scale_trainer(tmp_path, **{f"{tier}_dataloader": Batches()}).train()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (column(1.0), r"yielded a tensor of shape \(1, 1\) where a pair"),
        ((column(1.0), column(1.0), column(1.0)), "yielded a tuple of 3 where a pair"),
        ((column(1.0), "cat"), "A batch holds a str"),
    ],
)
def test_batches_that_are_no_pairs_of_tensors_are_refused(tmp_path, batch, message):
    with pytest.raises(TrainerError, match=message):
        scale_trainer(tmp_path, train_dataloader=Batches(batch)).train()


def test_a_criterion_that_gives_no_scalar_is_refused(tmp_path):
    with pytest.raises(TrainerError, match=r"MSELoss returned a loss of shape \(1, 1\); it must be a scalar"):
        scale_trainer(tmp_path, criterion_class_params={"reduction": "none"}).train()


@pytest.mark.parametrize(
    ("optimizer_class", "params", "choice"),
    [
        (torch.optim.Adam, {}, "fused"),
        (torch.optim.SGD, {"lr": 0.1}, "fused"),
        (torch.optim.Rprop, {}, "foreach"),
        (torch.optim.Adam, {"amsgrad": True, "differentiable": False}, "fused"),
        (torch.optim.Adam, {"fused": None}, "fused"),
        (torch.optim.Adam, {"fused": False}, None),
        (torch.optim.Adam, {"foreach": True}, None),
    ],
)
def test_the_fastest_optimizer_implementation_is_chosen_where_the_row_leaves_it_open(
    tmp_path, optimizer_class, params, choice
):
    trainer = mlp_trainer(tmp_path, optimizer_class=optimizer_class, optimizer_class_params=params)
    assert trainer.choices == ({"optimizer_implementation": choice} if choice else {})
    assert choice is None or trainer.optimizer.defaults[choice] is True
    trainer.train()
    assert trainer.training_epoch_loss_history[-1] < trainer.training_epoch_loss_history[0]


def test_an_optimizer_of_ones_own_is_built_as_it_is(tmp_path):
    class Own(torch.optim.SGD):
        pass

    trainer = mlp_trainer(tmp_path, optimizer_class=Own, optimizer_class_params={"lr": 0.1})
    assert trainer.choices == {"optimizer_implementation": "default"}
    trainer.train()


def test_sparse_gradients_are_not_given_to_an_implementation_that_refuses_them(tmp_path):
    class Sparse(nn.Module):
        def __init__(self, input_shape: tuple, output_shape: tuple) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 1, sparse=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x.long()).flatten(1)

    trainer = scale_trainer(tmp_path, model_class=Sparse)
    assert trainer.choices == {"optimizer_implementation": "default"}
    trainer.train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer_class": torch.optim.LBFGS, "optimizer_class_params": {}}, "LBFGS evaluates the loss several"),
        ({"optimizer_class_params": {"lr": -1.0}}, "optimizer_class_params .* do not suit SGD: Invalid learning rate"),
        ({"optimizer_class_params": {"speed": 1}}, "optimizer_class_params .* do not suit SGD"),
        ({"max_epoch": 0}, "max_epoch is 0; it must be an integer of at least 1"),
        ({"max_epoch": True}, "max_epoch is True"),
        ({"seed": -1}, "seed is -1; it must be an integer of at least 0"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"metrics": "accuracy"}, "metrics is 'accuracy'; it must be a list"),
        ({"metrics": ["precision"]}, "metrics names 'precision'; choose from accuracy"),
        ({"metrics": ["mse", "mse"]}, "name each metric once"),
        ({"selection": "accuracy"}, "selection is 'accuracy'; it must be \"loss\" or one of metrics"),
        ({"parameter_history": 1}, "parameter_history is 1"),
    ],
)
def test_wrong_parameters_are_named(tmp_path, changes, message):
    with pytest.raises(TrainerError, match=message):
        scale_trainer(tmp_path, **changes)


def test_the_trainers_own_parameters_can_be_checked_without_building_it():
    NNTrainer.validate_params(metrics=["accuracy"], selection="accuracy", parameter_history=False)
    with pytest.raises(TrainerError, match="selection is 'mse'"):
        NNTrainer.validate_params(selection="mse")


def test_the_parameter_history_can_be_left_out(tmp_path):
    trainer = scale_trainer(tmp_path, parameter_history=False)
    trainer.train()
    assert trainer.model_class_params_history_dict == {}


@pytest.mark.feature("S12")
def test_the_constructor_takes_the_documented_parameters_by_keyword():
    signature = inspect.signature(NNTrainer).parameters
    assert len(TRAINER_INIT_PARAMS) == 12
    assert set(signature) > set(TRAINER_INIT_PARAMS)
    own = set(signature) - set(TRAINER_INIT_PARAMS) - set(OPTIONAL_INIT_PARAMS)
    defaults = {field.name: getattr(TrainerOptions(), field.name) for field in fields(TrainerOptions)}
    assert {name: signature[name].default for name in own} == defaults
    run = {name for name in own if name.startswith("checkpoint")} | {"gpu_memory", "memory"}
    assert run == NNTrainer.run_params


def test_the_reporter_hears_of_every_epoch(tmp_path):
    heard: list[Any] = []

    class Listener:
        def started(self, epochs_done: int, max_epoch: int) -> None:
            heard.append((epochs_done, max_epoch))

        def epoch_finished(self, epoch: int, values: Any) -> None:
            heard.append((epoch, dict(values)))

    trainer = scale_trainer(tmp_path, reporter=Listener(), metrics=["mse"], max_epoch=1)
    trainer.train()
    values = {"training_loss": 4.0, "regularization_loss": 0.0, "validation_loss": 0.0, "validation_mse": 0.0}
    assert heard == [(0, 1), (0, values)]
