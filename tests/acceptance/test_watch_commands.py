"""`watch`, `status --live` and `report`, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from tests.integration.digits_tasks import insert_tasks, training
from trainloom import connect

COMMAND = [sys.executable, "-m", "pipeline.cli.main"]
EPOCHS = 3
TASK_KEY = "training_task_md5_hash"


@pytest.fixture
def key(project_environment: dict[str, str]) -> str:
    """A task that waits."""
    with connect() as session:
        (found,) = insert_tasks(session, training(epoch_limit=EPOCHS))
        return str(found[TASK_KEY])


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is killed at the end where it has not ended."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of JSON."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return dict(json.loads(line))


@pytest.mark.feature("B5")
def test_a_training_of_another_process_is_watched_from_before_it_begins(key: str) -> None:
    with running("watch", key[:8], "--json", "--interval", "0.2") as process:
        assert line_of(process)["state"] == "pending"
        assert main(["worker", "--max-tasks", "1"]) == 0
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    assert [line["epoch"] for line in told if line["kind"] == "training"] == [*range(1, EPOCHS + 1)]
    assert [line["epoch"] for line in told if line["kind"] == "validation"] == [*range(1, EPOCHS + 1)]
    assert [line["kind"] for line in told].count("testing") == 1
    assert [line["state"] for line in told if line["kind"] == "state"][-1] == "finished"


def test_a_finished_training_and_its_report_are_shown_at_once(
    key: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["worker", "--max-tasks", "1"]) == 0
    capsys.readouterr()
    assert main(["watch", key[:6]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{key[:8]}  SimpleMLP, digits.h5, Adam, seed 0")
    assert "finished" in lines[1]
    assert [line.partition(":")[0] for line in lines[2:]] == [f"epoch {n}/{EPOCHS}" for n in range(1, EPOCHS + 1)]

    assert main(["report", key[:6], "-o", str(tmp_path / "report"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"page": str(tmp_path / "report" / "report.html"), "tasks": [key], "left_out": 0}
    assert main(["report", "-o", str(tmp_path / "report")]) == 0
    assert "report.html compares 1 result." in capsys.readouterr().out
    assert main(["report", "-o", str(tmp_path)]) == 1
    assert "give a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["watch", "zz"], "is no key of a task"),
        (["watch", "ffffffff"], "`trainloom task list` shows the tasks"),
        (["report", "-o", "x"], "there is no result yet"),
    ],
)
def test_what_cannot_be_shown_is_said(
    arguments: list[str], message: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.feature("B5")
def test_the_live_status_is_told_again_and_again_until_it_is_interrupted(key: str) -> None:
    with running("status", "--live", "--json", "--interval", "0.1") as process:
        assert [line_of(process)["tasks"]["pending"] for _ in range(3)] == [1, 1, 1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    with running("status", "--live", "--interval", "0.1") as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("pending"):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
