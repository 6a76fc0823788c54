"""Which trained models are applied to which data: one row per task that was trained, and dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, ClassVar

import datajoint as dj

from .binding import services
from .config_table import MAX_INT32, each_checked, rows_of, unknown_column
from .dataset_config import TIERS, DatasetConfig
from .errors import DamagedRow, InvalidRow
from .hashing import content_md5, plain
from .keys import Keys
from .model_config import ModelConfig
from .schema import Connected, schema
from .stored_dataset import StoredDataset
from .training_task import DEFAULT_PRIORITY, TrainingTask, check_integer, keys_of, rows_by_key

KEY = "prediction_task_md5_hash"
TASK = "training_task_md5_hash"
CONFIG = "dataset_config_md5_hash"
STORED = "stored_dataset_md5_hash"
TIER = "prediction_tier"
BATCH_SIZE = "prediction_batch_size"
PREDICTED = "predicted_dataset_md5_hash"  # that of the configuration: a join with a training must not compare the two
DEFAULT_TIER = "test"


@schema
class PredictionTask(Connected, dj.Manual):
    """A trained model to apply to the examples of a dataset.

    The key is the md5 of the training task and of the data: a dataset configuration with one of its tiers, or a stored
    dataset. `priority` and the size of batches are not part of it. It waits until its training has a result.
    """

    definition = """
    # A trained model to apply to data
    prediction_task_md5_hash : char(32)        # md5 of what makes the task; see the class
    ---
    -> TrainingTask
    -> [nullable] DatasetConfig.proj(predicted_dataset_md5_hash='dataset_config_md5_hash')
    -> [nullable] StoredDataset
    prediction_tier          : varchar(16)     # of the dataset configuration; empty for a stored dataset
    prediction_batch_size=null : int32         # examples at once; NULL: as many as in the training
    priority=5               : int16           # lower runs first
    prediction_task_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    """

    columns: ClassVar[Mapping[str, Any]] = {
        TASK: "",
        CONFIG: "",
        STORED: "",
        "tier": "",
        "batch_size": None,
        "priority": DEFAULT_PRIORITY,
    }
    """What a row to insert may have, with what stands for leaving it out."""

    def insert_tuples(self, tuples: Any) -> Keys:
        """Insert one dict or a list of dicts (or a DataFrame), each with the keys of a training task and of the data.

        Columns: ``training_task_md5_hash``; either ``dataset_config_md5_hash`` with ``tier`` (``"test"`` by default) or
        ``stored_dataset_md5_hash``; optional ``priority`` (5, lower runs first) and ``batch_size`` (examples at once,
        by default as in the training; a task that is there keeps its own). Every example of the data is predicted, in
        the order of the data. Tasks that are already there are left as they are. Either every row is inserted or, on
        an error, none.

        Returns
        -------
        Keys
            The primary keys in the order given; ``.new`` lists those that were not there before.

        Raises
        ------
        InvalidRow
            If a training or dataset does not exist, the tier is none, the class of the model is gone, or the examples
            have another shape than those that the model takes.
        """
        rows = each_checked("PredictionTask", rows_of(tuples), _checked)
        each_checked("PredictionTask", rows, _Pairs(rows).check)
        return self._insert_checked(rows)

    insert_tuple = insert_tuples

    def insert_grid(
        self,
        trainings: Any = TrainingTask,
        datasets: Any = DatasetConfig,
        *,
        tiers: Iterable[str] = (DEFAULT_TIER,),
        priority: int = DEFAULT_PRIORITY,
        batch_size: int | None = None,
    ) -> Keys:
        """Insert every combination of the given trainings, dataset configurations and tiers.

        Parameters
        ----------
        trainings, datasets : a table (`TrainingResult` for what is trained already), a restricted one, or a list of
            keys.

        Returns
        -------
        Keys
            As `insert_tuples`.
        """
        task_keys, dataset_keys = keys_of(trainings, TrainingTask), keys_of(datasets, DatasetConfig)
        common = {"priority": priority, "batch_size": batch_size}
        return self.insert_tuples(
            [{**t, **d, "tier": tier, **common} for t, d, tier in product(task_keys, dataset_keys, list(tiers))]
        )

    def _insert_checked(self, rows: list[dict[str, Any]]) -> Keys:
        keyed = [{KEY: task_key(row), **row} for row in rows]
        present = rows_by_key(PredictionTask, {row[KEY] for row in keyed}, ())
        new = {row[KEY]: row for row in keyed if row[KEY] not in present}
        if new:
            self.insert(
                [
                    {
                        KEY: key,
                        TASK: row[TASK],
                        PREDICTED: row[CONFIG] or None,
                        STORED: row[STORED] or None,
                        TIER: row["tier"],
                        BATCH_SIZE: row["batch_size"],
                        "priority": row["priority"],
                    }
                    for key, row in new.items()
                ],
                skip_duplicates=True,
            )
        return Keys([{KEY: row[KEY]} for row in keyed], [{KEY: key} for key in new])

    @staticmethod
    def check(row: Mapping[str, Any]) -> None:
        """Compare a fetched row with its key.

        Raises
        ------
        DamagedRow
            If it names another training or other data than the key was made of.
        """
        content = {TASK: row[TASK], CONFIG: row[PREDICTED] or "", STORED: row[STORED] or "", "tier": row[TIER]}
        if task_key(content) != row[KEY]:
            raise DamagedRow(
                f"the prediction task {row[KEY]} does not agree with its key; delete it and insert it again"
            )


def task_key(row: Mapping[str, Any]) -> str:
    """The md5 key of a task, of its columns as `PredictionTask.insert_tuples` takes them."""
    data = {STORED: row[STORED]} if row[STORED] else {CONFIG: row[CONFIG], "tier": row["tier"]}
    return content_md5({"table": "prediction_task", "fields": {TASK: row[TASK], **data}})


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with defaults filled in; whether other rows have what it names is not asked."""
    for column in row:
        if column not in PredictionTask.columns:
            raise InvalidRow(unknown_column(column, PredictionTask.columns))
    given = {name: plain(value, name) for name, value in {**PredictionTask.columns, **row}.items()}
    for column in (TASK, CONFIG, STORED):
        if not isinstance(given[column], str):
            raise InvalidRow(f"{column} must be text, not {given[column]!r}")
    if not given[TASK]:
        raise InvalidRow(f"the column {TASK} is missing; give the key of a training task")
    if bool(given[CONFIG]) == bool(given[STORED]):
        raise InvalidRow(f"give the data as either {CONFIG} or {STORED}")
    if given[STORED] and given["tier"]:
        raise InvalidRow("a stored dataset has no tiers; leave the column tier out")
    if given[CONFIG]:
        given["tier"] = given["tier"] or DEFAULT_TIER
        if given["tier"] not in TIERS:
            raise InvalidRow(f"{given['tier']!r} is not a tier; choose one of {', '.join(TIERS)}")
    check_integer("priority", given["priority"], 0, 127)
    if given["batch_size"] is not None:
        check_integer("batch_size", given["batch_size"], 1, MAX_INT32)
    return given


class _Pairs:
    """The models and data that new tasks join, fetched once, and whether they fit together."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        named = {column: {row[column] for row in rows if row[column]} for column in (TASK, CONFIG, STORED)}
        self._tasks = rows_by_key(TrainingTask, named[TASK], (CONFIG, "model_config_md5_hash"))
        trained_on = {task[CONFIG] for task in self._tasks.values()}
        self._configs = rows_by_key(
            DatasetConfig, named[CONFIG] | trained_on, ("dataset_file_name", "input_shape", "output_shape")
        )
        models = {task["model_config_md5_hash"] for task in self._tasks.values()}
        self._models = rows_by_key(ModelConfig, models, ("model_class_module_name", "model_class_name"))
        self._stored = rows_by_key(StoredDataset, named[STORED], ("stored_dataset_name", "stored_dataset_sha256"))
        self._shapes: dict[str, Any] = {}
        self._checked: set[tuple[str, ...]] = set()

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise InvalidRow if the training or the data are missing, or do not fit together."""
        for column, table, found in (
            (TASK, TrainingTask, self._tasks),
            (CONFIG, DatasetConfig, self._configs),
            (STORED, StoredDataset, self._stored),
        ):
            if row[column] and row[column] not in found:
                raise InvalidRow(f"there is no {table.__name__} {row[column]!r}; insert it first")
        combination = (row[TASK], row[CONFIG], row[STORED])
        if combination in self._checked:
            return
        task = self._tasks[row[TASK]]
        model = self._models[task["model_config_md5_hash"]]
        module, name = model["model_class_module_name"], model["model_class_name"]
        services("PredictionTask").resolver.resolve(module, name, "model")
        takes = self._configs[task[CONFIG]]
        if row[CONFIG]:
            self._check_config(row[TASK], takes, self._configs[row[CONFIG]])
        else:
            stored = self._stored[row[STORED]]
            check_shape(self._stored_shape(stored), takes["input_shape"], stored["stored_dataset_name"], row[TASK])
        self._checked.add(combination)

    @staticmethod
    def _check_config(task: str, takes: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        check_shape(given["input_shape"], takes["input_shape"], given["dataset_file_name"], task)
        if given["output_shape"] != takes["output_shape"]:
            raise InvalidRow(
                f"outputs for {given['dataset_file_name']} have the shape {given['output_shape']}, but the model of "
                f"task {task[:8]} gives {takes['output_shape']}; choose data of that shape"
            )

    def _stored_shape(self, row: Mapping[str, Any]) -> Any:
        sha256 = row["stored_dataset_sha256"]
        if sha256 not in self._shapes:
            predictions = services("PredictionTask").predictions
            self._shapes[sha256] = predictions.stored_shape(sha256, row["stored_dataset_name"])
        return self._shapes[sha256]


def check_shape(given: Any, taken: Any, name: str, task: str) -> None:
    """Raise InvalidRow unless examples, of data of this name, have the shape that the model of a task takes."""
    if given != taken:
        raise InvalidRow(
            f"examples of {name} have the shape {given}, but the model {task[:8]} takes {taken}; choose data of that "
            "shape"
        )
