"""Rows per second of inserting configurations, beside DataJoint's own insertion of rows that are ready."""

from __future__ import annotations

import time
from typing import Any

import datajoint as dj

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.scratch_project import scratch_project
from trainloom import ModelConfig

ROWS = 10_000
SINGLE_ROWS = 1_000
"""How many are inserted one by one; their rate does not depend on the number."""
PEER_SCHEMA = "benchmark_peer"


class ReadyRows(dj.Manual):
    """The columns of `ModelConfig` without what it knows."""

    definition = ModelConfig.definition


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare inserting configurations with inserting ready rows at once, and one by one."""
    with scratch_project() as session:
        schema = dj.Schema(PEER_SCHEMA, connection=session.connection)
        schema(ReadyRows)
        configurations = _configurations()
        ModelConfig().insert_tuples(configurations)
        ready = ModelConfig().to_dicts()
        programs: dict[str, Program] = {
            "ours": lambda _: _ours(configurations),
            "bulk": lambda _: _bulk(ready),
            "single": lambda _: _one_by_one(ready[:SINGLE_ROWS]),
        }
        rates = interleave(programs, pairs)
    name = f"{ROWS:,} model configurations inserted"
    return [
        Comparison(
            f"{name} / DataJoint's bulk insert", rates["ours"], rates["bulk"], "rows/s", Bar(0.5, at_most=False)
        ),
        Comparison(f"{name} / one by one", rates["ours"], rates["single"], "rows/s", Bar(5, at_most=False)),
    ]


def _configurations() -> list[dict[str, Any]]:
    return [
        {
            "model_class_module_name": "models_impl.simple_mlp",
            "model_class_name": "SimpleMLP",
            "model_class_params": {"hidden_size": 1 + number, "dropout": 0.25, "l2_loss_lamda": 1e-4},
        }
        for number in range(ROWS)
    ]


def _ours(configurations: list[dict[str, Any]]) -> float:
    ModelConfig().delete_quick()
    started = time.perf_counter()
    keys = ModelConfig().insert_tuples(configurations)
    seconds = time.perf_counter() - started
    if len(keys.new) != ROWS:
        raise RuntimeError(f"{ROWS} rows were to be new, {len(keys.new)} were")
    return ROWS / seconds


def _bulk(rows: list[dict[str, Any]]) -> float:
    ReadyRows().delete_quick()
    started = time.perf_counter()
    ReadyRows().insert(rows)
    return len(rows) / (time.perf_counter() - started)


def _one_by_one(rows: list[dict[str, Any]]) -> float:
    table = ReadyRows()
    table.delete_quick()
    started = time.perf_counter()
    for row in rows:
        table.insert1(row)
    return len(rows) / (time.perf_counter() - started)
