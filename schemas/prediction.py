"""What trained models have predicted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datajoint as dj

from . import (
    metric,
    provenance,
    stored_blob,  # noqa: F401  (registers the codec that the definition of the provenance names)
)
from .binding import services
from .dataset_config import DatasetConfig
from .errors import InvalidRow
from .prediction_task import BATCH_SIZE, KEY, PREDICTED, STORED, TASK, TIER, PredictionTask
from .queued import Queued
from .schema import Connected, schema
from .stored_dataset import StoredDataset
from .training_result import TrainingResult


@dataclass(frozen=True)
class PredictionOutcome:
    """What a prediction leaves: columns of `Prediction`, rows of its metrics, and its provenance, all without keys."""

    columns: dict[str, Any]
    metrics: list[dict[str, Any]]
    provenance: dict[str, Any]


@schema
class Prediction(Queued, dj.Computed):
    """The outputs of a model for the examples of a dataset. `populate` predicts what has none yet and is trained.

    Attributes
    ----------
    progress : is told after every batch how many examples are done, and of how many.
    """

    definition = """
    # The outputs of a trained model
    -> PredictionTask
    ---
    -> TrainingResult.proj(predicted_with_md5_hash='training_task_md5_hash')
    prediction_sha256     : char(64)      # of the object in the store: outputs, and targets where there are any
    prediction_size       : int64         # bytes
    example_count         : int64
    prediction_shape      : json          # of the output for one example
    prediction_score=null : float64       # mean loss by the training's criterion; NULL without targets or if not finite
    prediction_duration   : float64       # s, from the opening of the data to the verified upload
    prediction_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    """

    class Metric(Connected, dj.Part):
        """A metric of the outputs, of those that the training computed; there are none without targets."""

        definition = f"""
        -> master
        {metric.DEFINITION}
        """

    class Provenance(Connected, dj.Part):
        """Code, packages and machine that made the prediction."""

        definition = f"""
        -> master
        ---
        {provenance.DEFINITION}
        """

    several_processes = "start more workers with `trainloom worker --processes N`"
    participle = "predicted"
    progress: Callable[[int, int], None] | None = None

    @property
    def key_source(self) -> Any:
        """The tasks whose model is trained, with the priority that their jobs get."""
        return PredictionTask() & TrainingResult().proj()

    def make_fetch(self, key: dict[str, Any], **_: Any) -> tuple[dict[str, Any]]:
        """What the task, the training and the data say, without what may change meanwhile (DataJoint reads twice and
        compares)."""
        return (self.spec(key),)

    def make_compute(self, key: dict[str, Any], spec: dict[str, Any]) -> tuple[PredictionOutcome]:
        """Predict, score and upload; no transaction is open meanwhile."""
        PredictionTask.check(spec["task"])
        return (services("Prediction").predictions.compute(spec, self),)

    def make_insert(self, key: dict[str, Any], outcome: PredictionOutcome) -> None:
        """Publish the prediction. The database refuses it if the training's result was deleted meanwhile."""
        self.insert1({**key, **outcome.columns})
        self.Metric().insert([{**key, **row} for row in outcome.metrics])
        self.Provenance().insert1({**key, **outcome.provenance})

    @staticmethod
    def spec(key: Mapping[str, Any]) -> dict[str, Any]:
        """The rows that a prediction is made of: ``task``; ``result`` and ``training`` as `TrainingResult` has them;
        ``dataset`` or ``stored``, the other one None."""
        columns = (TASK, PREDICTED, STORED, TIER, BATCH_SIZE)
        task = (PredictionTask() & {KEY: key[KEY]}).proj(*columns).fetch1()
        trained = {TASK: task[TASK]}
        return {
            "task": task,
            "result": (TrainingResult() & trained).proj("model_save_path", "utc_insert_time").fetch1(),
            "training": TrainingResult.spec(trained),
            "dataset": (DatasetConfig() & {"dataset_config_md5_hash": task[PREDICTED]}).fetch1()
            if task[PREDICTED]
            else None,
            "stored": (StoredDataset() & {STORED: task[STORED]}).fetch1() if task[STORED] else None,
        }

    def load(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of one prediction, verified: ``outputs``, and ``targets`` where the data have them.

        Each is a NumPy array, examples along the first dimension in the order of the data, or a list, tuple or dict of
        such where the model has several outputs.

        Raises
        ------
        InvalidRow
            If the key names no prediction, or several.
        pipeline.store.StoreError
            If the object is missing or damaged, or the store cannot be reached.
        """
        return dict(services("Prediction").predictions.load(self._one(key)))

    def save(self, key: Mapping[str, Any], path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the arrays of one prediction to a file, whole or not at all; raises as `load` does.

        Parameters
        ----------
        path : ends in ``.h5``, ``.npz`` or ``.csv`` (a column for each number of an output and target).
        force : replace a file that exists.
        """
        services("Prediction").predictions.save(self._one(key), path, force=force)

    def _one(self, key: Mapping[str, Any]) -> str:
        """sha256 of the object of the one prediction that a key names."""
        found = (self & key).proj("prediction_sha256").to_dicts()
        if len(found) != 1:
            count = "no prediction" if not found else f"{len(found)} predictions"
            raise InvalidRow(f"{dict(key)} names {count}; give the {KEY} of a task that has been predicted")
        return str(found[0]["prediction_sha256"])
