"""Commands on a project of real rows, from the command line to the tables."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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

# A model that works, fails, dies or waits for ever in its first step.
MOODY = """
import os, signal, threading
from models_impl.simple_mlp import SimpleMLP

class Moody(SimpleMLP):
    def __init__(self, input_shape, output_shape, mood):
        super().__init__(input_shape, output_shape, hidden_size=4)
        self.mood = mood

    def forward(self, x):
        if self.mood == "fine":
            return super().forward(x)
        if self.mood == "fail":
            raise RuntimeError("not in the mood")
        if self.mood == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        print("waiting", flush=True)
        threading.Event().wait()
"""


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
    content = {"models": [{"name": "moody", **row}], "grids": [{"models": ["moody"], "datasets": "all"}]}
    content["grids"][0]["trainings"] = "all"
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


@pytest.mark.feature("S18")
def test_worker_trains_all_that_may_be_trained(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    cancelled = keys["tasks"][0]
    assert trainloom("task", "cancel", cancelled[:8]).code == 0
    assert states(trainloom) == {"pending": 4, "ignore": 1}

    told = trainloom("worker", "--max-tasks", "1", "--restrict", "seed = 1", "--order", "random")
    assert told.code == 0, told.err
    assert "Training 1 task with 1 worker process" in told.out
    finished = trainloom("task", "list", "--state", "finished", "--json").json()
    assert [row["seed"] for row in finished] == [1]
    assert finished[0]["test_score"] > 0

    told = trainloom("worker", "--processes", "2")
    assert told.code == 0, told.err
    assert "3/3" in told.out
    assert "not trained: 1 ignore" in told.out
    assert states(trainloom) == {"finished": 4, "ignore": 1}
    assert "There is nothing to train." in trainloom("worker").out

    assert trainloom("task", "retrain", cancelled).code == 0
    assert states(trainloom) == {"finished": 4, "pending": 1}


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


@pytest.mark.parametrize(
    ("mood", "code", "told"), [("fail", 0, "RuntimeError: not in the mood"), ("die", 1, "died of SIGKILL")]
)
def test_a_task_that_goes_wrong_is_set_aside(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], mood: str, code: int, told: str
) -> None:
    key = moody_task(trainloom, folder, mood)
    answer = trainloom("worker", "--restrict", f"training_task_md5_hash = '{key}'")
    assert answer.code == code
    assert told in answer.out
    status = trainloom("status", "--json").json()
    assert [(row["task"], told in row["message"]) for row in status["errors"]] == [(key, True)]
    assert told in trainloom("status").out

    assert trainloom("task", "retrain", key[:8]).code == 0
    assert state_of(trainloom, key) == "pending"


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


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_worker_gives_its_job_back(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]], sent: signal.Signals, code: int
) -> None:
    key = moody_task(trainloom, folder, "wait")
    command = [sys.executable, "-m", "pipeline.cli.main", "worker", "--restrict", f"training_task_md5_hash = '{key}'"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert any(line == "waiting\n" for line in worker.stdout)
        assert state_of(trainloom, key) == "reserved"
        refused = trainloom("task", "cancel", key)
        assert (refused.code, "is being trained by process" in refused.err) == (1, True)
        assert "stop that worker first" in trainloom("task", "retrain", key).err
        worker.send_signal(sent)
        _, errors = worker.communicate()
    assert worker.returncode == code
    assert "Traceback" not in errors
    assert state_of(trainloom, key) == "pending"


def test_a_worker_that_lost_its_parent_gives_its_job_back(
    trainloom: Callable[..., Told], folder: Path, keys: dict[str, list[str]]
) -> None:
    key = moody_task(trainloom, folder, "wait")
    command = [sys.executable, "-m", "pipeline.cli.main", "worker", "--restrict", f"training_task_md5_hash = '{key}'"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert any(line == "waiting\n" for line in worker.stdout)
        worker.kill()
        worker.stdout.read()  # ends when the orphan has ended, too: it has inherited the pipe
    assert state_of(trainloom, key) == "pending"


def test_a_reader_that_leaves_is_no_error(trainloom: Callable[..., Told], keys: dict[str, list[str]]) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "task", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 141
