"""What a task costs, from calling `populate` to its return, beside loops that do the same work by hand."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.mlp_task import BATCH, CLASSES, FILE_NAME, insert_configurations
from benchmarks.scratch_project import TORCH_THREADS, scratch_project
from trainloom import TrainingResult, TrainingTask

EXAMPLES = {"train": 36_000, "validation": 4_000, "test": 4_000}
FEATURES, HIDDEN = 64, 128
EPOCHS, LEARNING_RATE = 10, 1e-3  # Adam's default

SAME_QUALITY = 0.1
"""How far the median test losses may lie apart, relative to each other, for the work to count as the same."""

Trained = tuple[Tensor, Tensor]
Loop = Callable[[Path, int, Path], float]


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare a task with a bare loop and with the loop that most people write."""
    with tempfile.TemporaryDirectory() as folder:
        _write_examples(Path(folder, FILE_NAME))
        with scratch_project(dataset_dir=folder):
            keys = insert_configurations(HIDDEN, EPOCHS)
            losses: dict[str, list[float]] = {"populate": [], "bare": [], "usual": []}
            programs: dict[str, Program] = {
                "populate": lambda number: _populate(keys, number, losses["populate"]),
                "bare": lambda number: _by_hand(_bare_loop, Path(folder), number, losses["bare"]),
                "usual": lambda number: _by_hand(_usual_loop, Path(folder), number, losses["usual"]),
            }
            seconds = interleave(programs, pairs)
    work = f"MLP {FEATURES}-{HIDDEN}-{CLASSES}, {EXAMPLES['train']:,} examples, {EPOCHS} epochs with validation"
    ours = seconds["populate"]
    return [
        Comparison(f"a task ({work}) / a bare loop", ours, seconds["bare"], "s", Bar(1.05, at_most=True)),
        Comparison("the same task / the usual loop", ours, seconds["usual"], "s", Bar(0.9, at_most=True)),
        _same_quality(losses),
    ]


def _same_quality(losses: dict[str, list[float]]) -> Check:
    medians = {name: statistics.median(values) for name, values in losses.items()}
    apart = max(medians.values()) / min(medians.values()) - 1
    detail = ", ".join(f"{name} {value:.4f}" for name, value in medians.items())
    return Check("all three learn the same (median test loss)", apart < SAME_QUALITY, detail)


def _write_examples(path: Path) -> None:
    """Classes by a random linear teacher, with noise, so that there is something to learn and something to forget."""
    chance = np.random.default_rng(0)
    teacher = chance.normal(size=(FEATURES, CLASSES))
    with h5py.File(path, "w") as file:
        for tier, count in EXAMPLES.items():
            inputs = chance.normal(size=(count, FEATURES))
            scores = inputs @ teacher + chance.normal(scale=2.0, size=(count, CLASSES))
            file[f"{tier}/inputs"] = inputs.astype(np.float32)
            file[f"{tier}/targets"] = scores.argmax(axis=1)


def _populate(keys: dict[str, str], seed: int, losses: list[float]) -> float:
    """Train a new task; returns the seconds that `populate` took."""
    task = TrainingTask().insert_tuples({**keys, "seed": seed})[0]
    started = time.perf_counter()
    done = TrainingResult().populate(reserve_jobs=True)
    seconds = time.perf_counter() - started
    if done != {"success_count": 1, "error_list": []}:
        raise RuntimeError(f"populate was to train one task: {done}")
    losses.append((TrainingResult & task).fetch1("test_score"))
    return seconds


def _by_hand(loop: Loop, folder: Path, seed: int, losses: list[float]) -> float:
    """Run a loop on as many threads as the task has; returns the seconds."""
    torch.set_num_threads(TORCH_THREADS)
    started = time.perf_counter()
    loss = loop(folder / FILE_NAME, seed, folder / "weights.safetensors")
    seconds = time.perf_counter() - started
    losses.append(loss)
    return seconds


def _read(path: Path) -> dict[str, Trained]:
    with h5py.File(path) as file:
        return {
            tier: (torch.from_numpy(file[tier]["inputs"][:]), torch.from_numpy(file[tier]["targets"][:]))
            for tier in EXAMPLES
        }


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def _bare_loop(path: Path, seed: int, weights: Path) -> float:
    """The same work as the task, by hand, with nothing between the loop and torch; returns the test loss."""
    torch.manual_seed(seed)
    tiers = _read(path)
    inputs, targets = tiers["train"]
    model, criterion = _model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    training_losses: list[float] = []
    validation_losses: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(EPOCHS):
        model.train()
        losses = []
        whole = len(inputs) - len(inputs) % BATCH
        for chosen in torch.randperm(len(inputs))[:whole].split(BATCH):
            loss = criterion(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        training_losses.append(torch.stack(losses).mean().item())
        validation_losses.append(_bare_evaluation(model, criterion, tiers["validation"]))
        if validation_losses[-1] == min(validation_losses):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    safetensors.torch.save_file(best, weights)
    return _bare_evaluation(model, criterion, tiers["test"])


@torch.inference_mode()
def _bare_evaluation(model: nn.Module, criterion: nn.Module, tier: Trained) -> float:
    model.eval()
    batches = zip(tier[0].split(BATCH), tier[1].split(BATCH), strict=True)
    losses = [criterion(model(inputs), targets) * len(inputs) for inputs, targets in batches]
    return torch.stack(losses).sum().item() / len(tier[0])


class Examples(Dataset[Trained]):
    """A tier as most people write it: one example at a time."""

    def __init__(self, tier: Trained) -> None:
        self.inputs, self.targets = tier

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Trained:
        return self.inputs[index], self.targets[index]


def _usual_loop(path: Path, seed: int, weights: Path) -> float:
    """The loop that most people write: a `DataLoader` over single examples, Adam as it comes; returns the test loss."""
    torch.manual_seed(seed)
    loaders = {
        tier: DataLoader(Examples(data), batch_size=BATCH, shuffle=tier == "train")
        for tier, data in _read(path).items()
    }
    model, criterion = _model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    best_loss, best_state = float("inf"), model.state_dict()
    for _ in range(EPOCHS):
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
            best_loss, best_state = validation_loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    torch.save(best_state, weights)
    return _usual_evaluation(model, criterion, loaders["test"])


@torch.no_grad()
def _usual_evaluation(model: nn.Module, criterion: nn.Module, loader: Any) -> float:
    model.eval()
    total = 0.0
    for inputs, targets in loader:
        total += criterion(model(inputs), targets).item() * len(inputs)
    return total / len(loader.dataset)
