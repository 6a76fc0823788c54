"""Mixed precision on the CPU."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.resumable_training import build
from trainers.contract import TrainerError
from trainers.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_a_product_is_computed_in_the_precision(name: str, dtype: torch.dtype) -> None:
    multiply = Precision(name, CPU).computing(torch.mm)
    assert multiply(torch.ones(2, 2), torch.ones(2, 2)).dtype is dtype


def test_only_fp16_needs_its_losses_scaled() -> None:
    assert [Precision(name, CPU).scaler is not None for name in ("fp32", "bf16", "fp16")] == [False, False, True]


@pytest.mark.feature("S13")
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_weights_stay_float32_and_learn_nearly_the_same(tmp_path: Path, name: str) -> None:
    losses = {}
    for precision in ("fp32", name):
        with ExitStack() as resources:
            trainer = build(tmp_path, resources, precision=precision)
            trainer.train()
        losses[precision] = trainer.training_epoch_loss_history
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert losses[name] != losses["fp32"]
    assert losses[name] == pytest.approx(losses["fp32"], rel=0.05)


def test_another_precision_is_refused() -> None:
    with pytest.raises(TrainerError, match="precision is 'fp8'; choose one of fp32, bf16, fp16"):
        Precision("fp8", CPU)
