"""Worker processes that serve script tasks beside trainings: `trainloom worker` from its start to its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.job_table import job_table
from schemas.attempt import Attempt
from schemas.script_result import ScriptResult
from schemas.script_task import ScriptTask
from tests.integration import small_tasks
from trainloom import TrainingResult

COMMAND = [sys.executable, "-m", "pipeline.cli.main"]
HELD = """
with open({pipe!r}, "w") as pipe:
    pipe.write("here\\n")
    pipe.flush()
    with open({gate!r}) as gate:
        gate.read()
ran = 1
"""


@pytest.fixture
def held(tmp_path: Path, open_session: Any) -> Iterator[tuple[str, str]]:
    """A script task whose script says in a pipe that it has begun, keeps that open while it lives, and ends when the
    gate was opened and closed."""
    open_session()
    pipe, gate = str(tmp_path / "pipe"), str(tmp_path / "gate")
    os.mkfifo(pipe)
    os.mkfifo(gate)
    ScriptTask().insert_task("held", HELD.format(pipe=pipe, gate=gate), {}, ["ran"])
    yield pipe, gate


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in a group of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        with process:
            pass


def told(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a command printed, when it has ended as it should."""
    out, _ = process.communicate()
    assert process.returncode == code, out
    return out


def outcomes() -> list[str]:
    return [row["attempt_outcome"] for row in Attempt().proj("attempt_outcome").to_dicts(order_by="attempt_start")]


def statuses() -> list[str]:
    return [row["status"] for row in job_table(ScriptResult()).to_dicts()]


@pytest.mark.slow
@pytest.mark.feature("T5")
def test_a_pool_does_trainings_and_scripts_each_of_them_once(postgres_session: Any, start: Any) -> None:
    trainings = small_tasks.insert(postgres_session)
    for number in range(4):
        ScriptTask().insert_task("counts", "double = 2 * number", {"number": number}, ["double"])
    (bad,) = ScriptTask().insert_task("fails", "raise ValueError('no data at all')", {}, [])
    allowed = {"TRAINLOOM_ALLOW_SCRIPTS": "true", "TRAINLOOM_MAX_ATTEMPTS": "1"}

    out = told(start("worker", "--processes", "2", **allowed))
    key = bad["script_task_md5_hash"]
    assert "Doing 7 tasks of 2 trainings and 5 scripts with 2 worker processes." in out
    assert f"{key[:8]}  fails, script.py: failed after" in out
    assert "not run: 1 error; `trainloom status` says why" in out
    assert len(TrainingResult()) == len(trainings)
    assert sorted(row["script_results"]["double"] for row in ScriptResult().to_dicts()) == [0, 2, 4, 6]
    assert set(Counter(row["attempt_key"] for row in Attempt().to_dicts()).values()) == {1}
    assert Counter(outcomes()) == {"finished": 6, "failed": 1}

    shown = told(start("status"))
    assert f"{key[:8]} failed (1 attempt): ScriptFailed: the script script.py failed: ValueError: no data" in shown
    assert ["error", "0", "1"] in [line.split() for line in shown.splitlines()]
    status = json.loads(told(start("status", "--json")))
    assert (status["tasks"]["finished"], status["scripts"]["tasks"]["finished"]) == (2, 4)
    assert [row["task"] for row in status["scripts"]["errors"]] == [key]
    listed = told(start("task", "list", "--table", "scripts", "--state", "error"))
    assert [key[:8], "error", "1", "fails", "script.py"] in [line.split()[:5] for line in listed.splitlines()]
    assert told(start("task", "retry", key[:8])) == f"{key[:8]}  waits to be run\n"
    assert statuses() == ["pending"]


@pytest.mark.timeout(120)
def test_scripts_that_are_not_allowed_are_left_alone_and_that_is_said_once(postgres_session: Any, start: Any) -> None:
    small_tasks.insert(postgres_session, seeds=(0,))
    ScriptTask().insert_task("waits", "a = 1", {}, [])
    forbidden = {"TRAINLOOM_ALLOW_SCRIPTS": "false"}
    out = told(start("worker", "--processes", "2", **forbidden))
    assert out.count("1 script task is left alone, since scripts are not allowed here") == 1
    assert outcomes() == ["finished"]
    assert len(TrainingResult()) == 1
    assert "TRAINLOOM_ALLOW_SCRIPTS=true" in told(start("worker", "--table", "scripts", **forbidden), code=78)
    assert statuses() == []


@pytest.mark.timeout(90)
def test_a_worker_may_serve_one_table_alone(postgres_session: Any, start: Any) -> None:
    small_tasks.insert(postgres_session)
    keys = [ScriptTask().insert_task(name, "a = 1", {}, [])[0] for name in ("wanted", "other")]
    out = told(start("worker", "--table", "scripts", "--restrict", "script_task_name = 'wanted'"))
    assert "Running 1 script with 1 worker process." in out
    assert [dict(row) for row in ScriptResult().proj().to_dicts()] == keys[:1]
    assert len(TrainingResult()) == 0
    out = told(start("worker", "--restrict", "seed = 5"))
    assert "There is nothing to train." in out
    assert len(ScriptResult()) == 1


@pytest.mark.timeout(90)
def test_a_stopped_pool_ends_its_script_and_gives_it_back(held: tuple[str, str], start: Any) -> None:
    worker = start("worker", "--processes", "2")
    with open(held[0]) as stream:
        assert stream.readline() == "here\n"
        status = json.loads(told(start("status", "--json")))["scripts"]
        assert [(row["name"], row["file_name"]) for row in status["workers"]] == [("held", "script.py")]
        assert status["tasks"]["running"] == 1
        os.killpg(worker.pid, signal.SIGTERM)
        assert stream.read() == ""  # ends when the script has ended
    told(worker, 143)
    assert outcomes() == ["preempted"]
    assert statuses() == ["pending"]
    assert len(ScriptResult()) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("killed", ["a process", "all of a machine"])
def test_the_script_of_a_killed_worker_ends_unpublished_and_another_one_does_it(
    held: tuple[str, str], start: Any, killed: str
) -> None:
    pipe, gate = held
    worker = start("worker", "--processes", "2", "--wait", "60")
    with open(pipe) as stream:
        assert stream.readline() == "here\n"
        (pid,) = [row["attempt_pid"] for row in Attempt().to_dicts()]
        assert pid != worker.pid
        if killed == "a process":  # its parent gives the job back at once
            os.kill(pid, signal.SIGKILL)
        else:  # nobody is left to do so: the lease has to run out
            os.killpg(worker.pid, signal.SIGKILL)
        assert stream.read() == ""
    if killed != "a process":
        worker.wait()
        assert (statuses(), outcomes()) == (["reserved"], ["running"])
        jobs = job_table(ScriptResult())
        jobs.connection.query(f"UPDATE {jobs.full_table_name} SET reserved_time = '2001-01-01'")
        worker = start("worker")
    with open(pipe) as stream:
        assert stream.readline() == "here\n"
        assert len(ScriptResult()) == 0
        with open(gate, "w"):
            pass
        assert stream.read() == ""
    told(worker)
    assert outcomes() == ["lost", "finished"]
    assert ScriptResult().fetch1("script_results") == {"ran": 1}
    assert statuses() == []
