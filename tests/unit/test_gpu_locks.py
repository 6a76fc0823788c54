"""One GPU for one process: which there are, and that nobody shares one. The GPUs are made up, the locks are real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import gpu_choice, gpu_locks, gpu_visible
from pipeline.errors import ConfigurationError
from pipeline.gpu_locks import Gpu
from pipeline.settings import Settings

FIRST, SECOND = Gpu("uuid-a", "0"), Gpu("uuid-b", "1")
HOLD = """
import sys
from pathlib import Path
from pipeline.gpu_locks import Gpu, held
gpus = [Gpu(name, name) for name in sys.argv[2:]]
with held(gpus, Path(sys.argv[1])) as gpu:
    print(gpu.uuid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [FIRST, SECOND]),
        ("3, 1", [Gpu("uuid-a", "3"), Gpu("uuid-b", "1")]),
        ("GPU-77,GPU-88", [Gpu("uuid-a", "GPU-77"), Gpu("uuid-b", "GPU-88")]),
        ("MIG-1,MIG-2", [Gpu("MIG-1", "MIG-1"), Gpu("MIG-2", "MIG-2")]),
        ("0,1,broken", [FIRST, SECOND]),
    ],
)
def test_gpus_go_by_the_names_that_the_environment_has_for_them(visible: str | None, expected: list[Gpu]) -> None:
    assert gpu_locks.named(["uuid-a", "uuid-b"], visible) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", [FIRST, SECOND]), ("cuda", [FIRST, SECOND]), ("cuda:1", [SECOND]), ("cuda:2", []), ("cpu", [])],
)
def test_the_setting_says_which_gpus_are_meant(
    device: str, expected: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_locks, "_uuids", lambda: ("uuid-a", "uuid-b"))
    assert gpu_locks.available(device, {}) == expected


def test_two_processes_never_have_the_same_gpu_and_a_dead_one_has_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path), FIRST.uuid, SECOND.uuid]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "uuid-a\n"
        with gpu_locks.held([FIRST, SECOND], tmp_path) as mine:
            assert mine == SECOND
            with pytest.raises(ConfigurationError, match="have every GPU"), gpu_locks.held([FIRST], tmp_path, wait=0):
                pass
        other.kill()
        other.wait()
    with gpu_locks.held([FIRST, SECOND], tmp_path) as mine:
        assert mine == FIRST


def test_without_gpus_there_is_nothing_to_lock() -> None:
    with gpu_locks.held([]) as gpu:
        assert gpu is None


def test_the_folder_of_the_locks_is_this_users_alone(tmp_path: Path) -> None:
    folder = gpu_locks.private_folder(tmp_path / "locks")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert gpu_locks.private_folder(folder) == folder
    folder.chmod(0o770)
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        gpu_locks.private_folder(folder)


@pytest.mark.parametrize(("device", "inside"), [("auto", "auto"), ("cuda:1", "cuda")])
def test_a_worker_process_sees_its_gpu_alone(
    device: str, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpu_visible.VISIBLE, "0,1")
    monkeypatch.setattr(gpu_locks, "private_folder", lambda: tmp_path)
    with gpu_choice.alone(Settings(device=device), (SECOND,)) as settings:
        assert os.environ[gpu_visible.VISIBLE] == "GPU-uuid-b"
        assert settings.device == inside


def test_a_worker_process_chooses_its_gpu_before_torch_is_there() -> None:
    code = "import sys, pipeline.worker_process; print(sorted({'torch', 'datajoint'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
