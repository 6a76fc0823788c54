"""`trainloom gpu`: a table of the GPUs with who uses them. The driver is made up, the processes are real."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import gpu_locks
from pipeline.cli import gpu as command
from pipeline.cli.main import main
from pipeline.gpu_visible import VISIBLE
from tests.fake_nvml import GIB, FakeGpu, driver, two

ROOT = Path(__file__).parents[2]
FIRST, SECOND = two()
WATCH = """
import os, sys
sys.path.insert(0, os.getcwd())
from tests import fake_nvml
fake_nvml.adopt()
from pipeline.cli.main import main
sys.exit(main(["gpu", "--watch", "0.1", "--json"]))
"""


@pytest.fixture(autouse=True)
def _no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_locks, "private_folder", lambda: tmp_path)
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What the command prints as JSON on a machine with such GPUs."""

    def run(*gpus: FakeGpu, **rest: Any) -> Any:
        with driver(*gpus, **rest):
            assert main(["gpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.feature("B7")
def test_the_table_says_who_uses_what(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "1")
    busy = replace(FIRST, utilisation=93, temperature=70, power=301_400, processes=[(os.getpid(), 6 * GIB)])
    with driver(busy, SECOND):
        assert main(["gpu"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "gpu"
    assert first.startswith("0*   NVIDIA Test 16GB")
    assert first.split()[4:9] == ["10", "16", "93", "70", "301"]
    assert first.endswith(f"({os.getpid()}), 6.0 GiB")
    assert f"  {getpass.getuser()}: " in first
    assert second.split() == ["1", "NVIDIA", "Test", "16GB", "16", "16", "0", "40", "100", "nobody"]


def test_json_has_every_value_in_plain_units(listed: Callable[..., Any]) -> None:
    found = listed(replace(FIRST, processes=[(os.getpid(), 2 * GIB), (2**22 + 1, 4 * GIB)]))
    (gpu,) = found["gpus"]
    assert gpu["memory_free"] == 10 * GIB
    assert (gpu["utilisation"], gpu["temperature"], gpu["power"]) == (0, 40, 100.0)
    assert (gpu["visible"], gpu["held_by"], gpu["users_known"]) == (True, None, True)
    mine, gone = gpu["users"]
    assert (mine["pid"], mine["user"], mine["memory"]) == (os.getpid(), getpass.getuser(), 2 * GIB)
    assert (gone["user"], gone["command"], gone["task"]) == (None, None, None)
    assert found["problems"] == []


def test_no_argument_of_a_command_is_shown(listed: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(flush=True); input()")
    command = [sys.executable, str(script), "--password", "hunter2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is that program by now
        (gpu,) = listed(replace(FIRST, processes=[(process.pid, 6 * GIB)]))["gpus"]
        process.kill()
    with subprocess.Popen(["sleep", "3601"]) as other:
        (busy,) = listed(replace(FIRST, processes=[(other.pid, 6 * GIB)]))["gpus"]
        other.kill()
    assert busy["users"][0]["command"] == "sleep"
    assert gpu["users"][0]["command"].endswith(" train.py")
    assert "hunter2" not in json.dumps(gpu)


def test_users_that_cannot_be_seen_are_said_to_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with driver(replace(FIRST, processes=[])):
        assert main(["gpu"]) == 0
    assert capsys.readouterr().out.endswith("others that cannot be seen from here\n")


@pytest.mark.parametrize(
    ("rest", "reason"),
    [({"refusal": 4}, "this user may not ask the NVIDIA driver"), ({}, "the NVIDIA driver knows no GPU")],
)
def test_without_gpus_it_says_why(rest: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with driver(**rest):
        assert main(["gpu", "--watch"]) == 0
    told = capsys.readouterr().out
    assert told.partition(" UTC\n")[2].startswith("no GPU can be used here, trainings run on the CPU\n")
    assert reason in told


@pytest.mark.feature("B7")
def test_the_task_of_a_worker_stands_there(
    listed: Callable[..., Any], project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline import live_workers

    row = {"host": os.uname().nodename, "pid": os.getpid(), "task": "c0ffee" + "0" * 26}
    monkeypatch.setattr(live_workers, "live_workers", lambda: [row, {**row, "host": "elsewhere", "task": "other"}])
    gpu = gpu_locks.Gpu(gpu_locks.bare(FIRST.uuid), FIRST.uuid)
    with gpu_locks.held([gpu], tmp_path):
        first, second = listed(replace(FIRST, used=0, processes=[]), SECOND)["gpus"]
    assert first["held_by"] == os.getpid()
    assert [(user["pid"], user["memory"], user["task"]) for user in first["users"]] == [
        (os.getpid(), None, row["task"])
    ]
    assert (second["held_by"], second["users"]) == (None, [])
    assert command._user(first["users"][0]).endswith(", task c0ffee00")


def test_without_a_project_the_gpus_are_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gpu = gpu_locks.Gpu(gpu_locks.bare(FIRST.uuid), FIRST.uuid)
    with driver(FIRST), gpu_locks.held([gpu], tmp_path):
        assert main(["gpu"]) == 0
    told = capsys.readouterr()
    assert "the tasks of the workers are not known: " in told.err
    assert f"({os.getpid()})" in told.out


def test_watching_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    with (
        driver(FIRST),
        subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert [gpu["name"] for look in looks for gpu in look["gpus"]] == [FIRST.name] * 3
        assert all("time" in look for look in looks)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() == 0
