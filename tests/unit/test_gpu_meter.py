"""The thread that looks at a training's GPU: what it tells, what it sums up, and that it ends without harm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from pipeline import gpu_device
from pipeline.gpu_meter import GpuMeter, GpuTotals
from pipeline.usage_meter import UsageMeter
from schemas.usage import DEVICES, Usage, total
from tests.fake_nvml import GIB, FakeGpu, FakeLibrary, driver, two

FIRST, SECOND = two()
QUICK = 0.001  # s between looks


def watched(change: Callable[[FakeLibrary], None], looks: int, *uuids: str) -> tuple[GpuTotals, list[dict[str, Any]]]:
    """What a meter sums up and tells that looks at least so often; `change` is called before each look."""
    told: list[dict[str, Any]] = []
    enough = threading.Event()

    def report(fields: dict[str, Any]) -> None:
        told.append(fields)
        if len(told) >= looks:
            enough.set()

    meter = GpuMeter(uuids or (FIRST.uuid,), report, QUICK)
    meter_thread = meter._thread
    with driver(replace(FIRST), replace(SECOND)) as library:
        library.on_look = change
        meter.start()
        while not enough.wait(QUICK) and meter_thread.is_alive():
            pass
        return meter.stop(), told


@pytest.mark.feature("B7")
def test_every_look_is_told_and_the_whole_summed_up() -> None:
    def work(library: FakeLibrary) -> None:
        gpu = library.gpus[0]
        gpu.energy = 1_000_000 + 3_000 * library.looks  # 3 J from look to look
        gpu.utilisation = 80 if library.looks > 1 else 5
        gpu.used = (9 if library.looks == 2 else 7) * GIB

    totals, told = watched(work, 4)
    assert told[0] == {
        "gpu": FIRST.uuid,
        "index": "0",
        "name": "NVIDIA Test 16GB",
        "utilisation": 5,
        "temperature": 40,
        "power": 100.0,
        "memory": 7 * GIB,
        "seconds": told[0]["seconds"],
    }
    assert [fields["energy"] for fields in told[1:]] == pytest.approx([3.0 * n for n in range(1, len(told))])
    assert totals == GpuTotals(("NVIDIA Test 16GB",), pytest.approx(3.0 * (len(told) - 1)), 9 * GIB, 80.0)


def test_a_training_of_a_moment_is_measured_too() -> None:
    meter = GpuMeter([FIRST.uuid], lambda fields: None)  # the second look comes at the end
    with driver(replace(FIRST)) as library:
        library.on_look = lambda library: setattr(library.gpus[0], "energy", 2_000 * library.looks)
        meter.start()
        assert meter.stop().energy == pytest.approx(2.0)
        assert library.looks == 2
        assert library.open == 0


def test_where_no_counter_tells_the_energy_it_follows_from_the_power() -> None:
    def silent(library: FakeLibrary) -> None:
        library.gpus[0].silent = ["energy"]

    totals, told = watched(silent, 3)
    assert totals.energy == pytest.approx(100.0 * (told[-1]["seconds"] - told[0]["seconds"]), abs=0.2)
    assert totals.energy > 0


def test_a_counter_that_begins_anew_takes_nothing_away() -> None:
    def reload(library: FakeLibrary) -> None:
        library.gpus[0].energy = {1: 9_000, 2: 10_000}.get(library.looks, 500)

    totals, _ = watched(reload, 4)
    assert totals.energy == pytest.approx(1.0)


def test_several_gpus_are_summed() -> None:
    def work(library: FakeLibrary) -> None:
        for place, gpu in enumerate(library.gpus):
            gpu.energy = 1_000 * (place + 1) * library.looks
            gpu.used = (place + 1) * GIB

    totals, told = watched(work, 6, FIRST.uuid, SECOND.uuid)
    assert {fields["gpu"] for fields in told} == {FIRST.uuid, SECOND.uuid}
    ends = {fields["gpu"]: fields["energy"] for fields in told if "energy" in fields}
    assert totals.energy == pytest.approx(sum(ends.values()))
    assert totals.peak_memory == 2 * GIB


@pytest.mark.feature("B7")
def test_a_gpu_that_is_lost_meanwhile_ends_the_looks_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def lose(library: FakeLibrary) -> None:
        library.gpus[0].energy = 1_000 * library.looks
        if library.looks > 3:
            library.gpus[0].broken = pynvml.NVML_ERROR_GPU_IS_LOST

    totals, told = watched(lose, 99)
    assert len(told) == 3
    assert totals.energy == pytest.approx(2.0)  # what was seen until then
    assert [record.getMessage() for record in caplog.records] == [
        "the GPU is not watched any longer, the training goes on: the GPU has fallen off the bus; restart the machine"
    ]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_driver_that_refuses_is_said_once(code: int, caplog: pytest.LogCaptureFixture) -> None:
    meter = GpuMeter([FIRST.uuid], lambda fields: None, QUICK)
    with driver(FIRST, refusal=code):
        meter.start()
        assert meter.stop() == GpuTotals()
    assert len(caplog.records) == 1


def test_a_mig_instance_has_its_own_memory_and_no_energy() -> None:
    told: list[dict[str, Any]] = []
    whole = FakeGpu("GPU-w", mig=True, parts=[{"uuid": "MIG-1", "name": "part", "used": 2 * GIB}])
    with driver(whole):
        meter = GpuMeter(["MIG-1"], told.append)
        meter.start()
        totals = meter.stop()
    assert totals == GpuTotals(("part",), None, 2 * GIB, None)
    assert told[0]["temperature"] == 40
    assert "energy" not in told[-1]


def test_what_attempts_cost_adds_up() -> None:
    first = Usage("A", 10.0, 3.0, 500, 1.0, 0.2, 70, 90, 40.0)
    second = Usage("B", 20.0, None, 400, 3.0, 0.5, 60, 99, 80.0)
    on_cpu = Usage("cpu", 5.0, 5.0, 900)
    assert total([first, second, on_cpu, first], unmeasured=1) == Usage(
        "A, B, cpu", 45.0, 11.0, 900, 5.0, pytest.approx(0.9), 70, 99, pytest.approx(64.0), 4, 1
    )
    assert total([on_cpu]) == on_cpu


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_at_work_is_seen() -> None:
    gpu = gpu_device.read_all().gpus[0]
    told: list[dict[str, Any]] = []
    meter = GpuMeter([gpu.uuid], told.append, 0.2)
    matrix = torch.rand(4096, 4096, device="cuda")
    meter.start()
    while len(told) < 10:
        matrix = torch.nn.functional.normalize(matrix @ matrix)
        torch.cuda.synchronize()
    totals = meter.stop()
    assert totals.names == (gpu.name,)
    assert totals.energy is None or totals.energy > 0
    assert totals.peak_memory is None or totals.peak_memory > matrix.nbytes
    assert totals.utilisation is None or totals.utilisation > 0


def test_the_gpus_of_all_ranks_count() -> None:
    own: Any = SimpleNamespace(device=torch.device("cpu"), uuid=FIRST.uuid)
    meter = UsageMeter(own, None)

    def work(library: FakeLibrary) -> None:
        for number, gpu in enumerate(library.gpus, 1):
            gpu.energy = 3_600_000_000 * library.looks
            gpu.used = number * GIB

    with driver(replace(FIRST), replace(SECOND)) as library:
        library.on_look = work
        with meter.running():
            meter.also([FIRST.uuid, SECOND.uuid])
    found = meter.total()
    assert found.device.split(DEVICES) == [*dict.fromkeys((FIRST.name, SECOND.name))]
    assert found.gpu_hours is not None and found.energy is not None
    assert found.gpu_hours * 3600 == pytest.approx(2 * found.seconds)
    assert found.peak_gpu_memory == 2 * GIB
    assert found.energy >= 2.0  # kWh: each look of each GPU adds some
