"""What a worker can give, and what a training asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from pipeline import capacity
from pipeline.capacity import ANY, GIB, Capacity, capacity_of
from pipeline.gpu_locks import Gpu
from pipeline.settings import Settings
from trainers.contract import TrainerError
from trainers.nn_trainer import NNTrainer
from trainers.resources import bytes_of

GPUS = [Gpu(name, f"GPU-{name}") for name in ("one", "two", "three")]
PARTS = [Gpu(f"MIG-{name}", f"MIG-{name}") for name in ("one", "two")]


def own(device: str) -> Any:
    """What stands for the device of a session."""
    return SimpleNamespace(device=torch.device(device))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 GiB without containers, with GPUs of 40 GiB."""
    monkeypatch.setattr(capacity, "LIMITS", ())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    properties = SimpleNamespace(total_memory=40 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "expected"),
    [
        ("cpu", [], 1, Capacity(ANY, 0, 64 * GIB)),
        ("cpu", [], 2, Capacity(ANY, 0, 32 * GIB)),
        ("mps", [], 1, Capacity(1, 0, 64 * GIB)),
        ("cuda", GPUS, 1, Capacity(3, 40 * GIB, 64 * GIB)),
        ("cuda", GPUS, 3, Capacity(1, 40 * GIB, 64 * GIB // 3)),
        ("cuda", PARTS, 1, Capacity(1, 40 * GIB, 64 * GIB)),
    ],
)
def test_a_process_can_give_its_share(device: str, gpus: list[Gpu], processes: int, expected: Capacity) -> None:
    assert capacity_of(Settings(worker_processes=processes), own(device), gpus) == expected


@pytest.mark.parametrize(("device", "gpu_memory"), [("cuda", 40 * GIB), ("cpu", 0)])
@pytest.mark.feature("B9")
def test_a_group_across_machines_gives_all_of_its_devices_or_one(device: str, gpu_memory: int) -> None:
    given = capacity_of(Settings(), own(device), GPUS[:1], group=8)  # the others are on other machines
    assert given == Capacity(8, gpu_memory, 64 * GIB, all_or_one=True)


def test_a_setting_says_how_much_memory_there_is() -> None:
    assert capacity_of(Settings(memory="16Gi", worker_processes=2), own("cpu"), []).memory == 8 * GIB


@pytest.mark.parametrize(
    ("written", "expected"), [("4294967296\n", 4 * GIB), ("max\n", 64 * GIB), ("9223372036854771712\n", 64 * GIB)]
)
def test_the_limit_of_a_container_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, expected: int
) -> None:
    (tmp_path / "limit").write_text(written)
    monkeypatch.setattr(capacity, "LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert capacity.memory_limit() == expected


def test_what_a_worker_can_give_is_told_in_words() -> None:
    assert str(Capacity(2, 40 * GIB, 64 * GIB)) == "2 GPUs of 40.0 GiB, 64.0 GiB of memory"
    assert str(Capacity(ANY, 0, 8 * GIB)) == "no GPU, 8.0 GiB of memory"


def test_a_training_says_what_it_needs() -> None:
    assert NNTrainer.needs({}) == {"devices": 1, "gpu_memory": 0, "memory": 0}
    asked = NNTrainer.needs({"devices": 2, "gpu_memory": "10Gi", "memory": 5})
    assert asked == {"devices": 2, "gpu_memory": 10 * GIB, "memory": 5}


@pytest.mark.parametrize(
    ("size", "expected"), [(None, 0), (1, 1), ("1.5GiB", 3 * GIB // 2), (" 2M", 2_000_000), ("8 Ki", 8192), ("7", 7)]
)
def test_sizes_are_read(size: Any, expected: int) -> None:
    assert bytes_of(size, "memory") == expected


@pytest.mark.parametrize("size", [0, -1, True, "", "much", "10gi", "1e3", float("nan"), [], 2**63])
def test_what_is_no_size_is_named(size: Any) -> None:
    with pytest.raises(TrainerError, match="gpu_memory is .*; it must be a number of bytes or a size"):
        NNTrainer.validate_params(gpu_memory=size)
