from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest

from pipeline import provenance
from pipeline.cli.main import build_parser
from pipeline.code_changes import changed_results, warn_if_changed
from pipeline.results import LEADERBOARD, ResultsError, find_results, leaderboard
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from tests.integration.digits_tasks import insert_tasks, train, training

FAST, SLOW = {"lr": 0.01}, {"lr": 0.00001}


@pytest.fixture
def keys(session: Any) -> list[dict[str, str]]:
    """Two trained tasks that differ in the learning rate."""
    keys = insert_tasks(session, training(optimizer_class_params=SLOW), training(optimizer_class_params=FAST))
    train()
    return list(keys)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command and gives what it prints; it closes the session."""

    def run(*argv: str) -> str:
        args = build_parser().parse_args(argv)
        assert args.action(args) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.feature("S5")
def test_results_in_every_order_and_by_every_filter(keys: list[dict[str, str]], session: Any) -> None:
    slow, fast = (key["training_task_md5_hash"] for key in keys)
    first, second = leaderboard()
    assert (first["task"], second["task"]) == (fast, slow)
    assert first["accuracy"] > second["accuracy"]
    assert set(first) == {*LEADERBOARD, "accuracy"}
    assert (first["dataset"], first["model"], first["seed"], first["epochs"]) == ("digits.h5", "SimpleMLP", 0, 1)
    assert first["training"] == "Adam lr=0.01 batch=128 epochs=1"
    assert first["model_params"] == "hidden_size=16"
    assert first["parameter_count"] == 64 * 16 + 16 + 16 * 10 + 10
    assert first["model_save_path"].startswith("trainloom://")
    stored = TrainingResult.Metric() & {"training_task_md5_hash": fast, "metric_name": "accuracy"}
    assert first["accuracy"] == stored.fetch1("metric_value")

    # A loss is best when it is small, and so is a score that a loss has selected.
    assert [row["task"] for row in leaderboard("loss")] == [fast, slow]
    assert [row["task"] for row in leaderboard("test_score")] == [fast, slow]
    assert leaderboard(limit=1) == [first]
    assert leaderboard(restriction=[keys[0]]) == [second]
    assert [row["task"] for row in find_results(TrainingTask() & keys[0], columns=["task"])] == [slow]

    def tasks(where: Any) -> list[str]:
        return [row["task"] for row in find_results(where, sort="accuracy", columns=["task"])]

    middle = (first["accuracy"] + second["accuracy"]) / 2
    assert tasks(f"accuracy > {middle}") == [fast]
    assert tasks("model=SimpleMLP") == [fast, slow]
    assert tasks("model=SmallCNN") == []
    assert tasks("seed=0") == [fast, slow]
    assert tasks("optimizer_class_params.lr=0.01") == [fast]
    assert tasks(f"accuracy={first['accuracy']!r}") == [fast]
    assert tasks(dj.AndList(["model = 'SimpleMLP'", f"task={slow}"])) == [slow]
    by_rate = find_results(sort="optimizer_class_params.lr", columns=["task", "optimizer_class_params.lr"])
    assert by_rate == [
        {"task": slow, "optimizer_class_params.lr": 0.00001},
        {"task": fast, "optimizer_class_params.lr": 0.01},
    ]
    assert [row["task"] for row in find_results(sort="seed", descending=True)] == sorted([slow, fast])

    with pytest.raises(ResultsError, match=r"no column or metric 'acuracy'; did you mean accuracy\?$"):
        find_results(columns=["acuracy"])
    with pytest.raises(ResultsError, match=r"the filter 'seed >' cannot be used: .*; write column=value or an SQL"):
        find_results("seed >")
    with pytest.raises(ResultsError, match=r"training cannot be filtered by; filter by optimizer_class_name"):
        find_results("training=Adam")
    with pytest.raises(ResultsError, match=r"at least 1, not 0"):
        find_results(limit=0)
    assert len(find_results()) == 2  # a refused filter leaves the connection usable


def test_results_without_a_value_come_last(keys: list[dict[str, str]], session: Any) -> None:
    best = leaderboard()[0]["task"]
    quote = session.connection.adapter.quote_identifier
    session.connection.query(
        f"UPDATE {TrainingResult.Metric().full_table_name} SET {quote('metric_value')} = NULL "
        f"WHERE {quote('training_task_md5_hash')} = '{best}'"
    )
    for descending in (True, False):
        rows = find_results(sort="accuracy", descending=descending)
        assert (rows[-1]["task"], rows[-1]["accuracy"]) == (best, None)


def test_a_project_without_results(postgres_session: Any, command: Callable[..., str]) -> None:
    assert leaderboard() == find_results(sort="accuracy") == []
    assert changed_results() == {}
    assert command("results", "--sort", "accuracy").startswith("no results yet")


def test_the_command_prints_tables_json_and_csv(postgres_session: Any, command: Callable[..., str]) -> None:
    insert_tasks(postgres_session, training(), seeds=(0, 1))
    train()
    best, other = leaderboard()
    header, *lines = command("results", "--sort", "accuracy").splitlines()
    assert header.split()[:2] == ["task", "dataset"]
    assert [line.split()[0] for line in lines] == [best["task"][:8], other["task"][:8]]
    printed = json.loads(
        command("results", "--json", "--filter", "seed=0", "--columns", "seed,accuracy,utc_insert_time")
    )
    assert len(printed) == 1
    assert printed[0]["seed"] == 0
    assert printed[0]["utc_insert_time"].endswith("+00:00")
    text = command("results", "--csv", "--sort", "accuracy", "--ascending", "--columns", "task,accuracy,input_shape")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["task"] for row in rows] == [other["task"], best["task"]]
    assert float(rows[1]["accuracy"]) == best["accuracy"]
    assert json.loads(rows[0]["input_shape"]) == [1, 8, 8]
    assert command("results", "-f", "seed=0", "-f", "seed=1") == "no results for this filter\n"


def lab_model(folder: Path, body: str) -> None:
    (folder / "lab_models.py").write_text(
        "from torch import nn\n\n\n"
        "class Lab(nn.Module):\n"
        "    def __init__(self, input_shape, output_shape):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n\n"
        "    def forward(self, x):\n"
        f"        {body}\n"
    )


def test_changed_code_is_noticed(
    open_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab_model(tmp_path, "return self.layer(x.flatten(1))")
    monkeypatch.syspath_prepend(tmp_path)
    session = open_session(allowed_packages=("lab_models",), code_dir=tmp_path)
    model = {"model_class_module_name": "lab_models", "model_class_name": "Lab"}
    (key,) = insert_tasks(session, training(), model=model)
    train()
    assert changed_results() == {}

    lab_model(tmp_path, "return -self.layer(x.flatten(1))")
    assert changed_results() == {"lab_models.Lab": [key["training_task_md5_hash"]]}
    with caplog.at_level(logging.WARNING, logger="lab"):
        warn_if_changed(logging.getLogger("lab"))
    (record,) = caplog.records
    assert record.getMessage().startswith("the code of lab_models.Lab has changed since 1 finished result was trained")
    assert "`trainloom task retrain KEY`" in record.getMessage()


def test_new_code_of_torch_is_no_change(postgres_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_tasks(postgres_session, training())
    train()
    monkeypatch.setattr(provenance, "module_text", lambda module: ("0" * 64, ""))
    assert sorted(changed_results()) == [
        "datasets_impl.digits.DigitsDataset",
        "models_impl.simple_mlp.SimpleMLP",
        "trainers.nn_trainer.NNTrainer",
    ]
