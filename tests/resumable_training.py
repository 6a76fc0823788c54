"""A training in which everything draws random numbers, to be interrupted anywhere and compared bit by bit.

Run as a script it is a process of its own: ``resumable_training.py FOLDER [--workers N] [--threads N] [...]`` keeps its
checkpoints in FOLDER and writes its digest to FOLDER/digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from datasets_impl.loaders import build_loader
from datasets_impl.samplers import WeightedSampler
from pipeline.checkpoint_record import Recorded
from pipeline.checkpoints import CheckpointKeeper
from pipeline.store.folder import FolderStore
from trainers import numerics
from trainers.checkpoint import read_header
from trainers.contract import Retention
from trainers.nn_trainer import NNTrainer

EXAMPLES = {"train": 40, "validation": 12, "test": 12}
BATCH = 4
EPOCHS = 3
BATCHES = EPOCHS * (40 + 12) // BATCH + 12 // BATCH
"""Batches that a whole training trains and scores."""


class Noisy:
    """Images augmented from all three global generators; the targets are a fixed function of the clean ones."""

    def __init__(self, tier: str) -> None:
        generator = torch.Generator().manual_seed(EXAMPLES[tier] + len(tier))
        self.inputs = torch.randn(EXAMPLES[tier], 1, 6, 6, generator=generator)
        self.targets = self.inputs.mean(dim=(1, 2, 3)) > 0
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads.append(index)
        image = self.inputs[index] * (1 + 0.1 * random.random()) + 0.1 * torch.rand(1, 6, 6)
        return image.roll(int(np.random.randint(6)), dims=2), self.targets[index].long()


class Net(nn.Module):
    """A convolution, batch normalisation, dropout, and noise that Python and NumPy draw in the model itself."""

    def __init__(self, input_shape: Any = (), output_shape: Any = (), dtype: str = "float32") -> None:
        super().__init__()
        self.dtype = getattr(torch, dtype)
        self.convolution = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(8 * 16, 2)
        self.to(self.dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(torch.relu(self.norm(self.convolution(x.to(self.dtype)))))
        x = x * (1 + 0.01 * random.random() + 0.01 * float(np.random.random()))  # while scoring, too
        return self.head(x.flatten(1)).float(), 1e-3 * self.head.weight.float().square().sum()


class Augmented(NNTrainer):
    """Seeds what the model draws from Python and NumPy, as a trainer of one's own would."""

    def __init__(self, **params: Any) -> None:
        random.seed(5)
        np.random.seed(5)
        super().__init__(**params)


class Kept:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.positions: list[tuple[int, int]] = []
        self.scores: list[float | None] = []
        self.retention: Retention | None = None
        self.polls = 0

    def retain(self, retention: Retention) -> None:
        self.retention = retention

    def load(self) -> bytes | None:
        return self.contents[-1] if self.contents else None

    def save(
        self,
        content: bytes,
        *,
        epoch: int,
        step: int,
        score: float | None = None,
    ) -> None:
        self.contents.append(content)
        self.positions.append((epoch, step))
        self.scores.append(score)

    def poll(self) -> None:
        self.polls += 1


class StopAfter:
    """Asks for a stop from the `asked`-th time on that it is asked."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def build(
    folder: Path,
    resources: ExitStack,
    *,
    workers: int = 0,
    sampler: str = "shuffled",
    optimizer: str = "Adam",
    optimizer_params: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    **params: Any,
) -> NNTrainer:
    """A trainer over new loaders, which `resources` closes."""
    loaders = {}
    for tier in EXAMPLES:
        data = Noisy(tier)
        loaders[tier] = build_loader(
            data,
            tier=tier,
            batch_size=BATCH,
            sampler=_sampler(sampler, data) if tier == "train" else None,
            num_workers=workers,
            seed=3,
        )
        resources.callback(loaders[tier].close)
    given = {
        "device": "cpu",
        "model_class": Net,
        "model_class_params": {"input_shape": (1, 6, 6), "output_shape": (2,), "dtype": dtype},
        "optimizer_class": getattr(torch.optim, optimizer),
        "optimizer_class_params": optimizer_params or {"lr": 0.01},
        "criterion_class": nn.CrossEntropyLoss,
        "criterion_class_params": {},
        "model_save_path": str(folder / "best.weights"),
        "max_epoch": EPOCHS,
        "seed": 11,
        "metrics": ["accuracy"],
        **params,
    }
    return Augmented(**{f"{tier}_dataloader": loader for tier, loader in loaders.items()}, **given)


def _sampler(name: str, data: Noisy) -> Any:
    if name == "weighted":
        return WeightedSampler(data, weights=[1.0 + place % 3 for place in range(len(data))])
    if name == "own generator":  # carries its state from epoch to epoch
        return RandomSampler(data, generator=torch.Generator().manual_seed(2))
    return None


def digest(trainer: NNTrainer) -> str:
    """Of all that a training ends with: every bit of the weights, the histories and the scores."""
    total = hashlib.sha256()
    for name, tensor in trainer.model.state_dict().items():
        total.update(name.encode() + tensor.float().numpy().tobytes())
    recorded = [
        trainer.training_epoch_loss_history,
        trainer.validation_epoch_loss_history,
        trainer.regularization_loss_history,
        trainer.validation_metric_history,
        trainer.model_class_params_history_dict,
        trainer.best_epoch,
        trainer.epochs_done,
        trainer.test_score,
        trainer.test_metrics,
        trainer.choices,
        trainer.validation_points,
        trainer.validated_steps,
    ]
    total.update(json.dumps(recorded).encode())
    return total.hexdigest()


class FileLedger:
    """A ledger in a file, which every process of a test reads anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest_first(self) -> list[Recorded]:
        if not self.path.exists():
            return []
        return [Recorded(*entry) for entry in json.loads(self.path.read_text())]

    def record(self, sha256: str, size: int, epoch: int, step: int, score: float | None) -> None:
        rows = [row for row in self.newest_first() if row.sha256 != sha256]
        self._write(sorted([Recorded(sha256, size, epoch, step, score), *rows], key=lambda row: row.position)[::-1])

    def forget(self, sha256: str) -> None:
        self._write([row for row in self.newest_first() if row.sha256 != sha256])

    def _write(self, rows: list[Recorded]) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps([[row.sha256, row.size, row.epoch, row.step, row.score] for row in rows]))
        draft.replace(self.path)


class KilledAt:
    """Kills the process, as a node that vanishes does, before its `batches`-th batch ends; never without a number."""

    def __init__(self, batches: int | None) -> None:
        self.left = batches

    def __call__(self, epoch: int, step: int) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--sampler", default="shuffled")
    parser.add_argument("--optimizer", default="Adam")
    parser.add_argument("--optimizer-params", type=json.loads, default={"lr": 0.01})
    parser.add_argument("--minutes", type=float, default=1e-9)
    options = parser.parse_args()
    folder: Path = options.folder
    keeper = CheckpointKeeper(folder / "checkpoints", FolderStore(folder / "store"), FileLedger(folder / "ledger.json"))
    numerics.settle(options.threads)
    saved = keeper.load()
    if saved is not None:
        header = read_header(saved)
        assert not numerics.pin(header.numerics)
        (folder / "resumed_at").write_text(f"{header.epoch} {header.step}")
    with ExitStack() as resources:
        trainer = build(
            folder,
            resources,
            workers=options.workers,
            sampler=options.sampler,
            optimizer=options.optimizer,
            optimizer_params=options.optimizer_params,
            checkpoints=keeper,
            progress=KilledAt(options.kill_at),
            checkpoint_minutes=options.minutes,
            checkpoint_epochs=0,
        )
        trainer.train()
    assert keeper.close(wait_s=60)
    keeper.discard()
    (folder / "digest").write_text(digest(trainer))


if __name__ == "__main__":
    main()
