"""Models found by metric, time, column and restriction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datajoint as dj
import pytest
import torch

from pipeline.model_search import NoModel, SearchError
from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.stored_model import StoredModel
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from tests.integration.digits_tasks import insert_tasks, train, training

KEY = "training_task_md5_hash"
ACCURACY = [0.7, 0.9, None, 0.8]
LOSS = [0.4, 0.5, 0.6, None]


@pytest.fixture
def tasks(session: Any) -> list[str]:
    """Keys of four results with known metrics: seeds 0 to 3, the later the newer; the score is selected by accuracy."""
    insert_tasks(
        session,
        training(trainer_class_params={"metrics": ["accuracy"], "selection": "accuracy", "parameter_history": False}),
        seeds=range(4),
    )
    train()
    keys = [(TrainingTask() & {"seed": seed}).fetch1(KEY) for seed in range(4)]
    for seed, key in enumerate(keys):
        update(TrainingResult(), key, "test_score", ACCURACY[seed])
        update(TrainingResult(), key, "utc_insert_time", f"2026-01-0{seed + 1} 00:00:00")
        update(TrainingResult.Metric(), key, "metric_value", ACCURACY[seed], "metric_name = 'accuracy'")
        update(TrainingResult.Metric(), key, "metric_value", LOSS[seed], "metric_name = 'loss'")
    return keys


def update(table: Any, key: str, column: str, value: Any, also: str = "TRUE") -> None:
    statement = f"UPDATE {table.full_table_name} SET {column} = %s WHERE {KEY} = %s AND {also}"
    assert table.connection.query(statement, args=(value, key)).rowcount == 1


def found(tasks: list[str], keys: list[dict[str, str]]) -> list[int]:
    """The seeds of the keys."""
    return [tasks.index(key[KEY]) for key in keys]


@contextmanager
def statements(connection: Any) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    asked: list[str] = []
    query = connection.query

    def counted(statement: str, *args: Any, **options: Any) -> Any:
        asked.append(statement)
        return query(statement, *args, **options)

    connection.query = counted
    try:
        yield asked
    finally:
        del connection.query


@pytest.mark.feature("N8", "T3")
def test_the_best_by_a_metrics_own_direction(tasks: list[str], session: Any) -> None:
    results = TrainingResult()
    assert found(tasks, [results.best(), results.best("loss"), results.best("test_score"), results.newest()]) == [
        1,
        0,
        1,
        3,
    ]
    # Of results that a loss selected the lowest score is the best.
    TrainingResult.Metric().connection.query(
        f"UPDATE {TrainingResult.Metric().full_table_name} SET metric_direction = 'min' WHERE metric_name = 'accuracy'"
    )
    assert found(tasks, [results.best(), results.best("test_score")]) == [0, 0]


@pytest.mark.parametrize(
    ("sort", "seeds"),
    [
        (None, [3, 2, 1, 0]),
        ([("time", -1)], [3, 2, 1, 0]),
        ([("time", 1)], [0, 1, 2, 3]),
        ("time", [0, 1, 2, 3]),
        ("-time", [3, 2, 1, 0]),
        ("accuracy", [1, 3, 0, 2]),
        ("-accuracy", [1, 3, 0, 2]),
        ([("accuracy", 1)], [0, 3, 1, 2]),
        ("loss", [0, 1, 2, 3]),
        ("-loss", [2, 1, 0, 3]),
        ("test_score", [1, 3, 0, 2]),
        ("-seed", [3, 2, 1, 0]),
        (["batch_size", "-seed"], [3, 2, 1, 0]),
        (["optimizer_class_name", ("loss", -1)], [2, 1, 0, 3]),
    ],
)
@pytest.mark.feature("T3")
def test_every_order(tasks: list[str], sort: Any, seeds: list[int]) -> None:
    assert found(tasks, TrainingResult().find(sort=sort)) == seeds
    assert found(tasks, TrainingResult().find(sort=sort, limit=2)) == seeds[:2]


def test_any_restriction_of_result_task_and_configurations(tasks: list[str], session: Any) -> None:
    results = TrainingResult()
    assert found(tasks, [results.best(where="seed <> 1"), results.best("loss", where={"seed": 3 - 1})]) == [3, 2]
    assert found(tasks, results.find("model_class_name = 'SimpleMLP'", sort="seed")) == [0, 1, 2, 3]
    assert found(tasks, results.find("model_class_name=SimpleMLP", sort="seed", limit=1)) == [0]
    assert found(tasks, results.find("optimizer_class_params.lr=0.01", sort="seed", limit=1)) == [0]
    assert results.find("model_class_name LIKE '%CNN'") == []
    assert found(tasks, results.find("model_class_name LIKE '%MLP'", sort="accuracy", limit=1)) == [1]
    assert found(tasks, results.find(TrainingTask() & "seed > 2")) == [3]
    assert len(results.find(ModelConfig)) == len(results.find([DatasetConfig(), TrainingConfig()])) == 4
    assert found(tasks, results.find(dj.AndList(["seed > 0", "batch_size=128", {"epochs": 1}]), sort="seed")) == [
        1,
        2,
        3,
    ]
    assert found(tasks, [(results & {KEY: tasks[0]}).best()]) == [0]
    assert found(tasks, [(results & "test_score < 0.85").best("accuracy", "seed < 3")]) == [0]


def test_each_question_is_one_statement(tasks: list[str], session: Any) -> None:
    results = TrainingResult()
    results.find("model_class_name = 'SimpleMLP' AND batch_size = 128", sort="test_score")  # headings are read once
    for ask in (
        lambda: results.best(),
        lambda: results.best("test_score", "seed < 3"),
        lambda: results.newest(),
        lambda: results.find("model_class_name = 'SimpleMLP'", sort=["-loss", "accuracy", "seed"], limit=3),
    ):
        with statements(session.connection) as asked:
            assert ask()
        assert len(asked) == 1, asked


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda table: table.best("acuracy"), NoModel, "no model has the metric or column 'acuracy'; did you mean"),
        (lambda table: table.find(sort="acuracy"), NoModel, "did you mean accuracy?"),
        (lambda table: table.best(where="seed = 2"), NoModel, "no model that was asked for has a value of accuracy"),
        (lambda table: table.newest("seed = 9"), NoModel, "there is no model that was asked for"),
        (lambda table: table.find(limit=0), SearchError, "limit is the number of models to find, at least 1, not 0"),
        (lambda table: table.find(sort=[("time", 2)]), SearchError, "a pair \\(name, 1 or -1\\)"),
        (lambda table: table.find(sort=[]), SearchError, "sort is a name such as"),
        (lambda table: table.find("sed = 1"), SearchError, "cannot be searched with 'sed = 1': .*sed"),
        (lambda table: table.find("seed >"), SearchError, "cannot be searched with 'seed >'"),
        (lambda table: table.best("x' OR '1'='1"), NoModel, "no model has the metric or column"),
    ],
)
def test_a_question_that_cannot_be_answered(tasks: list[str], ask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        ask(TrainingResult())
    assert "\n" not in str(raised.value)
    assert found(tasks, [TrainingResult().best()]) == [1]  # the connection is as good as before


def test_a_project_without_models(session: Any) -> None:
    assert TrainingResult().find() == TrainingResult().find(sort="accuracy") == StoredModel().find() == []
    for table in (TrainingResult(), StoredModel()):
        with pytest.raises(NoModel, match="no model has the metric or column 'accuracy'"):
            table.best()
        with pytest.raises(NoModel, match="train or put one first"):
            table.newest()


@pytest.mark.feature("T3")
def test_stored_models_are_found_alike(session: Any) -> None:
    table = StoredModel()
    given: list[dict[str, Any]] = [
        {"accuracy": 0.9, "psnr": (20, "max")},
        {"accuracy": float("nan"), "loss": 0.2},
        {"accuracy": 0.10, "psnr": (3, "max"), "loss": 0.1},
        {},
    ]
    keys = []
    for number, metrics in enumerate(given):
        keys.append(table.put({"w": torch.zeros(1)}, name="net", version=str(number), metrics=metrics))
        session.connection.query(
            f"UPDATE {table.full_table_name} SET stored_model_time = '2026-01-0{number + 1}' "
            f"WHERE stored_model_md5_hash = '{keys[-1]['stored_model_md5_hash']}'"
        )

    def order(**question: Any) -> list[int]:
        return [keys.index(key) for key in table.find(**question)]

    assert order() == [3, 2, 1, 0]
    assert order(sort="accuracy")[:2] == [0, 2]
    assert order(sort=[("accuracy", 1), ("time", -1)]) == [2, 0, 3, 1]
    assert order(sort="loss", limit=2) == [2, 1]
    assert order(sort=["name", "-version"]) == [3, 2, 1, 0]
    assert order(where="stored_model_version > '1'", sort="time") == [2, 3]
    assert order(where={"stored_model_version": "1"}) == [1]
    assert [keys.index(table.best(metric)) for metric in ("accuracy", "loss", "psnr")] == [0, 2, 0]
    assert keys.index(table.best("loss", "stored_model_version < '2'")) == 1
    assert keys.index(table.newest()) == 3
    assert len(table & "stored_model_name = 'net'") == 4
    for question in ("acc", "x'y", "bleu"):
        with pytest.raises(NoModel, match="no model has the metric or column"):
            table.find(sort=question)
    with statements(session.connection) as asked:
        table.best("psnr")
    assert len(asked) == 1
