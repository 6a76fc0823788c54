"""Searches over many results beside the bare SQL that returns the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison import Bar, Check, Comparison, interleave
from benchmarks.lease_cost import write_examples
from benchmarks.mlp_task import insert_configurations
from benchmarks.scratch_project import scratch_project
from trainloom import ModelConfig, Session, TrainingResult, TrainingTask

RESULTS = 100_000
LIMIT = 100
EXAMPLES = {"train": 256, "validation": 128, "test": 128}
KEY = "training_task_md5_hash"
SOME = "seed % 2 = 0 AND model_class_name = 'SimpleMLP'"


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare the best by a metric, the best of some, the first hundred, and all of them, the newest first."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), EXAMPLES)
        with scratch_project(dataset_dir=folder) as session:
            _fill(session)
            return [_compared(session, name, ask, sql, pairs) for name, (ask, sql) in _questions().items()]


def _questions() -> dict[str, tuple[Callable[[], list[dict[str, str]]], str]]:
    """What is asked: by us, and as SQL over the tables R(esult), M(etric), T(ask) and C(onfiguration of the model)."""
    table = TrainingResult()
    metric = "metric_name = 'accuracy'"
    joined = f"FROM R LEFT JOIN M ON M.{KEY} = R.{KEY} AND {metric}"
    return {
        "best()": (
            lambda: [table.best()],
            f"SELECT {KEY} FROM M WHERE {metric} AND metric_value IS NOT NULL "
            f"ORDER BY metric_value DESC, {KEY} LIMIT 1",
        ),
        "best(where=…)": (
            lambda: [table.best(where=SOME)],
            f"SELECT M.{KEY} FROM M JOIN T ON T.{KEY} = M.{KEY} "
            f"JOIN C ON C.model_config_md5_hash = T.model_config_md5_hash "
            f"WHERE {metric} AND metric_value IS NOT NULL AND {SOME.replace('%', '%%')} "
            f"ORDER BY metric_value DESC, M.{KEY} LIMIT 1",
        ),
        f"find(sort='accuracy', limit={LIMIT})": (
            lambda: table.find(sort="accuracy", limit=LIMIT),
            f"SELECT R.{KEY} {joined} ORDER BY metric_value DESC NULLS LAST, R.{KEY} LIMIT {LIMIT}",
        ),
        "find()": (table.find, f"SELECT {KEY} FROM R ORDER BY utc_insert_time DESC, {KEY}"),
    }


def _compared(session: Session, name: str, ask: Callable[[], list[dict[str, str]]], sql: str, pairs: int) -> Comparison:
    tables = {"R": TrainingResult(), "M": TrainingResult.Metric(), "T": TrainingTask(), "C": ModelConfig()}
    ctes = ", ".join(
        f"{alias} AS NOT MATERIALIZED (SELECT * FROM {table.full_table_name})" for alias, table in tables.items()
    )
    statement = f"WITH {ctes} {sql}"
    bare = partial(_bare, session, statement)
    if ask() != [{KEY: key} for (key,) in bare()]:
        raise RuntimeError(f"{name} and its SQL were to return the same")
    seconds = interleave({"ours": lambda _: _timed(ask), "bare": lambda _: _timed(bare)}, pairs)
    title = f"{name} over {RESULTS:,} results / the bare SQL of the same rows"
    return Comparison(title, seconds["ours"], seconds["bare"], "s", Bar(1.5, at_most=True))


def _bare(session: Session, statement: str) -> list[tuple[str]]:
    rows: list[tuple[str]] = session.connection.query(statement, args=()).fetchall()
    return rows


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _fill(session: Session) -> None:
    """Train one task, and multiply its rows: with keys, seeds, times and metrics of their own."""
    keys = insert_configurations(hidden=8, epochs=1, trainer_params={"metrics": ["accuracy"]})
    task = TrainingTask().insert_tuples({**keys, "seed": 0})[0]
    done = TrainingResult().populate(task, reserve_jobs=True)
    if done != {"success_count": 1, "error_list": []}:
        raise RuntimeError(f"populate was to train one task: {done}")
    changed: dict[Any, dict[str, str]] = {
        TrainingTask(): {"seed": "number"},
        TrainingResult(): {"utc_insert_time": "utc_insert_time + number * INTERVAL '1 second'"},
        TrainingResult.Metric(): {"metric_value": "(number * 7919 %% 100003) / 100003.0"},
    }
    for table, values in changed.items():
        values = {KEY: "md5(number::text)", **values}
        columns = ", ".join(f'"{name}"' for name in table.heading.names)
        selected = ", ".join(values.get(name, f'"{name}"') for name in table.heading.names)
        session.connection.query(
            f"INSERT INTO {table.full_table_name} ({columns}) SELECT {selected} "
            f"FROM {table.full_table_name}, generate_series(1, {RESULTS - 1}) AS number"
        )
        session.connection.query(f"ANALYZE {table.full_table_name}")
