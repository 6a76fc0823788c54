"""Which combinations are trained: one row per dataset, model, training configuration and seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, ClassVar

import datajoint as dj

from . import continuation
from .binding import services
from .config_table import each_checked, rows_of, unknown_column
from .dataset_config import DatasetConfig
from .errors import InvalidRow
from .hashing import content_md5, plain, text_of
from .identity import missing_columns
from .keys import Keys
from .model_config import ModelConfig
from .schema import Connected, schema, transaction
from .training_config import TrainingConfig

DEFAULT_PRIORITY = 5  # DataJoint's; lower runs first
WEIGHTS, STATE = "weights", "state"  # what a warm start hands over
CONFIGS = (DatasetConfig, ModelConfig, TrainingConfig)
HASHES = tuple(table.key_column for table in CONFIGS)
# What decides whether configurations fit together.
COLUMNS: Mapping[Any, tuple[str, ...]] = {
    DatasetConfig: ("additional_model_params", "example_counts", "dataset_file_name"),
    ModelConfig: ("model_class_module_name", "model_class_name", "model_config_text"),
    TrainingConfig: ("batch_size", "trainer_class_module_name", "trainer_class_name"),
}


@schema
class TrainingTask(Connected, dj.Manual):
    """A combination to train.

    The key is the md5 of the three keys, the seed, and the code version and warm start where given; `priority` is not
    part of it.
    """

    definition = """
    # A combination to train
    training_task_md5_hash : char(32)          # md5 of what makes the task; see the class
    ---
    -> DatasetConfig
    -> ModelConfig
    -> TrainingConfig
    seed                   : int64
    code_version           : varchar(64)       # empty unless code is to be part of identity
    priority=5             : int16             # lower runs first
    training_task_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    """

    required: ClassVar[tuple[str, ...]] = HASHES
    defaults: ClassVar[Mapping[str, Any]] = {
        "seed": 0,
        "code_version": "",
        "warm_start": "",
        "warm_start_kind": WEIGHTS,
        "priority": DEFAULT_PRIORITY,
    }

    def insert_tuples(self, tuples: Any) -> Keys:
        """Insert one dict or a list of dicts (or a DataFrame), each with the keys of the three configurations.

        Optional columns: ``seed`` (0), ``priority`` (5, lower runs first), ``code_version`` (empty), ``warm_start``
        (empty, or the key of the task that this one starts from) and ``warm_start_kind`` (``"weights"`` for its best
        weights, or ``"state"`` to go on from its last state; see `continuation`). Tasks that are already there are left
        as they are. Either every row is inserted or, on an error, none.

        Returns
        -------
        Keys
            The primary keys in the order given; ``.new`` lists those that were not there before.

        Raises
        ------
        InvalidRow
            If a configuration does not exist, a model parameter is missing, the training tier is smaller than one
            batch, or a task cannot start from the one that it names.
        """
        rows = each_checked("TrainingTask", rows_of(tuples), self._checked)
        each_checked("TrainingTask", rows, Combinations(rows).check)
        return self._insert_checked(rows)

    insert_tuple = insert_tuples

    def insert_grid(
        self,
        datasets: Any = DatasetConfig,
        models: Any = ModelConfig,
        trainings: Any = TrainingConfig,
        *,
        seeds: Iterable[int] = (0,),
        priority: int = DEFAULT_PRIORITY,
        code_version: str = "",
    ) -> Keys:
        """Insert every combination of the given configurations and seeds.

        Parameters
        ----------
        datasets, models, trainings : a table, a restricted table, or a list of keys.

        Returns
        -------
        Keys
            As `insert_tuples`.
        """
        dataset_keys, model_keys, training_keys = (
            keys_of(source, table) for source, table in zip((datasets, models, trainings), CONFIGS, strict=True)
        )
        common = {"priority": priority, "code_version": code_version}
        return self.insert_tuples(
            [
                {**d, **m, **t, "seed": seed, **common}
                for d, m, t, seed in product(dataset_keys, model_keys, training_keys, list(seeds))
            ]
        )

    def insert_continuation(
        self,
        source: str | Mapping[str, Any],
        epoch_limit: int,
        *,
        seed: int | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Keys:
        """Insert a task that goes on from the last state of another for more epochs, with its configurations but for
        the limit of epochs, which makes a row of its own.

        Parameters
        ----------
        source : the other task: its key, or a dict that holds it.
        epoch_limit : epochs in all, those of the other included.
        seed : of the epochs to come; by default that of the other, so that the new task ends as one of so many epochs
            would have ended.

        Returns, raises
        ---------------
        As `insert_tuples`.
        """
        key = source if isinstance(source, str) else source["training_task_md5_hash"]
        found = rows_by_key(TrainingTask, {key}, (*HASHES, "seed", "code_version"))
        if key not in found:
            raise InvalidRow(f"there is no task {key!r} to go on from")
        other = found[key]
        task = {
            **{column: other[column] for column in (*HASHES, "seed", "code_version")},
            "warm_start": key,
            "warm_start_kind": STATE,
            "priority": priority,
        }
        with transaction(self.connection):  # so that a task that is refused leaves no configuration behind
            task[HASHES[2]] = continuation.with_epoch_limit(other[HASHES[2]], epoch_limit)
            return self.insert_tuples(task if seed is None else {**task, "seed": seed})

    def _checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        columns = {*self.required, *self.defaults}
        for column in row:
            if column not in columns:
                raise InvalidRow(unknown_column(column, columns))
        if missing := missing_columns(row, self.required):
            raise InvalidRow(f"the column {missing[0]} is missing; give {', '.join(missing)}")
        checked = {column: plain(value, column) for column, value in {**self.defaults, **row}.items()}
        check_integer("seed", checked["seed"], 0, 2**63 - 1)
        check_integer("priority", checked["priority"], 0, 127)
        if not isinstance(checked["code_version"], str) or len(checked["code_version"]) > 64:
            raise InvalidRow("code_version must be text of at most 64 characters")
        if not isinstance(checked["warm_start"], str):
            raise InvalidRow(f"warm_start must be the key of a task, not {checked['warm_start']!r}")
        kind = checked["warm_start_kind"]
        if kind not in (WEIGHTS, STATE):
            raise InvalidRow(f"warm_start_kind must be {WEIGHTS!r} or {STATE!r}, not {kind!r}")
        if kind == STATE and not checked["warm_start"]:
            raise InvalidRow("warm_start_kind is given without warm_start; give the key of the task to go on from")
        return checked

    def _insert_checked(self, rows: list[dict[str, Any]]) -> Keys:
        keyed = [{"training_task_md5_hash": task_key(row), **row} for row in rows]
        keys = [{"training_task_md5_hash": row["training_task_md5_hash"]} for row in keyed]
        unique = {row["training_task_md5_hash"]: row for row in keyed}
        sources = {key: (row.pop("warm_start"), row.pop("warm_start_kind")) for key, row in unique.items()}
        present = self._present(list(unique))
        new = {key: row for key, row in unique.items() if key not in present}
        if new:
            self._insert_new(list(new.values()), {key: sources[key] for key in new if sources[key][0]})
        return Keys(keys, [{"training_task_md5_hash": key} for key in new])

    def _insert_new(self, rows: list[dict[str, Any]], sources: dict[str, tuple[str, str]]) -> None:
        """Insert tasks and, in the same transaction, the sources of those that have one, with the kinds of starts."""
        if not sources:
            self.insert(rows, skip_duplicates=True)
            return
        from .warm_start import WarmStart  # it refers to this table

        warm = [{"training_task_md5_hash": task, "warm_start_task_md5_hash": of} for task, (of, _) in sources.items()]
        going_on = [{"training_task_md5_hash": task} for task, (_, kind) in sources.items() if kind == STATE]
        with transaction(self.connection):
            self.insert(rows, skip_duplicates=True)
            WarmStart().insert(warm, skip_duplicates=True)
            WarmStart.State().insert(going_on, skip_duplicates=True)

    def _present(self, keys: list[str]) -> set[str]:
        """Which of the given keys (hexadecimal digits, made here) are in the table."""
        if not keys:
            return set()
        listed = ", ".join(f"'{key}'" for key in keys)
        found = (self & f"training_task_md5_hash in ({listed})").proj()
        return {row["training_task_md5_hash"] for row in found.to_dicts()}


def task_key(row: Mapping[str, Any]) -> str:
    """The md5 key of a task."""
    content = {column: row[column] for column in (*HASHES, "seed")}
    for column in ("code_version", "warm_start"):
        if row[column]:
            content[column] = row[column]
    if row["warm_start_kind"] != WEIGHTS:  # left out else: such tasks had keys before there were kinds
        content["warm_start_kind"] = row["warm_start_kind"]
    return content_md5({"table": "training_task", "fields": content})


def check_integer(column: str, value: Any, low: int, high: int) -> None:
    """Raise InvalidRow unless a value is a whole number of this range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRow(f"{column} must be a whole number from {low} to {high}, not {value!r}")


def keys_of(source: Any, table: Any) -> list[dict[str, Any]]:
    """Primary keys of `table` as a table, a restricted table or a list of keys names them."""
    (column,) = table().primary_key
    if isinstance(source, type):
        source = source()
    if isinstance(source, dj.expression.QueryExpression):
        keys = source.proj().to_dicts()
    else:
        keys = [dict(key) for key in rows_of(source)]
    for key in keys:
        if column not in key:
            raise InvalidRow(f"{table.__name__} was asked for, but a key without {column} was given: {key}")
    return [{column: key[column]} for key in keys]


class Combinations:
    """The configurations that new tasks join, fetched once, and whether they fit together."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = {
            table.key_column: rows_by_key(table, {row[table.key_column] for row in rows}, columns)
            for table, columns in COLUMNS.items()
        }
        self._tasks = rows_by_key(TrainingTask, {row["warm_start"] for row in rows if row["warm_start"]}, HASHES)
        self._checked: set[tuple[str, ...]] = set()

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise InvalidRow if a configuration is missing or the three do not fit together."""
        for table in CONFIGS:
            if row[table.key_column] not in self._rows[table.key_column]:
                raise InvalidRow(
                    f"there is no {table.__name__} {row[table.key_column]!r}; insert it first and pass the key that "
                    "insert_tuples returns"
                )
        if row["warm_start"]:
            self._check_warm_start(row)
        combination = tuple(row[column] for column in HASHES)
        if combination in self._checked:
            return
        dataset, model, training = (self._rows[column][row[column]] for column in HASHES)
        self._check_batch(dataset, training)
        self._check_model_params(dataset, model)
        self._checked.add(combination)

    def _check_warm_start(self, row: Mapping[str, Any]) -> None:
        source, training = row["warm_start"], self._rows[HASHES[2]][row[HASHES[2]]]
        if source not in self._tasks:
            raise InvalidRow(f"warm_start names the task {source!r}, which does not exist; insert it first")
        module, name = training["trainer_class_module_name"], training["trainer_class_name"]
        trainer = services("TrainingTask").resolver.resolve(module, name, "trainer")
        going_on = row["warm_start_kind"] == STATE
        taken = "initial_state" if going_on else "initial_weights"
        if taken not in inspect.signature(trainer).parameters:
            how = "go on from another training" if going_on else "start warm"
            raise InvalidRow(f"{module}.{name} cannot {how}: its constructor does not take {taken}")
        if going_on:
            continuation.check(row, self._tasks[source], trainer)

    @staticmethod
    def _check_batch(dataset: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        examples, batch = dataset["example_counts"]["train"], training["batch_size"]
        if examples < batch:
            raise InvalidRow(
                f"the training tier of {dataset['dataset_file_name']} draws {examples} examples per epoch, fewer than "
                f"one batch of {batch}; "
                "choose a training configuration with a smaller batch_size"
            )

    @staticmethod
    def _check_model_params(dataset: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        stored = ModelConfig().read(model)
        given, additional = stored.sparse["model_class_params"], dataset["additional_model_params"]
        module, name = model["model_class_module_name"], model["model_class_name"]
        signature = services("TrainingTask").resolver.signature(module, name, "model")
        missing = signature.required - given.keys() - additional.keys()
        if missing:
            raise InvalidRow(
                f"{signature.label} requires {', '.join(sorted(missing))}, which neither model_class_params nor the "
                "dataset gives; "
                "insert a model configuration that does"
            )
        if not signature.open and (unknown := sorted(additional.keys() - signature.defaults.keys())):
            raise InvalidRow(
                f"the dataset {dataset['dataset_file_name']} hands {', '.join(unknown)} to every model, which "
                f"{signature.label} does not take; "
                "add it to the model's constructor"
            )
        for parameter in given.keys() & additional.keys():
            if text_of(given[parameter]) != text_of(additional[parameter]):
                raise InvalidRow(
                    f"{parameter} is {given[parameter]!r} in model_class_params and {additional[parameter]!r} in the "
                    "dataset; "
                    "leave it to one of them"
                )


def rows_by_key(table: Any, keys: set[str], columns: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """These columns of the rows that have one of the keys, by key."""
    (key_column,) = table.primary_key
    for key in keys:
        if not isinstance(key, str):
            raise InvalidRow(f"{key_column} must be text, not {key!r}")
    if not keys:
        return {}
    restriction = [{key_column: key} for key in sorted(keys)]
    return {row[key_column]: row for row in (table() & restriction).proj(*columns).to_dicts()}
