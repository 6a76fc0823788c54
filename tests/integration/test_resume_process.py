"""Training processes killed in the middle of an epoch and resumed by new ones."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.resumable_training import BATCHES, build, digest
from trainers import numerics

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "resumable_training.py"


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(random.randrange(1000))}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(PROGRAM), str(folder), *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *options: str) -> None:
    process = start(folder, *options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def run_killed(folder: Path, at: int, *options: str) -> None:
    process = start(folder, "--kill-at", str(at), *options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said


def resumed_at(folder: Path) -> tuple[int, int]:
    epoch, step = (folder / "resumed_at").read_text().split()
    return int(epoch), int(step)


@pytest.fixture
def undisturbed(tmp_path: Path) -> Any:
    """The digest of the same training in this process, with one thread as the killed ones have."""
    before = numerics.record()
    numerics.settle(threads=1)

    def train(**params: Any) -> str:
        with ExitStack() as resources:
            trainer = build(tmp_path, resources, **params)
            trainer.train()
        return digest(trainer)

    yield train
    numerics.pin(before)


SGD = {"optimizer": "SGD", "optimizer_params": {"lr": 0.05, "momentum": 0.9}}


@pytest.mark.parametrize(
    ("workers", "params", "options"),
    [
        ((0, 2, 0), {}, ()),
        pytest.param((2, 0, 2), {"sampler": "weighted"}, ("--sampler", "weighted"), marks=pytest.mark.slow),
        pytest.param(
            *((2, 2), SGD),
            ("--optimizer", SGD["optimizer"], "--optimizer-params", json.dumps(SGD["optimizer_params"])),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["Adam 0-2-0", "weighted 2-0-2", "SGD 2-2"],
)
def test_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path,
    undisturbed: Callable[..., str],
    workers: tuple[int, ...],
    params: dict[str, Any],
    options: tuple[str, ...],
) -> None:
    folder = tmp_path / "killed"
    done = 0
    for number, count in enumerate(workers[:-1]):
        # After two batches at least, and well before the end; what was prefetched by then is lost.
        at = random.randint(3, (BATCHES - done) // 2 - 1)
        print(f"process {number} with {count} loader processes is killed at its batch {at}")
        run_killed(folder, at, "--workers", str(count), *options)
        done += at
        assert not (folder / "digest").exists()
    # A worker whose own number of threads differs takes over.
    run(folder, "--workers", str(workers[-1]), "--threads", "2", *options)
    assert resumed_at(folder) > (0, 0)
    assert (folder / "digest").read_text() == undisturbed(**params)


def test_a_finished_training_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    run_killed(tmp_path, 20)
    assert list((tmp_path / "checkpoints").iterdir())
    run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "ledger.json").read_text() == "[]"


def test_another_node_goes_on_from_the_store(tmp_path: Path, undisturbed: Callable[..., str]) -> None:
    run_killed(tmp_path, 35)
    shutil.rmtree(tmp_path / "checkpoints")  # the node and its disk are gone; store and ledger stay
    recorded = (tmp_path / "ledger.json").read_text()
    run(tmp_path)
    epoch, step = resumed_at(tmp_path)
    assert f", {epoch}, {step}, " in recorded
    assert (tmp_path / "digest").read_text() == undisturbed()
