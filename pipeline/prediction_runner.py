"""Predicts a task: from its rows to an outcome that only has to be inserted; and files that belong to no row."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from schemas.dataset_config import DatasetConfig
from schemas.errors import InvalidRow
from schemas.prediction import PredictionOutcome
from schemas.prediction_task import BATCH_SIZE, TASK, TIER, check_shape
from schemas.stored_model import StoredModel
from schemas.training_result import TrainingResult
from trainers import numerics
from trainers.contract import Stopped

from . import dataset_store, prediction_data, prediction_file, provenance, result_uploads
from .data_directory import data_directory
from .folders import Folders
from .gpu_choice import OwnGpu
from .model_catalog import Kind, Model
from .models import ModelLibrary
from .node_cache import NodeCache
from .prediction_data import Examples
from .prediction_pass import Passed, Progress, nameless_file, predict, predictor, said_if_unsuitable
from .resolver import ClassResolver
from .runner import TaskRunner
from .running import RunningAttempt
from .settings import Settings
from .store.interface import Store
from .store_patience import StorePatience
from .training_spec import Component, TrainingSpec, components_of, read_spec

BATCH = 64  # examples at once where no training says how many
STORED_FILE = "dataset.h5"  # what a stored dataset is called in the node's cache


@dataclass(frozen=True)
class FilePrediction:
    """What a model predicted for a file of arrays.

    Attributes
    ----------
    file : as `PredictionWriter` wrote it; it is gone when it is closed.
    seconds : of the pass.
    """

    passed: Passed
    file: BinaryIO
    seconds: float


class PredictionRunner:
    """Applies the models of a session to data; what `schemas.binding.Predictions` promises.

    Parameters
    ----------
    trainings : runs the tasks of this session; predictions use the device that it has.
    """

    def __init__(
        self,
        settings: Settings,
        resolver: ClassResolver,
        store: Store,
        folders: Folders,
        code_dir: Path,
        models: ModelLibrary,
        trainings: TaskRunner,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._store = store
        self._folders = folders
        self._code_dir = code_dir
        self._models = models
        self._trainings = trainings
        self._patience = StorePatience(settings.store_away_seconds)

    def stored_shape(self, sha256: str, name: str) -> Any:
        """The shape of one example of a stored dataset; its file is in the node's cache then."""
        with self._cache() as cache:
            try:
                return prediction_data.stored_shape(cache.fetch(STORED_FILE, sha256, store=self._store), name)
            except (prediction_data.UnsuitableData, dataset_store.UnsuitableDataset) as error:
                raise InvalidRow(str(error)) from error

    def compute(self, spec: Mapping[str, Any], table: Any) -> PredictionOutcome:
        """Predict one task, upload the file, and hand over everything that is to be inserted."""
        started = time.monotonic()
        attempt: RunningAttempt | None = table.attempt
        training = read_spec(spec["training"], self._resolver)
        with ExitStack() as resources:
            git = resources.enter_context(provenance.git_asked(self._code_dir))
            settled = numerics.settle(self._threads())
            device = self._trainings.device
            model = self._patience.with_store(
                attempt, lambda: self._models.load_result(spec["result"], TrainingResult(), device)
            )
            examples, dataset = self._examples(spec, training, model, attempt, resources)
            roles = {"model": training.model, "criterion": training.criterion.cls, **dataset}
            made_by = provenance.record(roles, git(), numerics=settled)
            file = resources.enter_context(nameless_file(self._folders.model_save_dir))
            if attempt is not None:
                attempt.stop.polled = True  # after every batch
            passed = predict(predictor(model, device, training), examples, file, _told(attempt, table.progress))
            stored = self._patience.with_store(attempt, lambda: self._put(file, attempt))
            if result_uploads.takes_blobs(table):
                texts = {"code_texts": made_by["code_texts"]}
                made_by.update(
                    self._patience.with_store(attempt, lambda: result_uploads.upload_blobs(self._store, texts))
                )
        columns = {
            "predicted_with_md5_hash": spec["task"][TASK],
            "prediction_sha256": stored.sha256,
            "prediction_size": stored.size,
            "example_count": passed.count,
            "prediction_shape": passed.shape,
            "prediction_score": passed.score,
            "prediction_duration": time.monotonic() - started,
        }
        made_by.update(choices={"device": str(device)}, notes=list(training.notes))
        return PredictionOutcome(columns, passed.metrics(), made_by)

    def load(self, sha256: str) -> dict[str, Any]:
        """The arrays of a prediction, all of them in memory."""
        with self._downloaded(sha256) as path:
            arrays: dict[str, Any] = dataset_store.read(path)
            return arrays

    def save(self, sha256: str, path: Any, *, force: bool) -> None:
        """Write the arrays of a prediction to a file; see `schemas.prediction.Prediction.save`."""
        target = Path(path)
        prediction_file.check_output(target, force=force)
        with self._downloaded(sha256) as downloaded:
            prediction_file.export(downloaded, target, force=force)

    @contextmanager
    def file(
        self, model: Model, path: Path, tier: str, batch_size: int | None, progress: Progress | None = None
    ) -> Iterator[FilePrediction]:
        """Apply a model to a file of arrays; there is no row of it.

        Parameters
        ----------
        tier : of an HDF5 file that has tiers.

        Raises
        ------
        InvalidRow, pipeline.errors.PipelineError
            If the file cannot be read or does not fit the model, or the model cannot be loaded.
        """
        training = self._training_of(model)
        gpu = OwnGpu(self._settings)
        with ExitStack() as resources:
            arrays = resources.enter_context(prediction_data.opened_file(path, tier))
            shape = prediction_data.checked_shape(arrays, str(path))
            if model.input_shape is not None:
                check_shape(shape, model.input_shape, str(path), model.key)
            resources.enter_context(gpu.taken())
            numerics.settle(self._threads())
            started = time.monotonic()
            module = self._load(model, gpu)
            size = batch_size or (BATCH if training is None else training.batch_size)
            if training is None:  # nothing says how outputs are scored
                arrays = {prediction_data.INPUTS: arrays[prediction_data.INPUTS]}
            examples = prediction_data.of_arrays(arrays, module, size)
            file = resources.enter_context(nameless_file(self._folders.model_save_dir))
            with said_if_unsuitable(module, shape, str(path)):
                passed = predict(predictor(module, gpu.device, training), examples, file, _told(None, progress))
            yield FilePrediction(passed, file, time.monotonic() - started)

    def _training_of(self, model: Model) -> TrainingSpec | None:
        if model.kind is not Kind.TRAINED:
            return None
        return read_spec(TrainingResult.spec({TASK: model.key}), self._resolver)

    @staticmethod
    def _load(model: Model, gpu: OwnGpu) -> Any:
        if model.kind is Kind.TRAINED:
            return TrainingResult().load_model({TASK: model.key}, gpu.device)
        return StoredModel().load_model({"stored_model_md5_hash": model.key}, gpu.device)

    def _examples(
        self,
        spec: Mapping[str, Any],
        training: TrainingSpec,
        model: Any,
        attempt: RunningAttempt | None,
        resources: ExitStack,
    ) -> tuple[Examples, dict[str, type]]:
        """The examples of a task, and the class that reads them, by its role."""
        cache = resources.enter_context(self._cache(attempt))
        batch_size = spec["task"][BATCH_SIZE] or training.batch_size
        if spec["stored"] is not None:
            row = spec["stored"]
            path = self._patience.with_store(
                attempt, lambda: cache.fetch(STORED_FILE, row["stored_dataset_sha256"], store=self._store)
            )
            name = row["stored_dataset_name"]
            arrays = prediction_data.named_arrays(resources.enter_context(dataset_store.opened(path, name)))
            return prediction_data.of_arrays(arrays, model, batch_size), {}
        row = spec["dataset"]
        dataset: Component = components_of(DatasetConfig(), row, self._resolver, training.notes)["dataset_class_params"]
        directory = self._patience.with_store(
            attempt, lambda: data_directory(row, dataset, self._folders.dataset_dir, cache, self._store)
        )
        examples = prediction_data.of_tier(
            row,
            dataset,
            directory,
            spec["task"][TIER],
            batch_size=batch_size,
            seed=training.seed,
            num_workers=self._settings.num_workers,
            resources=resources,
        )
        return examples, {"dataset": dataset.cls}

    def _cache(self, attempt: RunningAttempt | None = None) -> NodeCache:
        return NodeCache(self._folders.dataset_cache_dir, self._settings.dataset_cache_bytes, self._shows_life(attempt))

    def _shows_life(self, attempt: RunningAttempt | None) -> Callable[[], None]:
        """What a transfer calls."""
        return self._trainings.show_life if attempt is None else attempt.show_life

    @contextmanager
    def _downloaded(self, sha256: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="trainloom-prediction-") as folder:
            path = Path(folder, "prediction.h5")
            self._store.download(sha256, path)
            yield path

    def _put(self, file: BinaryIO, attempt: RunningAttempt | None) -> Any:
        file.flush()
        with result_uploads.watched(file.fileno(), self._shows_life(attempt)) as stream:
            stream.seek(0)
            return self._store.put(stream, kind=prediction_file.KIND)

    def _threads(self) -> int:
        settings = self._settings
        return settings.torch_threads or numerics.default_threads(settings.worker_processes)


def _told(attempt: RunningAttempt | None, progress: Progress | None) -> Progress:
    """Shows life after a batch, and ends the pass where the attempt ends."""
    batches = 0

    def told(done: int, count: int) -> None:
        nonlocal batches
        batches += 1
        if progress is not None:
            progress(done, count)
        if attempt is not None:
            attempt.progress(0, batches)
            if attempt.requested:
                raise Stopped(f"The prediction was asked to stop after {done} of {count} examples.")

    return told
