"""What came out of a training, and the whole provenance of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datajoint as dj

from . import (
    continuation,
    metric,
    provenance,
    stored_blob,  # noqa: F401  (registers the codec that the definitions name)
    usage,
)
from .binding import Directories, services
from .dataset_config import DatasetConfig
from .errors import InvalidRow
from .model_config import ModelConfig
from .outcome import Outcome
from .queued import Queued
from .schema import Connected, schema
from .training_config import TrainingConfig
from .training_task import TrainingTask
from .warm_start import WarmStart

EXTERNAL_STORE = "external_training_result"  # the tutorial's name, in the definitions below


@schema
class TrainingResult(Queued, dj.Computed):
    """The result of a task. `populate` trains what has none yet.

    Directories default to the session's settings; `num_workers` is the number of loader processes.
    """

    definition = """
    # The result of a training
    -> TrainingTask
    ---
    test_score=null                     : float64       # of the best model on the test tier; NULL if not finite
    training_epoch_loss_history         : <stored_blob@external_training_result>
    validation_epoch_loss_history       : <stored_blob@external_training_result>
    regularization_loss_history         : <stored_blob@external_training_result>
    model_class_params_history          : <stored_blob@external_training_result>  # mean and variance of every parameter
    model_save_path                     : varchar(255)  # address of the best weights in the store
    parameter_count                     : int64
    epochs                              : int32         # epochs trained
    duration                            : float64       # s, from the opening of the data to the verified upload
    utc_insert_time=CURRENT_TIMESTAMP(3) : datetime(3)
    """

    class Metric(Connected, dj.Part):
        """A metric of the best model on the test tier."""

        definition = f"""
        -> master
        {metric.DEFINITION}
        """

    class Artifact(Connected, dj.Part):
        """An object in the store that belongs to the result."""

        definition = """
        -> master
        artifact_name   : varchar(64)
        ---
        artifact_sha256 : char(64)
        artifact_size   : int64        # bytes
        artifact_kind   : varchar(64)
        """

    class Provenance(Connected, dj.Part):
        """Code, packages and machine that made the result."""

        definition = f"""
        -> master
        ---
        {provenance.DEFINITION}
        """

    class Usage(Connected, dj.Part):
        """What the result cost: all attempts that led to it together."""

        definition = f"""
        -> master
        ---
        usage_attempts=1   : int32     # attempts that the values are of
        usage_unmeasured=0 : int32     # those that died before they could tell
        {usage.DEFINITION}
        """

    several_processes = "start more workers with `trainloom worker --processes N`"
    participle = "trained"

    def __init__(
        self,
        dataset_dir: str | None = None,
        dataset_cache_dir: str | None = None,
        model_save_dir: str | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if num_workers is not None and (
            isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0
        ):
            raise InvalidRow(f"num_workers is the number of loader processes, 0 or more, not {num_workers!r}")
        self.directories = Directories(dataset_dir, dataset_cache_dir, model_save_dir)
        self.num_workers = num_workers

    @property
    def key_source(self) -> Any:
        """The tasks, with the priority that their jobs get; one that starts warm waits for its source."""
        trained = self.proj(warm_start_task_md5_hash="training_task_md5_hash")
        return TrainingTask() - (WarmStart() - trained).proj()

    def make_fetch(self, key: dict[str, Any], **_: Any) -> tuple[dict[str, Any]]:
        """What the task says, without the columns that may change while it trains (DataJoint reads twice and
        compares)."""
        return (self.spec(key),)

    def make_compute(self, key: dict[str, Any], spec: dict[str, Any]) -> tuple[Outcome]:
        """Train, score and upload; no transaction is open meanwhile."""
        return (services("TrainingResult").runner.compute(spec, self),)

    def make_insert(self, key: dict[str, Any], outcome: Outcome) -> None:
        """Publish the result."""
        self.insert1({**key, **outcome.columns})
        self.Metric().insert([{**key, **row} for row in outcome.metrics])
        self.Artifact().insert([{**key, **row} for row in outcome.artifacts])
        self.Provenance().insert1({**key, **outcome.provenance})
        self.Usage().insert1({**key, **outcome.usage})

    @staticmethod
    def spec(key: Mapping[str, Any]) -> dict[str, Any]:
        """The rows a task is made of: ``task``, ``dataset``, ``model`` and ``training``.

        ``warm_start`` is the key of the task that it starts from, or empty; ``initial_weights`` the address of the
        weights that it starts from, and ``initial_state`` the sha256 of the state that it goes on from: empty where it
        does not, None where the other has none.
        """
        task = (TrainingTask() & {"training_task_md5_hash": key["training_task_md5_hash"]}).proj(
            "dataset_config_md5_hash", "model_config_md5_hash", "training_config_md5_hash", "seed", "code_version"
        )
        row = task.fetch1()
        return {
            **_start(row["training_task_md5_hash"]),
            "task": row,
            "dataset": (DatasetConfig() & {"dataset_config_md5_hash": row["dataset_config_md5_hash"]}).fetch1(),
            "model": (ModelConfig() & {"model_config_md5_hash": row["model_config_md5_hash"]}).fetch1(),
            "training": (TrainingConfig() & {"training_config_md5_hash": row["training_config_md5_hash"]}).fetch1(),
        }

    def get_trainer(self, key: Mapping[str, Any]) -> Any:
        """The trainer of a finished task, its best weights loaded from the store."""
        result = self._finished(key)
        return services("TrainingResult").runner.trainer({**self.spec(result), "result": result}, self)

    def get_test_set_outputs_targets_and_losses(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate the best model again: ``outputs``, ``targets`` and ``loss`` of the test tier."""
        evaluated = self.get_trainer(key).evaluate(return_outputs_targets_and_loss=True)
        return dict(evaluated)

    def load_model(
        self,
        key: Mapping[str, Any],
        device: Any = "cpu",
        *,
        epoch: int | None = None,
        prefix: str = "",
        strict: bool = True,
    ) -> Any:
        """The best model of a finished task: an ``nn.Module`` in eval mode on a device, its weights verified.

        Class, parameters and shapes come from the rows, the weights from the store, or from the file in
        `model_save_dir` where that holds the same bytes. Neither the data file nor the classes of dataset, trainer and
        optimizer are needed.

        Parameters
        ----------
        epoch : the model as it was after this epoch, counted from 1, instead of the best; it must have been kept (the
            trainer's ``checkpoints_kept_every`` and ``checkpoints_kept_best``).
        prefix : take only the weights whose names begin so; the others stay as the class makes them.
        strict : refuse weights whose names are not those of the model.

        Raises
        ------
        pipeline.model_weights.UnusableModel, pipeline.store.StoreError, InvalidRow
            If the class is gone, the weights do not fit it, or their object is missing or damaged.
        """
        return services("TrainingResult").models.load_result(
            self._finished(key), self, device, epoch=epoch, prefix=prefix, strict=strict
        )

    def find(self, where: Any = True, sort: Any = None, limit: int | None = None) -> list[dict[str, str]]:
        """Keys of finished tasks in the order asked for, in one statement.

        Parameters
        ----------
        where : a DataJoint restriction on the columns of the result, its task and its configurations.
        sort : a metric (its best first), a column (ascending; ``"time"`` is that of the insertion), either of them
            after a minus sign (descending), or a list of these and of pairs such as ``("time", -1)``, 1 being ascending
            and -1 descending. Newest first by default; what has no value comes last.
        limit : how many keys at most.
        """
        return services("TrainingResult").models.find(self, where, sort, limit)

    def best(self, metric: str = "accuracy", where: Any = True) -> dict[str, str]:
        """The key of the best result by a metric, its loss or its test score, each by its own direction.

        Raises
        ------
        pipeline.model_search.NoModel
            If no result that fulfils `where` has the metric.
        """
        return services("TrainingResult").models.best(self, metric, where)

    def newest(self, where: Any = True) -> dict[str, str]:
        """The key of the result that was inserted last; raises as `best` does if there is none."""
        return services("TrainingResult").models.newest(self, where)

    def plot_training_epoch_loss_history(self, key: Mapping[str, Any]) -> Any:
        """Plot training and validation loss over epochs; returns matplotlib's Axes."""
        result = (self & self._finished(key)).fetch1()
        return services("TrainingResult").runner.plot(
            f"task {result['training_task_md5_hash'][:8]}",
            result["training_epoch_loss_history"],
            result["validation_epoch_loss_history"],
        )

    def _finished(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """The one result that a key names, without its histories."""
        found = (self & key).proj("model_save_path").to_dicts()
        if len(found) != 1:
            count = "no result" if not found else f"{len(found)} results"
            raise InvalidRow(f"{dict(key)} names {count}; give the training_task_md5_hash of a finished task")
        return dict(found[0])


def _start(task: str) -> dict[str, str | None]:
    """What a task starts from; see `TrainingResult.spec`."""
    start: dict[str, str | None] = {"warm_start": "", "initial_weights": "", "initial_state": ""}
    own = {"training_task_md5_hash": task}
    named = (WarmStart() & own).to_dicts()
    if not named:
        return start
    source = {"training_task_md5_hash": named[0]["warm_start_task_md5_hash"]}
    start["warm_start"] = source["training_task_md5_hash"]
    if WarmStart.State() & own:
        return {**start, "initial_state": continuation.last_state(source) or None}
    trained = (TrainingResult() & source).proj("model_save_path").to_dicts()
    return {**start, "initial_weights": (trained[0]["model_save_path"] or None) if trained else None}
