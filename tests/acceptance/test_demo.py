"""The demonstration from nothing: its own home, its own servers, real data."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "pipeline.cli.main"]
Trainloom = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty working folder; the servers of a home in it are stopped at the end."""
    made = Path(tempfile.mkdtemp(prefix="tl-demo-", dir="/tmp"))
    made.chmod(0o755)  # as root, PostgreSQL's user has to pass through
    yield made
    if (made / ".trainloom").exists():
        subprocess.run([*COMMAND, "db", "stop"], cwd=made, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(made)


@pytest.fixture
def trainloom(folder: Path) -> Trainloom:
    """Runs a command in the folder and expects it to succeed."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        told = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr
        return told

    return run


def interrupt_after_the_first_task(folder: Path) -> tuple[int, str]:
    """Start the demonstration and press Ctrl-C when one task is done; returns the exit code and the errors."""
    with subprocess.Popen(
        [*COMMAND, "demo"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        assert started.stdout is not None
        assert any(line.startswith("1/8 ") for line in started.stdout)
        os.killpg(started.pid, signal.SIGINT)  # a terminal sends it to the workers as well
        errors = started.communicate()[1]
    return started.returncode, errors


@pytest.mark.feature("S2", "S3", "S4", "S5", "S14")
def test_demo_is_interrupted_goes_on_and_trains_nothing_twice(folder: Path, trainloom: Trainloom) -> None:
    code, errors = interrupt_after_the_first_task(folder)
    assert code == 130
    assert "Traceback" not in errors
    states = json.loads(trainloom("status", "--json").stdout)["tasks"]
    finished = states["finished"]
    assert 1 <= finished < 8
    assert {state: number for state, number in states.items() if number} == {
        "pending": 8 - finished,
        "finished": finished,
    }

    second = trainloom("demo").stdout
    assert f"Training {8 - finished} task" in second
    scores = [float(found) for found in re.findall(r" epochs=\d+ +\d +(0\.\d{4}|1\.0000) ", second)]
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= 0.96
    assert str(folder / ".trainloom") in second
    assert re.search(r"weights are trainloom://[0-9a-f]{64}\n", second)
    shown = re.search(r"trainloom trace ([0-9a-f]{8})", second)
    assert shown
    assert trainloom("trace", shown[1]).stdout

    third = trainloom("demo").stdout
    assert "Nothing to train: all 8 tasks were finished before." in third
    assert third.split("seconds\n")[1] == second.split("seconds\n")[1]


def test_without_a_mongod_that_runs_there_is_a_folder_store_and_a_line_says_so(
    folder: Path, trainloom: Trainloom
) -> None:
    broken = folder / "lib"
    broken.mkdir()
    (broken / "libcurl.so.4").write_bytes(b"")
    told = trainloom("init", LD_LIBRARY_PATH=str(broken))
    assert str(folder / ".trainloom" / "store") in told.stdout
    assert "objects are kept in a folder" in told.stderr
    assert "libcurl4" in told.stderr


def test_init_says_where_everything_is_and_db_stops_and_starts_it(folder: Path, trainloom: Trainloom) -> None:
    first = json.loads(trainloom("init", "--json").stdout)
    again = json.loads(trainloom("init", "--json").stdout)
    assert (first["home"], first["made"]) == (str(folder / ".trainloom"), True)
    assert again == {**first, "made": False}

    def running() -> dict[str, bool]:
        return {server["name"]: server["running"] for server in json.loads(trainloom("db", "status", "--json").stdout)}

    assert running() == {"PostgreSQL": True, "MongoDB": True}
    assert trainloom("db", "stop").stdout == "PostgreSQL has stopped\nMongoDB has stopped\n"
    assert running() == {"PostgreSQL": False, "MongoDB": False}
    assert trainloom("db", "stop").stdout == "PostgreSQL was not running\nMongoDB was not running\n"
    trainloom("db", "start")
    assert running() == {"PostgreSQL": True, "MongoDB": True}
    assert trainloom("db", "status").stdout.startswith("server      state")


@pytest.mark.parametrize(
    "arguments", [["worker"], ["status"], ["task", "list"], ["db", "start"], ["db", "status"], ["results"]]
)
def test_only_init_and_demo_make_a_home(folder: Path, arguments: list[str]) -> None:
    told = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 78
    assert told.stdout == ""
    assert "trainloom init" in told.stderr
    assert not (folder / ".trainloom").exists()
