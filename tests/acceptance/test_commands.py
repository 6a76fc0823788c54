"""Commands on a project of real rows, from the command line to the tables."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from datasets_impl.digits import build_digits
from pipeline.cli.main import main

ROWS = """
datasets:
  - name: digits
    dataset_file_name: digits.h5
    dataset_class_module_name: datasets_impl.digits
    dataset_class_name: DigitsDataset
models:
  - &mlp
    name: small
    model_class_module_name: models_impl.simple_mlp
    model_class_name: SimpleMLP
    model_class_params: {hidden_size: 8}
  - {<<: *mlp, name: smaller, model_class_params: {hidden_size: 4}}
trainings:
  - name: short
    batch_size: 64
    epoch_limit: 1
    optimizer_class_module_name: torch.optim
    optimizer_class_name: Adam
    optimizer_class_params: {lr: 1e-2}
    criterion_class_module_name: torch.nn
    criterion_class_name: CrossEntropyLoss
tasks:
  - {dataset: digits, model: small, training: short, seed: 7, priority: 1}
grids:
  - {datasets: [digits], models: all, trainings: [short], seeds: [0, 1]}
"""

# A model that works, fails, dies, waits for ever or tells of every step; "once" is in a bad mood the first time only.
MOODY = """
import os, signal, threading
from pathlib import Path
from models_impl.simple_mlp import SimpleMLP

class Moody(SimpleMLP):
    def __init__(self, input_shape, output_shape, mood):
        super().__init__(input_shape, output_shape, hidden_size=4)
        self.mood, _, once = mood.partition(" ")
        if once and Path("been_here").exists():
            self.mood = "fine"
        elif once:
            Path("been_here").touch()

    def forward(self, x):
        if self.mood == "fail":
            raise RuntimeError("not in the mood")
        if self.mood == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mood == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
        if self.mood in ("wait", "deaf"):
            print("waiting", flush=True)
            threading.Event().wait()
        if self.mood == "slow":
            print("stepping", flush=True)
        return super().forward(x)
"""
# A training that is not done before it is stopped.
LONG = {
    "batch_size": 64,
    "epoch_limit": 100_000,
    "trainer_class_params": {"parameter_history": False},
    "optimizer_class_params": {},
}
WORKER = [sys.executable, "-m", "pipeline.cli.main", "worker"]


@dataclass
class Told:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def folder(project_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the digits, a file of rows, and a package of one's own."""
    build_digits(Path(project_environment["TRAINLOOM_DATASET_DIR"]) / "digits.h5")
    (tmp_path / "moody").mkdir()
    (tmp_path / "moody" / "__init__.py").write_text(MOODY)
    (tmp_path / "rows.yaml").write_text(ROWS)
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "moody")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("moody", None)


@pytest.fixture
def trainloom(folder: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Told]]:
    """Runs a command in this process."""
    loggers = [logging.getLogger(name) for name in ("trainloom", "datajoint")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Told:
        code = main(arguments)
        told = capfd.readouterr()
        return Told(code, told.out, told.err)

    yield run
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers[:] = propagate, handlers
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def keys(trainloom: Callable[..., Told]) -> dict[str, list[str]]:
    """The keys of the file's rows, which were inserted."""
    return {section: told["keys"] for section, told in trainloom("insert", "rows.yaml", "--json").json().items()}


def moody_task(trainloom: Callable[..., Told], folder: Path, mood: str) -> str:
    """The key of a task whose model is in that mood."""
    row = {"model_class_module_name": "moody", "model_class_name": "Moody", "model_class_params": {"mood": mood}}
    content: dict[str, Any] = {"models": [{"name": "moody", **row}]}
    content["grids"] = [{"models": ["moody"], "datasets": "all", "trainings": "all"}]
    if mood == "slow":
        short = yaml.safe_load(ROWS)["trainings"][0]
        content |= {"trainings": [{**short, **LONG, "name": "long"}]}
        content["grids"][0]["trainings"] = ["long"]
    (folder / "moody.json").write_text(json.dumps(content))
    return str(trainloom("insert", "moody.json", "--json").json()["tasks"]["keys"][0])


def states(trainloom: Callable[..., Told]) -> dict[str, int]:
    """Number of tasks by state, those that have none left out."""
    counts: dict[str, int] = trainloom("status", "--json").json()["tasks"]
    return {state: number for state, number in counts.items() if number}


def state_of(trainloom: Callable[..., Told], key: str) -> str:
    """The state of one task."""
    return next(str(row["state"]) for row in trainloom("task", "list", "--json").json() if row["task"] == key)


@pytest.mark.feature("S6", "S14")
def test_a_file_is_inserted_once(trainloom: Callable[..., Told]) -> None:
    first = trainloom("insert", "rows.yaml", "--json").json()
    assert {section: told["new"] for section, told in first.items()} == {
        "datasets": 1,
        "models": 2,
        "trainings": 1,
        "tasks": 5,
    }
    again = trainloom("insert", "rows.yaml", "--json").json()
    assert {section: (told["new"], told["existing"]) for section, told in again.items()} == {
        "datasets": (0, 1),
        "models": (0, 2),
        "trainings": (0, 1),
        "tasks": (0, 5),
    }
    assert [told["keys"] for told in again.values()] == [told["keys"] for told in first.values()]
    listed = trainloom("task", "list", "--json").json()
    assert {(row["seed"], row["priority"]) for row in listed} == {(7, 1), (0, 5), (1, 5)}
    assert trainloom("insert", "rows.yaml").out.startswith("section    new  existing\n")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("hidden_size: 4", "hiden_size: 4", "models: ModelConfig row 1: "),
        ("datasets: [digits]", "datasets: [letters]", "grids row 0: 'letters' is no name in datasets of this file"),
        ("datasets: [digits]", "datasets: [12345678]", "put a key that reads as a number in quotes"),
        ("datasets: [digits]", "dataset: [digits]", "grids row 0: datasets is missing"),
        ("seeds: [0, 1]", "seed: [0, 1]", "grids row 0: 'seed' is unknown"),
        ("seeds: [0, 1]", "seeds: 0", "seeds must be a list"),
        ("seeds: [0, 1]", "seeds: [-1]", "seed must be a whole number"),
        ("seed: 7", "sed: 7", "tasks row 0: 'sed' is unknown"),
        ("name: smaller", "name: small", "models row 1: the name 'small' is taken by another row"),
        ("name: smaller", "name: all", "name must be text other than 'all'"),
        ("digits.h5", "numbers.h5", "numbers.h5"),
        ("batch_size: 64", "batch_size: 64000", "fewer than one batch of 64000"),
    ],
)
def test_one_wrong_row_and_nothing_is_inserted(
    trainloom: Callable[..., Told], folder: Path, old: str, new: str, told: str
) -> None:
    assert old in ROWS
    (folder / "wrong.yaml").write_text(ROWS.replace(old, new))
    answer = trainloom("insert", "wrong.yaml")
    assert answer.code == 1
    assert answer.out == ""
    assert told in answer.err
    assert answer.err.startswith("error: wrong.yaml, ")
    assert "Traceback" not in answer.err
    first = trainloom("insert", "rows.yaml", "--json").json()
    assert all(section["existing"] == 0 for section in first.values())


def test_csv_rows_are_inserted(trainloom: Callable[..., Told], folder: Path) -> None:
    (folder / "models.csv").write_text(
        "model_class_module_name,model_class_name,model_class_params\n"
        'models_impl.simple_mlp,SimpleMLP,"{""hidden_size"": 8}"\n'
    )
    inserted = trainloom("insert", "models.csv", "--table", "models", "--json").json()
    known = trainloom("insert", "rows.yaml", "--json").json()["models"]["keys"]
    assert inserted["models"] == {"new": 1, "existing": 0, "keys": known[:1]}


def test_tasks_are_added_by_short_keys(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    chosen = ["--dataset", keys["datasets"][0][:8], "--training", keys["trainings"][0][:5].upper()]
    models = ["--model", *(key[:8] for key in keys["models"])]
    added = trainloom("task", "add", *chosen, *models, "--seed", "1", "2", "--priority", "0", "--json").json()
    assert [task["new"] for task in added] == [False, True, False, True]
    listed = {row["task"]: row for row in trainloom("task", "list", "--json").json()}
    assert [(listed[task["task"]]["seed"], listed[task["task"]]["priority"]) for task in added if task["new"]] == [
        (2, 0),
        (2, 0),
    ]
    assert len(trainloom("task", "list", "--limit", "3", "--json").json()) == 3
    assert "4 more; --limit 7" in trainloom("task", "list", "--limit", "3").out


@pytest.mark.parametrize(
    ("typed", "told"),
    [("abc", "is no key of a task"), ("zzzzzzzz", "is no key of a task"), ("0" * 32, "there is no task with a key")],
)
def test_an_unknown_key_is_one_sentence(trainloom: Callable[..., Told], typed: str, told: str) -> None:
    answer = trainloom("task", "cancel", typed)
    assert (answer.code, answer.out) == (1, "")
    assert told in answer.err


def test_an_ambiguous_key_lists_what_it_may_be(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    from pipeline.session import connect
    from pipeline.short_keys import UnknownKey, full_key
    from schemas.training_task import TrainingTask

    with connect():
        row = (TrainingTask() & {"training_task_md5_hash": keys["tasks"][0]}).fetch1()
        alike = [f"abcd{number:028x}" for number in range(2)]
        TrainingTask().insert([{**row, "training_task_md5_hash": key, "seed": 90} for key in alike])
        with pytest.raises(UnknownKey, match=f"several tasks .* abcd: {alike[0]}, {alike[1]}; give more characters"):
            full_key(TrainingTask, "abcd")
        assert full_key(TrainingTask, alike[1]) == alike[1]


@pytest.mark.feature("S18", "N4")
def test_worker_trains_all_that_may_be_trained(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    cancelled = keys["tasks"][0]
    assert trainloom("task", "cancel", cancelled[:8]).code == 0
    assert states(trainloom) == {"pending": 4, "cancelled": 1}

    told = trainloom("worker", "--max-tasks", "1", "--restrict", "seed = 1", "--order", "random")
    assert told.code == 0, told.err
    assert "Training 1 task with 1 worker process" in told.out
    finished = trainloom("task", "list", "--state", "finished", "--json").json()
    assert [row["seed"] for row in finished] == [1]
    assert finished[0]["test_score"] > 0

    told = trainloom("worker", "--processes", "2")
    assert told.code == 0, told.err
    assert "3/3" in told.out
    assert "not trained: 1 cancelled" in told.out
    assert states(trainloom) == {"finished": 4, "cancelled": 1}
    assert "There is nothing to train." in trainloom("worker").out

    assert trainloom("task", "retry", cancelled[:8]).code == 0
    assert states(trainloom) == {"finished": 4, "pending": 1}


def test_the_priority_of_a_task_is_changed(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    last = keys["tasks"][-1]
    assert trainloom("task", "prioritize", last[:8], "--priority", "0").code == 0
    assert trainloom("worker", "--max-tasks", "1").code == 0
    assert state_of(trainloom, last) == "finished"


@pytest.mark.slow
def test_retrain_deletes_a_result_only_if_told_to(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    assert trainloom("worker", "--max-tasks", "1").code == 0
    done = trainloom("task", "list", "--state", "finished", "--json").json()[0]["task"]

    refused = trainloom("task", "cancel", done)
    assert (refused.code, "is finished" in refused.err) == (1, True)
    unsure = trainloom("task", "retrain", done)
    assert (unsure.code, "--yes" in unsure.err) == (1, True)
    assert state_of(trainloom, done) == "finished"

    assert trainloom("task", "retrain", done, "--yes").code == 0
    assert state_of(trainloom, done) == "pending"
    assert trainloom("worker", "--max-tasks", "1").code == 0
    assert state_of(trainloom, done) == "finished"


def of_task(key: str) -> tuple[str, str]:
    """The worker's option for one task alone."""
    return "--restrict", f"training_task_md5_hash = '{key}'"


def outcomes() -> list[str]:
    """How all attempts ended, in order."""
    from pipeline.session import connect
    from schemas.attempt import Attempt

    with connect():
        return [row["attempt_outcome"] for row in Attempt().to_dicts(order_by="attempt_start")]


@pytest.mark.parametrize(
    ("mood", "told", "attempts"),
    [("fail", "RuntimeError: not in the mood", ["failed"]), ("die", "died of SIGKILL", ["lost"])],
)
def test_a_task_that_goes_wrong_is_set_aside(
    trainloom: Callable[..., Told],
    folder: Path,
    keys: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    mood: str,
    told: str,
    attempts: list[str],
) -> None:
    monkeypatch.setenv("TRAINLOOM_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("TRAINLOOM_RETRY_SECONDS", "0.1")
    key = moody_task(trainloom, folder, mood)
    answer = trainloom("worker", *of_task(key))
    assert answer.code == 0, answer.err
    assert told in answer.out
    assert "not trained: 5 pending, 1 error" in answer.out
    assert outcomes() == 2 * attempts
    status = trainloom("status", "--json").json()
    assert [(row["task"], row["attempts"], told in row["message"]) for row in status["errors"]] == [(key, 2, True)]
    assert f"{key[:8]} failed (2 attempts): " in trainloom("status").out

    assert trainloom("task", "retry", key[:8]).code == 0
    assert state_of(trainloom, key) == "pending"


@pytest.mark.parametrize(("mood", "first"), [("fail once", "failed"), ("die once", "lost")])
def test_what_went_wrong_once_is_tried_again_by_the_same_command(
    trainloom: Callable[..., Told],
    folder: Path,
    keys: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    mood: str,
    first: str,
) -> None:
    monkeypatch.setenv("TRAINLOOM_RETRY_SECONDS", "0.5")
    key = moody_task(trainloom, folder, mood)
    answer = trainloom("worker", *of_task(key))
    assert answer.code == 0, answer.err
    assert outcomes() == [first, "finished"]
    assert state_of(trainloom, key) == "finished"


def test_who_does_not_wait_leaves_a_failed_task_for_later(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]]
) -> None:
    key = moody_task(trainloom, folder, "fail")
    answer = trainloom("worker", "--wait", "0", *of_task(key))
    assert (answer.code, "it is tried again" in answer.out) == (0, True)
    assert state_of(trainloom, key) == "retry"
    assert "it is tried again" in trainloom("status").out


def test_a_worker_that_lacks_a_class_three_times_is_at_fault_itself(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    moody = [moody_task(trainloom, folder, mood) for mood in ("fine", "fail", "wait")]
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "")
    answer = trainloom("worker", "--restrict", f"training_task_md5_hash in ({', '.join(map(repr, moody))})")
    assert answer.code == 78
    assert "3 tasks in a row could not be trained for what this worker lacks" in answer.out
    assert states(trainloom).keys() <= {"pending", "retry"}


def test_results_of_code_that_has_changed_are_named(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]]
) -> None:
    key = moody_task(trainloom, folder, "fine")
    trained = trainloom("worker", "--restrict", f"training_task_md5_hash = '{key}'")
    assert (trained.code, trained.err) == (0, "")
    assert trainloom("status").err == ""
    (folder / "moody" / "__init__.py").write_text(MOODY + "# changed\n")
    for command in ("status", "worker"):
        told = trainloom(command, *(["--max-tasks", "1"] if command == "worker" else []))
        assert "the code of moody.Moody has changed since 1 finished result was trained with it" in told.err
        assert key[:8] in told.err
    assert trainloom("status", "--json").json()["changed_code"] == {"moody.Moody": [key]}


@contextmanager
def working(line: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker as a process of its own, in a group of its own, when it has printed the line."""
    with subprocess.Popen(
        [*WORKER, "--wait", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as worker:
        assert worker.stdout is not None
        assert line + "\n" in worker.stdout
        yield worker


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_worker_saves_and_gives_its_job_back(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], sent: signal.Signals, code: int
) -> None:
    from pipeline.session import connect
    from schemas.checkpoint import Checkpoint

    key = moody_task(trainloom, folder, "slow")
    with working("stepping", *of_task(key)) as worker:
        os.killpg(worker.pid, sent)  # as a terminal, Slurm or systemd does; the parent tells its children as well
        _, errors = worker.communicate()
    assert worker.returncode == code
    assert "Traceback" not in errors
    assert state_of(trainloom, key) == "pending"
    assert outcomes() == ["preempted"]
    with connect():
        assert len(Checkpoint()) == 1


@pytest.mark.parametrize("grace", [["--grace", "1"], ["--grace", "0"]])
def test_a_training_that_does_not_stop_by_itself_is_stopped(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], grace: list[str]
) -> None:
    key = moody_task(trainloom, folder, "wait")
    with working("waiting", *grace, *of_task(key)) as worker:
        shown = trainloom("status", "--json").json()["workers"]
        assert [(row["task"], row["device"], row["epoch"], row["epoch_limit"]) for row in shown] == [(key, "cpu", 0, 1)]
        assert f"{shown[0]['pid']} on {shown[0]['host']}" in trainloom("status").out
        assert "is being trained by process" in trainloom("task", "retrain", key).err
        worker.send_signal(signal.SIGTERM)
        if grace[1] == "0":
            worker.send_signal(signal.SIGINT)  # no limit: only a second signal ends it
        _, errors = worker.communicate()
    assert worker.returncode in ((143,) if grace[1] == "1" else (130, 143))
    assert "Traceback" not in errors
    assert state_of(trainloom, key) == "pending"
    assert outcomes() == ["preempted"]


def test_a_worker_process_that_does_not_listen_is_killed_when_the_grace_is_over(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]]
) -> None:
    key = moody_task(trainloom, folder, "deaf")
    with working("waiting", "--grace", "0.1", *of_task(key)) as worker:
        worker.send_signal(signal.SIGTERM)
        worker.communicate()
    assert worker.returncode == 143
    assert state_of(trainloom, key) == "pending"
    assert outcomes() == ["preempted"]


@pytest.mark.slow
def test_a_training_that_is_stuck_for_ever_is_ended_and_set_aside(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STALL_SECONDS": 8, "POLL_SECONDS": 0.5, "MAX_ATTEMPTS": 1}.items():
        monkeypatch.setenv(f"TRAINLOOM_{name}", str(value))
    key = moody_task(trainloom, folder, "deaf")
    told = subprocess.run([*WORKER, "--wait", "0", *of_task(key)], capture_output=True, text=True, check=False)
    assert "was killed: it had shown no life for" in told.stdout
    assert "Traceback" not in told.stderr
    assert state_of(trainloom, key) == "error"
    assert outcomes() == ["lost"]


def test_a_cancelled_task_stops_its_training(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_HEARTBEAT_SECONDS", "0.2")
    key = moody_task(trainloom, folder, "slow")
    with working("stepping", *of_task(key)) as worker:
        told = trainloom("task", "cancel", key)
        assert "its worker stops at the next heartbeat" in told.out
        worker.communicate()
    assert worker.returncode == 0
    assert state_of(trainloom, key) == "cancelled"
    assert outcomes() == ["cancelled"]


def test_a_worker_that_lost_its_parent_gives_its_job_back(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]]
) -> None:
    key = moody_task(trainloom, folder, "wait")
    with working("waiting", "--grace", "0.5", *of_task(key)) as worker:
        assert worker.stdout is not None
        worker.kill()
        worker.stdout.read()  # ends when the orphan has ended, too: it has inherited the pipe
    assert state_of(trainloom, key) == "pending"
    assert outcomes() == ["preempted"]


def test_a_watching_worker_trains_what_is_added_later(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_POLL_SECONDS", "0.2")
    key = moody_task(trainloom, folder, "fine")
    assert trainloom("task", "cancel", key).code == 0
    with working("Training 0 tasks with 1 worker process, then waiting for more.", "--watch", *of_task(key)) as worker:
        assert trainloom("task", "retry", key).code == 0
        assert worker.stdout is not None
        assert next(line for line in worker.stdout if line.startswith("1/1 "))
        worker.send_signal(signal.SIGTERM)
        worker.communicate()
    assert worker.returncode == 143
    assert state_of(trainloom, key) == "finished"


def test_a_reader_that_leaves_is_no_error(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "task", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 141
