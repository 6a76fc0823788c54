"""The whole chain of one prediction: from the file that was predicted and the model to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.dataset_config import DatasetConfig
from schemas.prediction import Prediction
from schemas.prediction_task import BATCH_SIZE, KEY, PREDICTED, STORED, TASK, TIER, PredictionTask
from schemas.stored_dataset import StoredDataset

from . import trace as training_trace
from .store.address import SCHEME
from .trace import Lines

RESULT = ("example_count", "prediction_shape", "prediction_score", "prediction_duration", "prediction_time")


def trace(key: str, *, code: bool = False) -> dict[str, Any]:
    """Everything that is recorded of one prediction task, by its whole key.

    Returns
    -------
    dict
        ``prediction``: ``key``, ``tier``, ``batch_size``, ``priority``, ``utc_insert_time``; ``data``, what
        `pipeline.trace.trace` has as ``dataset``, or ``name``, ``version``, ``sha256`` and ``in_store`` of a stored
        dataset; ``result`` and ``provenance``, None before it is predicted. ``training``: the trace of the training.
    """
    task = (PredictionTask() & {KEY: key}).fetch1()
    PredictionTask.check(task)
    return {
        "prediction": {
            "key": key,
            "tier": task[TIER],
            "batch_size": task[BATCH_SIZE],
            "priority": task["priority"],
            "utc_insert_time": task["prediction_task_time"],
            "data": _data(task),
            "result": _result(key),
            "provenance": training_trace.recorded_provenance(Prediction.Provenance() & {KEY: key}, code),
        },
        "training": training_trace.trace(task[TASK], code=code),
    }


def _data(task: Mapping[str, Any]) -> dict[str, Any]:
    if task[PREDICTED]:
        row = (DatasetConfig() & {DatasetConfig.key_column: task[PREDICTED]}).fetch1()
        return training_trace.dataset_of(row)
    row = (StoredDataset() & {STORED: task[STORED]}).fetch1()
    sha256 = row["stored_dataset_sha256"]
    return {
        "key": row[STORED],
        "name": row["stored_dataset_name"],
        "version": row["stored_dataset_version"],
        "sha256": sha256,
        "in_store": training_trace.in_store(sha256),
    }


def _result(key: str) -> dict[str, Any] | None:
    found = (Prediction() & {KEY: key}).to_dicts()
    if not found:
        return None
    row = found[0]
    metrics = (Prediction.Metric() & {KEY: key}).to_dicts(order_by="metric_name")
    return {
        **{column: row[column] for column in RESULT},
        "sha256": row["prediction_sha256"],
        "size": row["prediction_size"],
        "in_store": training_trace.in_store(row["prediction_sha256"]),
        "metrics": [
            {name: one[f"metric_{name}"] for name in ("name", "value", "direction", "note")} for one in metrics
        ],
    }


def render(found: Mapping[str, Any]) -> str:
    """A trace as an indented tree: the data, the prediction, and the tree of the training below it; then the texts of
    the modules if it holds them."""
    prediction = found["prediction"]
    lines = [*_data_lines(prediction), *_prediction_lines(prediction, found["training"]["task"]["key"])]
    if prediction["result"] is None:
        lines.append((2, "not predicted yet: `trainloom worker` predicts what is trained"))
    else:
        lines += training_trace.provenance_lines(prediction["provenance"], "predicted")
        lines += _result_lines(prediction["result"])
    texts = "".join(training_trace.code_texts(prediction["provenance"] or {}))
    return (
        "\n".join("  " * depth + line for depth, line in lines)
        + texts
        + "\n"
        + training_trace.render(found["training"])
    )


def _data_lines(prediction: Mapping[str, Any]) -> Lines:
    data = prediction["data"]
    if "file" in data:
        yield from training_trace.dataset_lines(data)
        return
    version = f" {data['version']}" if data["version"] else ""
    kept = training_trace.kept(data["in_store"])
    yield 0, f"stored dataset {data['name']}{version}: sha256 {data['sha256']}{kept}"


def _prediction_lines(prediction: Mapping[str, Any], training: str) -> Lines:
    tier = f" of the tier {prediction['tier']}" if prediction["tier"] else ""
    inserted = training_trace.time(prediction["utc_insert_time"])
    yield 1, f"prediction {prediction['key']}{tier}: model of task {training}, inserted {inserted}"


def _result_lines(result: Mapping[str, Any]) -> Lines:
    number, time = training_trace.number, training_trace.time
    score = number(result["prediction_score"])
    seconds, written = f"{result['prediction_duration']:.3g} s", time(result["prediction_time"])
    yield (
        2,
        f"outputs of shape {result['prediction_shape']} for {result['example_count']} examples in {seconds}, {written}",
    )
    yield 3, f"score {score}"
    for metric in result["metrics"]:
        note = f" ({metric['note']})" if metric["note"] else ""
        yield 3, f"{metric['name']} {number(metric['value'])}{note}"
    kept = training_trace.kept(result["in_store"])
    yield 3, f"{SCHEME}{result['sha256']}, {result['size']:,} bytes{kept}"
