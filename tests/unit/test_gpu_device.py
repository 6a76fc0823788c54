"""What NVML tells: devices, MIG instances, processes; what it refuses; which of them a process may have."""

from __future__ import annotations

import sys
from dataclasses import replace

import pynvml
import pytest

from pipeline import gpu_device, gpu_visible
from pipeline.gpu_device import GpuProcess, GpusUnknown
from tests.fake_nvml import GIB, FakeGpu, driver, two

FIRST, SECOND = two()
DIVIDED = FakeGpu(
    "GPU-cccc",
    "NVIDIA Whole",
    mig=True,
    energy=5_000,
    parts=[{"uuid": f"MIG-{n}", "name": "NVIDIA Part 1g", "total": 5 * GIB, "used": n * GIB} for n in (1, 2)],
)


def test_everything_that_a_gpu_tells_is_read_in_plain_units() -> None:
    gpu = replace(
        FIRST, utilisation=97, temperature=71, power=312_500, energy=42_000, processes=[(7, GIB), (3, 5 * GIB)]
    )
    with driver(gpu) as library:
        (found,) = gpu_device.read_all().gpus
        assert library.open == 0
    assert (found.index, found.uuid, found.name, found.is_part) == ("0", FIRST.uuid, "NVIDIA Test 16GB", False)
    assert (found.total, found.used, found.free) == (16 * GIB, 6 * GIB, 10 * GIB)
    assert (found.utilisation, found.temperature, found.power, found.energy) == (97, 71, 312.5, 42.0)
    assert found.processes == (GpuProcess(3, 5 * GIB), GpuProcess(7, GIB))


def test_mig_instances_are_devices_of_their_own_in_place_of_their_gpu() -> None:
    with driver(FIRST, DIVIDED):
        found = gpu_device.read_all().gpus
    assert [gpu.index for gpu in found] == ["0", "1:0", "1:1"]
    part = found[2]
    assert (part.uuid, part.name, part.is_part) == ("MIG-2", "NVIDIA Part 1g", True)
    assert (part.total, part.free) == (5 * GIB, 3 * GIB)
    assert (part.temperature, part.power) == (40, 100.0)  # of the whole GPU
    assert (part.utilisation, part.energy) == (None, None)  # an instance has neither


def test_a_divided_gpu_without_instances_is_told_apart() -> None:
    with driver(replace(DIVIDED, parts=[]), SECOND):
        found = gpu_device.read_all()
    assert [gpu.index for gpu in found.gpus] == ["1"]
    assert found.problems == ("GPU 0 is in MIG mode and has no instances; make some with `nvidia-smi mig`",)


def test_what_a_gpu_does_not_tell_is_unknown() -> None:
    questions = ["memory", "utilisation", "temperature", "power", "energy", "mig", "processes"]
    with driver(replace(FIRST, silent=questions)):
        (found,) = gpu_device.read_all().gpus
    assert (found.total, found.free, found.utilisation, found.temperature) == (None, None, None, None)
    assert (found.power, found.energy, found.processes) == (None, None, None)


def test_older_drivers_are_asked_as_they_can_answer() -> None:
    with driver(FIRST, old=True):
        (found,) = gpu_device.read_all().gpus
    assert found.free == 10 * GIB
    assert found.processes == (GpuProcess(1, 6 * GIB),)


def test_memory_that_no_process_seen_from_here_has_says_that_others_are_there() -> None:
    """In a container the driver leaves out the processes of others."""
    with driver(replace(FIRST, processes=[]), replace(SECOND, used=4 << 20)):
        busy, idle = gpu_device.read_all().gpus
    assert busy.processes is None
    assert idle.processes == ()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "installed but not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "this user may not ask the NVIDIA driver"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated while it ran; restart"),
        (pynvml.NVML_ERROR_UNKNOWN, "the NVIDIA driver says: "),
    ],
)
def test_a_driver_that_refuses_is_a_sentence(code: int, sentence: str) -> None:
    with driver(refusal=code), pytest.raises(GpusUnknown, match=sentence):
        gpu_device.read_all()


def test_a_missing_driver_and_a_missing_package_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with driver():
        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "CDLL", absent)
        with pytest.raises(GpusUnknown, match="no NVIDIA driver here"):
            gpu_device.read_all()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpusUnknown, match=r"pip install 'trainloom\[gpu\]'"):
        gpu_device.read_all()


def test_a_gpu_that_is_lost_hides_no_other() -> None:
    with driver(replace(FIRST, broken=pynvml.NVML_ERROR_GPU_IS_LOST), SECOND):
        found = gpu_device.read_all()
    assert [gpu.uuid for gpu in found.gpus] == [SECOND.uuid]
    assert found.problems == ("GPU 0: the GPU has fallen off the bus; restart the machine",)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["0", "1:0", "1:1"]),
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("1,0", ["1:0", "0"]),
        ("0,-1,1", ["0"]),
        ("0,5,1", ["0"]),
        ("0,0", []),
        ("GPU-aaaa", ["0"]),
        ("GPU-", ["0"]),
        ("MIG-2, MIG-1", ["1:1", "1:0"]),
        ("MIG-", []),
        ("none", []),
    ],
)
def test_the_environment_says_which_gpus_a_process_has(named: str | None, expected: list[str]) -> None:
    env = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    with driver(FIRST, replace(DIVIDED, name=FIRST.name)):
        seen = gpu_visible.visible(gpu_device.read_all().gpus, env)
    assert seen is not None
    assert [gpu.index for gpu in seen] == expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}, ["1"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["0", "1"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}, ["1"]),
    ],
)
def test_numbers_of_unlike_gpus_are_cudas_own(env: dict[str, str], expected: list[str] | None) -> None:
    """CUDA counts from the fastest."""
    with driver(FIRST, replace(SECOND, name="NVIDIA Faster")):
        seen = gpu_visible.visible(gpu_device.read_all().gpus, env)
    assert (None if seen is None else [gpu.index for gpu in seen]) == expected
