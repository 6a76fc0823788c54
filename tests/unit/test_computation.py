"""How a model is computed changes neither what it learns nor what its weights are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.resumable_training import Kept, StopAfter
from tests.small_training import Batches, scale_trainer
from trainers import computation, numerics
from trainers.computation import COMPILE_MODES, ComputationPolicy
from trainers.contract import Stopped, TrainerError
from trainers.nn_trainer import NNTrainer


class Images(nn.Module):
    def __init__(self, input_shape: Any = (), output_shape: Any = ()) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(torch.relu(self.first(x)).flatten(1)), 1e-3 * self.head.weight.square().sum()


class Recorded(Images):
    layouts: ClassVar[list[bool]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.layouts.append(x.is_contiguous(memory_format=torch.channels_last))
        return super().forward(x)


def trained(tmp_path: Path, model_class: type[nn.Module] = Images, **options: Any) -> NNTrainer:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(14, 3, 6, 6, generator=generator)
    data = Batches(*zip(inputs.split(4), (inputs.mean(dim=(1, 2, 3)) > 0).long().split(4), strict=True))
    trainer = scale_trainer(
        tmp_path,
        **{f"{tier}_dataloader": data for tier in ("train", "validation", "test")},
        model_class=model_class,
        model_class_params={"input_shape": (3, 6, 6), "output_shape": (2,)},
        criterion_class=nn.CrossEntropyLoss,
        **options,
    )
    trainer.train()
    return trainer


# What torch's own compiler imports.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.feature("S13")
def test_a_compiled_model_learns_the_same_under_the_same_names(tmp_path: Path) -> None:
    plain = trained(tmp_path)
    compiled = trained(tmp_path, compile="default", ema_decay=0.1)
    assert compiled.model._compiled_call_impl is not None
    assert compiled.training_epoch_loss_history == pytest.approx(plain.training_epoch_loss_history, rel=1e-4)
    assert compiled.regularization_loss_history == pytest.approx(plain.regularization_loss_history, rel=1e-4)
    assert list(safetensors.torch.load_file(compiled.model_save_path)) == sorted(plain.model.state_dict())
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.feature("S13")
def test_a_compiled_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    kept = Kept()
    with pytest.raises(Stopped):
        trained(tmp_path, compile="default", checkpoints=kept, stop=StopAfter(4))
    torch.compiler.reset()  # as in a process of its own
    resumed = trained(tmp_path, compile="default", checkpoints=kept)
    straight = trained(tmp_path, compile="default")
    assert resumed.training_epoch_loss_history == straight.training_epoch_loss_history
    weights = straight.model.state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in resumed.model.state_dict().items())


def test_where_nothing_can_be_compiled_that_is_said_when_the_trainer_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("No working C++ compiler found.\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    computation._try_compiler.cache_clear()
    with pytest.raises(
        TrainerError, match=r"compile is 'default', but torch compiles nothing for cpu here \(No working"
    ):
        scale_trainer(tmp_path, compile="default")


@pytest.mark.feature("S13")
def test_channels_come_last_in_weights_and_inputs(tmp_path: Path) -> None:
    Recorded.layouts.clear()
    trainer = trained(tmp_path, Recorded, channels_last=True)
    assert all(Recorded.layouts) and len(Recorded.layouts) == 20
    assert trainer.model.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.training_epoch_loss_history == pytest.approx(trained(tmp_path).training_epoch_loss_history, rel=1e-4)
    saved = safetensors.torch.load_file(trainer.model_save_path)["first.weight"]
    assert saved.equal(trainer.model.first.weight)


def test_channels_last_needs_channels(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"channels_last is true, but input_shape is \(1,\)"):
        scale_trainer(tmp_path, channels_last=True)


class Switchable(Images):
    """Models of Hugging Face call the method one way, others the other."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.checkpointed = False

    def gradient_checkpointing_enable(self) -> None:
        self.checkpointed = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.checkpointed:
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.feature("S13")
def test_gradient_checkpointing_is_the_models_own(tmp_path: Path) -> None:
    trainer = trained(tmp_path, Switchable, gradient_checkpointing=True)
    assert trainer.model.checkpointed
    assert trainer.training_epoch_loss_history == trained(tmp_path).training_epoch_loss_history
    with pytest.raises(TrainerError, match="Scale has no method enable_gradient_checkpointing or gradient_checkpoint"):
        scale_trainer(tmp_path, gradient_checkpointing=True)


@pytest.mark.feature("S13")
def test_deterministic_training_refuses_what_varies_and_only_while_it_lasts(tmp_path: Path) -> None:
    seen = []

    class Watching(Images):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(x)

    before = numerics.record()
    trainer = trained(tmp_path, Watching, deterministic=True)
    trainer.validate()
    assert set(seen) == {True}
    assert numerics.record() == before
    with pytest.raises(ZeroDivisionError), numerics.during(deterministic=True):
        raise ZeroDivisionError
    assert numerics.record() == before


def test_tf32_is_set_for_a_while() -> None:
    before = numerics.record()
    for tf32, precision in ((True, "high"), (False, "highest")):
        with numerics.during(tf32=tf32):
            assert torch.get_float32_matmul_precision() == precision
            assert torch.backends.cudnn.allow_tf32 is tf32
            assert torch.are_deterministic_algorithms_enabled() == before["deterministic"]
        assert numerics.record() == before


def test_tf32_without_effect_is_said(tmp_path: Path) -> None:
    assert trained(tmp_path, tf32=True).choices["tf32"] == "of no effect on cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_every_mode_compiles_on_a_gpu(tmp_path: Path, mode: str) -> None:
    plain = trained(tmp_path, device="cuda", tf32=False)
    compiled = trained(tmp_path, device="cuda", compile=mode, channels_last=True, tf32=False)
    assert compiled.training_epoch_loss_history == pytest.approx(plain.training_epoch_loss_history, rel=1e-3)
    assert compiled.regularization_loss_history == pytest.approx(plain.regularization_loss_history, rel=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"compile": "fast"}, "compile is 'fast'; choose one of default, reduce-overhead"),
        ({"compile": True}, "compile is True"),
        ({"tf32": 1}, "tf32 is 1; it must be true, false or null"),
        ({"channels_last": None}, "channels_last is None; it must be true or false"),
        ({"deterministic": "yes"}, "deterministic is 'yes'"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing is 1"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        ComputationPolicy(**params)
