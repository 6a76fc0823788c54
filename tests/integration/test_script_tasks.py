"""Script tasks: run in a child process, with their results, their errors, and an end whenever their attempt ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.job_table import job_table
from pipeline.queue import Queue
from pipeline.script_queue import run_one
from pipeline.script_runner import ScriptsNotAllowed
from schemas.attempt import Attempt
from schemas.errors import DamagedRow, InvalidRow
from schemas.script_result import ScriptResult
from schemas.script_task import ScriptTask

WAITING = """
import os, stat, time
pipe = os.open({pipe!r}, os.O_WRONLY)
os.write(pipe, b"here\\n")
time.sleep(600 if stat.S_ISFIFO(os.fstat(pipe).st_mode) else 0)
"""
WORKER = """
from trainloom import ScriptResult, connect
with connect(create_home=False):
    ScriptResult().populate(reserve_jobs=True, suppress_errors=True)
"""


@pytest.fixture
def session(backend: str, open_session: Any) -> Any:
    """An open session that runs scripts, on each backend."""
    return open_session(allow_scripts=True, max_attempts=1)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    """A named pipe that a script opens: reading it ends when the script is gone."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield str(path)


def insert(script: str, keys: Any = (), **hyper_parameters: Any) -> dict[str, str]:
    (key,) = ScriptTask().insert_task("test", script, hyper_parameters, list(keys))
    return key


def run(**options: Any) -> dict[str, Any]:
    return ScriptResult().populate(reserve_jobs=True, suppress_errors=True, **options)


def result() -> dict[str, Any]:
    return dict(ScriptResult().fetch1())


def attempt() -> dict[str, Any]:
    return dict(Attempt().fetch1())


@pytest.mark.feature("T5")
def test_a_script_finds_its_hyperparameters_and_leaves_its_results(session: Any) -> None:
    script = (
        "import numpy as np\nassert __name__ == '__main__'\nprint('units', n_units)\n"
        "test_accuracy = np.float32(0.5) * n_units\ncurve = np.arange(3)\nloss = float('nan')\nother = 1"
    )
    key = insert(script, ["test_accuracy", "curve", "loss"], n_units=3, layers=[1, {"a": None}])
    assert run() == {"success_count": 1, "error_list": []}
    row = result()
    assert row["script_results"] == {"test_accuracy": 1.5, "curve": [0, 1, 2], "loss": None}
    assert row["script_notes"] == ["loss is not finite: nan"]
    assert row["script_output"]["text"] == "units 3\n"
    assert attempt()["attempt_key"] == key["script_task_md5_hash"]
    assert attempt()["attempt_outcome"] == "finished"
    assert run()["success_count"] == 0


def test_what_makes_a_task_is_its_key(session: Any) -> None:
    first = insert("a = 1", ["a"], x=1)
    assert insert("a = 1", ["a"], x=1) == first
    others = [insert("a = 1 ", ["a"], x=1), insert("a = 1", [], x=1), insert("a = 1", ["a"], x=1.0)]
    (renamed,) = ScriptTask().insert_task("other", "a = 1", {"x": 1}, ["a"])
    (described,) = ScriptTask().insert_task("test", "a = 1", {"x": 1}, ["a"], description="said", priority=1)
    assert described == first
    assert len({key["script_task_md5_hash"] for key in (first, renamed, *others)}) == 5


@pytest.mark.feature("T5")
def test_a_script_that_fails_is_a_failed_task_with_its_traceback(session: Any) -> None:
    insert("print('before')\ndef train():\n    raise ValueError('no data at all')\ntrain()")
    outcome = run()
    assert "no data at all" in outcome["error_list"][0][1]
    row = attempt()
    assert (row["attempt_outcome"], row["attempt_blame"]) == ("failed", "task")
    assert "the script script.py failed: ValueError: no data at all" in row["attempt_error"]
    assert "line 3, in train" in row["attempt_stack"]
    assert "before" in row["attempt_stack"]
    assert job_table(ScriptResult()).fetch1("status") == "error"
    assert len(ScriptResult()) == 0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("accuracy = 1", "the script left no test_accuracy"),
        ("test_accuracy = object()", "a result is a object"),
        ("test_accuracy = 'x' * (1 << 21)", "save them as dataset"),
        ("test_accuracy = {'a': float('nan')}", "test_accuracy.a is nan"),
        ("import sys; sys.exit(3)", "sys.exit\\(3\\)"),
        ("import os; os._exit(0)", "ended before its results"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("{}['missing']", "KeyError: 'missing'"),
    ],
)
def test_what_goes_wrong_is_said(postgres_session: Any, script: str, said: str) -> None:
    insert(script, ["test_accuracy"])
    with pytest.raises(Exception, match=said):
        ScriptResult().populate()
    assert len(ScriptResult()) == 0


def test_a_missing_package_counts_against_the_worker(session: Any) -> None:
    insert("import a_package_that_nobody_has")
    run()
    assert attempt()["attempt_blame"] == "worker"


def test_only_the_end_of_a_long_output_is_kept(postgres_session: Any) -> None:
    insert("for number in range(200_000): print(number)")
    assert run()["success_count"] == 1
    text = result()["script_output"]["text"]
    assert len(text) < 70_000
    assert text.startswith("[") and text.endswith("\n199999\n")


def test_the_folder_of_our_modules_hides_nothing_from_a_script(postgres_session: Any) -> None:
    insert("import queue, trace\nassert queue.Queue and trace.Trace\nimport pipeline.queue")
    assert run()["error_list"] == []


def test_a_script_gets_the_settings_of_its_session(open_session: Any) -> None:
    open_session(torch_threads=1, allow_scripts=True, max_attempts=1, retry_seconds=7.5)
    insert("from trainloom import Settings\nsettings = Settings.load()\nseconds = settings.retry_seconds", ["seconds"])
    run()
    assert result()["script_results"] == {"seconds": 7.5}


def test_scripts_run_only_where_they_are_allowed(backend: str, open_session: Any) -> None:
    open_session()
    insert("a = 1")
    if backend == "postgresql":  # one's own embedded servers
        assert ScriptResult().populate()["success_count"] == 1
        return
    with pytest.raises(ScriptsNotAllowed, match="TRAINLOOM_ALLOW_SCRIPTS=true"):
        ScriptResult().populate()


def test_scripts_can_be_forbidden(open_session: Any) -> None:
    open_session(allow_scripts=False)
    insert("a = 1")
    with pytest.raises(ScriptsNotAllowed):
        ScriptResult().populate()
    run()
    assert attempt()["attempt_blame"] == "worker"


def test_a_script_that_was_changed_in_its_row_is_not_run(session: Any, tmp_path: Path) -> None:
    key = insert("a = 1")
    ScriptTask().update1({**key, "script_text": {"text": f"open({str(tmp_path / 'ran')!r}, 'w')"}})
    with pytest.raises(DamagedRow, match="does not agree with its key"):
        ScriptResult().populate()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"script": "a = ("}, "no valid Python"),
        ({"script": " \n"}, "the script is empty"),
        ({"hyper_parameters": {"__name__": 1}}, "cannot be a global name"),
        ({"hyper_parameters": {"a b": 1}}, "cannot be a global name"),
        ({"hyper_parameters": {"a": float("nan")}}, "hyper_parameters.a is nan"),
        ({"saved_result_keys": "accuracy"}, "must be a list of names"),
        ({"saved_result_keys": ["for"]}, "cannot be a global name"),
        ({"priority": 128}, "priority must be"),
    ],
)
def test_what_cannot_be_run_is_refused_at_insertion(postgres_session: Any, changed: dict[str, Any], said: str) -> None:
    given = {"name": "n", "script": "a = 1", "hyper_parameters": {}, "saved_result_keys": [], **changed}
    with pytest.raises(InvalidRow, match=said):
        ScriptTask().insert_task(**given)
    assert len(ScriptTask()) == 0


def start_worker(pipe: str) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """A worker in another process, whose script has begun; and the pipe that ends with the script."""
    insert(WAITING.format(pipe=pipe))
    worker = subprocess.Popen([sys.executable, "-c", WORKER])
    stream = open(pipe, "rb")  # noqa: SIM115 - the caller closes it
    assert stream.readline() == b"here\n"
    return worker, stream


@pytest.mark.timeout(90)
def test_a_script_dies_with_a_killed_worker(postgres_session: Any, pipe: str) -> None:
    worker, stream = start_worker(pipe)
    with stream:
        worker.kill()
        assert stream.read() == b""  # ends when no process holds the pipe
    assert worker.wait() == -signal.SIGKILL


@pytest.mark.timeout(90)
def test_the_task_of_a_killed_worker_is_taken_over(impatience: None, open_session: Any, pipe: str) -> None:
    session = open_session(max_attempts=2)
    worker, stream = start_worker(pipe)
    with stream:
        worker.kill()
        assert stream.read() == b""
    worker.wait()
    os.unlink(pipe)
    Path(pipe).touch()  # so that the script ends at once
    while not run_one(session.settings, "test", {}, None):
        pass
    assert [row["attempt_outcome"] for row in Attempt().to_dicts(order_by="attempt_start")] == ["lost", "finished"]


def hold_silently() -> None:
    """Let a worker hold the task that shows no life."""
    queue = Queue(ScriptResult())
    queue.enqueue()
    assert queue.claim() is not None
    queue.connection.query(f"UPDATE {queue.jobs.full_table_name} SET reserved_time = '2001-01-01'")


def test_a_task_whose_worker_shows_no_life_is_taken_at_once(open_session: Any) -> None:
    session = open_session(max_attempts=2)
    insert("a = 1", ["a"])
    hold_silently()
    assert run_one(session.settings, "test", {}, None)
    assert [row["attempt_outcome"] for row in Attempt().to_dicts(order_by="attempt_start")] == ["lost", "finished"]
    assert result()["script_results"] == {"a": 1}


def test_a_task_whose_workers_keep_dying_is_set_aside(open_session: Any) -> None:
    session = open_session(max_attempts=1)
    insert("a = 1")
    hold_silently()
    assert not run_one(session.settings, "test", {}, None)
    assert job_table(ScriptResult()).fetch1("status") == "error"
    assert attempt()["attempt_outcome"] == "lost"


@pytest.mark.timeout(90)
def test_a_stopped_worker_ends_its_script_and_gives_the_task_back(postgres_session: Any, pipe: str) -> None:
    worker, stream = start_worker(pipe)
    with stream:
        worker.terminate()
        assert stream.read() == b""
    assert worker.wait() == 143
    assert attempt()["attempt_outcome"] == "preempted"
    assert job_table(ScriptResult()).fetch1("status") == "pending"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("change", ["cancelled", "taken", "deleted"])
def test_a_script_ends_when_its_lease_is_lost(impatience: None, open_session: Any, pipe: str, change: str) -> None:
    open_session()
    key = insert(WAITING.format(pipe=pipe))
    ended: list[Any] = []
    seen = threading.Event()

    def watch() -> None:
        with open(pipe, "rb") as stream:
            stream.readline()
            seen.set()
            ended.append(stream.read())

    def interfere() -> None:
        seen.wait()
        subprocess.run([sys.executable, "-c", INTERFERE, change, key["script_task_md5_hash"]], check=True)

    threads = [threading.Thread(target=target) for target in (watch, interfere)]
    for thread in threads:
        thread.start()
    outcome = run(max_calls=1)
    for thread in threads:
        thread.join()
    assert ended == [b""]
    assert outcome["success_count"] == 0
    assert len(ScriptResult()) == 0


INTERFERE = """
import sys
from trainloom import ScriptResult, ScriptTask, connect
from pipeline.job_table import job_table
change, key = sys.argv[1:]
with connect(create_home=False) as session:
    jobs = job_table(ScriptResult()) & {"script_task_md5_hash": key}
    if change == "cancelled":
        job_table(ScriptResult()).ignore({"script_task_md5_hash": key})
    elif change == "taken":
        session.connection.query(f"UPDATE {jobs.full_table_name} SET version='somebody else'")
    else:
        jobs.delete_quick()
        (ScriptTask() & {"script_task_md5_hash": key}).delete_quick()
"""
