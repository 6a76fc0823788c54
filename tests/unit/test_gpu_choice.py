"""Which GPU a process takes: one with enough free memory and nobody else's, or the CPU. The locks are real."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import gpu_choice, gpu_locks
from pipeline.errors import ConfigurationError
from pipeline.gpu_choice import OwnGpu
from pipeline.gpu_locks import Gpu, NoGpuFree
from pipeline.gpu_visible import VISIBLE
from pipeline.settings import Settings
from tests.fake_nvml import GIB, FakeGpu, driver, two

ROOT = Path(__file__).parents[2]
FIRST, SECOND = two()  # 10 and 16 GiB free
HOLD = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests import fake_nvml
fake_nvml.adopt()
from pipeline.gpu_locks import Gpu, held
gpus = [Gpu(uuid.removeprefix("GPU-"), uuid) for uuid in sys.argv[2:]]
sys.stdin.readline()
with held(gpus, Path(sys.argv[1]), inherit="INHERIT" in os.environ) as gpu:
    print(gpu.visible, flush=True)
    sys.stdin.readline()
"""


def gpu_of(fake: FakeGpu) -> Gpu:
    return Gpu(gpu_locks.bare(fake.uuid), fake.uuid)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes this a machine with such GPUs, which torch sees too; locks lie in `tmp_path` and nobody waits for one."""
    monkeypatch.setattr(gpu_locks, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(gpu_locks, "WAIT", 0.0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.delenv(VISIBLE, raising=False)
    gpu_choice._say_once.cache_clear()
    with contextlib.ExitStack() as drivers:

        def build(*gpus: FakeGpu, **rest: Any) -> None:
            drivers.enter_context(driver(*gpus, **rest))
            monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))

        yield build


@contextlib.contextmanager
def another_process(folder: Path, *uuids: str) -> Iterator[Any]:
    """One that takes a GPU when it is told to, and holds it."""
    command = [sys.executable, "-c", HOLD, str(folder), *uuids]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def go(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.feature("B7")
def test_the_gpu_with_the_most_free_memory_is_taken(machine: Callable[..., Any]) -> None:
    machine(FIRST, SECOND)
    own = OwnGpu(Settings())
    with own.taken():
        assert (str(own.device), own.uuid) == ("cuda:1", SECOND.uuid)
    assert own.uuid is None


@pytest.mark.feature("B7")
def test_of_those_that_others_hold_the_next_one_is_taken(machine: Callable[..., Any], tmp_path: Path) -> None:
    machine(FIRST, SECOND)
    with another_process(tmp_path, SECOND.uuid) as other:
        go(other)
        assert other.stdout.readline().strip() == SECOND.uuid
        assert gpu_locks.holders(tmp_path) == {gpu_locks.bare(SECOND.uuid): other.pid}
        own = OwnGpu(Settings())
        with own.taken():
            assert str(own.device) == "cuda:0"
    assert gpu_locks.holders(tmp_path) == {}


@pytest.mark.feature("B7")
def test_two_processes_that_choose_at_once_get_different_gpus(machine: Callable[..., Any], tmp_path: Path) -> None:
    machine(FIRST, SECOND)
    uuids = FIRST.uuid, SECOND.uuid
    with another_process(tmp_path, *uuids) as one, another_process(tmp_path, *uuids) as other:
        go(one)
        go(other)
        assert {one.stdout.readline().strip(), other.stdout.readline().strip()} == {*uuids}
        assert {*gpu_locks.holders(tmp_path).values()} == {one.pid, other.pid}


def test_a_script_has_the_gpu_of_the_worker_that_runs_it(
    machine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(FIRST, SECOND)
    with gpu_locks.held([gpu_of(FIRST)], tmp_path):
        for inherit, expected in (("INHERIT", FIRST.uuid), ("OTHERWISE", SECOND.uuid)):
            monkeypatch.setenv(inherit, "")
            with another_process(tmp_path, FIRST.uuid, SECOND.uuid) as script:
                go(script)
                assert script.stdout.readline().strip() == expected
            monkeypatch.delenv(inherit)
        assert gpu_locks.holders(tmp_path)[gpu_locks.bare(FIRST.uuid)] == os.getpid()


def test_only_a_gpu_with_the_memory_asked_for_is_taken(machine: Callable[..., Any]) -> None:
    machine(FIRST, SECOND)
    least = Settings(gpu_memory="11Gi").gpu_memory
    assert least == 11 * GIB
    with gpu_locks.held([gpu_of(FIRST), gpu_of(SECOND)], least=least) as gpu:
        assert gpu == gpu_of(SECOND)
        with pytest.raises(NoGpuFree, match=r"11.0 GiB .*GPU 0 \(NVIDIA Test 16GB\) has 10.0 and other workers"):
            gpu_locks.held([gpu_of(FIRST), gpu_of(SECOND)], least=least).__enter__()


def test_what_this_process_has_there_already_counts_as_free(machine: Callable[..., Any]) -> None:
    machine(replace(FIRST, used=15 * GIB, processes=[(os.getpid(), 12 * GIB), (1, 3 * GIB)]))
    with gpu_locks.held([gpu_of(FIRST)], least=13 * GIB) as gpu:
        assert gpu is not None
    with pytest.raises(NoGpuFree, match="has 13.0; lower it"):
        gpu_locks.held([gpu_of(FIRST)], least=14 * GIB).__enter__()


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_too_little_memory_is_what_this_worker_lacks(device: str, machine: Callable[..., Any]) -> None:
    machine(FIRST)
    with pytest.raises(ConfigurationError, match="gpu_memory asks for 12.0 GiB") as raised:
        OwnGpu(Settings(device=device, gpu_memory=12 * GIB)).taken().__enter__()
    assert raised.value.exit_code == 78


@pytest.mark.feature("B7")
def test_with_auto_the_cpu_trains_then_and_that_is_said_once(
    machine: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    machine(FIRST)
    for _ in range(2):
        own = OwnGpu(Settings(gpu_memory=12 * GIB))
        with own.taken():
            assert str(own.device) == "cpu"
    assert caplog.text.count("trainings run on the CPU: gpu_memory asks for 12.0 GiB") == 1


def test_memory_that_is_not_told_cannot_be_asked_for(machine: Callable[..., Any]) -> None:
    machine(refusal=4)
    with pytest.raises(ConfigurationError, match=r"is not known \(this user may not ask"):
        gpu_locks.held([gpu_of(FIRST)], least=1).__enter__()
    with gpu_locks.held([gpu_of(FIRST)]) as gpu:
        assert gpu == gpu_of(FIRST)


def test_a_gpu_that_is_asked_for_must_be_there(machine: Callable[..., Any]) -> None:
    machine(FIRST)
    with pytest.raises(ConfigurationError, match="the device is cuda:3 and torch finds no such GPU"):
        OwnGpu(Settings(device="cuda:3")).taken().__enter__()


def test_without_any_gpu_that_is_said_once_and_not_as_a_warning(
    machine: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    machine()
    caplog.set_level(logging.INFO, "trainloom")
    for device in ("cpu", "auto", "auto"):
        own = OwnGpu(Settings(device=device))
        with own.taken():
            assert (str(own.device), own.uuid) == ("cpu", None)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.INFO,
        "trainings run on the CPU: torch can use no GPU here",
    )


def test_the_environments_choice_is_kept(machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(FIRST, SECOND)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv(VISIBLE, "0")
    own = OwnGpu(Settings())
    with own.taken():
        assert (str(own.device), own.uuid) == ("cuda:0", FIRST.uuid)


def test_a_process_takes_the_only_mig_instance_that_cuda_gives_it(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [{"uuid": f"MIG-{n}", "name": "part", "total": 5 * GIB, "used": (3 - n) * GIB} for n in (1, 2)]
    machine(replace(FIRST, mig=True, parts=parts))
    assert [gpu.visible for gpu in gpu_locks.available("auto")] == ["MIG-1", "MIG-2"]  # one for each worker
    own = OwnGpu(Settings())
    with own.taken():
        assert (str(own.device), own.uuid) == ("cuda:0", "MIG-1")


def test_a_worker_process_goes_to_the_cpu_when_it_gets_no_gpu(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(FIRST)
    monkeypatch.setenv(VISIBLE, "0")
    with gpu_choice.alone(Settings(gpu_memory=15 * GIB), [gpu_of(FIRST)]) as settings:
        assert (settings.device, os.environ[VISIBLE]) == ("cpu", "")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    with pytest.raises(ConfigurationError, match="finds no such GPU"):
        gpu_choice.alone(Settings(device="cuda"), []).__enter__()


def test_a_worker_process_knows_the_gpu_that_was_chosen_for_it(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(FIRST, SECOND)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(VISIBLE, "")
    with gpu_choice.alone(Settings(), [gpu_of(FIRST), gpu_of(SECOND)]) as settings:
        assert OwnGpu(settings).uuid == SECOND.uuid


def test_unlike_gpus_are_counted_as_torch_counts_them(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA puts the faster one first; the names are the driver's."""
    machine(FIRST, replace(SECOND, name="NVIDIA Faster"))
    monkeypatch.setattr(gpu_locks, "_uuids", lambda: (gpu_locks.bare(SECOND.uuid), gpu_locks.bare(FIRST.uuid)))
    own = OwnGpu(Settings())
    with own.taken():
        assert (str(own.device), own.uuid) == ("cuda:0", SECOND.uuid)
        with OwnGpu(Settings(device="cuda:1")).taken():
            assert {*gpu_locks.holders()} == {gpu_locks.bare(SECOND.uuid), gpu_locks.bare(FIRST.uuid)}


@pytest.mark.parametrize(("text", "amount"), [("11Gi", 11 * GIB), ("800 MiB", 800 << 20), ("5000", 5000)])
def test_memory_is_written_as_people_write_it(text: str, amount: int) -> None:
    assert Settings.load({"gpu_memory": text}, env={}).gpu_memory == amount


def test_memory_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="gpu_memory from the command line"):
        Settings.load({"gpu_memory": "much"}, env={})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpus_of_this_machine_are_those_that_torch_sees(tmp_path: Path) -> None:
    listed = gpu_locks._by_driver(os.environ)
    assert listed is not None
    if not any(gpu.visible.startswith("MIG-") for gpu in listed):
        assert [gpu.uuid for gpu in listed] == list(gpu_locks._uuids())
    own = OwnGpu(Settings(device="cuda"))
    with own.taken():
        assert torch.ones(2, device=own.device).sum().item() == 2
        assert torch.empty(0, device="cuda").device == own.device
