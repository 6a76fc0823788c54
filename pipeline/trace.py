"""The whole chain of one result: from the data file through classes, parameters and code to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from schemas.config_table import ClassSlot, ConfigTable
from schemas.dataset_config import TIERS, DatasetConfig
from schemas.errors import DamagedRow
from schemas.identity import StoredText
from schemas.model_config import ModelConfig
from schemas.schema import schema
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import STATE, WEIGHTS, TrainingTask
from schemas.usage import Usage

from .code_changes import has_changed
from .short_keys import full_key
from .store.datajoint_adapter import PROTOCOL, TrainloomStorageAdapter
from .store.interface import StoreUnavailable

KEY = "training_task_md5_hash"
# Packages that a tree names; the dict holds all that were installed.
PACKAGES = ("trainloom", "torch", "numpy", "h5py", "safetensors", "datajoint")
GIB = 2**30
SHORT = 12  # characters of a sha256 in the tree


def trace(key: str | Mapping[str, Any], *, code: bool = False) -> dict[str, Any]:
    """Everything that is recorded of one task.

    Parameters
    ----------
    key : the task's key, its first characters, or a dict that holds it.
    code : read the texts of the modules from the store, too.

    Returns
    -------
    dict
        ``task``, ``dataset``, ``model``, ``training``, ``result`` and ``provenance``; the last two are None before the
        task is trained. ``in_store`` says whether the store holds an object (None: it does not answer), ``damage``
        whether a configuration no longer agrees with its key. Times are in UTC.

    Raises
    ------
    pipeline.short_keys.UnknownKey
        If no task has the key, or several begin with it.
    """
    task_key = full_key(TrainingTask, key if isinstance(key, str) else str(key[KEY]))
    task = (TrainingTask() & {KEY: task_key}).fetch1()
    rows = TrainingResult.spec(task)
    return {
        "task": {
            "key": task_key,
            "seed": task["seed"],
            "code_version": task["code_version"],
            "priority": task["priority"],
            "warm_start": rows["warm_start"],
            "warm_start_kind": _kind_of_start(rows),
            "utc_insert_time": task["training_task_time"],
        },
        "dataset": dataset_of(rows["dataset"]),
        "model": _configuration(ModelConfig(), rows["model"]),
        "training": {
            **_configuration(TrainingConfig(), rows["training"]),
            "batch_size": rows["training"]["batch_size"],
            "epoch_limit": rows["training"]["epoch_limit"],
        },
        "result": _result(task_key),
        "provenance": recorded_provenance(TrainingResult.Provenance() & {KEY: task_key}, code),
    }


def _kind_of_start(rows: Mapping[str, Any]) -> str:
    """What the task takes over of the one that it starts from; empty where it starts from none."""
    if not rows["warm_start"]:
        return ""
    return WEIGHTS if rows["initial_state"] == "" else STATE


def dataset_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of a dataset configuration, by its row."""
    return {
        "file": row["dataset_file_name"],
        "sha256": row["dataset_file_sha256"],
        "in_store": in_store(row["dataset_file_sha256"]),
        **_configuration(DatasetConfig(), row),
        "type": row["dataset_type"],
        **{name: row[name] for name in ("input_shape", "output_shape", "additional_model_params", "example_counts")},
    }


def _configuration(table: ConfigTable, row: Mapping[str, Any]) -> dict[str, Any]:
    """The key of a row and the classes that it names, by role."""
    stored, damage = None, ""
    try:
        stored = table.read(row)
    except DamagedRow as error:
        damage = str(error)
    named = {slot.name.removesuffix("_class_name"): slot for slot in table.slots if row[slot.name]}
    return {
        "key": row[table.key_column],
        "damage": damage,
        "classes": {role: _class(slot, row, stored) for role, slot in named.items()},
    }


def _class(slot: ClassSlot, row: Mapping[str, Any], stored: StoredText | None) -> dict[str, Any]:
    """A class, all its parameters, and those among them that differ from their defaults."""
    label = f"{row[slot.module]}.{row[slot.name]}"
    if stored is None:
        return {"class": label, "params": row[slot.params], "given": row[slot.params]}
    params, run = stored.complete[slot.params], stored.run.get(slot.params, {})
    return {"class": label, "params": {**params, **run}, "given": {**stored.sparse[slot.params], **run}}


def _result(key: str) -> dict[str, Any] | None:
    columns = ("test_score", "model_save_path", "parameter_count", "epochs", "duration", "utc_insert_time")
    found = (TrainingResult() & {KEY: key}).proj(*columns).to_dicts()
    if not found:
        return None
    metrics = (TrainingResult.Metric() & {KEY: key}).to_dicts(order_by="metric_name")
    artifacts = (TrainingResult.Artifact() & {KEY: key}).to_dicts(order_by="artifact_name")
    return {
        **{column: found[0][column] for column in columns},
        "usage": _usage(key),
        "metrics": [
            {name: row[f"metric_{name}"] for name in ("name", "value", "direction", "note")} for row in metrics
        ],
        "artifacts": [
            {
                **{name: row[f"artifact_{name}"] for name in ("name", "sha256", "size", "kind")},
                "in_store": in_store(row["artifact_sha256"]),
            }
            for row in artifacts
        ],
    }


def _usage(key: str) -> dict[str, Any] | None:
    """What the result cost; None where the release that made it did not measure that."""
    found = (TrainingResult.Usage() & {KEY: key}).to_dicts()
    return asdict(Usage.of(found[0])) if found else None


def recorded_provenance(table: Any, with_code: bool) -> dict[str, Any] | None:
    """The one row of a table of provenance, without its key; None where there is none. `with_code` reads the texts of
    the modules, too."""
    found = table.proj(..., "-code_texts").to_dicts()
    if not found:
        return None
    row = {name: value for name, value in found[0].items() if name not in table.primary_key}
    row["code"] = {
        role: {**recorded, "changed": has_changed(role, recorded)} for role, recorded in sorted(row["code"].items())
    }
    if with_code:
        row["code_texts"] = table.fetch1("code_texts")
    return row


def in_store(sha256: str) -> bool | None:
    """Whether the store holds an object; None where it does not answer."""
    files = TrainloomStorageAdapter().create_filesystem({"protocol": PROTOCOL, "location": schema.database})
    try:
        return bool(files.exists(sha256))
    except StoreUnavailable:
        return None


def render(trace: Mapping[str, Any]) -> str:
    """A trace as an indented tree from the data file to the model, and the texts of the modules if it holds them."""
    lines = [*dataset_lines(trace["dataset"]), *_training_lines(trace)]
    if trace["result"] is None:
        lines.append((1, "not trained yet: `trainloom worker` trains what waits"))
    else:
        lines += [*provenance_lines(trace["provenance"]), *_result_lines(trace["result"])]
    text = "\n".join("  " * depth + line for depth, line in lines)
    return text + "".join(code_texts(trace["provenance"] or {}))


Lines = Iterator[tuple[int, str]]


def dataset_lines(dataset: Mapping[str, Any]) -> Lines:
    """A dataset in lines of a tree."""
    counts = ", ".join(f"{dataset['example_counts'][tier]} {tier}" for tier in TIERS)
    yield 0, f"data file {dataset['file']}: sha256 {dataset['sha256']}{kept(dataset['in_store'])}"
    yield 1, f"dataset {dataset['key']}: {_call(dataset['classes']['dataset'])}{_damage(dataset)}"
    for role, found in dataset["classes"].items():
        if role != "dataset":
            yield 2, f"{role}: {_call(found)}"
    yield 2, f"{dataset['input_shape']} to {dataset['output_shape']}; examples per epoch: {counts}"
    if dataset["additional_model_params"]:
        yield 2, f"gives the model {_arguments(dataset['additional_model_params'])}"


def _training_lines(trace: Mapping[str, Any]) -> Lines:
    task, model, training = trace["task"], trace["model"], trace["training"]
    yield 1, f"model {model['key']}: {_call(model['classes']['model'])}{_damage(model)}"
    yield 1, f"training {training['key']}: {_call(training['classes']['trainer'])}{_damage(training)}"
    for role in ("optimizer", "criterion"):
        yield 2, f"{role}: {_call(training['classes'][role])}"
    yield 2, f"batches of {training['batch_size']}, at most {training['epoch_limit']} epochs"
    version = f", code version {task['code_version']}" if task["code_version"] else ""
    yield 1, f"task {task['key']}: seed {task['seed']}{version}, inserted {time(task['utc_insert_time'])}"
    if task["warm_start"]:
        how = "goes on from the last state" if task["warm_start_kind"] == STATE else "starts from the best weights"
        yield 2, f"{how} of task {task['warm_start']}"


def provenance_lines(found: Mapping[str, Any], participle: str = "trained") -> Lines:
    """What made something, in lines of a tree; `participle` says what was done."""
    hardware, packages = found["hardware"], found["packages"]
    machine = ", ".join([hardware["cpu"], f"{hardware['cores']} cores", *hardware["gpus"]])
    versions = ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages)
    yield 2, f"{participle} on {found['host']} ({machine}), Python {found['python_version']}, {versions}"
    if found["git_commit"]:
        dirty = {"yes": ", with uncommitted changes", "no": ""}.get(found["git_dirty"], ", changes unknown")
        yield 2, f"commit {found['git_commit']}{dirty}"
    for role, recorded in found["code"].items():
        module = f"{recorded['module']} sha256 {recorded['sha256'][:SHORT]}"
        yield 2, f"code of the {role}: {module}{_change(recorded['changed'])}"
    for name in ("numerics", "choices"):
        if found[name]:
            yield 2, f"{name}: {_arguments(found[name])}"
    for note in found["notes"]:
        yield 2, f"note: {note}"


def _result_lines(result: Mapping[str, Any]) -> Lines:
    score, duration = number(result["test_score"]), f"{result['duration']:.3g} s"
    written = time(result["utc_insert_time"])
    yield 2, f"result: test score {score} after {result['epochs']} epochs in {duration}, written {written}"
    if result["usage"] is not None:
        yield 3, _cost(Usage(**result["usage"]))
    for metric in result["metrics"]:
        note = f" ({metric['note']})" if metric["note"] else ""
        yield 3, f"{metric['name']} {number(metric['value'])}{note}"
    address = result["model_save_path"] or "no weights were saved"
    yield 3, f"model of {result['parameter_count']:,} parameters: {address}"
    for artifact in result["artifacts"]:
        yield 4, f"{artifact['name']}: {artifact['kind']}, {artifact['size']:,} bytes{kept(artifact['in_store'])}"


def _cost(usage: Usage) -> str:
    """What a result cost, as far as it was measured."""
    parts = [
        (usage.gpu_hours, "{:.3g} GPU hours"),
        (usage.energy, "{:.3g} kWh"),
        (usage.utilisation, "GPU busy {:.0f} %"),
        (None if usage.peak_memory is None else usage.peak_memory / GIB, "{:.3g} GiB on the GPU"),
        (usage.cpu_seconds, "{:.3g} s of processors"),
        (None if usage.peak_resident is None else usage.peak_resident / GIB, "{:.3g} GiB resident"),
    ]
    told = ", ".join(text.format(value) for value, text in parts if value is not None)
    attempts = f" in {usage.attempts} attempts" if usage.attempts > 1 else ""
    lost = f", without {usage.unmeasured} that were lost" if usage.unmeasured else ""
    return f"cost on {usage.device}{attempts}{lost}: {told}"


def code_texts(found: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the modules, each once."""
    modules = {recorded["sha256"]: recorded["module"] for recorded in found.get("code", {}).values()}
    for sha256, text in found.get("code_texts", {}).items():
        yield f"\n\n=== {modules.get(sha256, 'module')} (sha256 {sha256})\n{text}"


def kept(in_store: bool | None) -> str:
    """Where an object is, for the end of a line."""
    if in_store is None:
        return ", the store does not answer"
    return ", in the store" if in_store else ", not in the store"


def _change(changed: bool | None) -> str:
    if changed is None:
        return ", not found any more"
    return ", changed since" if changed else ""


def _damage(configuration: Mapping[str, Any]) -> str:
    return f" ({configuration['damage']})" if configuration["damage"] else ""


def _call(found: Mapping[str, Any]) -> str:
    return f"{found['class']}({_arguments(found['given'])})"


def _arguments(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(params.items()))


def number(value: float | None) -> str:
    """A value as a tree shows it."""
    return "none" if value is None else f"{value:.6g}"


def time(moment: datetime) -> str:
    """A time as a tree shows it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
