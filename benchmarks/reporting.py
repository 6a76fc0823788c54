"""What it costs to watch a training of short steps: the same training with its progress shown and without."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.scratch_project import TORCH_THREADS
from pipeline.reporters.pool_view import PoolView
from pipeline.reporters.several import Several
from pipeline.reporters.terminal_view import TerminalView
from pipeline.reporters.training_state import Training
from pipeline.reporters.value_format import ValueFormats
from pipeline.reporters.view import View
from trainers.nn_trainer import NNTrainer

BATCHES, BATCH, FEATURES, HIDDEN, CLASSES = 500, 64, 64, 128, 10
EPOCHS, ROUNDS = 10, 3
"""Of a training, and trainings for each pair that is asked for: what is measured is less than what a machine changes by
within seconds, so that many short trainings tell more than a few long ones."""
TRAINING = Training("0" * 32, "00000000  MLP, examples.h5, Adam, seed 0", BATCH)
BAR = Bar(1.01, at_most=True)


class Perceptron(nn.Sequential):
    """Two layers: a step of it is as short as steps get."""

    def __init__(self, input_shape: Any, output_shape: Any) -> None:
        super().__init__(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare a training that is drawn in a terminal, and one that is told to a parent, with one that nobody sees."""
    torch.set_num_threads(TORCH_THREADS)
    batches = _batches()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        programs: dict[str, Program] = {
            "unseen": lambda number: _seconds(batches, weights, number, None),
            "drawn": lambda number: _drawn(batches, weights, number),
            "told": lambda number: _told(batches, weights, number),
        }
        seconds = interleave(programs, ROUNDS * pairs)
    work = f"MLP {FEATURES}-{HIDDEN}-{CLASSES}, {EPOCHS} epochs of {BATCHES} steps"
    unseen = seconds["unseen"]
    step = sorted(unseen)[len(unseen) // 2] / EPOCHS / BATCHES
    return [
        Comparison(f"a training ({work}) drawn in a terminal / unseen", seconds["drawn"], unseen, "s", BAR),
        Comparison("the same, told to the parent of a worker / unseen", seconds["told"], unseen, "s", BAR),
        Check("a step", None, f"{1e6 * step:.0f} µs"),
    ]


def _batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(BATCH, FEATURES, generator=chance),
            torch.randint(CLASSES, (BATCH,), generator=chance),
        )
        for _ in range(BATCHES)
    ]


def _seconds(batches: Any, weights: Path, seed: int, reporter: Several | None) -> float:
    """Train once; the seconds that it took, from the first step to the last score."""
    trainer = NNTrainer(
        train_dataloader=batches,
        validation_dataloader=batches[:20],
        test_dataloader=batches[:20],
        device="cpu",
        model_class=Perceptron,
        model_class_params={"input_shape": (FEATURES,), "output_shape": (CLASSES,)},
        optimizer_class=torch.optim.Adam,
        optimizer_class_params={},
        criterion_class=nn.CrossEntropyLoss,
        criterion_class_params={},
        model_save_path=weights,
        max_epoch=EPOCHS,
        seed=seed,
        reporter=reporter,
        progress=None if reporter is None else reporter.progress,
    )
    started = time.perf_counter()
    trainer.train()
    if reporter is not None:
        reporter.close()
    return time.perf_counter() - started


def _shown(batches: Any, weights: Path, seed: int, view: View) -> float:
    reporter = Several(TRAINING, [view])
    reporter.expects(BATCHES)
    return _seconds(batches, weights, seed, reporter)


def _drawn(batches: Any, weights: Path, seed: int) -> float:
    with _terminal():
        return _shown(batches, weights, seed, TerminalView(ValueFormats(), 5))


def _told(batches: Any, weights: Path, seed: int) -> float:
    logger = logging.getLogger("trainloom")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        return _shown(batches, weights, seed, PoolView())
    finally:
        logger.setLevel(level)


@contextmanager
def _terminal() -> Iterator[None]:
    """Standard error is a terminal of 100 characters and 40 lines, which another process reads."""
    controller, device = pty.openpty()
    os.set_inheritable(controller, True)
    reader = subprocess.Popen(["cat"], stdin=controller, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(controller)
    before, size = sys.stderr, {name: os.environ.get(name) for name in ("COLUMNS", "LINES")}
    with os.fdopen(device, "w") as terminal:
        sys.stderr = terminal
        os.environ.update(COLUMNS="100", LINES="40")
        try:
            yield
        finally:
            sys.stderr = before
            for name, value in size.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    reader.wait()
