"""Interrupted anywhere and resumed, a training ends with the bits of one that was never interrupted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.resumable_training import BATCHES, EPOCHS, Kept, Net, StopAfter, build, digest
from trainers.contract import Retention, Stopped
from trainers.learned_state import ForeignCheckpoint
from trainers.nn_trainer import NNTrainer


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def whole(folder: Path, **params: Any) -> str:
    with ExitStack() as resources:
        trainer = build(folder, resources, **params)
        trainer.train()
    return digest(trainer)


def interrupted(folder: Path, asked: Sequence[int], workers: Sequence[int] = (0,), **params: Any) -> tuple[str, Kept]:
    """The digest of a training that is stopped each time that it was asked so often, and the checkpoints it left."""
    kept = Kept()
    for number, times in enumerate([*asked, None]):
        torch.manual_seed(number)  # what another process would have drawn before must not matter
        random.seed(number)
        np.random.seed(number)
        with ExitStack() as resources:
            stop = None if times is None else StopAfter(times)
            count = workers[min(number, len(workers) - 1)]
            trainer = build(
                folder, resources, workers=count, checkpoints=kept, stop=stop, checkpoint_epochs=0, **params
            )
            if times is None:
                trainer.train()
                return digest(trainer), kept
            with pytest.raises(Stopped, match="was asked to stop; . epochs and .* batches of the next are done"):
                trainer.train()
    raise AssertionError("the last training is not stopped")


def test_a_stop_at_every_place_there_is(tmp_path: Path) -> None:
    expected = whole(tmp_path)
    positions = set()
    for asked in range(BATCHES + EPOCHS):  # after each batch, and at the end of each epoch
        ended, kept = interrupted(tmp_path, [asked])
        assert ended == expected, f"stopped when asked for the {asked + 1}th time"
        assert len(kept.contents) == 1
        positions.add(kept.positions[0])
    # In and at the end of training parts, in validation (10 batches done), at the end of epochs, in the test.
    assert {(0, 1), (0, 10), (1, 0), (1, 5), (2, 9), (2, 10), (3, 0)} < positions


def test_stopped_again_and_again(tmp_path: Path) -> None:
    assert interrupted(tmp_path, [3, 0, 4, 20, 2])[0] == whole(tmp_path)


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (2, 2)], ids=str)
@pytest.mark.parametrize("sampler", ["shuffled", "weighted", "own generator"])
def test_loader_processes_may_change_between(tmp_path: Path, workers: Sequence[int], sampler: str) -> None:
    expected = whole(tmp_path, sampler=sampler)
    assert interrupted(tmp_path, [17], workers, sampler=sampler)[0] == expected


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {"amsgrad": True},
    "AdamW": {"foreach": True},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "ASGD": {},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on(tmp_path: Path, optimizer: str, dtype: str) -> None:
    params = {"optimizer": optimizer, "optimizer_params": {"lr": 0.01, **OPTIMIZERS[optimizer]}, "dtype": dtype}
    assert interrupted(tmp_path, [8, 12], **params)[0] == whole(tmp_path, **params)


class Halving(torch.optim.lr_scheduler.LRScheduler):
    """Halves the rate at every third step."""

    def get_lr(self) -> list[float]:
        return [rate * 0.5 ** (self.last_epoch // 3) for rate in self.base_lrs]


OPTIONS: dict[str, dict[str, Any]] = {
    "a schedule by steps": {
        "scheduler_class_name": "OneCycleLR",
        "scheduler_class_params": {"max_lr": 0.02, "total_steps": 30},
        "scheduler_steps": "batch",
    },
    "a schedule by epochs": {"scheduler_class_name": "StepLR", "scheduler_class_params": {"step_size": 1}},
    "a schedule by the score": {
        "scheduler_class_name": "ReduceLROnPlateau",
        "scheduler_class_params": {"patience": 0, "threshold": 0.5},
    },
    "warm-up": {"warmup_steps": 15},
    "accumulation": {"gradient_accumulation": 3},
    "clipping": {"gradient_clip_norm": 0.1, "gradient_clip_value": 0.05},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "an average of steps": {"ema_decay": 0.8},
    "an average of epochs": {"swa_from_epoch": 2},
    "a frozen part": {"frozen": ["convolution", "norm"]},
    "validations of some epochs": {"validation_epochs": 3, "max_epoch": 5},
    "validations within epochs": {"validation_steps": 4, "selection": "accuracy"},
    "a schedule by validations within epochs": {
        "validation_steps": 3,
        "scheduler_class_name": "ReduceLROnPlateau",
        "scheduler_class_params": {"patience": 0, "threshold": 0.5},
    },
    "a schedule of one's own": {"scheduler_class": Halving, "scheduler_steps": "batch"},
    "patience by a metric": {
        "early_stopping_patience": 1,
        "early_stopping_metric": "accuracy",
        "optimizer": "SGD",
        "optimizer_params": {"lr": 3.0},
        "max_epoch": 9,
    },
    "averages of every layout": {"ema_decay": 0.7, "precision": "fp16", "gradient_accumulation": 3},
    "all at once": {
        "precision": "fp16",
        "gradient_accumulation": 4,
        "gradient_clip_norm": 0.1,
        "scheduler_class_name": "CosineAnnealingLR",
        "scheduler_class_params": {"T_max": 9},
        "scheduler_steps": "batch",
        "warmup_steps": 5,
        "early_stopping_patience": 1,
    },
}


UNSEEN: dict[str, dict[str, Any]] = {
    "deterministic": {"deterministic": True},
    "channels last": {"channels_last": True},
    "TF32": {"tf32": True},
}
"""What may give the same bits as a training without it."""


@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_options_of_the_computation_go_on(tmp_path: Path, options: dict[str, Any]) -> None:
    assert interrupted(tmp_path, [5, 1, 12, 9], **options)[0] == whole(tmp_path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"validation_steps": 5, "ema_decay": 0.5},
        {"swa_from_epoch": 2, "validation_epochs": 2, "sampler": "own generator"},
    ],
    ids=["validations within epochs", "statistics of an average"],
)
def test_a_stop_at_every_place_of_the_longer_way(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = whole(tmp_path, **options)
    stopped = 0
    while True:
        kept = Kept()
        with ExitStack() as resources:
            trainer = build(tmp_path, resources, checkpoints=kept, stop=StopAfter(stopped), **options)
            try:
                trainer.train()
            except Stopped:
                stopped += 1
            else:
                break
        with ExitStack() as resources:
            random.seed(stopped)
            np.random.seed(stopped)
            trainer = build(tmp_path, resources, checkpoints=kept, **options)
            trainer.train()
        assert digest(trainer) == expected, f"stopped when asked for the {stopped}th time"
    assert stopped > BATCHES


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_goes_on(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = whole(tmp_path, **options)
    assert expected != whole(tmp_path)
    assert interrupted(tmp_path, [5, 1, 12, 9], **options)[0] == expected


def test_a_training_that_stopped_early_stops_there_again(tmp_path: Path) -> None:
    params = {"optimizer": "SGD", "optimizer_params": {"lr": 3.0}, "early_stopping_patience": 1, "max_epoch": 9}
    with ExitStack() as resources:
        trainer = build(tmp_path, resources, **params)
        trainer.train()
    assert trainer.epochs_done < 9
    stopped = [13 * trainer.epochs_done + trainer.epochs_done]  # when the last epoch lies behind
    assert interrupted(tmp_path, stopped, **params)[0] == digest(trainer)


def test_the_best_epoch_is_kept_although_it_lies_before_the_interruption(tmp_path: Path) -> None:
    params = {"optimizer": "SGD", "optimizer_params": {"lr": 3.0}, "selection": "accuracy"}
    with ExitStack() as resources:
        trainer = build(tmp_path, resources, **params)
        trainer.train()
    assert trainer.best_epoch is not None and trainer.best_epoch < EPOCHS - 1
    assert interrupted(tmp_path, [40], **params)[0] == digest(trainer)


def test_batches_that_lie_behind_are_not_read_again(tmp_path: Path) -> None:
    kept = Kept()
    with ExitStack() as resources, pytest.raises(Stopped):
        build(tmp_path, resources, checkpoints=kept, stop=StopAfter(6)).train()
    with ExitStack() as resources, pytest.raises(Stopped):
        trainer = build(tmp_path, resources, checkpoints=kept, stop=StopAfter(1))
        trainer.train()
    assert kept.positions == [(0, 7), (0, 9)]
    assert len(trainer.train_dataloader.dataset.reads) == 2 * 4


def test_a_trainer_that_was_stopped_can_itself_go_on(tmp_path: Path) -> None:
    with ExitStack() as resources:
        trainer = build(tmp_path, resources, stop=StopAfter(16))
        with pytest.raises(Stopped):
            trainer.train()
        random.seed(0)
        np.random.seed(0)
        trainer.stop = None
        trainer.train()
    assert digest(trainer) == whole(tmp_path)


class Shaky(nn.Module):
    """A model with dropout over plain rows."""

    def __init__(self, input_shape: Any = (), output_shape: Any = ()) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AugmentedRows(TensorDataset):
    """Rows with noise from the generator from which the model's dropout draws too."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, targets = super().__getitem__(index)
        return inputs + torch.rand(3), targets


@pytest.mark.parametrize("asked", [4, 5, 19])
def test_torchs_own_loader_is_resumed_too(tmp_path: Path, asked: int) -> None:
    def trainer(**params: Any) -> NNTrainer:
        inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
        rows = AugmentedRows(inputs, inputs.sum(dim=1, keepdim=True))
        plain = DataLoader(TensorDataset(*rows.tensors), batch_size=10)
        return NNTrainer(
            train_dataloader=DataLoader(rows, batch_size=3, shuffle=True),
            validation_dataloader=plain,
            test_dataloader=plain,
            device="cpu",
            model_class=Shaky,
            model_class_params={},
            optimizer_class=torch.optim.Adam,
            optimizer_class_params={},
            criterion_class=nn.MSELoss,
            criterion_class_params={},
            model_save_path=tmp_path / "weights",
            max_epoch=3,
            **params,
        )

    undisturbed = trainer()
    undisturbed.train()
    kept = Kept()
    with pytest.raises(Stopped):
        trainer(checkpoints=kept, stop=StopAfter(asked)).train()
    resumed = trainer(checkpoints=kept)
    torch.manual_seed(77)
    resumed.train()
    assert digest(resumed) == digest(undisturbed)


def test_initial_weights_are_not_taken_again(tmp_path: Path) -> None:
    with ExitStack() as resources:
        build(tmp_path, resources, seed=4, max_epoch=1).train()
    start = tmp_path / "best.weights"
    start.rename(tmp_path / "start.weights")
    params = {"initial_weights": tmp_path / "start.weights"}
    expected = whole(tmp_path, **params)
    assert expected != whole(tmp_path)
    assert interrupted(tmp_path, [17], **params)[0] == expected


def test_checkpoints_by_epochs_carry_the_score_and_the_retention(tmp_path: Path) -> None:
    kept = Kept()
    with ExitStack() as resources:
        trainer = build(
            tmp_path,
            resources,
            checkpoints=kept,
            max_epoch=4,
            checkpoint_epochs=2,
            selection="accuracy",
            checkpoints_kept=3,
            checkpoints_kept_best=2,
            checkpoints_kept_every=3,
        )
        trainer.train()
    assert kept.positions == [(2, 0), (3, 0), (4, 0)]
    assert kept.scores == trainer.validation_metric_history["accuracy"][1:]
    assert kept.retention == Retention(last=3, best=2, every=3, direction="max")
    assert kept.polls == 4 * 13 + 3


def test_a_stop_where_a_checkpoint_was_just_saved_saves_no_second(tmp_path: Path) -> None:
    kept = Kept()
    with ExitStack() as resources, pytest.raises(Stopped):
        build(tmp_path, resources, checkpoints=kept, stop=StopAfter(13), checkpoint_epochs=1).train()
    assert kept.positions == [(1, 0)]


def test_checkpoints_by_minutes_come_within_an_epoch_and_change_no_bit(tmp_path: Path) -> None:
    kept = Kept()
    assert whole(tmp_path, checkpoints=kept, checkpoint_epochs=0, checkpoint_minutes=1e-9) == whole(tmp_path)
    assert kept.positions[:3] == [(0, 1), (0, 2), (0, 3)]
    assert whole(tmp_path, checkpoints=Kept(), checkpoint_epochs=0, checkpoint_minutes=0) == whole(tmp_path)


def test_no_checkpoint_where_none_is_asked_for(tmp_path: Path) -> None:
    kept = Kept()
    whole(tmp_path, checkpoints=kept, checkpoint_epochs=0, checkpoint_minutes=0)
    assert kept.positions == []


def test_progress_is_told_after_every_batch(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    whole(tmp_path, progress=lambda epoch, step: told.append((epoch, step)), max_epoch=1)
    assert told == [*((0, step) for step in range(1, 11)), *[(0, 10)] * 3, *[(1, 0)] * 3]


def test_the_reporter_hears_how_far_a_resumed_training_is(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Listener:
        def started(self, epochs_done: int, max_epoch: int) -> None:
            heard.append((epochs_done, max_epoch))

        def epoch_finished(self, epoch: int, values: Any) -> None:
            heard.append(epoch)

    interrupted(tmp_path, [20], reporter=Listener())
    assert heard == [(0, 3), 0, (1, 3), 1, 2]


def test_the_checkpoint_of_other_code_is_refused(tmp_path: Path) -> None:
    _, kept = interrupted(tmp_path, [2])

    class Wider(Net):
        def __init__(self, **params: Any) -> None:
            super().__init__(**params)
            self.head = nn.Linear(8 * 16, 3)

    Wider.__qualname__ = "Net"
    with ExitStack() as resources:
        with pytest.raises(
            ForeignCheckpoint, match=r"head.weight is \(2, 128\) of torch.float32, here it is \(3, 128\)"
        ):
            build(tmp_path, resources, checkpoints=kept, model_class=Wider)
        with pytest.raises(ForeignCheckpoint, match="its optimizer is Adam, here it is SGD"):
            build(tmp_path, resources, checkpoints=kept, optimizer="SGD")


def test_an_optimizer_that_cannot_be_stored_trains_without_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "seen": {1, 2}}

    kept = Kept()
    whole(tmp_path, optimizer_class=Own, checkpoints=kept, checkpoint_epochs=1)
    assert kept.contents == []
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "makes no checkpoints: optimizer.seen is a set" in said[0]
