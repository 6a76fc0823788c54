"""`NNTrainer` beside loops by hand, the loop that most people write, and Lightning: the same epochs, the same data."""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.comparison import Bar, Comparison, Program, interleave
from benchmarks.scratch_project import TORCH_THREADS
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.loaders import build_loader
from trainers.nn_trainer import NNTrainer

BATCH, CLASSES, LEARNING_RATE = 128, 10, 1e-3
TIERS = ("train", "validation", "test")
FILE_NAME = "examples.h5"

Tiers = Mapping[str, tuple[Tensor, Tensor]]


class MLP(nn.Module):
    """64-128-10."""

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_shape[0], 128), nn.ReLU(), nn.Linear(128, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class CNN(nn.Module):
    """Two convolutions of 8 and 16 channels with pooling, and a linear layer."""

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 7 * 7, CLASSES)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


@dataclass(frozen=True)
class Work:
    """What is trained, how often.

    Attributes:
        name: for people.
        model: called with the shapes of an input and an output.
        shape: of an input.
        examples: of the training tier; the others have a tenth.
        epochs: in one measurement.
    """

    name: str
    model: type[nn.Module]
    shape: tuple[int, ...]
    examples: int
    epochs: int

    def built(self) -> nn.Module:
        """A new model."""
        return self.model(self.shape, (CLASSES,))


MLP_WORK = Work("MLP 64-128-10 on 36,000 x 64", MLP, (64,), 36_000, 5)
CNN_WORK = Work("CNN on 6,000 x 28 x 28", CNN, (1, 28, 28), 6_000, 1)


def measure(pairs: int) -> list[Comparison]:
    """Compare seconds of training and validation, data in memory and models built before."""
    torch.set_num_threads(TORCH_THREADS)
    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return [*_measure_mlp(pairs), *_measure_cnn(pairs)]


def _measure_mlp(pairs: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        tiers = _examples(MLP_WORK, Path(folder))
        programs: dict[str, Program] = {
            "ours": lambda seed: _ours(MLP_WORK, Path(folder), seed),
            "lean": lambda seed: _lean(MLP_WORK, tiers, seed, fused=True),
            "default": lambda seed: _lean(MLP_WORK, tiers, seed, fused=None),
            "usual": lambda seed: _usual(MLP_WORK, tiers, seed),
            "lightning": lambda seed: _lightning(MLP_WORK, tiers, seed),
        }
        seconds = interleave(programs, pairs)
    bars = {
        "lean": ("the leanest loop", 1.02),
        "default": ("the same loop with Adam's default implementation", 0.85),
        "usual": ("the usual DataLoader loop", 0.7),
        "lightning": ("Lightning", 0.4),
    }
    return [
        Comparison(f"NNTrainer ({MLP_WORK.name}) / {peer}", seconds["ours"], seconds[key], "s", Bar(bar, at_most=True))
        for key, (peer, bar) in bars.items()
    ]


def _measure_cnn(pairs: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        tiers = _examples(CNN_WORK, Path(folder))
        programs: dict[str, Program] = {
            "ours": lambda seed: _ours(CNN_WORK, Path(folder), seed),
            "lean": lambda seed: _lean(CNN_WORK, tiers, seed, fused=True),
        }
        seconds = interleave(programs, pairs)
    name = f"NNTrainer ({CNN_WORK.name}) / the leanest loop"
    return [Comparison(name, seconds["ours"], seconds["lean"], "s", Bar(1.02, at_most=True))]


def _examples(work: Work, folder: Path) -> Tiers:
    """Random examples, in memory and in a file."""
    chance = np.random.default_rng(0)
    tiers = {}
    with h5py.File(folder / FILE_NAME, "w") as file:
        for tier in TIERS:
            count = work.examples if tier == "train" else work.examples // 10
            inputs = chance.normal(size=(count, *work.shape)).astype(np.float32)
            targets = chance.integers(CLASSES, size=count)
            file[f"{tier}/inputs"], file[f"{tier}/targets"] = inputs, targets
            tiers[tier] = torch.from_numpy(inputs), torch.from_numpy(targets)
    return tiers


def _timed(train: Callable[[], object]) -> float:
    started = time.perf_counter()
    train()
    return time.perf_counter() - started


def _ours(work: Work, folder: Path, seed: int) -> float:
    """`NNTrainer` as a row without options has it, the history of its parameters and the test tier included."""
    loaders = {}
    for tier in TIERS:
        dataset = HDF5Dataset({"dataset_file_name": FILE_NAME}, str(folder), tier)
        dataset.preload()
        loaders[f"{tier}_dataloader"] = build_loader(dataset, tier=tier, batch_size=BATCH, seed=seed)
    trainer = NNTrainer(
        **loaders,
        device="cpu",
        model_class=work.model,
        model_class_params={"input_shape": work.shape, "output_shape": (CLASSES,)},
        optimizer_class=torch.optim.Adam,
        optimizer_class_params={"lr": LEARNING_RATE},
        criterion_class=nn.CrossEntropyLoss,
        criterion_class_params={},
        model_save_path=folder / "weights.safetensors",
        max_epoch=work.epochs,
        seed=seed,
    )
    seconds = _timed(trainer.train)
    for loader in loaders.values():
        loader.close()
    return seconds


def _lean(work: Work, tiers: Tiers, seed: int, *, fused: bool | None) -> float:
    """By hand, with nothing between the loop and torch: training, validation, the best weights, the test tier."""
    torch.manual_seed(seed)
    model, criterion = work.built(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)
    return _timed(lambda: _lean_epochs(work.epochs, tiers, model, criterion, optimizer))


def _lean_epochs(
    epochs: int, tiers: Tiers, model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    inputs, targets = tiers["train"]
    whole = len(inputs) - len(inputs) % BATCH
    training: list[float] = []
    validation: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(epochs):
        model.train()
        losses = []
        for chosen in torch.randperm(len(inputs))[:whole].split(BATCH):
            loss = criterion(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        training.append(torch.stack(losses).mean().item())
        validation.append(_lean_evaluation(model, criterion, tiers["validation"]))
        if validation[-1] == min(validation):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    _lean_evaluation(model, criterion, tiers["test"])


@torch.inference_mode()
def _lean_evaluation(model: nn.Module, criterion: nn.Module, tier: tuple[Tensor, Tensor]) -> float:
    model.eval()
    batches = zip(tier[0].split(BATCH), tier[1].split(BATCH), strict=True)
    losses = [criterion(model(inputs), targets) * len(inputs) for inputs, targets in batches]
    return torch.stack(losses).sum().item() / len(tier[0])


def _loaders(tiers: Tiers) -> dict[str, DataLoader[Any]]:
    return {
        tier: DataLoader(TensorDataset(*data), batch_size=BATCH, shuffle=tier == "train", drop_last=tier == "train")
        for tier, data in tiers.items()
    }


def _usual(work: Work, tiers: Tiers, seed: int) -> float:
    """The loop that most people write."""
    torch.manual_seed(seed)
    loaders, model, criterion = _loaders(tiers), work.built(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    return _timed(lambda: _usual_epochs(work.epochs, loaders, model, criterion, optimizer))


def _usual_epochs(
    epochs: int,
    loaders: Mapping[str, DataLoader[Any]],
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    best_loss, best = float("inf"), model.state_dict()
    for _ in range(epochs):
        model.train()
        total = 0.0
        for inputs, targets in loaders["train"]:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        validation_loss = _usual_evaluation(model, criterion, loaders["validation"])
        if validation_loss < best_loss:
            best_loss, best = validation_loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    _usual_evaluation(model, criterion, loaders["test"])


@torch.no_grad()
def _usual_evaluation(model: nn.Module, criterion: nn.Module, loader: DataLoader[Any]) -> float:
    model.eval()
    return sum(criterion(model(inputs), targets).item() * len(inputs) for inputs, targets in loader)


class _Module(lightning.LightningModule):
    """The same training as Lightning's own introduction writes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = self.criterion(self.model(batch[0]), batch[1])
        self.log("training_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("validation_loss", self.criterion(self.model(batch[0]), batch[1]))

    def test_step(self, batch: Any, _: int) -> None:
        self.log("test_loss", self.criterion(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


def _lightning(work: Work, tiers: Tiers, seed: int) -> float:
    """Lightning with all that writes or draws switched off."""
    torch.manual_seed(seed)
    loaders, module = _loaders(tiers), _Module(work.built())
    trainer = lightning.Trainer(
        max_epochs=work.epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )

    def train() -> None:
        trainer.fit(module, loaders["train"], loaders["validation"])
        trainer.test(module, loaders["test"], verbose=False)

    return _timed(train)
